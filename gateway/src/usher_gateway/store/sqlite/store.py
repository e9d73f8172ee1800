"""The SQLite store: the engine, with all that is read from it and all that people and retention change in it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from usher_gateway import model
from usher_gateway.store.base import Backlog, Filter, ListingPage, OpenCounts, OpenReport, Period, UsageRow
from usher_gateway.store.sqlite import changes, engine, listings, meters, persons, prune, reads

_log = structlog.get_logger(__name__)

_FOLD_SECONDS = 5.0
"""How often counts of commits are moved into the meters."""

_RELEASE_SLICE = 20
"""Arrivals that one job releases: each has up to 32 routes."""

_ANY = Filter()

T = TypeVar("T")


class SqliteStore(engine.SqliteEngine):
    """store/base.py over one SQLite file."""

    def __init__(self, settings: engine.Settings, now: Callable[[], int]) -> None:
        super().__init__(settings, now)
        self._meter_walk = prune.MeterWalk()
        self._folding = asyncio.Lock()

    async def open(self) -> OpenReport:
        """See the interface."""
        report = await super().open()
        # Apart from the dispatcher's: a long question of a person must not keep deliveries waiting.
        self._asked = reads.Reader(self.settings.folder)
        self._folder_task = asyncio.create_task(self._fold_often(), name="store-meter-folder")
        return report

    async def close(self) -> None:
        """See the interface."""
        if hasattr(self, "_folder_task"):
            self._folder_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._folder_task
            await self._asked.close()
        await super().close()

    # reading

    async def open_counts(self) -> OpenCounts:
        """See the interface."""
        return await self.reader.run(reads.open_counts)

    async def backlogs(self) -> list[Backlog]:
        """See the interface."""
        return await self.reader.run(reads.backlogs)

    async def usage(self, since: int, until: int, where: Filter = _ANY, period: Period = "slot") -> list[UsageRow]:
        """See the interface: a day at a time, so that no reader lasts long."""
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        oldest, youngest = await self._asked.run(meters.bounds)
        days = list(meters.days(max(first, oldest), min(end, youngest)))
        if first <= 0:
            days.insert(0, (0, 1))
        found: dict[tuple[int, int], model.Counts] = {}
        for day in days:
            part = await self._usage_of(day, where, period)
            for key, counts in part.items():
                _add_counts(found.setdefault(key, {}), counts)
        names = await self._asked.run(meters.listener_names)
        usage = [UsageRow(names[listener], start, counts) for (start, listener), counts in found.items()]
        return sorted(usage, key=lambda row: (row.period, row.listener))

    async def _usage_of(
        self, day: tuple[int, int], where: Filter, period: Period
    ) -> dict[tuple[int, int], model.Counts]:
        return await self._asked.run(lambda connection: meters.usage(connection, *day, where, period))

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        """See the interface."""
        return await self._asked.run(lambda connection: meters.open_deliveries(connection, at))

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """See the interface."""
        return await self._asked.run(lambda connection: listings.visits(connection, where, cursor, limit))

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """See the interface."""
        return await self._asked.run(lambda connection: listings.deliveries(connection, where, cursor, limit))

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        """See the interface."""
        return await self._asked.run(lambda connection: listings.body(connection, arrival))

    async def answer(self, delivery: bytes) -> bytes:
        """See the interface."""
        return await self._asked.run(lambda connection: listings.answer(connection, delivery))

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        """See the interface."""
        found = await self._asked.run(lambda connection: persons.arrivals_of(connection, keys))
        return await self._asked.run(lambda connection: persons.ids(connection, found, (namespace, tenant), keys))

    # changing

    async def redrive(self, where: Filter, now: int) -> int:
        """See the interface."""
        changed: list[int] = []
        cursor: str | None = None
        while True:
            keys, cursor = await self._look(changes.redrivable, where, cursor)
            if keys:
                await self.run_job(changes.redrive(keys, now, changed))
            if cursor is None:
                return sum(changed)

    async def replay(self, where: Filter, now: int) -> int:
        """See the interface."""
        changed: list[int] = []
        cursor: str | None = None
        while True:
            skipped, cursor = await self._look(changes.replayable, where, cursor)
            for start in range(0, len(skipped), changes.SLICE):
                await self.run_job(changes.replay(skipped[start : start + changes.SLICE], now, changed))
            if cursor is None:
                return sum(changed)

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        """See the interface."""
        return await self._asked.run(lambda connection: changes.quarantined(connection, where, limit, after))

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """See the interface."""
        changed: list[int] = []
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            await self.run_job(changes.release(arrivals[start : start + _RELEASE_SLICE], now, changed))
        return sum(changed)

    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        """See the interface."""
        touched: list[int] = []
        await self.run_job(prune.prune(now, meter_months or {}, self._meter_walk, touched))
        return sum(touched)

    async def fold_meters(self) -> None:
        """Move all counts of commits into the meters, a part at a time."""
        async with self._folding:
            while True:
                gathered = await self._asked.run(meters.gather)
                if gathered.parts:
                    await self.run_job(meters.fold(gathered))
                for number, part in gathered.left:
                    await self.run_job(meters.fold_part(number, part))
                if gathered.is_everything:
                    return

    async def _look(
        self,
        find: "Callable[[sqlite3.Connection, Filter, str | None], tuple[list[T], str | None]]",
        where: Filter,
        cursor: str | None,
    ) -> tuple[list[T], str | None]:
        return await self._asked.run(lambda connection: find(connection, where, cursor))

    async def _fold_often(self) -> None:
        while True:
            await asyncio.sleep(_FOLD_SECONDS)
            try:
                await self.fold_meters()
            except model.StoreUnavailableError as error:
                _log.warning("store_upkeep_failed", error=type(error).__name__)


def _add_counts(total: model.Counts, counts: model.Counts) -> None:
    for counter, count in counts.items():
        total[counter] = total.get(counter, 0) + count
