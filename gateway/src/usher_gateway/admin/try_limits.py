"""Bounds what tries take: a request's size, and how many run at once."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator

from usher_gateway.access.problem import ProblemError
from usher_gateway.expressions import turns as expression_turns

MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # Most bytes of a request. 1,000 listeners take about 1 MiB.
_MOST_TRIES = 4  # Most tries of the same tenants that run or wait; each holds a request in memory


class TryTurns:
    """Lets one try run at a time, because each takes much of a core."""

    def __init__(self) -> None:
        self.compiling = expression_turns.compiling_turns()
        self._running = asyncio.Lock()
        self._turn_of: dict[frozenset[str] | None, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        """The tenants that a token is limited to -> lock, held by their try that runs or is the next."""
        self._tries_of: collections.Counter[frozenset[str] | None] = collections.Counter()
        """The same -> their tries that run or wait."""

    @contextlib.asynccontextmanager
    async def turn(self, tenants: frozenset[str] | None) -> AsyncIterator[None]:
        """Wait until no other try runs.

        Raises:
            ProblemError: too many tries for these tenants wait.
        """
        if self._tries_of[tenants] >= _MOST_TRIES:
            detail = f"{_MOST_TRIES} tries of these tenants run or wait on this gateway"
            raise ProblemError(409, "TryRuns", detail, "try again in half a minute")
        self._tries_of[tenants] += 1
        try:
            # A lock serves in order. Of those who wait for the second one, each has other tenants, so all take turns.
            async with self._turn_of[tenants], self._running:
                yield
        finally:
            self._tries_of[tenants] -= 1
