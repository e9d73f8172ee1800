"""Keeps up with one collection in the API server: reads all of it, then watches it, for as long as the task runs.

A watch that ends continues from the last version that it sent. Everything is read again only if the server no longer
knows that version (410), does not know the kind (404), forbids the watch (403), sends something unreadable, or if its
versions went backwards. Failures back off exponentially with jitter, and never before the time that the server names in
`Retry-After`.

Versions go backwards when etcd is restored from a backup. A watch from a later version than the server has gets no
error: it just receives nothing, not even bookmarks. So before a watch continues, the reflector asks for the
collection's present version.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Generic, NoReturn, TypeVar

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.kube import is_older
from usher_gateway.kube.client import ApiError, Client, UnreadableAnswerError, WatchEvent

_log = structlog.get_logger(__name__)

Item = TypeVar("Item")

_HEALTHY_SECONDS = 30.0  # A watch that lived this long worked, even if it sent nothing


class ReflectorTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Pauses after failures, in seconds."""

    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 10.0
    longest_retry_after_seconds: float = 120.0


class Reflector(Generic[Item]):
    """Lists and watches one collection."""

    def __init__(
        self,
        client: Client,
        path: str,
        item_type: type[Item],
        *,
        read: Callable[[], Awaitable[str]],
        on_event: Callable[[WatchEvent[Item]], None],
        on_failure: Callable[[model.UsherError, int], None],
        selector: str = "",
        field_selector: str = "",
        timing: ReflectorTiming | None = None,
    ) -> None:
        """`read` reads the whole collection and returns its resourceVersion; `""`: not complete, so read again.

        `on_event` is called for each change after that, and for each bookmark; `on_failure` with the error and how many
        failures in a row came before it.
        """
        self._client = client
        self._path = path
        self._item_type = item_type
        self._selector = selector
        self._field_selector = field_selector
        self._read = read
        self._on_event = on_event
        self._on_failure = on_failure
        self._timing = timing if timing is not None else ReflectorTiming()
        self._version = ""  # Where the watch continues; `""`: read everything first
        self._failures = 0
        self._is_read_requested = False
        self._watching: asyncio.Timeout | None = None  # The present watch; its time limit is how `read_again` ends it

    def read_again(self) -> None:
        """End the present watch and read everything, because the caller found that the watch missed a change."""
        self._is_read_requested = True
        if self._watching is not None:
            self._watching.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> NoReturn:
        """Follow the collection until cancelled."""
        while True:
            least_seconds = 0.0
            try:
                while await self._follow():
                    self._failures = 0
            except ApiError as error:
                is_unreadable = isinstance(error, UnreadableAnswerError)
                if is_unreadable or error.status in {403, 404, 410}:
                    self._version = ""
                if error.status != 410:
                    self._on_failure(error, self._failures)
                least_seconds = min(error.retry_after_seconds, self._timing.longest_retry_after_seconds)
            except model.UsherError as error:
                self._on_failure(error, self._failures)
            except Exception as error:  # noqa: BLE001 - the top of the task: the watch must go on whatever happens
                self._version = ""
                internal = model.UsherError(f"internal error: {type(error).__name__}", "please report it")
                self._on_failure(internal, self._failures)
            await asyncio.sleep(max(least_seconds, self._pause_seconds()))

    def _pause_seconds(self) -> float:
        """Twice as long after each failure in a row, with jitter."""
        timing = self._timing
        longest = min(timing.longest_pause_seconds, timing.first_pause_seconds * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load

    async def _follow(self) -> bool:
        """Watch until the server ends the stream; returns whether the next watch may begin at once."""
        if self._version and (self._is_read_requested or await self._went_backwards()):
            self._version = ""
        if not self._version:
            self._is_read_requested = False
            self._version = await self._read()
        if not self._version:
            return False
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(None) as self._watching:
                has_sent = await self._watch()
        except TimeoutError:  # read_again() ended the watch
            return True
        finally:
            self._watching = None
        return has_sent or loop.time() - began >= _HEALTHY_SECONDS

    async def _went_backwards(self) -> bool:
        """Return whether the server's versions are older than the one from which the watch would continue."""
        current_version = await self._client.collection_version(
            self._path, selector=self._selector, field_selector=self._field_selector
        )
        if not is_older(current_version, self._version):
            return False
        _log.warning("older_versions_found", path=self._path, known=self._version, present=current_version)
        return True

    async def _watch(self) -> bool:
        """Watch until the server ends the stream; returns whether it sent anything."""
        version_at_start = self._version
        events = self._client.watch(
            self._path,
            self._item_type,
            resource_version=self._version,
            selector=self._selector,
            field_selector=self._field_selector,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                self._on_event(event)
                self._version = event.resource_version
                self._failures = 0
        return self._version != version_at_start
