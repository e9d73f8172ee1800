"""A day from the first visit to the table of counts, for a gateway on files or in a cluster."""

import asyncio
import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import rich.console

from demo import counts, receivers, sender
from usher_gateway import model, simulator

# How many real seconds deliveries may take after the last visit. Retries wait for scaled minutes and hours.
DRAIN_SECONDS = 90.0
COUNT_SECONDS = 60.0  # How long the gateway may take to flush counts from memory to its store
_LOOK_SECONDS = 0.2
_LOCK = ".day"


class Day(msgspec.Struct, frozen=True):
    """Everything that a day needs."""

    seconds: float
    access: sender.GatewayAccess
    admin: counts.GatewayCounts
    receivers: receivers.Receivers
    console: rich.console.Console
    stop: asyncio.Event


async def run_day(day: Day) -> bool | None:
    """Send visits, wait for deliveries and print the table.

    Returns:
        Whether the counts agree; None if the day was stopped early.
    """
    day.console.print(
        f"A day of the example agency in {day.seconds:.0f} s: three tenants; the CRM is down for a tenth of"
        " the day, the mailer is slow.\n"
    )
    day.receivers.misbehave(day.seconds)
    sent = await sender.send(day.access, day.receivers.received, day.stop)
    await _drain(day)
    tenants = await _count(day, sent)
    if day.stop.is_set():
        return None
    return _show(day, tenants)


async def _drain(day: Day) -> None:
    """Wait until no delivery is open, at most 90 s."""
    end = time.monotonic() + DRAIN_SECONDS
    with day.console.status("the last deliveries ...") as status:
        while time.monotonic() < end and not day.stop.is_set():
            left = counts.open_deliveries(await day.admin.counts())
            if not left:
                return
            status.update(f"{left} deliveries are still open (retries of the time when the CRM was down)")
            await asyncio.sleep(_LOOK_SECONDS)


async def _count(day: Day, sent: simulator.SimulationBooks) -> list[counts.TenantCounts]:
    """Compare the counts until they agree, at most 60 s."""
    end = time.monotonic() + COUNT_SECONDS
    while True:
        tenants = counts.compare(sent.listeners, await day.admin.counts(), day.receivers.distinct())
        if counts.agree(tenants) or time.monotonic() > end or day.stop.is_set():
            return tenants
        await asyncio.sleep(_LOOK_SECONDS)


def _show(day: Day, tenants: list[counts.TenantCounts]) -> bool:
    counts.print_table(day.console, tenants)
    problems = day.receivers.problems()
    for problem in problems:
        day.console.print(f"[red]{problem}[/]")
    for stray in day.receivers.strays():
        day.console.print(f"[yellow]{stray}[/]", highlight=False)
    agrees = counts.agree(tenants) and not problems
    verdict = "[green]The books agree: nothing lost, nothing twice.[/]" if agrees else "[red]The books disagree.[/]"
    day.console.print(verdict)
    return agrees


def exit_code(*, agrees: bool | None, once: bool) -> int:
    """Return 1 if the counts differ, or if ``once`` is set and nothing was compared. Ctrl-C alone is no failure."""
    return 0 if agrees or (agrees is None and not once) else 1


def advice(error: model.UsherError, target: str) -> str:
    """Return an error and its hint for a user who ran ``make TARGET``."""
    flags = f" Flags go into ARGS: make {target} ARGS='--seconds 30'" if "--" in error.hint else ""
    return f"{error}\n{error.hint}{flags}"


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Lock and empty a folder for the data of one day.

    Raises:
        ConfigurationError: the folder holds something else, or another day uses it.
    """
    lock = folder / _LOCK
    if folder.exists() and any(folder.iterdir()) and not lock.exists():
        raise model.ConfigurationError(
            f"{folder} holds files that are not the data of a day", "Give --data a new folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise model.ConfigurationError(
                f"{folder} is in use", "End the other day, or give --data a folder."
            ) from error
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry != lock:
                entry.unlink()
        yield folder
