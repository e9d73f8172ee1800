"""The open transaction that a job gets, and ``JobRunner``, with which the store runs jobs."""

import abc
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter
from usher_gateway.store.encodings import STORED_SLOT
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.names import NameNumbers, RouteNumbers, UsedNames
from usher_gateway.store.session import Session

P = ParamSpec("P")
T = TypeVar("T")

SLICE_ROWS = 2_000  # The most rows that one job may change

_encode = msgspec.msgpack.Encoder().encode


class Transaction:
    """A commit's or a job's open transaction, with the names that it uses and its counts.

    The engines extend it. Their writers add the names at its end, apply its in-memory results after the commit, and
    drop them on a rollback.

    ``owner``: this gateway's run, by number. The deliveries that the transaction claims belong to it.
    """

    def __init__(self, session: Session, *, ids: model.IdFactory, names: NameNumbers, owner: int) -> None:
        self.session, self.ids, self.owner = session, ids, owner
        self._names = names
        self.used = UsedNames()
        self.meters: dict[tuple[int, int, int], int] = {}  # (listener number, slot, counter) -> count

    def listener(self, name: model.ListenerName) -> int:
        """Return a listener's number, to write it."""
        number = self.used.listeners.get(name)
        if number is None:
            number = self.used.listeners[name] = self._names.listener(name)
        return number

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return a route definition's numbers, to write them."""
        route = self.used.routes.get(id(definition))
        if route is None:
            route = self.used.routes[id(definition)] = self._names.route(definition)
        return route[1]

    def destination_of_route(self, route: int) -> int | None:
        """Return the number of a loaded route's destination; None if the database has lost the route."""
        definition = self._names.definitions.get(route)
        return None if definition is None else self._names.route(definition)[1].destination

    async def load_routes(self, routes: Collection[int]) -> None:
        """Read the definitions that other gateways added, if one of these is unknown."""
        if not self._names.definitions.keys() >= set(routes):
            await self._names.load_routes(self.session)

    async def load_listeners(self, listeners: Collection[int]) -> None:
        """Read the listener names that other gateways added, if one of these is unknown."""
        if not self._names.listeners.keys() >= set(listeners):
            await self._names.load_listeners(self.session)

    async def meter_routes(self, routes: Collection[int], at: int, counter: int) -> None:
        """Count one for each stored route's listener. A lost route has no meters."""
        await self.load_routes(routes)
        slot = model.slot_of(at)
        for route in routes:
            definition = self._names.definitions.get(route)
            if definition is not None:
                self.meter(self._names.listener(definition.listener), slot, counter)

    def meter(self, listener: int, slot: int, counter: int, count: int = 1) -> None:
        """Add to the meters."""
        key = (listener, slot, counter)
        self.meters[key] = self.meters.get(key, 0) + count

    def add_stored_bytes(self, listener: int, count: int) -> None:
        """Count bytes that a listener stores, or (negative) that retention deleted."""
        self.meter(listener, STORED_SLOT, model.Counter.stored_bytes, count)

    def packed_meters(self) -> bytes:
        """Return the counts for the commit's row; empty if there are none."""
        return _encode([(*key, count) for key, count in self.meters.items()]) if self.meters else b""

    def tenant_changes(self) -> Counter[tuple[str, str]]:
        """Return how the bytes that each tenant stores change."""
        stored = {
            listener: count
            for (listener, _, counter), count in self.meters.items()
            if counter == model.Counter.stored_bytes
        }
        return self._names.by_tenant(stored)


Query = Callable[[Session], Coroutine[Any, Any, T]]  # Reads over one snapshot
Job = Callable[[Transaction], Coroutine[Any, Any, T]]  # Changes rows in one transaction


class JobRunner(abc.ABC):
    """Runs a store's jobs. The store's parts share it."""

    def __init__(self, *, commits: GroupCommit, names: NameNumbers, now: Callable[[], int]) -> None:
        self._commits, self._names, self._now = commits, names, now

    @abc.abstractmethod
    async def _read(self, query: Query[T]) -> T:
        """Return the result of a query over one snapshot.

        Raises:
            StoreUnavailableError: the query failed or took too long.
        """

    @abc.abstractmethod
    async def _look_up(self, query: Query[T]) -> T:
        """Do the same for a query that a person asked for, so that it does not delay deliveries."""

    async def _change(self, job: Job[T]) -> T:
        """Run a job in a separate transaction; return its result after the commit."""
        return await self._commits.run_job(job)

    async def _load_routes(self, numbers: Collection[int]) -> None:
        """Make sure that route() knows some numbers, which other gateways may have added."""
        if not self._names.definitions.keys() >= set(numbers):
            await self._read(self._names.load_routes)

    async def store_time(self, now: int) -> int:
        """Return the time in microseconds by a clock that all the store's gateways share. ``now``: by this one's."""
        return now

    def route(self, number: int) -> model.RouteDefinition:
        """Return the route definition for a delivery or a held group."""
        return self._names.definition(number)

    async def _slices(
        self,
        query: Callable[..., Coroutine[Any, Any, tuple[list[T], str | None]]],
        where: Filter,
    ) -> AsyncIterator[list[T]]:
        """Yield what a query selects, slice by slice; leave out empty slices."""
        cursor: str | None = None
        while True:
            selected, cursor = await self._look_up(functools.partial(query, where=where, cursor=cursor))
            if selected:
                yield selected
            if cursor is None:
                return


# Methods of the store, made from jobs: `visits = look_up(listings.visits)`. A method takes what the job takes after the
# session or transaction, and the job's docstring is its contract.

Method = Callable[Concatenate[JobRunner, P], Coroutine[Any, Any, T]]


def read(query: Callable[Concatenate[Session, P], Coroutine[Any, Any, T]]) -> Method[P, T]:
    """Return a method that runs a query for the gateway itself."""

    @functools.wraps(query)
    async def method(self: JobRunner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read(lambda session: query(session, *args, **kwargs))

    return method


def look_up(query: Callable[Concatenate[Session, P], Coroutine[Any, Any, T]]) -> Method[P, T]:
    """Return a method that runs a query for a person."""

    @functools.wraps(query)
    async def method(self: JobRunner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._look_up(lambda session: query(session, *args, **kwargs))

    return method


def change(job: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]]) -> Method[P, T]:
    """Return a method that runs a job in a separate transaction."""

    @functools.wraps(job)
    async def method(self: JobRunner, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._change(lambda transaction: job(transaction, *args, **kwargs))

    return method


def change_in_slices(job: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, int]]) -> Method[P, int]:
    """Return a method that runs a job until it changes less than a whole slice; the method returns how many in all."""

    @functools.wraps(job)
    async def method(self: JobRunner, /, *args: P.args, **kwargs: P.kwargs) -> int:
        total = 0
        while True:
            changed = await self._change(lambda transaction: job(transaction, *args, **kwargs))
            total += changed
            if changed < SLICE_ROWS:
                return total

    return method
