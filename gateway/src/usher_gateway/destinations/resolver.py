"""Names to addresses, so that one broken name server delays nobody but those who use it.

The system's resolver blocks a thread for as long as a name server is silent. Each name is therefore looked up once at
a time, kept shortly, and a name that was slow or failed before is looked up in a few threads set aside for such.
"""

import asyncio
import concurrent.futures
import contextlib
import socket
import time
from collections.abc import Callable

import msgspec

KEEP_SECONDS = 30.0
"""How long addresses are used again without asking."""

KEEP_OLD_SECONDS = 600.0
"""How long after that they are still used at once, while they are asked for anew."""

KEEP_FAILURE_SECONDS = 5.0
"""How long a name that was not found is not asked for again."""

_SLOW_SECONDS = 1.0
_GOOD_THREADS = 64
_SLOW_THREADS = 4
_MOST_NAMES = 20_000

SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""Family and ``sockaddr``, as connecting wants them."""

Lookup = Callable[[str, int], list[SocketAddress]]
"""Blocks; raises OSError or UnicodeError where there is no address."""


def system_lookup(host: str, port: int) -> list[SocketAddress]:
    """Ask the system: hosts file, name servers, and every spelling of an address that it knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [(family, address) for family, _, _, _, address in found if isinstance(address[0], str)]


class _Known(msgspec.Struct, frozen=True):
    addresses: list[SocketAddress]
    until: float


class Resolver:
    """Looks names up in threads of its own. Belongs to one event loop."""

    def __init__(self, lookup: Lookup = system_lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._good = concurrent.futures.ThreadPoolExecutor(_GOOD_THREADS, "resolve")
        self._slow = concurrent.futures.ThreadPoolExecutor(_SLOW_THREADS, "resolve-slow")
        self._slow_names: set[str] = set()
        self._known: dict[tuple[str, int], _Known] = {}
        self._running: dict[tuple[str, int], asyncio.Task[list[SocketAddress]]] = {}

    async def resolve(self, host: str, port: int) -> list[SocketAddress]:
        """The addresses of a name; none where there are none. Cancelling the caller does not stop the lookup."""
        key = (host, port)
        known, now = self._known.get(key), self._clock()
        if known is not None and now < known.until:
            return known.addresses
        running = self._refresh(key)
        if known is not None and known.addresses and now < known.until + KEEP_OLD_SECONDS:
            return known.addresses
        return await asyncio.shield(running)

    async def close(self) -> None:
        """Let go of what is being looked up; a thread that is inside the system's resolver ends by itself."""
        for task in list(self._running.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._good.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    def _refresh(self, key: tuple[str, int]) -> asyncio.Task[list[SocketAddress]]:
        """The lookup of a name that runs, or a new one."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(self._look_up(key), name="resolve")
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return running

    async def _look_up(self, key: tuple[str, int]) -> list[SocketAddress]:
        started = self._clock()
        threads = self._slow if key[0] in self._slow_names else self._good
        try:
            addresses = await asyncio.get_running_loop().run_in_executor(threads, self._lookup, *key)
        except (OSError, UnicodeError):
            addresses = []
        now = self._clock()
        self._note_speed(key[0], slow=not addresses or now - started > _SLOW_SECONDS)
        if len(self._known) >= _MOST_NAMES:
            self._known.clear()
        self._known[key] = _Known(addresses, now + (KEEP_SECONDS if addresses else KEEP_FAILURE_SECONDS))
        return addresses

    def _note_speed(self, host: str, *, slow: bool) -> None:
        if not slow:
            self._slow_names.discard(host)
        elif len(self._slow_names) < _MOST_NAMES:
            self._slow_names.add(host)
