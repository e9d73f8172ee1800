"""Resolves host names, so that a broken name server delays only the destinations that use it.

The system's resolver blocks a thread until the name server answers or the lookup times out. So the resolver caches what
it finds, and keeps addresses for some time if later lookups for the name fail. Lookups take turns:

- Half the threads are for names whose last lookup failed or was slow, the other half for all others.
- The namespaces share each half fairly (``fair_slots.py``), because tenants choose the names and their name servers.
- In a namespace, the names with the fewest failures in a row are first. After a name server outage, names that
  never resolve are therefore behind those that do.
"""

import asyncio
import concurrent.futures
import contextlib
import socket
import time
from collections.abc import Callable

import msgspec
from aiohttp.abc import ResolveResult

from usher_gateway.destinations.fair_slots import FairSlots

FRESH_SECONDS = 30.0  # How long the resolver uses addresses again without a new lookup

# How long after that it still returns them at once, and looks the name up again in the background.
STALE_SECONDS = 600.0

FAILURE_SECONDS = 5.0  # How long after a failed lookup the resolver waits before the next one of the same name

_SLOW_SECONDS = 1.0
_THREADS = 64
_MAX_NAMES = 20_000
_MAX_ADDRESSES = 4  # Addresses of one name that are tried
SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]  # Family and `sockaddr`

# A blocking lookup. Raises OSError or UnicodeError if the name has no address.
Lookup = Callable[[str, int], list[SocketAddress]]

_Name = tuple[str, int]  # Host and port


def system_lookup(host: str, port: int) -> list[SocketAddress]:
    """Ask the system: hosts file, name servers, and every spelling of an address that it knows."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [(family, address) for family, _, _, _, address in answers if isinstance(address[0], str)]


class _KnownName(msgspec.Struct):
    """Results from a name's lookups."""

    addresses: list[SocketAddress] = []
    """Result of the last successful lookup; empty before the first."""
    next_lookup_at: float = 0.0
    kept_until: float = 0.0
    """Until when ``addresses`` may be used."""
    failures: int = 0
    """Lookups in a row that failed or were slow."""


class Resolver:
    """Resolves names in its own threads. Belongs to one event loop."""

    def __init__(self, lookup: Lookup = system_lookup, clock: Callable[[], float] = time.monotonic) -> None:
        self._lookup = lookup
        self._clock = clock
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "resolve")
        self._slots = FairSlots(_THREADS - _THREADS // 2)
        self._slots_after_failures = FairSlots(_THREADS // 2)
        self._known: dict[_Name, _KnownName] = {}
        self._running: dict[tuple[str, _Name], asyncio.Task[list[SocketAddress]]] = {}
        """Namespace and name -> its lookup, running or waiting for a thread."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC, *, namespace: str = ""
    ) -> list[ResolveResult]:
        """Return a name's first addresses. Cancelling the caller does not stop the lookup.

        ``namespace``: the destination's, whose share of the threads a lookup uses.

        Raises:
            OSError: the name has no address.
        """
        addresses = await self._addresses(namespace, (host, port))
        results = [
            ResolveResult(
                hostname=host, host=address[0], port=port, family=address_family, proto=socket.IPPROTO_TCP, flags=0
            )
            for address_family, address in addresses[:_MAX_ADDRESSES]
            if family in (socket.AF_UNSPEC, address_family)
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
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, namespace: str, name: _Name) -> list[SocketAddress]:
        known_name, now = self._known.get(name), self._clock()
        if known_name is not None and now < known_name.next_lookup_at:
            return known_name.addresses if now < known_name.kept_until else []
        running = self._refresh(namespace, name)
        if known_name is not None and now < known_name.kept_until:
            return known_name.addresses
        return await asyncio.shield(running)  # other callers wait for the same lookup

    def _refresh(self, namespace: str, name: _Name) -> asyncio.Task[list[SocketAddress]]:
        """Return a name's running or waiting lookup for the namespace, or start one."""
        running = self._running.get((namespace, name))
        if running is None:
            running = asyncio.create_task(self._look_up(namespace, name), name="resolve")
            self._running[namespace, name] = running
            running.add_done_callback(lambda _: self._running.pop((namespace, name), None))
        return running

    async def _look_up(self, namespace: str, name: _Name) -> list[SocketAddress]:
        known_name = self._known.get(name)
        failures = known_name.failures if known_name is not None else 0
        slots = self._slots_after_failures if failures else self._slots
        async with slots.hold(namespace, name[0], queue=namespace, priority=failures):
            started = self._clock()
            try:
                addresses = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, *name)
            except (OSError, UnicodeError):
                addresses = []
            return self._note_result(name, addresses, is_slow=self._clock() - started > _SLOW_SECONDS)

    def _note_result(self, name: _Name, addresses: list[SocketAddress], *, is_slow: bool) -> list[SocketAddress]:
        """Record what a lookup found; return the addresses to use. A failure does not replace addresses still kept."""
        if name not in self._known and len(self._known) >= _MAX_NAMES:
            self._known.clear()
        known_name, now = self._known.setdefault(name, _KnownName()), self._clock()
        known_name.failures = 0 if addresses and not is_slow else known_name.failures + 1
        if addresses:
            known_name.addresses = addresses
            known_name.next_lookup_at = now + FRESH_SECONDS
            known_name.kept_until = known_name.next_lookup_at + STALE_SECONDS
            return addresses
        known_name.next_lookup_at = now + FAILURE_SECONDS
        return known_name.addresses if now < known_name.kept_until else []
