"""An arrival's path, from its header to its answer: `ArrivalPipeline.accept` holds the steps in order."""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from usher_gateway import documents, model, timing
from usher_gateway.ingest import answers, auth, body, cpu_limits, identity, routing
from usher_gateway.ingest.counters import ArrivalCounters
from usher_gateway.ingest.registry import ListenerRegistry, LiveListener, Match
from usher_gateway.ingest.server import ANSWER_RESERVE_SECONDS, Request
from usher_gateway.store.base import MarkOf
from usher_gateway.store.store import Ledger

_log = structlog.get_logger(__name__)

TRUNCATED_BYTES = 64 * 1024  # Bytes kept of a body that is too large
MAX_HOPS = 2  # An arrival that has passed this many Ushers counts as a loop

_MAX_STORED_HOPS = 255
_MAX_CONTENT_TYPE_BYTES = 200

# An uncompressed body up to this length takes at most 0.3 ms, which is not worth the 2 us to measure it.
_CHEAP_BODY_BYTES = 2 * 1024

_DEADLINE_CHECK_SECONDS = 0.1

_FLOODING = {model.RefusedReason.RateLimited, model.RefusedReason.TooCostly}
# Delay of the 503 for a listener over its rate or its budget. `_REFUSALS_PER_SECOND` spreads such answers, so that
# connections which are refused together do not come back together.
_REFUSAL_SECONDS = 1.0

# Further refusals of any reason wait. A refusal takes 0.1 to 0.2 ms, so 9,000 connections that are refused at full
# speed make a turn of the event loop last a second. An arrival takes several turns.
_REFUSALS_PER_SECOND = 1_000

_REFUSED_AT_ONCE_SECONDS = 0.25  # A refusal that would wait for less than this is answered at once

# Most bytes of all connections whose refusals wait. Above this, a refusal is answered at once and ends its connection.
# So does the refusal of a request that is large or incomplete.
_LATE_REFUSAL_BYTES = 64 * 1024 * 1024

# A larger request takes several times its bytes of memory while its refusal waits.
_LARGEST_LATE_REFUSAL_BYTES = 64 * 1024

_BODY_METHODS = {"POST", "PUT", "PATCH"}
_PROBE_METHODS = {"GET", "HEAD", "OPTIONS"}

_NO_TIME = (None, "")
_LONGEST_COMPANY_ID = 9


class ArrivalPipeline:
    """Accepts arrivals. ``deliver`` and ``note_holds`` take a committed arrival's deliveries, and their holds."""

    def __init__(
        self,
        *,
        registry: ListenerRegistry,
        store: Ledger,
        clock: timing.Clock,
        keys: model.Keys,
        counters: ArrivalCounters,
        budgets: cpu_limits.BodyBudgets,
        deliver: Callable[[Sequence[model.Delivery]], None],
        note_holds: Callable[[Sequence[model.Hold]], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._keys = keys
        self._counters = counters
        self._budgets = budgets
        self._deliver = deliver
        self._note_holds = note_holds
        self._commits: dict[asyncio.Future[model.Accepted], tuple[float, model.Arrival]] = {}
        """Commits that arrivals wait for -> (deadline on the event loop's clock, arrival)."""
        self._next_refusal_at = 0.0  # When the next refusal may be answered, on the event loop's clock
        self._late_refusal_bytes = 0

    @property
    def uncommitted(self) -> int:
        """How many arrivals wait for their commit."""
        return len(self._commits)

    def mark_of_route(self, definition: model.RouteDefinition) -> MarkOf | None:
        """Return how a route makes a stored arrival's once-per mark; None if the route has no such rule now."""
        listener, now = self._registry.listeners.get(definition.listener.key), self._clock.now()
        if listener is None or listener.name != definition.listener:
            return None
        marker, extract = listener.planner.marker(definition.route), listener.identifier.extract
        if marker is None:
            return None

        def mark(stored: model.Arrival) -> tuple[bytes, int]:
            document = body.parse(stored.body, stored.content_type.decode("utf-8", "surrogateescape")).document
            return marker({} if document is None else extract(document), stored, now)

        return mark

    async def accept(self, request: Request) -> answers.Answer:
        """Accept one arrival. Every step may refuse it, and 200 is answered only for what is durable."""
        match: Match | None = None
        try:
            now, confirmed = self._clock.now(), self._clock.confirmed()
            match = self._find(request, confirmed)
            self._authenticate(match.listener, request)
            if match.address.retired_at:
                self._counters.add_retired(match.listener.counters, match.address, now)
            content, parsed, began = await self._read(match.listener, request)
            if parsed.is_probe:
                self._charge(match.listener, began)
                self._store.count(match.listener.name, model.Counter.probes, now)
                self._counters.add_probe(match.listener.counters, match.address_id, now)
                return answers.ACCEPTED
            arrival, fields = identify_body(match, request.headers, content, parsed, now)
            self._charge(match.listener, began, len(content))
            plan_routes(match.listener, arrival, parsed, fields, confirmed)
            # They may be hundreds of objects, which must not live until the commit (docs/performance.md).
            del parsed, fields
            if arrival.quarantine is not None:
                match.listener.counters.quarantined_source = _client_of(match.listener, request)
            accepted = await self._commit(arrival, request.deadline)
            self._count_accepted(match.listener, arrival, accepted, is_connected=request.is_connected)
            self._deliver(accepted.deliveries)
            if accepted.holds:
                self._note_holds(accepted.holds)
        except answers.RefusedError as refusal:
            if refusal.is_route_check:
                answer = answers.ROUTE_CHECKED
            else:
                self._count_refused_request(match, refusal.reason)
                answer = answers.REFUSED[refusal.reason]
            return answer if await self._wait_to_refuse(request, refusal.reason) else answer.closing
        except Exception as error:  # noqa: BLE001 - the top of the path: answer 500 and keep the connection
            _log.error("arrival_failed", listener=match.listener.name.key if match else "", exc_info=error)
            self._count_refused_request(match, model.RefusedReason.InternalError)
            return answers.REFUSED[model.RefusedReason.InternalError]
        else:
            return answers.ACCEPTED

    # the steps

    def _find(self, request: Request, confirmed: int) -> Match:
        """Find the listener. Raises RefusedError: NotConfigured, NotFound."""
        host, target = request.host_and_target
        match = self._registry.find(host, target, confirmed)
        if match is None:
            is_complete = self._registry.is_complete
            reason = model.RefusedReason.NotFound if is_complete else model.RefusedReason.NotConfigured
            raise answers.RefusedError(reason, is_route_check=target == documents.ROUTE_CHECK_PATH)
        request.connection.listener = match.listener.name
        return match

    def _authenticate(self, listener: LiveListener, request: Request) -> None:
        """Check source address, credentials and rate.

        Raises:
            RefusedError: SourceNotAllowed, Unauthenticated, AuthenticationUnresolved, RateLimited.
        """
        document = listener.document
        if listener.source_ranges:
            client = _client_of(listener, request)
            if not auth.is_in(client, listener.source_ranges):
                listener.counters.unexpected_source = client
                if document.source_policy == "Enforce":
                    raise answers.RefusedError(model.RefusedReason.SourceNotAllowed)
                self._counters.add_unexpected_source(listener.counters, self._clock.now())
        if not listener.is_open:
            reason = auth.credentials_refused(document.authentication, request.headers, self._keys.credential)
            if reason is not None:
                raise answers.RefusedError(reason)
        if not listener.bucket.take(asyncio.get_running_loop().time()):
            raise answers.RefusedError(model.RefusedReason.RateLimited)

    async def _read(self, listener: LiveListener, request: Request) -> tuple[bytes, body.ParsedBody, float]:
        """Read, inflate and parse the body, if the listener's budget allows it.

        Returns:
            The inflated body, what it contains, and the thread's CPU time since which the event loop works on it; 0.0
            for a body that cannot be expensive.

        Raises:
            RefusedError: MethodNotAllowed, TooLarge, BodyTimeout, Disconnected, QueueFull, TooCostly.
        """
        if request.method in _PROBE_METHODS:
            return b"", body.PROBE, 0.0
        if request.method not in _BODY_METHODS:
            raise answers.RefusedError(model.RefusedReason.MethodNotAllowed)
        content = await request.read_body()
        if self._budgets.is_spent(listener.name):
            raise answers.RefusedError(model.RefusedReason.TooCostly)
        is_encoded = bool(content) and "Content-Encoding" in request.headers
        began = time.thread_time() if is_encoded or len(content) > _CHEAP_BODY_BYTES else 0.0
        quarantine: model.QuarantineReason | None = None
        if is_encoded:
            encoding = ",".join(request.headers.getall("Content-Encoding"))
            inflated = body.inflate(content, encoding, listener.max_body_bytes)
            if inflated is None:
                quarantine = model.QuarantineReason.BadEncoding
            else:
                content = inflated
        if len(content) > listener.max_body_bytes:
            quarantine = model.QuarantineReason.Truncated
        if quarantine is not None:
            return content, body.quarantined(quarantine), began
        return content, body.parse(content, request.headers.get("Content-Type", "")), began

    def _charge(self, listener: LiveListener, began: float, stored_bytes: int = 0) -> None:
        """Charge the event loop's work on a body to the listener's budget. ``began``: as `_read` returns it."""
        if began:
            self._budgets.charge(listener.name, time.thread_time() - began, stored_bytes)

    async def _commit(self, arrival: model.Arrival, deadline: float) -> model.Accepted:
        """Wait until the store has committed the arrival.

        Raises:
            RefusedError: QueueFull, LowDisk, StorageLimit, StoreUnavailable, Deadline. After Deadline the commit may
                still happen: `_count_abandoned` counts the arrival once that is known.
        """
        try:
            future = self._store.accept(arrival)
        except model.StoreUnavailableError as error:  # the codes of all its classes are reasons
            raise answers.RefusedError(model.RefusedReason[error.code]) from None
        self._commits[future] = (deadline, arrival)
        if deadline <= asyncio.get_running_loop().time():
            self._abandon(future, arrival)  # at once, because other requests may be pipelined behind this one
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            # `_abandon` cancelled the wait. A commit that has begun is never cancelled, and may still succeed.
            raise answers.RefusedError(model.RefusedReason.Deadline) from None
        finally:
            del self._commits[future]

    # refusals and deadlines

    async def _wait_to_refuse(self, request: Request, reason: model.RefusedReason) -> bool:
        """Slow down senders that flood. Returns False if the connection has to end, because it must not wait."""
        now, size = asyncio.get_running_loop().time(), request.connection.unanswered_bytes
        most = min(_LARGEST_LATE_REFUSAL_BYTES, _LATE_REFUSAL_BYTES - self._late_refusal_bytes)
        if not request.content.is_eof() or size > most:
            return False  # its connection ends, which slows the sender down without a turn of others
        self._next_refusal_at = max(self._next_refusal_at, now) + 1 / _REFUSALS_PER_SECOND
        seconds, longest = self._next_refusal_at - now, request.deadline - now - ANSWER_RESERVE_SECONDS
        if reason in _FLOODING:
            seconds += _REFUSAL_SECONDS
        elif seconds < _REFUSED_AT_ONCE_SECONDS:
            return True
        if seconds > longest:
            seconds = max(0.0, longest)
            self._next_refusal_at = min(self._next_refusal_at, now + seconds + _REFUSED_AT_ONCE_SECONDS)
        self._late_refusal_bytes += size
        try:
            await request.wait_and_give_way(seconds)
        finally:
            self._late_refusal_bytes -= size
        return True

    async def watch_deadlines(self) -> None:
        """End waits at their deadline: one task for all, instead of a timer for each arrival. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_DEADLINE_CHECK_SECONDS)
            soon = loop.time() + _DEADLINE_CHECK_SECONDS
            for future, (deadline, arrival) in list(self._commits.items()):
                if deadline <= soon:
                    self._abandon(future, arrival)

    def _abandon(self, future: "asyncio.Future[model.Accepted]", arrival: model.Arrival) -> None:
        """Cancel a wait: 503 is answered now, and `_count_abandoned` counts once the commit's outcome is known."""
        self._store.abandon(future, functools.partial(self._count_abandoned, arrival))

    def _count_abandoned(self, arrival: model.Arrival, accepted: model.Accepted | None) -> None:
        """Count an abandoned arrival: refused, or accepted and unacknowledged if it was committed after all."""
        if accepted is None:
            self.count_refused(model.RefusedReason.Deadline, arrival.listener)
            return
        self._counters.add_committed(self._counters.of(arrival.listener), arrival, accepted)
        self._counters.unacknowledged += 1

    # counting

    def _count_accepted(
        self, listener: LiveListener, arrival: model.Arrival, accepted: model.Accepted, *, is_connected: bool
    ) -> None:
        """Count a committed arrival. A sender that has gone will send it again."""
        self._counters.add_committed(listener.counters, arrival, accepted)
        if not is_connected:
            self._counters.unacknowledged += 1
            self._store.unacknowledged(arrival)

    def _count_refused_request(self, match: Match | None, reason: model.RefusedReason) -> None:
        if match is None:
            self.count_refused(reason)
        elif reason is not model.RefusedReason.Deadline:  # _count_abandoned() counts those
            self.count_refused(reason, match.listener.name, match.listener.document.authentication.missing)

    def count_refused(
        self, reason: model.RefusedReason, listener: model.ListenerName | None = None, missing: str = ""
    ) -> None:
        """Count a refusal. ``missing``: which Secret the listener lacks."""
        self._counters.add_refused(reason, listener, self._clock.steady(), missing)
        if listener is not None:
            self._store.count(listener, model.Counter.refused, self._clock.now())


def _client_of(listener: LiveListener, request: Request) -> str:
    """Return the address that sent a request, as the listener is told to find it."""
    uses_header = listener.document.client_address_from == "XForwardedFor"
    forwarded = request.headers.getall("X-Forwarded-For", ()) if uses_header else ()
    return auth.client_address(request.remote or "", forwarded, listener.trusted_proxies)


def identify_body(
    match: Match, headers: Mapping[str, str], content: bytes, parsed: body.ParsedBody, now: int
) -> tuple[model.Arrival, dict[str, object]]:
    """Return the arrival of an inflated body, without plans, and the body's fields (pure). ``now``: microseconds."""
    listener, document, quarantine = match.listener, parsed.document, parsed.quarantine
    hops = _hops(headers.get("Usher-Hops", ""))
    fields: dict[str, object] = {}
    other_company = ""
    if document is not None:
        fields = listener.identifier.extract(document)
        other_company = _other_company(listener, fields)
        is_other = bool(other_company)
        quarantine = quarantine or _quarantine_of(listener, document, fields, hops, is_other_company=is_other)
    if document is None or quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.NoUser}:
        person = listener.identifier.identify_unparsed(content, now, fields)
    else:
        person = listener.identifier.identify(document, parsed.is_plain, fields, now, is_wide=parsed.is_wide)
    is_truncated = quarantine is model.QuarantineReason.Truncated
    content_type = headers.get("Content-Type", "").encode("utf-8", "surrogateescape")
    arrival = model.Arrival(
        listener=listener.name,
        received_at=now,
        visit_time=person.visit_time,
        time_trusted=person.time_trusted,
        late=now - person.visit_time > listener.late_after,
        fingerprint=person.fingerprint,
        visitor_key=person.visitor_key,
        person_keys=person.person_keys,
        body=content[:TRUNCATED_BYTES] if is_truncated else content,
        content_type=content_type[:_MAX_CONTENT_TYPE_BYTES],
        future_time=person.future_time,
        hops=min(hops, _MAX_STORED_HOPS),
        body_days=listener.body_days,
        window=listener.window,
        redelivery=listener.redelivery,
        if_visit=(),
        if_repeat=(),
        quarantine=quarantine,
        other_company=other_company if quarantine is None else "",
        has_untrusted_time=quarantine is None and not person.time_trusted and fields.get("occurredAt") not in _NO_TIME,
        has_marks=listener.planner.has_marks,
        token_held=match.address.action == "Hold",
        max_stored_bytes=listener.max_stored_bytes,
        body_size=len(content),
        address=match.address_id,
    )
    return arrival, fields


def plan_routes(
    listener: LiveListener, arrival: model.Arrival, parsed: body.ParsedBody, fields: dict[str, object], confirmed: int
) -> None:
    """Add the routes' plans to an arrival, unless it is quarantined (pure).

    ``confirmed``: the time by which a visit may be stale (``Clock.confirmed``).
    """
    if arrival.quarantine is not None or parsed.document is None:
        return
    hold = model.HoldReason.TokenHeld if arrival.token_held else listener.hold
    if listener.planner.is_constant:
        arrival.if_visit, arrival.if_repeat = listener.planner.constant(hold)
    else:
        context = routing.RoutingContext(parsed.document, fields, arrival, confirmed, hold)
        arrival.if_visit, arrival.if_repeat = listener.planner.plan(context)


def rebuild_arrival(listener: LiveListener, stored: model.Arrival, now: int) -> model.Arrival | model.QuarantineReason:
    """Evaluate a quarantined arrival again, with the listener as it is now.

    Returns the arrival with its plans, or the reason why it still is not a visit. Its times do not change,
    so a route's time limit may have passed: that route is skipped (``Stale``). A loop is let through, because the
    person who releases it says that the loop is broken; its hops are kept, so that it cannot go round again.
    """
    if stored.quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable}:
        return stored.quarantine
    if len(stored.body) > listener.document.max_body_bytes:
        return model.QuarantineReason.Truncated
    content_type = stored.content_type.decode("utf-8", "surrogateescape")
    parsed = body.parse(stored.body, content_type)
    if parsed.is_probe:
        return model.QuarantineReason.NoUser
    match = Match(listener, documents.Address(host="", path=""), "")
    headers = {"Content-Type": content_type}
    arrival, fields = identify_body(match, headers, stored.body, parsed, stored.received_at)
    if arrival.quarantine is not None:
        return arrival.quarantine
    plan_routes(listener, arrival, parsed, fields, now)
    arrival.key = stored.key
    arrival.hops = stored.hops
    return arrival


def _quarantine_of(
    listener: LiveListener,
    document: dict[str, object],
    fields: dict[str, object],
    hops: int,
    *,
    is_other_company: bool,
) -> model.QuarantineReason | None:
    """Return why a parsed body is not a visit to this listener; None if it is one."""
    if listener.user_is_required:
        if "user" not in fields:
            return model.QuarantineReason.NoUser
    elif not isinstance(document.get("user"), dict):
        return model.QuarantineReason.NoUser
    if hops >= MAX_HOPS:
        return model.QuarantineReason.Loop
    if is_other_company and listener.document.tenant.company_check == "Quarantine":
        return model.QuarantineReason.CompanyMismatch
    return None


def _other_company(listener: LiveListener, fields: dict[str, object]) -> str:
    """Return the company that a body names if it is not the tenant's, and the tenant has this checked; else ``""``."""
    tenant = listener.document.tenant
    if not tenant.company_id or tenant.company_check == "Off" or "company" not in fields:
        return ""
    return "" if identity.as_text(fields["company"]) == tenant.company_id else company_in(fields)


def company_in(fields: Mapping[str, object]) -> str:
    """Return the company that a body names; ``""`` if it names none.

    A value that does not look like Purple's ids is called ``another``, because the listener's path to it may lead to
    personal data.
    """
    company = identity.as_text(fields.get("company"))
    is_id = company.isdecimal() and len(company) <= _LONGEST_COMPANY_ID
    return company if is_id or not company else "another"


def _hops(text: str) -> int:
    """Parse the Usher-Hops header; 0 if it is not a number, and at least 255 for a number with four digits or more."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        return 0
    return int(digits) if len(digits) < 4 else _MAX_STORED_HOPS
