"""The example agency in a Kubernetes cluster: resources applied, an operator and a gateway, and a day of visits.

`make run-kubernetes` starts this: on a control plane of its own (without nodes, so operator and gateway are processes
beside it), or with `KUBECONFIG=…` on that cluster. After the table of `make run` it keeps running until Ctrl-C; with
--once it ends, with 1 if the books disagree.
"""

import argparse
import asyncio
import contextlib
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

from day import asking, cluster, living, processes, readiness, receivers, sending, trying
from support import kubectl
from support.local_cluster import control_plane, programs, toolchain
from usher_gateway import logs, model, settings
from usher_gateway.config import from_files

LIMIT_SECONDS = 90.0
"""For each step until everything is ready; all of them together take some 10 s."""
_LOOK_SECONDS = 0.3
_NOTICE_SECONDS = 2.0
"""How long the end of a program may take to be noticed."""
_FAILURES = (
    control_plane.StartError,
    programs.BuildError,
    toolchain.ToolchainError,
    kubectl.KubectlError,
    processes.EndedError,
    aiohttp.ClientError,
    TimeoutError,
)
_T = TypeVar("_T")


def main() -> int:
    """Parse the command line, have a cluster, and live through the day."""
    arguments = _parser().parse_args()
    console = rich.console.Console()
    try:
        with (
            living.fresh(arguments.data) as folder,
            cluster.reached(arguments.kubeconfig, folder) as reached,
            cluster.furnished(reached),
        ):
            _say(console, f"Kubernetes {cluster.version(reached)} has Usher's definitions, namespaces and rights.")
            return uvloop.run(Run(arguments, reached, console).run())
    except model.UsherError as error:
        print(living.advice(error, "run-kubernetes"), file=sys.stderr)
        return 2
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make run-kubernetes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end after the table; exit 1 if the books disagree")
    parser.add_argument("--seconds", type=float, default=60, help="real seconds that the day takes")
    parser.add_argument("--kubeconfig", type=Path, help="a cluster that is there; default: one of its own")
    parser.add_argument("--manifests", type=Path, default=cluster.ROOT / "examples" / "agency", help="of the agency")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT of the gateway's public port")
    parser.add_argument("--admin", default="127.0.0.1:9090", help="HOST:PORT of the gateway's admin port")
    parser.add_argument("--operator", default="127.0.0.1:9091", help="HOST:PORT of the operator's admin port")
    parser.add_argument(
        "--data", type=Path, default=Path("data/kubernetes"), help="folder; what an earlier run left is removed"
    )
    return parser


def _say(console: rich.console.Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Run:
    """From the start of the operator to the end of everything."""

    def __init__(self, arguments: argparse.Namespace, reached: cluster.Cluster, console: rich.console.Console) -> None:
        self._arguments, self._cluster, self._console = arguments, reached, console
        self._stop = asyncio.Event()
        self._failed: processes.EndedError | None = None

    async def run(self) -> int:
        """The exit code.

        Raises:
            EndedError: Operator or gateway ended by itself.
        """
        logs.configure(level="error")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as stack:
            agrees = await self._live_or_tell(stack)
            if agrees is not None and not self._arguments.once:
                _say(self._console, trying.text(self._cluster, self._arguments))
                await self._stop.wait()
            self._stop.set()
            _say(self._console, "\nEnding: the gateway, the operator, and what they ran on.")
        if self._failed is not None:
            raise self._failed
        return 0 if agrees else 1

    async def _live_or_tell(self, stack: contextlib.AsyncExitStack) -> bool | None:
        """The same as `_live`; where a program's end is the cause of an error, that end is told in its place."""
        try:
            return await self._live(stack)
        except (aiohttp.ClientError, kubectl.KubectlError):
            await asyncio.wait([asyncio.create_task(self._stop.wait())], timeout=_NOTICE_SECONDS)
            if self._failed is None:
                raise
            return None

    async def _live(self, stack: contextlib.AsyncExitStack) -> bool | None:
        """Whether the books agree; None: stopped before."""
        way_in = settings.parse_endpoint(self._arguments.listen)
        await self._start_operator(stack)
        secrets = await self._until("the operator's Secrets", self._install_secrets, bool)
        await self._start_gateway(stack, secrets)
        renewing = self._cluster.stay_logged_in(cluster.OPERATOR, cluster.GATEWAY)
        stack.callback(asyncio.create_task(renewing, name="renew tokens").cancel)
        progress = await self._apply()
        if not progress.is_complete:
            return None
        token = secrets["usher-admin-tokens"]["observe.token"].strip()
        admin = await stack.enter_async_context(asking.admin(f"http://{self._arguments.admin}", token))
        clock = await admin.clock(self._scale)
        systems = receivers.Receivers(clock)
        known = from_files.load_once([self._arguments.manifests], model.derive_keys(b"\0" * 32)).snapshot
        await systems.start(stack, known.destinations.values())
        way = sending.Way(await self._urls(), (way_in.host, way_in.port), clock)
        return await living.live(living.Day(self._arguments.seconds, way, admin, systems, self._console, self._stop))

    @property
    def _scale(self) -> float:
        return float(sending.DAY_SECONDS / self._arguments.seconds)

    async def _start_operator(self, stack: contextlib.AsyncExitStack) -> None:
        command = [
            *("usher_operator", "run", "--kubeconfig", str(self._cluster.account(cluster.OPERATOR))),
            *("--namespace", cluster.SYSTEM, "--configuration-namespace", cluster.CONFIGURATION),
            *("--gateways", f"http://{self._arguments.admin}", "--admin", self._arguments.operator),
        ]
        await self._start(stack, "operator", command, {})

    async def _start_gateway(self, stack: contextlib.AsyncExitStack, secrets: dict[str, dict[str, str]]) -> None:
        """As its pod would: the key in a variable, the tokens in a folder."""
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

    async def _watch(self, program: processes.Program) -> None:
        error = await program.wait_ended()
        if not self._stop.is_set():
            self._failed = error
            self._stop.set()

    async def _install_secrets(self) -> dict[str, dict[str, str]]:
        found = await self._cluster.secrets(cluster.SYSTEM)
        return found if {"usher-install-key", "usher-admin-tokens"} <= found.keys() else {}

    async def _apply(self) -> readiness.Progress:
        """Apply the agency's manifests, and show how they become ready."""
        await self._cluster.kubectl("apply", "--server-side", f"--filename={self._arguments.manifests}")
        progress = readiness.Progress()

        async def look() -> readiness.Progress:
            progress.look(readiness.rows(await self._cluster.resources()))
            live.update(progress.table())
            return progress

        with rich.live.Live(console=self._console) as live:
            await self._until("the readiness of everything", look, lambda seen: seen.is_complete)
        self._console.print()
        return progress

    async def _urls(self) -> dict[str, str]:
        """Listener -> its first URL, from the Secret that the operator made beside it."""
        found = await self._cluster.secrets(cluster.AGENCY)
        return {name.removesuffix("-url"): values["url"] for name, values in found.items() if name.endswith("-url")}

    async def _until(self, what: str, look: Callable[[], Awaitable[_T]], enough: Callable[[_T], object]) -> _T:
        """Look until it is enough, or everything is to stop.

        Raises:
            TimeoutError: It took too long.
        """
        end = time.monotonic() + LIMIT_SECONDS
        while True:
            found = await look()
            if enough(found) or self._stop.is_set():
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{what} took more than {LIMIT_SECONDS:.0f} s: see the logs")
            await asyncio.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
