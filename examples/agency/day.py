"""A day of visits in about a minute: the example agency on SQLite, its receivers, and a sender like Purple.

`make run` starts this. At the end a table shows, per tenant, what the sender, the gateway and the receivers counted,
each on its own. Then the gateway goes on serving until Ctrl-C; with --once it ends, with 1 if the books disagree.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import msgspec
import rich.box
import rich.console
import rich.live
import rich.progress
import rich.table
import uvloop

from usher_gateway import app, documents, logs, model, settings, simulator

HERE = Path(__file__).parent
DAY_SECONDS = 86_400
DRAIN_SECONDS = 90
"""How long (real) deliveries may take after the last visit: retries come in scaled minutes and hours."""


class Plan(msgspec.Struct, frozen=True):
    """How a tenant's day looks."""

    listener: str
    company: str
    curve: tuple[float, ...]
    authentications: int


PLANS = (
    Plan("hotels", "101", simulator.HOTEL, 500),
    Plan("cafes", "102", simulator.CAFE, 400),
    Plan("stadium", "103", simulator.STADIUM, 600),
)


class Receivers:
    """The customers' systems: a CRM that is down for a while, a slow mailer, a warehouse."""

    def __init__(self, gateway: app.Gateway, day_seconds: float) -> None:
        self.taken: dict[tuple[str, str], set[str]] = {}
        """(destination, tenant) -> webhook-ids that were answered with 2xx"""
        self._clock = gateway.clock
        self._day_seconds = day_seconds
        self._receivers: dict[str, simulator.Receiver] = {}

    async def start(self, stack: contextlib.AsyncExitStack, snapshot: documents.Snapshot) -> None:
        """Listen where the destinations of the example point to."""
        for destination in snapshot.destinations.values():
            port = int(destination.url.split("/")[2].rpartition(":")[2])
            receiver = simulator.Receiver(
                simulator.ReceiverSettings(port=port, secrets=destination.signing_secrets, keep=True), self._clock
            )
            await stack.enter_async_context(receiver)
            self._receivers[destination.name] = receiver
        self._receivers["crm"].set_behaviour(
            "/crm",
            simulator.Behaviour(status=503),
            after_seconds=self._day_seconds * 0.45,
            for_seconds=self._day_seconds * 0.1,
        )
        self._receivers["mailer"].set_behaviour("/mail", simulator.Behaviour(delay_seconds=0.25))

    def distinct(self) -> dict[tuple[str, str], int]:
        """(destination, tenant) -> distinct deliveries that the receiver took."""
        found: Counter[tuple[str, str]] = Counter()
        for name, receiver in self._receivers.items():
            for path in receiver.all_counts():
                taken = receiver.taken_ids(path)
                tenants = {
                    each.headers.get("webhook-id", ""): each.headers.get("usher-tenant", "")
                    for each in receiver.kept(path)
                }
                for identifier in taken:
                    found[name, tenants[identifier]] += 1
        return dict(found)

    def problems(self) -> list[str]:
        """What must not happen whatever the day was like."""
        found = []
        for name, receiver in self._receivers.items():
            for path, counts in receiver.all_counts().items():
                if counts.signatures_bad or counts.signatures_stale:
                    found.append(f"{name}: signatures were wrong at {path}")
                if counts.duplicates:
                    found.append(f"{name}: {counts.duplicates} deliveries came twice at {path}")
        return found

    def strays(self) -> list[str]:
        """What something else on this machine sent to the receivers: it is in no count."""
        return [
            f"{name}: {counts.without_id} requests at {path} had no webhook-id; they are not from the gateway"
            for name, receiver in self._receivers.items()
            for path, counts in receiver.all_counts().items()
            if counts.without_id
        ]

    def received(self) -> int:
        """Requests so far, failed ones included."""
        return sum(
            counts.received for receiver in self._receivers.values() for counts in receiver.all_counts().values()
        )


def main() -> int:
    """Parse the command line and live through the day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end after the table; exit 1 if the books disagree")
    parser.add_argument("--seconds", type=float, default=60, help="real seconds that the day takes")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT of the public port")
    parser.add_argument("--admin", default="127.0.0.1:9090", help="HOST:PORT of the admin port")
    parser.add_argument(
        "--data", type=Path, default=Path("data/day"), help="folder; what an earlier day left is removed"
    )
    arguments = parser.parse_args()
    try:
        return uvloop.run(_day(arguments))
    except model.UsherError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return 2


async def _day(arguments: argparse.Namespace) -> int:
    logs.configure(level="error")
    console = rich.console.Console()
    _clear(arguments.data)
    scale = DAY_SECONDS / arguments.seconds
    gateway = app.Gateway(
        settings.Settings(
            files=(HERE,),
            data=arguments.data,
            listen=settings.parse_endpoint(arguments.listen),
            admin=settings.parse_endpoint(arguments.admin),
            time_scale=scale,
        ),
        dict(os.environ),
    )
    running = asyncio.create_task(gateway.run())
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_end, gateway, running)
        await _wait_until_serving(gateway, running)
        receivers = Receivers(gateway, arguments.seconds)
        await receivers.start(stack, gateway.snapshot)
        console.print(
            f"A day of the example agency in {arguments.seconds:.0f} s: three tenants; the CRM is down for a tenth of"
            " the day, the mailer is slow.\n"
        )
        books = await _send(gateway, receivers, scale, stop)
        if stop.is_set():
            return 1
        await _drain(gateway, console, stop)
        agrees = await _show(gateway, books, receivers, console)
        if arguments.once:
            return 0 if agrees else 1
        _say_what_to_try(gateway, arguments, console)
        await stop.wait()
        console.print("\nEnding: connections are drained, the rest stays in the store.")
        return 0 if agrees else 1


def _clear(folder: Path) -> None:
    """Remove what an earlier day left; any other folder stays as it is."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "install.key").exists():
        raise model.ConfigurationError(f"{folder} holds something else than a day's data", "Give --data a new folder.")
    shutil.rmtree(folder, ignore_errors=True)


async def _wait_until_serving(gateway: app.Gateway, running: "asyncio.Task[None]") -> None:
    started = asyncio.create_task(gateway.configured.wait())
    await asyncio.wait({started, running}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        started.cancel()
        running.result()


async def _end(gateway: app.Gateway, running: "asyncio.Task[None]") -> None:
    gateway.stop()
    await running


def _urls(gateway: app.Gateway) -> dict[str, str]:
    """Listener -> the URL that its portal would be given, but for https: the day runs without certificates."""
    found = {}
    for listener in gateway.snapshot.listeners.values():
        address = listener.addresses[0]
        query = "&".join(f"{name}={value}" for name, value in address.query)
        found[listener.name] = f"http://{address.host}{address.path}{'?' + query if query else ''}"
    return found


async def _send(gateway: app.Gateway, receivers: Receivers, scale: float, stop: asyncio.Event) -> simulator.Books:
    """Let Purple send the day's visits, with progress."""
    urls = _urls(gateway)
    targets = tuple(
        simulator.Target(
            url=urls[plan.listener],
            name=plan.listener,
            company=simulator.Company(id=plan.company, seed=number + 1, first_venue=100 * (number + 1)),
            pattern=simulator.Pattern(
                authentications=plan.authentications, duration_seconds=DAY_SECONDS, curve=plan.curve
            ),
        )
        for number, plan in enumerate(PLANS)
    )
    settings_of_sender = simulator.SimulatorSettings(
        targets=targets,
        time_scale=scale,
        connect=(gateway.settings.listen.host, gateway.port),
    )
    total = sum(plan.authentications for plan in PLANS)
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        "{task.completed:.0f}/{task.total:.0f}",
        "{task.fields[more]}",
    )
    with rich.progress.Progress(*columns, transient=True) as progress:
        task = progress.add_task("visits", total=total, more="")

        def show(books: simulator.Books) -> None:
            acknowledged = sum(each.acknowledged for each in books.listeners)
            more = f"acknowledged; {receivers.received()} requests at the receivers"
            progress.update(task, completed=acknowledged, more=more)

        sender = simulator.Simulator(settings_of_sender, show, gateway.clock)
        waiting = asyncio.create_task(stop.wait())
        sending = asyncio.create_task(sender.run())
        await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            sender.stop()
        waiting.cancel()
        return await sending


async def _drain(gateway: app.Gateway, console: rich.console.Console, stop: asyncio.Event) -> None:
    """Wait until no delivery is open."""
    end = asyncio.get_running_loop().time() + DRAIN_SECONDS
    with console.status("the last deliveries ...") as status:
        while asyncio.get_running_loop().time() < end and not stop.is_set():
            await gateway.store.flush()
            left = sum((await gateway.store.open_deliveries(gateway.clock.now())).values())
            if not left:
                return
            status.update(f"{left} deliveries are still open (retries of the time when the CRM was down)")
            await asyncio.sleep(0.2)


async def _show(
    gateway: app.Gateway, books: simulator.Books, receivers: Receivers, console: rich.console.Console
) -> bool:
    """The table in which three counts stand side by side; True if they agree."""
    await gateway.store.flush()
    meters: dict[str, Counter[int]] = {}
    for row in await gateway.store.usage(0, gateway.clock.now() + model.MICROSECONDS * DAY_SECONDS):
        meters.setdefault(row.listener.tenant, Counter()).update(row.counts)
    taken = receivers.distinct()
    table = rich.table.Table(title="Three counts of one day", box=rich.box.SIMPLE_HEAD, title_justify="left")
    for column in ("tenant", "", "sender", "gateway", "receivers", ""):
        table.add_column(column, justify="left" if column in {"tenant", ""} else "right")
    agrees = not receivers.problems()
    for plan, sent in zip(PLANS, books.listeners, strict=True):
        count = meters.get(plan.listener, Counter())
        lines = _lines(
            sent, count, {name: number for (name, tenant), number in taken.items() if tenant == plan.listener}
        )
        for index, (what, *counts) in enumerate(lines):
            known = {number for number in counts if number is not None}
            agrees &= len(known) == 1
            mark = "[green]=[/]" if len(known) == 1 else "[red]differ[/]"
            shown = ["" if number is None else str(number) for number in counts]
            table.add_row(plan.listener if not index else "", what, *shown, mark, end_section=index == len(lines) - 1)
    console.print(table)
    for problem in receivers.problems():
        console.print(f"[red]{problem}[/]")
    for stray in receivers.strays():
        console.print(f"[yellow]{stray}[/]", highlight=False)
    verdict = "[green]The books agree: nothing lost, nothing twice.[/]" if agrees else "[red]The books disagree.[/]"
    console.print(verdict)
    return agrees


def _lines(
    sent: simulator.ListenerBooks, count: "Counter[int]", taken: dict[str, int]
) -> list[tuple[str, int | None, int | None, int | None]]:
    """(what, sender's count, gateway's, receivers'); None where somebody cannot know it."""
    counter = model.Counter
    skipped = sum(count[each] for each in counter if each.name.startswith("skipped_"))
    return [
        ("visits", sent.visits + sent.sample_visits, count[counter.visits], None),
        ("repeats", sent.repeats, count[counter.repeats], None),
        ("redeliveries", sent.redelivered, count[counter.redeliveries], None),
        ("probes", sent.probes, count[counter.probes], None),
        ("unacknowledged", sent.unacknowledged, count[counter.refused] + count[counter.quarantined], None),
        ("routes = created + skipped", None, count[counter.routed], count[counter.created] + skipped),
        ("delivered", None, count[counter.delivered], sum(taken.values())),
        ("died", 0, count[counter.died], None),
        (
            "created = delivered + expired",
            None,
            count[counter.created],
            count[counter.delivered] + count[counter.cancelled],
        ),
    ]


def _say_what_to_try(gateway: app.Gateway, arguments: argparse.Namespace, console: rich.console.Console) -> None:
    listen, admin = arguments.listen, arguments.admin
    url = _urls(gateway)["hotels"]
    host = url.split("/")[2]
    folder = HERE.relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else HERE
    console.print(
        f"""
Usher goes on serving (Ctrl-C ends it). What to try in another terminal:

  a visit        curl -i --connect-to {host}:80:{listen} {url} \\
                      -H 'content-type: application/json' -d '{{"user": {{"id": 1, "venue": {{"id": 7}}}}}}'
  the portal     .venv/bin/usher simulate --validate-only --connect {listen} {url}
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
