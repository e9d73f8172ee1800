"""Persons in the store: find, erase and suppress them."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence

from usher_gateway import model
from usher_gateway.store.base import (
    Erasure,
    ErasureRequest,
    ErasureState,
    MarkOfRoute,
)
from usher_gateway.store.jobs import changes, claims, creation, erasures, listings, suppressions
from usher_gateway.store.jobs.retention import ExpiredArrival
from usher_gateway.store.transaction import JobRunner, Transaction, change, look_up, read


class PersonRecords(JobRunner):
    """The part that finds, erases and suppresses persons."""

    settling_seconds = 0
    """Seconds after which no gateway at the store sends what a change has cancelled; 0: only one gateway uses it."""

    async def _end_of_older_writes(self) -> None:
        """Wait until other gateways' transactions have ended that may not have seen the last commit."""

    of_person = look_up(listings.of_person)
    preview_erasure = look_up(erasures.preview)
    cancel_erasure = change(erasures.cancel)
    running_erasures = read(erasures.running)
    list_erasures = look_up(erasures.listed)
    find_erasure = look_up(erasures.find)
    unsuppress = change(suppressions.remove)
    suppressed = look_up(suppressions.among)
    tenants_suppressing = look_up(suppressions.tenants_of)
    suppressed_by_tenant = look_up(suppressions.by_tenant)

    async def start_erasure(self, request: ErasureRequest, now: int) -> Erasure:
        """Write an erasure, whose steps delete what is stored about the person."""
        store_time = await self.store_time(now)
        return await self._change(lambda transaction: erasures.start(transaction, request, now, store_time))

    async def left_to_erase(self, requests: Sequence[Erasure]) -> dict[int, list[int]]:
        """Return an erasure's row key -> the row keys of the arrivals that it has to erase, the oldest first.

        If gateways share the store, it covers also what comes until it has ended, because gateways' clocks make
        the row keys, and these differ.
        """
        is_alone = not self.settling_seconds
        return await self._look_up(
            lambda session: erasures.left_to_erase(session, requests, only_before_request=is_alone)
        )

    async def erase(
        self,
        arrivals_of: Mapping[int, Sequence[int]],
        now: int,
        on_cancelled: Callable[[Sequence[int]], None],
        mark_of_route: MarkOfRoute,
    ) -> bool:
        """Erase some arrivals, about `erasures.STEP`, in one transaction; return False if all erasures have ended.

        ``arrivals_of``: as from left_to_erase(); an erasure without arrivals only begins. ``on_cancelled`` receives the
        row keys for pending deliveries, so that the caller can drop those in lanes.
        """
        keys = sorted({key for keys in arrivals_of.values() for key in keys})
        job = functools.partial(
            erasures.erase,
            arrivals_of=arrivals_of,
            now=now,
            store_time=await self.store_time(now),
            marks=await self._marks_to_erase(keys, mark_of_route),
            forget=self._forget_arrivals,
        )
        cancelled = await self._change(job)
        if cancelled:
            on_cancelled(cancelled)
        return cancelled is not None

    async def _marks_to_erase(self, keys: Sequence[int], mark_of_route: MarkOfRoute) -> dict[int, set[bytes]]:
        """Return an arrival's row key -> its once-per marks, as far as their routes and bodies exist."""
        routes = await self._look_up(lambda session: erasures.routes_of(session, keys))
        numbers = {number for of_arrival in routes.values() for number in of_arrival}
        await self._load_routes(numbers)
        rules = {number: rule for number in numbers if (rule := mark_of_route(self.route(number))) is not None}
        if not rules:
            return {}
        arrivals = await self._look_up(lambda session: creation.stored_arrivals(session, keys))
        return {
            arrival.key: {rules[number](arrival)[0] for number in routes.get(arrival.key, ()) if number in rules}
            for arrival in arrivals
        }

    async def settling_times(self, now: int) -> range:
        """Return when, by the store's clock, an erasure has changed so lately that it may not end yet.

        Other gateways may still send what was cancelled then. If it is further ahead, the clock was set back since.
        """
        if not self.settling_seconds:
            return range(0)
        current_time, before_and_after = await self.store_time(now), self.settling_seconds * model.MICROSECONDS
        return range(current_time - before_and_after + 1, current_time + before_and_after)

    async def complete_erasures(self, requests: Sequence[Erasure], now: int) -> bool:
        """End erasures that have nothing left to erase; return False if some have to wait."""
        settling = await self.settling_times(now)
        settled = await self._change(  # before the purge
            lambda transaction: erasures.forget_persons(transaction, requests, settling)
        )
        if not settled or not await self._purge():
            return False
        await self._change(lambda transaction: erasures.end(transaction, settled, ErasureState.Completed, now))
        return len(settled) == len(requests)

    async def suppress(
        self, tenants: Mapping[bytes, str], now: int, on_cancelled: Callable[[Sequence[int]], None]
    ) -> int:
        """Store and send nothing more for some person keys; return how many were not suppressed before.

        From the first commit on no visit is stored. Then the pending deliveries are cancelled, slice by slice; a second
        call does the rest after a crash. ``on_cancelled`` is as for cancel().

        ``tenants``: person key -> its tenant, ``namespace/name``.
        """
        added = await self._change(lambda transaction: suppressions.add(transaction, tenants, now))
        await self._end_of_older_writes()  # a visit that one of these accepts is pending then, and is cancelled too
        pending = await self._look_up(lambda session: erasures.pending_deliveries(session, tenants.keys()))
        for start in range(0, len(pending), changes.SLICE):
            keys, reason = pending[start : start + changes.SLICE], model.CancelReason.Suppressed
            cancel = functools.partial(claims.cancel, keys=keys, now=now, reason=reason)
            on_cancelled(await self._change(cancel))
        return added

    @abc.abstractmethod
    async def _forget_arrivals(
        self, transaction: Transaction, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
    ) -> None:
        """Delete arrivals with all their rows. ``deliveries``: their deliveries' keys."""

    async def _purge(self) -> bool:
        """Remove deleted rows' traces from the engine's files; return False if that has to be tried again."""
        return True
