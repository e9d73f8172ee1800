"""The sender of a day: it plays Purple, with a curve of visits for each tenant."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import rich.progress

from usher_gateway import simulator
from usher_gateway.timing import Clock

DAY_SECONDS = 86_400


class TenantPlan(msgspec.Struct, frozen=True):
    """The visits of one tenant; its listener has the tenant's name."""

    tenant: str
    company: str
    curve: tuple[float, ...]
    authentications: int


PLANS = (
    TenantPlan("hotels", "101", simulator.HOTEL, 500),
    TenantPlan("cafes", "102", simulator.CAFE, 400),
    TenantPlan("stadium", "103", simulator.STADIUM, 600),
)


class GatewayAccess(msgspec.Struct, frozen=True):
    """How visits reach the gateway."""

    urls: Mapping[str, str]
    """Listener -> the URL that a user pastes into the portal."""
    connect: tuple[str, int]
    """Host and port of the gateway's public port; the sender resolves no name."""
    clock: Clock
    """The gateway's, or one that agrees with it."""


def targets(urls: Mapping[str, str]) -> tuple[simulator.SimulatorTarget, ...]:
    """Return one target per plan, each with its own company."""
    return tuple(
        simulator.SimulatorTarget(
            url=by_http(urls[plan.tenant]),
            name=plan.tenant,
            company=simulator.Company(id=plan.company, seed=number + 1, first_venue=100 * (number + 1)),
            pattern=simulator.Pattern(
                authentications=plan.authentications,
                duration_seconds=DAY_SECONDS,
                curve=plan.curve,
                # Each body has an exact time. Otherwise the pages would show TimesUntrusted. And on a busy machine a
                # short delay would count as an hour, because the gateway would use its own clock, which runs faster.
                untimed=0.0,
            ),
        )
        for number, plan in enumerate(PLANS)
    )


def by_http(url: str) -> str:
    """Return a listener's URL with http, because a day runs without certificates."""
    return url.replace("https://", "http://", 1)


async def send(access: GatewayAccess, received: Callable[[], int], stop: asyncio.Event) -> simulator.SimulationBooks:
    """Send the visits of the day and show progress; ``received`` returns how many requests the receivers got."""
    settings = simulator.SimulatorSettings(
        targets=targets(access.urls), time_scale=access.clock.scale, connect=access.connect
    )
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        "{task.completed:.0f}/{task.total:.0f}",
        "{task.fields[more]}",
    )
    with rich.progress.Progress(*columns, transient=True) as progress:
        task = progress.add_task("visits", total=sum(plan.authentications for plan in PLANS), more="")

        def show(books: simulator.SimulationBooks) -> None:
            acknowledged = sum(each.acknowledged for each in books.listeners)
            progress.update(task, completed=acknowledged, more=f"acknowledged; {received()} requests at the receivers")

        sender = simulator.Simulator(settings, show, access.clock)
        waiting = asyncio.create_task(stop.wait())
        sending = asyncio.create_task(sender.run())
        await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            sender.stop()
        waiting.cancel()
        return await sending
