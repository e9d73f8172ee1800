"""Waiting for what others do: a condition looked at again and again, with a limit, and never a bare sleep."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Seen = TypeVar("Seen")

LIMIT_SECONDS = 20.0


async def until(
    look: Callable[[], Awaitable[Seen]],
    satisfied: Callable[[Seen], Any] = bool,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    every_seconds: float = 0.05,
) -> Seen:
    """What ``look`` gives once it satisfies.

    Raises:
        AssertionError: It did not in time; tells what was seen last.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        seen = await look()
        if satisfied(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {limit_seconds} s; seen last: {str(seen)[:2000]}"
        await asyncio.sleep(every_seconds)
