"""The sender of a day: Purple, with a curve of visits for each tenant."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import rich.progress

from usher_gateway import clock as clocks
from usher_gateway import simulator

DAY_SECONDS = 86_400
UNTIMED_SCALE = 2_000.0
"""Where the clock runs faster, every body says when it was: a gateway that has to go by its own clock would take a
moment's delay on a busy machine for an hour, and count otherwise than planned."""


class Plan(msgspec.Struct, frozen=True):
    """How a tenant's day looks; its listener has the tenant's name."""

    tenant: str
    company: str
    curve: tuple[float, ...]
    authentications: int


PLANS = (
    Plan("hotels", "101", simulator.HOTEL, 500),
    Plan("cafes", "102", simulator.CAFE, 400),
    Plan("stadium", "103", simulator.STADIUM, 600),
)


class Way(msgspec.Struct, frozen=True):
    """How visits get to the gateway."""

    urls: Mapping[str, str]
    """Listener -> the URL that its portal is given."""
    connect: tuple[str, int]
    """The gateway's public port: no name is looked up."""
    clock: clocks.Clock
    """The gateway's, or one that agrees with it."""


def targets(urls: Mapping[str, str], scale: float) -> tuple[simulator.Target, ...]:
    """Whom the sender plays: a company for each plan."""
    usual = simulator.Pattern()
    return tuple(
        simulator.Target(
            url=by_http(urls[plan.tenant]),
            name=plan.tenant,
            company=simulator.Company(id=plan.company, seed=number + 1, first_venue=100 * (number + 1)),
            pattern=simulator.Pattern(
                authentications=plan.authentications,
                duration_seconds=DAY_SECONDS,
                curve=plan.curve,
                untimed=usual.untimed if scale <= UNTIMED_SCALE else 0.0,
            ),
        )
        for number, plan in enumerate(PLANS)
    )


def by_http(url: str) -> str:
    """A listener's URL for a day, which runs without certificates."""
    return url.replace("https://", "http://", 1)


async def send(way: Way, received: Callable[[], int], stop: asyncio.Event) -> simulator.Books:
    """Let Purple send the day's visits, with progress; ``received`` tells how many requests receivers got."""
    settings = simulator.SimulatorSettings(
        targets=targets(way.urls, way.clock.scale), time_scale=way.clock.scale, connect=way.connect
    )
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        "{task.completed:.0f}/{task.total:.0f}",
        "{task.fields[more]}",
    )
    with rich.progress.Progress(*columns, transient=True) as progress:
        task = progress.add_task("visits", total=sum(plan.authentications for plan in PLANS), more="")

        def show(books: simulator.Books) -> None:
            acknowledged = sum(each.acknowledged for each in books.listeners)
            progress.update(task, completed=acknowledged, more=f"acknowledged; {received()} requests at the receivers")

        sender = simulator.Simulator(settings, show, way.clock)
        waiting = asyncio.create_task(stop.wait())
        sending = asyncio.create_task(sender.run())
        await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            sender.stop()
        waiting.cancel()
        return await sending
