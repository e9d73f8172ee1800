"""Wait for other programs by polling a condition, with a time limit."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Seen = TypeVar("Seen")

LIMIT_SECONDS = 60.0  # Far more than anything takes, because a test machine may be slow and busy


async def until(
    look: Callable[[], Awaitable[Seen]],
    satisfied: Callable[[Seen], Any] = bool,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    every_seconds: float = 0.05,
) -> Seen:
    """Poll ``look`` until its result satisfies the check, and return the result.

    Raises:
        AssertionError: The time limit passed; the message has the last result.
    """
    deadline = time.monotonic() + limit_seconds
    while True:
        latest = await look()
        if satisfied(latest):
            return latest
        assert time.monotonic() < deadline, f"not within {limit_seconds} s; seen last: {str(latest)[:2000]}"
        await asyncio.sleep(every_seconds)


def poll(
    look: Callable[[], Seen],
    satisfied: Callable[[Seen], Any] = bool,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    every_seconds: float = 0.2,
) -> Seen:
    """Do the same as `until`, for tests that run programs and have no event loop."""
    deadline = time.monotonic() + limit_seconds
    while True:
        latest = look()
        if satisfied(latest):
            return latest
        assert time.monotonic() < deadline, f"not within {limit_seconds} s; seen last: {str(latest)[:2000]}"
        time.sleep(every_seconds)


async def wait_until(
    condition: Callable[..., Any], seconds: float = LIMIT_SECONDS, what: str = "the condition"
) -> None:
    """Poll a condition of this process until it holds.

    Raises:
        AssertionError: The time limit passed; the message names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        await asyncio.sleep(0.01)
