"""A day of visits in about a minute: the example agency on SQLite, its receivers, and a sender that plays Purple.

`make run` starts it. At the end a table shows what the sender, the gateway and the receivers counted for each tenant.
Then the gateway keeps serving until Ctrl-C. With --once it stops, with exit code 1 if the counts differ.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import aiohttp
import rich.console
import uvloop

from demo import counts, day, places, receivers, sender
from usher_gateway import app, logs, model, settings

MANIFESTS = Path(__file__).parents[1] / "examples" / "agency"


def main() -> int:
    """Parse the command line and run the day."""
    parser = argparse.ArgumentParser(
        prog="make run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="stop after the table; exit code 1 if the counts differ")
    parser.add_argument("--seconds", type=float, default=60, help="how many real seconds the day takes")
    parser.add_argument("--listen", help="HOST:PORT of the public port [default: 8080 or the next free port]")
    parser.add_argument("--admin", help="HOST:PORT of the admin port [default: 9090 or the next free port]")
    parser.add_argument(
        "--data", type=Path, default=Path("data/day"), help="folder for data; data of an earlier day is deleted"
    )
    arguments = parser.parse_args()
    try:
        with day.fresh_folder(arguments.data):
            ports = places.Ports(print)
            arguments.listen = ports.endpoint("--listen", arguments.listen, 8080, "public port")
            arguments.admin = ports.endpoint("--admin", arguments.admin, 9090, "admin port")
            arguments.manifests = ports.manifests(MANIFESTS, arguments.data / "agency")
            return uvloop.run(_run_day(arguments))
    except model.UsherError as error:
        print(day.advice(error, "run"), file=sys.stderr)
        return 2


async def _run_day(arguments: argparse.Namespace) -> int:
    logs.configure(level="error")
    console = rich.console.Console()
    gateway = app.Gateway(
        settings.Settings(
            files=(arguments.manifests,),
            data=arguments.data,
            listen=settings.parse_endpoint(arguments.listen),
            admin=settings.parse_endpoint(arguments.admin),
            time_scale=sender.DAY_SECONDS / arguments.seconds,
        ),
        dict(os.environ),
    )
    running = asyncio.create_task(gateway.run())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_end, gateway, running)
        await _wait_until_serving(gateway, running)
        prepared = await _prepare(gateway, arguments, console, stop, stack)
        address = await _page_address(gateway, arguments)
        console.print(f"Watch the day in a browser (works once, for a minute): {address}", soft_wrap=True)
        agrees = await day.run_day(prepared)
        if agrees is not None and not arguments.once:
            _print_suggestions(gateway, arguments, console)
            await stop.wait()
            console.print("\nStopping: the gateway drains its connections and keeps the rest in its store.")
        return day.exit_code(agrees=agrees, once=arguments.once)


async def _prepare(
    gateway: app.Gateway,
    arguments: argparse.Namespace,
    console: rich.console.Console,
    stop: asyncio.Event,
    stack: contextlib.AsyncExitStack,
) -> day.Day:
    token = (arguments.data / "observe.token").read_text("ascii").strip()
    admin = await stack.enter_async_context(counts.admin_client(f"http://{arguments.admin}", token))
    systems = receivers.Receivers(gateway.clock)
    await systems.start(stack, gateway.snapshot.destinations.values())
    access = sender.GatewayAccess(_urls(gateway), (gateway.settings.listen.host, gateway.port), gateway.clock)
    return day.Day(arguments.seconds, access, admin, systems, console, stop)


async def _page_address(gateway: app.Gateway, arguments: argparse.Namespace) -> str:
    """Return an address that opens the pages, as `usher open` does."""
    token = (arguments.data / "operate.token").read_text("ascii").strip()
    async with (
        aiohttp.ClientSession(gateway.admin.url, headers={"Authorization": f"Bearer {token}"}) as client,
        client.post("/api/pages/tickets") as answer,
    ):
        return gateway.admin.url + str((await answer.json())["path"])


async def _wait_until_serving(gateway: app.Gateway, running: "asyncio.Task[None]") -> None:
    started = asyncio.create_task(_wait_started(gateway))
    await asyncio.wait({started, running}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        started.cancel()
        running.result()


async def _wait_started(gateway: app.Gateway) -> None:
    await gateway.state.configured.wait()
    await gateway.started.wait()


async def _end(gateway: app.Gateway, running: "asyncio.Task[None]") -> None:
    gateway.stop()
    await running


def _urls(gateway: app.Gateway) -> dict[str, str]:
    return {listener.name: listener.addresses[0].url for listener in gateway.snapshot.listeners.values()}


_SINCE = "2020-01"  # A month before the simulated day, whose clock is ahead


def _print_suggestions(gateway: app.Gateway, arguments: argparse.Namespace, console: rich.console.Console) -> None:
    listen, admin = arguments.listen, arguments.admin
    times = f"{sender.DAY_SECONDS / arguments.seconds:,.0f}"
    url = sender.by_http(_urls(gateway)["hotels"])
    host, company = url.split("/")[2], sender.PLANS[0].company
    console.print(
        f"""
Usher keeps serving until Ctrl-C. Try this in another terminal:

  a visit        curl -i --connect-to {host}:80:{listen} {url} \\
                      -H 'content-type: application/json' -d '{{"user": {{"id": 1, "venue": {{"id": 7}}}}}}'
  the portal     .venv/bin/usher simulate --validate-only --company {company} --connect {listen} {url}
  the pages      .venv/bin/usher open --admin http://{admin} --data {arguments.data}
  the companies  .venv/bin/usher top --admin http://{admin} --data {arguments.data}
  the books      .venv/bin/usher usage --from {_SINCE} --admin http://{admin} --data {arguments.data}
  visits         .venv/bin/usher visits list --admin http://{admin} --data {arguments.data}
  metrics        curl -s http://{admin}/metrics | grep '^usher_'
  a live edit    change a route in {arguments.manifests}/hotels.yaml: in force within a second

The gateway's clock runs {times} times as fast, and its listeners are silent after the day.
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
