"""Resolves host names, so that a broken name server delays only the destinations that use it.

The system's resolver blocks a thread until the name server answers or the lookup times out. The resolver therefore runs
one lookup per name at a time, caches the result, and looks up names that were slow or failed before in a few threads of
their own.
"""

import asyncio
import concurrent.futures
import contextlib
import socket
import time
from collections.abc import Callable

import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

FRESH_SECONDS = 30.0
"""How long the resolver uses addresses again without a new lookup."""

STALE_SECONDS = 600.0
"""How long after that it still returns them at once, and looks the name up again in the background."""

FAILURE_SECONDS = 5.0
"""How long the resolver waits before it looks up an unknown name again."""

_SLOW_SECONDS = 1.0
_FAST_THREADS = 64
_SLOW_THREADS = 4
_MAX_NAMES = 20_000
_MAX_ADDRESSES = 4
"""Addresses of one name that are tried."""

SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""Family and ``sockaddr``."""

Lookup = Callable[[str, int], list[SocketAddress]]
"""A blocking lookup. Raises OSError or UnicodeError if the name has no address."""


def system_lookup(host: str, port: int) -> list[SocketAddress]:
    """Ask the system: hosts file, name servers, and every spelling of an address that it knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [(family, address) for family, _, _, _, address in found if isinstance(address[0], str)]


class _CachedAddresses(msgspec.Struct, frozen=True):
    addresses: list[SocketAddress]
    fresh_until: float


class Resolver(AbstractResolver):
    """Resolves names in its own threads. Belongs to one event loop."""

    def __init__(self, lookup: Lookup = system_lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._fast_threads = concurrent.futures.ThreadPoolExecutor(_FAST_THREADS, "resolve")
        self._slow_threads = concurrent.futures.ThreadPoolExecutor(_SLOW_THREADS, "resolve-slow")
        self._slow_names: set[str] = set()
        self._cache: dict[tuple[str, int], _CachedAddresses] = {}
        self._running: dict[tuple[str, int], asyncio.Task[list[SocketAddress]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the first addresses of a name, for aiohttp. Cancelling the caller does not stop the lookup.

        Raises:
            OSError: the name has no address.
        """
        found = await self._addresses(host, port)
        results = [
            ResolveResult(hostname=host, host=address[0], port=port, family=each, proto=socket.IPPROTO_TCP, flags=0)
            for each, address in found[:_MAX_ADDRESSES]
            if family in (socket.AF_UNSPEC, each)
        ]
        if not results:
            raise OSError(f"{host!r} has no address")
        return results

    async def close(self) -> None:
        """Cancel running lookups. A thread inside the system's resolver ends by itself."""
        for task in list(self._running.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._fast_threads.shutdown(wait=False, cancel_futures=True)
        self._slow_threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, host: str, port: int) -> list[SocketAddress]:
        key = (host, port)
        cached, now = self._cache.get(key), self._clock()
        if cached is not None and now < cached.fresh_until:
            return cached.addresses
        running = self._refresh(key)
        if cached is not None and cached.addresses and now < cached.fresh_until + STALE_SECONDS:
            return cached.addresses
        return await asyncio.shield(running)

    def _refresh(self, key: tuple[str, int]) -> asyncio.Task[list[SocketAddress]]:
        """Return the running lookup of a name, or start one."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(self._look_up(key), name="resolve")
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return running

    async def _look_up(self, key: tuple[str, int]) -> list[SocketAddress]:
        started = self._clock()
        threads = self._slow_threads if key[0] in self._slow_names else self._fast_threads
        try:
            addresses = await asyncio.get_running_loop().run_in_executor(threads, self._lookup, *key)
        except (OSError, UnicodeError):
            addresses = []
        now = self._clock()
        self._note_speed(key[0], is_slow=not addresses or now - started > _SLOW_SECONDS)
        if len(self._cache) >= _MAX_NAMES:
            self._cache.clear()
        self._cache[key] = _CachedAddresses(addresses, now + (FRESH_SECONDS if addresses else FAILURE_SECONDS))
        return addresses

    def _note_speed(self, host: str, *, is_slow: bool) -> None:
        if not is_slow:
            self._slow_names.discard(host)
        elif len(self._slow_names) < _MAX_NAMES:
            self._slow_names.add(host)
