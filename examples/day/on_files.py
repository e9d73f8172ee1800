"""A day of visits in about a minute: the example agency on SQLite, its receivers, and a sender like Purple.

`make run` starts this. At the end a table shows, per tenant, what the sender, the gateway and the receivers counted,
each on its own. Then the gateway goes on serving until Ctrl-C; with --once it ends, with 1 if the books disagree.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import rich.console
import uvloop

from day import asking, living, receivers, sending
from usher_gateway import app, logs, model, settings

MANIFESTS = Path(__file__).parents[1] / "agency"


def main() -> int:
    """Parse the command line and live through the day."""
    parser = argparse.ArgumentParser(
        prog="make run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end after the table; exit 1 if the books disagree")
    parser.add_argument("--seconds", type=float, default=60, help="real seconds that the day takes")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT of the public port")
    parser.add_argument("--admin", default="127.0.0.1:9090", help="HOST:PORT of the admin port")
    parser.add_argument(
        "--data", type=Path, default=Path("data/day"), help="folder; what an earlier day left is removed"
    )
    arguments = parser.parse_args()
    try:
        with living.fresh(arguments.data):
            return uvloop.run(_day(arguments))
    except model.UsherError as error:
        print(living.advice(error, "run"), file=sys.stderr)
        return 2


async def _day(arguments: argparse.Namespace) -> int:
    logs.configure(level="error")
    console = rich.console.Console()
    gateway = app.Gateway(
        settings.Settings(
            files=(MANIFESTS,),
            data=arguments.data,
            listen=settings.parse_endpoint(arguments.listen),
            admin=settings.parse_endpoint(arguments.admin),
            time_scale=sending.DAY_SECONDS / arguments.seconds,
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
        day = await _prepare(gateway, arguments, console, stop, stack)
        agrees = await living.live(day)
        if arguments.once or agrees is None:
            return 0 if agrees else 1
        _say_what_to_try(gateway, arguments, console)
        await stop.wait()
        console.print("\nEnding: connections are drained, the rest stays in the store.")
        return 0 if agrees else 1


async def _prepare(
    gateway: app.Gateway,
    arguments: argparse.Namespace,
    console: rich.console.Console,
    stop: asyncio.Event,
    stack: contextlib.AsyncExitStack,
) -> living.Day:
    token = (arguments.data / "observe.token").read_text("ascii").strip()
    admin = await stack.enter_async_context(asking.admin(f"http://{arguments.admin}", token))
    systems = receivers.Receivers(gateway.clock)
    await systems.start(stack, gateway.snapshot.destinations.values())
    way = sending.Way(_urls(gateway), (gateway.settings.listen.host, gateway.port), gateway.clock)
    return living.Day(arguments.seconds, way, admin, systems, console, stop)


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


def _say_what_to_try(gateway: app.Gateway, arguments: argparse.Namespace, console: rich.console.Console) -> None:
    listen, admin = arguments.listen, arguments.admin
    url = sending.by_http(_urls(gateway)["hotels"])
    host, company = url.split("/")[2], sending.PLANS[0].company
    folder = MANIFESTS.relative_to(Path.cwd()) if MANIFESTS.is_relative_to(Path.cwd()) else MANIFESTS
    console.print(
        f"""
Usher goes on serving (Ctrl-C ends it). What to try in another terminal:

  a visit        curl -i --connect-to {host}:80:{listen} {url} \\
                      -H 'content-type: application/json' -d '{{"user": {{"id": 1, "venue": {{"id": 7}}}}}}'
  the portal     .venv/bin/usher simulate --validate-only --company {company} --connect {listen} {url}
  the books      .venv/bin/usher usage --admin http://{admin} --data {arguments.data}
  visits         .venv/bin/usher visits list --admin http://{admin} --data {arguments.data}
  metrics        curl -s http://{admin}/metrics | grep '^usher_'
  a live edit    change a route in {folder}/hotels.yaml: in force within a second
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
