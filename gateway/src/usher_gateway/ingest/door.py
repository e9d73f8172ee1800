"""What the steps of an arrival share: the listeners, the store, the clocks, the counters."""

import asyncio
import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from usher_gateway import clock as clocks
from usher_gateway import documents, model
from usher_gateway.ingest import accept, answers, authenticate, books, find, inflate, route, server, validate
from usher_gateway.store.base import Store

_log = structlog.get_logger(__name__)

_INLINE_BYTES = 256 * 1024
_DIGEST_INLINE_BYTES = 64 * 1024
_INFLATERS = concurrent.futures.ThreadPoolExecutor(2, "inflate")
_DIGESTERS = concurrent.futures.ThreadPoolExecutor(2, "digest")
"""Apart, because what is inflated is held until its digest is made: it must not queue behind what is still small."""


T = TypeVar("T")


class Door:
    """The state behind the public port."""

    def __init__(
        self,
        store: Store,
        clock: clocks.Clock,
        keys: model.Keys,
        watch: route.Watch,
        deliver: Callable[[Sequence[model.Delivery]], None],
    ) -> None:
        self.store, self.clock, self.keys = store, clock, keys
        self.deliver = deliver
        self.books = books.Books()
        self.deadlines = accept.Deadlines(self._abandon)
        self._watch = watch
        self._listeners: dict[str, find.LiveListener] = {}
        self._snapshot = documents.Snapshot({}, {})
        self._addresses = find.AddressBook()
        self.is_configured = False
        """Whether a first configuration was applied."""

    def apply(self, snapshot: documents.Snapshot) -> int:
        """Serve a new configuration from the next request on; how many listeners were made anew.

        Listeners stay as they are where neither their document nor that of a destination has changed: what this costs
        is by the size of the change.
        """
        now, before = asyncio.get_running_loop().time(), self._snapshot
        destinations = set(documents.changed(before.destinations, snapshot.destinations))
        destinations |= before.destinations.keys() - snapshot.destinations.keys()
        anew = documents.changed(before.listeners, snapshot.listeners)
        if destinations:
            for key, document in snapshot.listeners.items():
                if any(item.destination in destinations for item in document.routes):
                    anew[key] = document
        live = {
            key: find.LiveListener(document, snapshot.destinations, self.keys, self._watch, now)
            for key, document in anew.items()
        }
        gone = before.listeners.keys() - snapshot.listeners.keys()
        for key in live.keys() | gone:
            if key in self._listeners:
                self._addresses.remove(self._listeners.pop(key))
        for one in live.values():
            one.books = self.books.of(one.name)
            self._addresses.add(one)
        self._listeners |= live
        self._snapshot, self.is_configured = snapshot, True
        return len(live)

    @property
    def listeners(self) -> Mapping[str, find.LiveListener]:
        """The listeners in force, by ``namespace/name``."""
        return self._listeners

    def locate(self, request: server.Request, now: int) -> find.Found:
        """The listener that a request is for.

        Raises:
            RefusedError: NotConfigured, NotFound.
        """
        if not self.is_configured:
            raise answers.RefusedError(model.RefusedReason.NotConfigured)
        found = self._addresses.find(*request.place, now)
        if found is None:
            raise answers.RefusedError(model.RefusedReason.NotFound)
        return found

    def authenticate(self, found: find.Found, request: server.Request) -> None:
        """Check source address and credentials, then the listener's rate.

        Raises:
            RefusedError: SourceNotAllowed, Unauthenticated, AuthenticationUnresolved, RateLimited.
        """
        listener = found.listener
        if listener.source_ranges:
            self._check_source(listener, request)
        if not listener.is_open:
            configured = listener.document.authentication
            reason = authenticate.credentials_refused(configured, request.headers, self.keys.credential)
            if reason is not None:
                raise answers.RefusedError(reason)
        if listener.bucket is not None and not listener.bucket.take(asyncio.get_running_loop().time()):
            raise answers.RefusedError(model.RefusedReason.RateLimited)

    def _check_source(self, listener: find.LiveListener, request: server.Request) -> None:
        document = listener.document
        forwarded = (
            request.headers.getall("X-Forwarded-For", ()) if document.client_address_from == "XForwardedFor" else ()
        )
        client = authenticate.client_address(request.remote or "", forwarded, listener.trusted_proxies)
        if authenticate.source_is_allowed(client, listener.source_ranges):
            return
        if document.source_policy == "Enforce":
            raise answers.RefusedError(model.RefusedReason.SourceNotAllowed)
        key = (listener.name.namespace, listener.name.tenant)
        self.books.unexpected_sources[key] = self.books.unexpected_sources.get(key, 0) + 1

    async def read(self, found: find.Found, request: server.Request) -> tuple[bytes, validate.Parsed]:
        """The body, inflated, and what it says.

        Raises:
            RefusedError: MethodNotAllowed, TooLarge, BodyTimeout, Disconnected, QueueFull.
        """
        if request.method not in {"POST", "PUT", "PATCH"}:
            if request.method in {"GET", "HEAD", "OPTIONS"}:
                return b"", validate.parse(b"", "")
            raise answers.RefusedError(model.RefusedReason.MethodNotAllowed)
        raw = await request.read_body()
        is_broken = False
        if raw and "Content-Encoding" in request.headers:
            encoding = ",".join(request.headers.getall("Content-Encoding"))
            try:
                raw = await _inflated(raw, encoding, request.deadline)
            except inflate.TooLargeError:
                raise answers.RefusedError(model.RefusedReason.TooLarge) from None
            except inflate.InflateError:
                is_broken = True
        if len(raw) > found.listener.max_body_bytes:
            return raw, validate.Parsed(quarantine=model.QuarantineReason.Truncated)
        if is_broken:
            return raw, validate.Parsed(quarantine=model.QuarantineReason.BadEncoding)
        return raw, validate.parse(raw, request.headers.get("Content-Type", ""))

    async def understand(
        self, found: find.Found, request: server.Request, raw: bytes, parsed: validate.Parsed, now: int
    ) -> model.Arrival:
        """See accept.understand(); the digest of what is too large is made beside the event loop.

        Raises:
            RefusedError: BodyTimeout.
        """
        if parsed.quarantine is not model.QuarantineReason.Truncated or len(raw) <= _DIGEST_INLINE_BYTES:
            return accept.understand(found, request.headers, raw, parsed, now)
        work = functools.partial(accept.understand, found, request.headers, raw, parsed, now)
        return await _beside(_DIGESTERS, work, request.deadline)

    def count_probe(self, found: find.Found, now: int) -> None:
        """Count a probe."""
        self.store.count(found.listener.name, model.Counter.probes, now)
        self.books.add(found.listener.name, model.CountedAs.Probe)

    def count_accepted(
        self, found: find.Found, arrival: model.Arrival, accepted: model.Accepted, request: server.Request
    ) -> None:
        """Count what was committed; the sender of one that cannot be answered will bring it again."""
        self.books.add_committed(found.listener.books, arrival, accepted)
        if not request.is_connected:
            self.books.unacknowledged += 1
            self.store.unacknowledged(arrival)

    def _abandon(self, future: "asyncio.Future[model.Accepted]", arrival: model.Arrival) -> None:
        """The deadline has come: answered 503 now, counted once when it is known whether it was committed."""
        self.store.abandon(future, functools.partial(self._learn, arrival))

    def _learn(self, arrival: model.Arrival, accepted: model.Accepted | None) -> None:
        if accepted is None:
            self._count_refused(arrival.listener, model.RefusedReason.Deadline)
            return
        self.books.add_committed(self.books.of(arrival.listener), arrival, accepted)
        self.books.unacknowledged += 1

    def count_refused(self, found: find.Found | None, reason: model.RefusedReason) -> None:
        """Count a refusal, for its tenant where it is known."""
        if reason is not model.RefusedReason.Deadline:  # see _learn()
            self._count_refused(found.listener.name if found is not None else None, reason)

    def _count_refused(self, listener: model.ListenerName | None, reason: model.RefusedReason) -> None:
        self.books.add_refused(reason)
        if listener is not None:
            self.store.count(listener, model.Counter.refused, self.clock.now())
            self.books.add(listener, model.CountedAs.Refused)

    def count_failed(self, found: find.Found | None, error: Exception) -> model.RefusedReason:
        """Count an arrival at which the gateway itself failed, and tell where."""
        listener = found.listener.name.key if found is not None else ""
        _log.error("arrival_failed", listener=listener, exc_info=error)
        self.count_refused(found, model.RefusedReason.InternalError)
        return model.RefusedReason.InternalError


async def _inflated(raw: bytes, encoding: str, deadline: float) -> bytes:
    """What is large once inflated is inflated beside the event loop: a bomb must not make its neighbours wait."""
    if len(raw) <= _INLINE_BYTES:
        with contextlib.suppress(inflate.TooLargeError):
            return inflate.inflate(raw, encoding, _INLINE_BYTES)
    work = functools.partial(inflate.inflate, raw, encoding, server.HARD_LIMIT_BYTES)
    return await _beside(_INFLATERS, work, deadline)


async def _beside(threads: concurrent.futures.Executor, work: Callable[[], T], deadline: float) -> T:
    """The result of work in threads for large bodies; many of these keep only each other waiting.

    Raises:
        RefusedError: BodyTimeout: there was no time left for it.
    """
    result = asyncio.get_running_loop().run_in_executor(threads, work)
    try:
        async with asyncio.timeout_at(deadline - server.ANSWER_RESERVE_SECONDS):
            return await result
    except TimeoutError:
        raise answers.RefusedError(model.RefusedReason.BodyTimeout) from None
