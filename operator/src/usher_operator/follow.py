"""Watches of the operator's own: on its children, and on kinds whose definition came while it ran.

Most of what is heard of children is the echo of own writes, and kopf takes a millisecond for each event. Kopf also
looks for a new definition only once, often a moment before it is served, and stays deaf to that kind then. A watch
begins where a complete reading ended, so that nothing is missed in between.
"""

import asyncio
import contextlib

import structlog

from usher_gateway.kube.client import ApiError, Client, Raw
from usher_operator import handlers, kinds, resync
from usher_operator.health import Health

_log = structlog.get_logger(__name__)

_GONE = 410
_AGAIN_SECONDS = 1.0


class Follower:
    """Watches kinds, for ever."""

    def __init__(self, api: Client, reader: resync.Resync, handling: handlers.Handlers, alive: Health) -> None:
        self._api, self._resync, self._handlers, self._health = api, reader, handling, alive
        self._followed: set[kinds.WatchedKind] = set()
        self._wanted: asyncio.Queue[kinds.WatchedKind] = asyncio.Queue()

    def follow(self, kind: kinds.WatchedKind) -> None:
        """Watch a kind from now on; one that is watched already, or switched off, is left as it is."""
        if kind not in self._followed and kind in self._resync.kinds:
            self._followed.add(kind)
            self._wanted.put_nowait(kind)

    async def run(self) -> None:
        """Watch every kind of children that is switched on, and whatever is asked for later."""
        for kind in kinds.CHILDREN:
            self.follow(kind)
        async with asyncio.TaskGroup() as group:
            while True:
                kind = await self._wanted.get()
                group.create_task(self._follow(kind), name=f"watch {kind.plural}")

    async def _follow(self, kind: kinds.WatchedKind) -> None:
        while True:
            while self._resync.is_absent(kind):  # noqa: ASYNC110 - until its definition was seen
                await asyncio.sleep(_AGAIN_SECONDS)
            version = self._resync.versions.pop(kind, "") or await self._resync.read(kind)
            while version:
                version = await self._watch(kind, version)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _watch(self, kind: kinds.WatchedKind, version: str) -> str:
        """Until the stream ends; returns where to go on: nowhere if everything has to be read anew."""
        try:
            path = self._resync.collection(kind)
            watch = self._api.watch(path, Raw, resource_version=version, selector=kind.selector)
            async with contextlib.aclosing(watch) as events:
                async for event in events:
                    version = event.resource_version
                    if event.type == "BOOKMARK":
                        self._health.saw_event(kind.name)
                    else:
                        self._handlers.on_event(kind, event.type, event.item)
        except ApiError as error:
            if error.status in {_GONE, 404}:
                return ""
            _log.warning("watch_ended", kind=kind.name, status=error.status, reason=error.reason)
            await asyncio.sleep(_AGAIN_SECONDS)
        return version
