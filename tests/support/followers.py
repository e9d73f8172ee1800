"""Follow a configuration source: collect its snapshots, and wait until they meet a test's expectation."""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import msgspec

from support import api_server, config_samples
from usher_gateway import config_secret, documents
from usher_gateway.config import DocumentStatus, cluster, files
from usher_gateway.kube import access, client, reflector

LIMIT_SECONDS = 60.0
LIMITS = msgspec.structs.replace(
    cluster.CLIENT_LIMITS, page_rows=3, connect_seconds=1, request_seconds=1, stall_seconds=0.4
)
TIMING = reflector.ReflectorTiming(first_pause_seconds=0.02, longest_pause_seconds=0.1)


def wrap(document: config_secret.Document) -> config_secret.Envelope:
    return config_secret.envelope_of(document, "uid", config_samples.KEYS.document)


def tombstone(document: config_secret.Document) -> config_secret.Envelope:
    envelope = wrap(document)
    return config_secret.tombstone_of(
        envelope.kind, envelope.owner, 1, config_samples.SAID_AT, config_samples.KEYS.document
    )


Source = TypeVar("Source", bound=files.FileSource | cluster.ClusterSource)


class Follower(Generic[Source]):
    """Follows a source, and waits for a test's expectation."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.snapshots: list[documents.Snapshot] = []
        self._states: dict[config_secret.Identity, DocumentStatus | None] = {}
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for snapshot in self.source.snapshots():
            self.snapshots.append(snapshot)

    @property
    def listeners(self) -> list[str]:
        return sorted(listener.name for listener in self.snapshots[-1].listeners.values()) if self.snapshots else []

    def states(self) -> dict[config_secret.Identity, DocumentStatus | None]:
        self._states |= self.source.take_touched()
        return self._states

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not holds():
                await asyncio.sleep(0.01)
                if self._task.done():
                    self._task.result()

    async def until_runs(self, *names: str) -> None:
        await self.until(lambda: self.snapshots and self.listeners == sorted(names))

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def following(
    server: api_server.ApiServer,
    data: pathlib.Path,
    limits: client.ClientLimits = LIMITS,
    cache_after_seconds: float = 10.0,
    check_seconds: float = 60.0,
    silence_seconds: float = 180.0,
) -> AsyncIterator[Follower[cluster.ClusterSource]]:
    options = cluster.ClusterOptions(
        keys=config_samples.KEYS,
        namespace=api_server.NAMESPACE,
        data=data,
        timing=TIMING,
        cache_after_seconds=cache_after_seconds,
        cache_pause_seconds=0.05,
        check_seconds=check_seconds,
        silence_seconds=silence_seconds,
        grace_seconds=0.05,
    )
    connection = access.ApiConnection(
        server=f"http://127.0.0.1:{server.port}", authorization=f"Bearer {api_server.TOKEN}"
    )
    reader = client.Client(access.Access(lambda _: connection), limits=limits)
    follower = Follower(
        cluster.ClusterSource(options, client=reader, check=can_run, now=lambda: time.time_ns() // 1000)
    )
    try:
        yield follower
    finally:
        await follower.close()


def can_run(document: config_secret.Document) -> None:
    """Check a document as a gateway does before it applies it."""
    if isinstance(document, documents.ListenerDocument) and document.max_body_bytes == 1:
        raise ValueError("cannot be run")
