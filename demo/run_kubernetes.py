"""The example agency in a Kubernetes cluster: its resources, an operator, a gateway, and a day of visits.

`make run-kubernetes` starts it on a local control plane, or with `KUBECONFIG=…` on that cluster. The local control
plane has no nodes, so the operator and the gateway run as processes of this machine. After the table of `make run`
everything keeps running until Ctrl-C. With --once it stops, with exit code 1 if the counts differ.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiohttp
import rich.console
import rich.live
import uvloop

from demo import cluster, counts, day, places, processes, readiness, receivers, sender
from local_cluster import compiler, control_plane, kubectl, toolchain
from usher_gateway import logs, model, settings
from usher_gateway.config import files

LIMIT_SECONDS = 90.0  # The time limit of each step until everything is ready; all steps together take about 10 s
_LOOK_SECONDS = 0.3
_SIGNAL_SECONDS = 0.5  # How long it may take to notice Ctrl-C, which child programs get at the same time
_NOTICE_SECONDS = 2.0  # How long it may take to notice Ctrl-C or that a child program ended
_FAILURES = (
    control_plane.StartError,
    compiler.BuildError,
    toolchain.ToolchainError,
    kubectl.KubectlError,
    processes.ProgramEndedError,
    aiohttp.ClientError,
    TimeoutError,
)
_T = TypeVar("_T")


def main() -> int:
    """Parse the command line, prepare a cluster and run the day."""
    arguments = _parser().parse_args()
    console = rich.console.Console()
    try:
        with day.fresh_folder(arguments.data) as folder:
            ports = places.Ports(print)
            arguments.listen = ports.endpoint("--listen", arguments.listen, 8080, "public port")
            arguments.admin = ports.endpoint("--admin", arguments.admin, 9090, "gateway's admin port")
            arguments.operator = ports.endpoint("--operator", arguments.operator, 9091, "operator's admin port")
            arguments.manifests = ports.manifests(arguments.manifests, folder / "agency")
            with cluster.connect(arguments.kubeconfig, folder) as reached, cluster.installed(reached):
                _say(console, f"Kubernetes {cluster.version(reached)} has Usher's definitions, namespaces and rights.")
                return uvloop.run(KubernetesDemo(arguments, reached, console).run())
    except model.UsherError as error:
        print(day.advice(error, "run-kubernetes"), file=sys.stderr)
        return 2
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return day.exit_code(agrees=None, once=arguments.once)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make run-kubernetes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="stop after the table; exit code 1 if the counts differ")
    parser.add_argument("--seconds", type=float, default=60, help="how many real seconds the day takes")
    parser.add_argument(
        "--kubeconfig", type=Path, help="kubeconfig of an existing cluster; default: a local control plane"
    )
    parser.add_argument(
        "--manifests", type=Path, default=cluster.ROOT / "examples" / "agency", help="the manifests of the agency"
    )
    parser.add_argument("--listen", help="HOST:PORT of the gateway's public port [default: 8080 or the next free port]")
    parser.add_argument("--admin", help="HOST:PORT of the gateway's admin port [default: 9090 or the next free port]")
    parser.add_argument(
        "--operator", help="HOST:PORT of the operator's admin port [default: 9091 or the next free port]"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/kubernetes"), help="folder for data; data of an earlier run is deleted"
    )
    return parser


def _say(console: rich.console.Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class KubernetesDemo:
    """Runs the operator, the gateway and the day on a prepared cluster."""

    def __init__(self, arguments: argparse.Namespace, reached: cluster.Cluster, console: rich.console.Console) -> None:
        self._arguments, self._cluster, self._console = arguments, reached, console
        self._stop = asyncio.Event()
        self._failed: processes.ProgramEndedError | None = None

    async def run(self) -> int:
        """Run everything, and return the exit code.

        Raises:
            ProgramEndedError: the operator or the gateway ended by itself.
        """
        logs.configure(level="error")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            agrees = await self._run_or_explain(stack)
            if agrees is not None and not self._arguments.once:
                _say(self._console, _suggestions(self._cluster, self._arguments))
                await self._stop.wait()
            self._stop.set()
            _say(self._console, "\nStopping the gateway, the operator and the control plane.")
        if self._failed is not None:
            raise self._failed
        return day.exit_code(agrees=agrees, once=self._arguments.once)

    async def _run_or_explain(self, stack: contextlib.AsyncExitStack) -> bool | None:
        """Call `_run_day`. Ignore an error that Ctrl-C or the end of a child program caused: both set `_stop`."""
        try:
            return await self._run_day(stack)
        except (aiohttp.ClientError, kubectl.KubectlError):
            if not await self._stops_within(_NOTICE_SECONDS):
                raise
            return None

    async def _stops_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    async def _run_day(self, stack: contextlib.AsyncExitStack) -> bool | None:
        """Return whether the counts agree; None if it was stopped early."""
        listen = settings.parse_endpoint(self._arguments.listen)
        await self._start_operator(stack)
        secrets = await self._until("the operator's Secrets", self._install_secrets, bool)
        await self._start_gateway(stack, secrets)
        renewing = self._cluster.stay_logged_in(cluster.OPERATOR, cluster.GATEWAY)
        stack.callback(asyncio.create_task(renewing, name="renew tokens").cancel)
        progress = await self._apply()
        if not progress.is_complete:
            return None
        token = secrets["usher-admin-tokens"]["observe.token"].strip()
        admin = await stack.enter_async_context(counts.admin_client(f"http://{self._arguments.admin}", token))
        clock = await admin.clock(self._scale)
        systems = receivers.Receivers(clock)
        agency = files.load_once([self._arguments.manifests], model.derive_keys(b"\0" * 32)).snapshot
        await systems.start(stack, agency.destinations.values())
        access = sender.GatewayAccess(await self._urls(), (listen.host, listen.port), clock)
        return await day.run_day(day.Day(self._arguments.seconds, access, admin, systems, self._console, self._stop))

    @property
    def _scale(self) -> float:
        return float(sender.DAY_SECONDS / self._arguments.seconds)

    async def _start_operator(self, stack: contextlib.AsyncExitStack) -> None:
        command = [
            *("usher_operator", "run", "--kubeconfig", str(self._cluster.account(cluster.OPERATOR))),
            *("--namespace", cluster.SYSTEM, "--configuration-namespace", cluster.CONFIGURATION),
            *("--gateways", f"http://{self._arguments.admin}", "--admin", self._arguments.operator),
        ]
        await self._start(stack, "operator", command, {})

    async def _start_gateway(self, stack: contextlib.AsyncExitStack, secrets: dict[str, dict[str, str]]) -> None:
        """Start the gateway as its pod would: the install key in a variable, the tokens in a folder."""
        tokens = self._cluster.folder / "tokens"
        tokens.mkdir(mode=0o700)
        for name, value in secrets["usher-admin-tokens"].items():
            (tokens / name).write_text(value, "ascii")
        command = [
            *("usher_gateway", "run", "--from-cluster", "--kubeconfig", str(self._cluster.account(cluster.GATEWAY))),
            *("--config-namespace", cluster.CONFIGURATION, "--data", str(self._cluster.folder / "gateway")),
            *("--admin-tokens", str(tokens), "--listen", self._arguments.listen, "--admin", self._arguments.admin),
            *("--time-scale", str(self._scale)),
        ]
        key = secrets["usher-install-key"]["install.key"].strip()
        await self._start(stack, "gateway", command, {"USHER_INSTALL_KEY": key})

    async def _start(
        self, stack: contextlib.AsyncExitStack, name: str, command: list[str], environ: dict[str, str]
    ) -> None:
        program = await processes.start(name, command, self._cluster.folder / f"{name}.log", environ)
        stack.push_async_callback(program.stop)
        watching = asyncio.create_task(self._watch(program), name=f"watch the {name}")
        stack.callback(watching.cancel)
        _say(self._console, f"The {name} runs; its log is {program.log}.")

    async def _watch(self, program: processes.RunningProgram) -> None:
        """Stop the demonstration when the program ends. Start an operator that lost its Lease again, as a pod is."""
        while True:
            error = await program.wait_ended()
            if await self._stops_within(_SIGNAL_SECONDS):  # Ctrl-C ends the programs too, and this may see that first
                return
            if not program.has_logged("lease_lost"):
                break
            _say(self._console, f"The {program.name} could not renew its Lease for 10 s, and starts again.")
            await program.start()
        self._failed = error
        self._stop.set()

    async def _install_secrets(self) -> dict[str, dict[str, str]]:
        secrets = await self._cluster.secrets(cluster.SYSTEM)
        return secrets if {"usher-install-key", "usher-admin-tokens"} <= secrets.keys() else {}

    async def _apply(self) -> readiness.ReadinessProgress:
        """Apply the agency's manifests, and show how the resources become ready."""
        await self._cluster.kubectl("apply", "--server-side", f"--filename={self._arguments.manifests}")
        progress = readiness.ReadinessProgress()

        async def look() -> readiness.ReadinessProgress:
            progress.update(readiness.rows(await self._cluster.resources()))
            live.update(progress.table())
            return progress

        with rich.live.Live(console=self._console) as live:
            await self._until("the readiness of everything", look, lambda shown: shown.is_complete)
        self._console.print()
        return progress

    async def _urls(self) -> dict[str, str]:
        """Return listener -> its first URL, from the Secret that the operator created for it."""
        secrets = await self._cluster.secrets(cluster.AGENCY)
        return {name.removesuffix("-url"): values["url"] for name, values in secrets.items() if name.endswith("-url")}

    async def _until(self, what: str, look: Callable[[], Awaitable[_T]], enough: Callable[[_T], object]) -> _T:
        """Call `look` until `enough` accepts its result, or the demonstration is stopping.

        Raises:
            TimeoutError: it took more than 90 s.
        """
        end = time.monotonic() + LIMIT_SECONDS
        while True:
            outcome = await look()
            if enough(outcome) or self._stop.is_set():
                return outcome
            if time.monotonic() > end:
                raise TimeoutError(f"{what} took more than {LIMIT_SECONDS:.0f} s: see the logs")
            await asyncio.sleep(_LOOK_SECONDS)


def _suggestions(reached: cluster.Cluster, arguments: argparse.Namespace) -> str:
    """Return commands that work as they are in a terminal in the repository's folder."""
    call = reached.kubectl
    listen, admin, manifests = arguments.listen, arguments.admin, _shown(arguments.manifests)
    logs = _shown(reached.folder)
    times = round(sender.DAY_SECONDS / arguments.seconds)
    return f"""
Everything keeps running until Ctrl-C. Try this in another terminal:

  export KUBECONFIG={call.kubeconfig}
  alias k='{_shown(call.program)} --namespace={cluster.AGENCY}'

  state           k get usher                             # and why: k describe listener hotels
  a live edit     k edit listener hotels                  # take a route away: in force within a second
  break a Secret  k delete secret mailer-token            # the mailer reports it; its last configuration stays in force
  repair it       k apply --server-side -f {manifests}/secrets.yaml
  delete a tenant k delete tenant stadium                 # its listeners answer 404 in a few seconds
  take it back    k apply --server-side -f {manifests}/stadium.yaml   # at the same URLs
  a URL           k get secret hotels-url --template='{{{{.data.url | base64decode}}}}'
  the portal      .venv/bin/usher simulate --validate-only --company {sender.PLANS[0].company} --connect {listen} \\
                      "$(k get secret hotels-url --template='{{{{.data.url | base64decode}}}}' | sed s/https/http/)"
  the books       .venv/bin/usher usage --from 2020-01 --admin http://{admin} --data {logs}/tokens
  metrics         curl -s http://{admin}/metrics http://{arguments.operator}/metrics | grep '^usher_'
  logs            tail -f {logs}/operator.log {logs}/gateway.log

The gateway's clock runs {times} times as fast: after {arguments.seconds:.0f} s without a visit a listener is Silent.
"""


def _shown(path: Path) -> str:
    """Return the path relative to the working directory, if it is inside."""
    short = os.path.relpath(path)
    return str(path) if short.startswith("..") else short


if __name__ == "__main__":
    sys.exit(main())
