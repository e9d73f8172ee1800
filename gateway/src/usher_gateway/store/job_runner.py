"""The interface of an engine to the jobs of the store: sessions over a snapshot, and transactions."""

import abc
import functools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any, TypeVar

from usher_gateway import model
from usher_gateway.store.base import Filter
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import claims
from usher_gateway.store.session import Session, Transaction

T = TypeVar("T")

Query = Callable[[Session], Coroutine[Any, Any, T]]
"""Reads over one snapshot."""

Job = Callable[[Transaction], Coroutine[Any, Any, T]]
"""Changes rows in one transaction."""


class JobRunner(abc.ABC):
    """Runs the jobs of a store. The parts of the store share it."""

    def __init__(self, *, commits: GroupCommit, now: Callable[[], int]) -> None:
        self._commits = commits
        self._now = now

    @abc.abstractmethod
    async def _read(self, query: Query[T]) -> T:
        """Return the result of a query over one snapshot.

        Raises:
            StoreUnavailableError: the query failed or took too long.
        """

    @abc.abstractmethod
    async def _look_up(self, query: Query[T]) -> T:
        """Do the same for a query that a person asked for, so that it does not delay deliveries."""

    @abc.abstractmethod
    async def _change(
        self,
        job: Job[T],
        *,
        listeners: Collection[model.ListenerName] = (),
        definitions: Collection[model.RouteDefinition] = (),
    ) -> T:
        """Run a job in a separate transaction; return its result after the commit.

        ``listeners`` and ``definitions``: the names whose numbers the job writes.
        """

    @abc.abstractmethod
    async def _load_routes(self, numbers: Collection[int]) -> None:
        """Make sure that route() knows some numbers, which other gateways may have added."""

    @abc.abstractmethod
    def route(self, number: int) -> model.RouteDefinition:
        """Return the route definition of a delivery or of a held group."""

    async def _in_slices(self, job: Job[int]) -> int:
        """Run a job until it changes less than a whole slice; return how many rows it changed in all."""
        total = 0
        while True:
            changed = await self._change(job)
            total += changed
            if changed < claims.SLICE:
                return total

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
