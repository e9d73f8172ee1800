"""A form that is sent twice, as by a double click, does what it asks for once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_AGAIN_SECONDS = 10.0  # The same form after this time is a new request

_Done = TypeVar("_Done")


class ConfirmedForms(Generic[_Done]):
    """Remembers for some seconds what confirmed forms have done."""

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Future[_Done]] = {}

    async def answer(self, key: bytes | None, act: Callable[[], Awaitable[_Done]]) -> _Done:
        """Act, or return what the same form has led to. ``key``: its identity; None: it confirms nothing."""
        if key is None:
            return await act()
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(act())
            running.add_done_callback(lambda done: self._forget_later(key, done))
        return await asyncio.shield(running)

    def _forget_later(self, key: bytes, done: asyncio.Future[_Done]) -> None:
        if done.cancelled() or done.exception() is not None:
            del self._running[key]  # so that the form can be sent again
        else:
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._running.pop, key)
