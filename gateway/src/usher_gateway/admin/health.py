"""The health of documents, listeners and destinations, for callers that poll it: the operator sets conditions from it.

The tracker compares every listener and destination with its last known state every few seconds, in slices, and keeps
a journal of changes. So an answer costs only what changed since the caller's cursor, and no arrival waits for it.
"""

import asyncio
import collections
import enum
import math
import secrets
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Literal, TypeVar

import msgspec
import structlog

from usher_gateway import config_secret, documents, model, timing
from usher_gateway.config import DocumentStatus, Source
from usher_gateway.delivery import activity, circuit, dispatcher
from usher_gateway.delivery.holds import HeldRoute
from usher_gateway.delivery.outcome import AnswerError
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import SendError
from usher_gateway.ingest.counters import ArrivalCounters, RecentCounts
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

WINDOW_MINUTES = 15
"""How long the shares of quarantined arrivals and mismatched companies look back."""

QUARANTINING_FROM = 0.05
"""If more than this share of the accepted arrivals was quarantined, the listener gets a condition."""

UNTRUSTED_TIMES_FROM = 0.1
"""If more than this share of the accepted arrivals had a time that is not trusted, the listener gets a condition."""

UNTRUSTED_TIMES_MINIMUM = 10
"""Of fewer accepted arrivals no share of untrusted times is reported, because one odd body would be a large share."""

REFUSING_FROM = 3
"""This many refusals in a row, without an accepted arrival between them, are not an accident."""

_SWEEP_SECONDS = 5.0
_READER_TIMEOUT_SECONDS = 300.0
"""The tracker stops sweeping if no caller has asked for this long, because 10,000 listeners cost 2 % of a core."""

_SLICE = 200
"""How many listeners or destinations a sweep compares between two turns of the event loop."""

_MINUTE_SECONDS = 60.0

_LOGGED_FAULTS = 100
"""Lines about faults of listeners in a minute, because all may become silent at once."""


class RunState:
    """The configuration in force, and whether the gateway takes visits.

    app.py updates it; the admin port and the metrics read it.
    """

    def __init__(self) -> None:
        self.snapshot = documents.Snapshot({}, {})
        self.applied_at = 0
        """When the snapshot came into force (microseconds); 0: not yet."""
        self.configured = asyncio.Event()
        """Set when the first configuration is in force."""
        self.is_public_port_open = False
        self.is_draining = False
        self._in_force_since: dict[str, int] = {}
        """Listener -> when it came into force (microseconds)."""

    def apply(self, snapshot: documents.Snapshot, now: int) -> None:
        """Note that a snapshot is in force."""
        self._in_force_since = {key: self._in_force_since.get(key, now) for key in snapshot.listeners}
        self.snapshot = snapshot
        self.applied_at = now
        self.configured.set()

    def is_silent(self, key: str, document: documents.ListenerDocument, last_accepted: int, now: int) -> bool:
        """Return whether a listener has been in force, and has accepted nothing, for longer than it may be silent.

        Args:
            key: ``namespace/name`` of the listener.
            document: its document.
            last_accepted: when it accepted something last (microseconds); 0: never.
            now: the present time in microseconds.
        """
        since = last_accepted or self._in_force_since.get(key, now)
        return now - since >= document.silence_after_seconds * model.MICROSECONDS

    def open_public_port(self) -> None:
        """Note that the public port is open."""
        self.is_public_port_open = True

    def start_draining(self) -> None:
        """Note that the gateway is stopping and takes no more connections."""
        self.is_draining = True


class ListenerFault(enum.StrEnum):
    """A fault of a listener that a person may have to correct. Most are also reasons of conditions."""

    Refusing = "Refusing"
    AuthenticationUnresolved = "AuthenticationUnresolved"
    """The Secret with the credentials never existed, so every arrival is refused."""
    Quarantining = "Quarantining"
    TimesUntrusted = "TimesUntrusted"
    CompanyMismatch = "CompanyMismatch"
    ExpressionTooSlow = "ExpressionTooSlow"
    DeliveriesHeld = "DeliveriesHeld"
    RetiredAddressUsed = "RetiredAddressUsed"
    Silent = "Silent"
    Unverified = "Unverified"
    """No visit has arrived yet at one of its present addresses."""


class ListenerState(msgspec.Struct, frozen=True, rename="camel"):
    """The health of a listener."""

    receiving: Literal["Receiving", "NoVisitYet", "Silent"]
    """``Silent``: nothing was accepted for longer than the listener's ``silence.afterSeconds``, and the listener has
    been in force for that long."""
    verified_since: str | None
    """When the first visit at one of the present addresses was accepted (RFC 3339)."""
    verified_addresses: tuple[str, ...]
    """``Address.id`` of each present address at which a visit was accepted."""
    probed_addresses: tuple[str, ...]
    """``Address.id`` of each present address that was probed since the gateway started."""
    refusing: bool
    """The last arrivals were refused, and none was accepted between them."""
    refused_reason: str | None
    """Why the last one was, while ``refusing``."""
    missing: str | None
    """Which Secret with the credentials must have what; None: nothing is missing."""
    quarantined_share: float
    """The share of the arrivals accepted in the last 15 minutes, rounded to a thousandth."""
    quarantining: bool
    company_mismatch: bool
    """An arrival of another company was accepted in the last 15 minutes."""
    times_untrusted: bool
    """Over a tenth of the arrivals accepted in the last 15 minutes, at least 10, had a time in the body that is not
    trusted: without an offset or far in the future. A body without a time does not count."""
    held_deliveries: tuple[dict[str, str], ...]
    """``HeldRoute`` of the deliveries that were held at the last review, at most half a minute ago."""
    degraded_routes: tuple[dict[str, str], ...]
    """``route`` and ``reason`` of each route that the gateway holds because its expression is too slow."""
    retired_arrivals: dict[str, str]
    """``Address.id`` of each retired address that was used -> the end of the hour of its last arrival (RFC 3339), so
    that the state changes at most once an hour."""


def faults_of(state: ListenerState, document: documents.ListenerDocument) -> list[ListenerFault]:
    """Return the faults of a listener, the most urgent first."""
    faults = {
        ListenerFault.Refusing: state.refusing,
        ListenerFault.AuthenticationUnresolved: document.authentication.type == "Unresolved",
        ListenerFault.Quarantining: state.quarantining,
        ListenerFault.TimesUntrusted: state.times_untrusted,
        ListenerFault.CompanyMismatch: state.company_mismatch,
        ListenerFault.ExpressionTooSlow: bool(state.degraded_routes),
        ListenerFault.DeliveriesHeld: bool(state.held_deliveries),
        ListenerFault.RetiredAddressUsed: bool(state.retired_arrivals),
        ListenerFault.Silent: state.receiving == "Silent" and bool(state.verified_addresses),
        ListenerFault.Unverified: len(state.verified_addresses) < len(document.live_addresses),
    }
    return [fault for fault, is_there in faults.items() if is_there]


class DestinationHealth(enum.StrEnum):
    """The health of a destination in one word, the worst first. The condition Healthy has it as its reason."""

    Gone = "Gone"
    """It answered 410."""
    AddressForbidden = "AddressForbidden"
    SecretNotFound = "SecretNotFound"
    """A Secret or a value of it is missing."""
    TokenFailed = "TokenFailed"
    """Its token endpoint issues no token."""
    CircuitOpen = "CircuitOpen"
    Failing = "Failing"
    """Its last attempts failed, too few for the circuit (``delivery.activity.is_failing``)."""
    NotTried = "NotTried"
    """Nothing was sent to its present URL yet."""
    Healthy = "Healthy"


_NOT_FAILING = frozenset((DestinationHealth.NotTried, DestinationHealth.Healthy))

_TOKEN_ERRORS = frozenset((SendError.TokenRefused, SendError.TokenUnavailable, SendError.TokenKeyInvalid))


class DestinationState(msgspec.Struct, frozen=True, rename="camel"):
    """The health of a destination."""

    health: DestinationHealth
    circuit: str
    error: str | None
    """The code of its last error while it is failing."""
    status: int | None
    """The HTTP status of that answer; None: there was none."""
    unresolved: str | None
    """Which Secret must have what; None: nothing is missing."""


class DocumentState(msgspec.Struct, frozen=True):
    """The state of one document: ``hash`` is that of the one in force, ``rejected`` says why a newer one is not."""

    kind: config_secret.Kind
    key: str
    hash: str | None
    """None: no version of the document is in force."""
    rejected: str | None
    vanished: bool


State = DocumentState | ListenerState | DestinationState
Key = tuple[str, config_secret.Kind, str]
"""``document`` or ``observed``, kind, ``namespace/name``."""


_HOUR = 3600 * model.MICROSECONDS


class RecentWindow:
    """Counts per listener over the last 15 minutes. It has no clock: its owner calls ``end_minute`` every minute."""

    def __init__(self) -> None:
        self._minutes: collections.deque[dict[str, RecentCounts]] = collections.deque()
        self._present: dict[str, RecentCounts] = {}
        self._totals: dict[str, RecentCounts] = {}

    def add(self, key: str, counts: RecentCounts) -> None:
        """Count arrivals of the present minute."""
        self._present[key] = self._present.get(key, _NOTHING).plus(counts)
        self._totals[key] = self._totals.get(key, _NOTHING).plus(counts)

    def end_minute(self) -> None:
        """Start a new minute, and drop the minute that is now more than 15 minutes old."""
        self._minutes.append(self._present)
        self._present = {}
        if len(self._minutes) < WINDOW_MINUTES:
            return
        for key, counts in self._minutes.popleft().items():
            left = self._totals[key].minus(counts)
            if left == _NOTHING:
                del self._totals[key]
            else:
                self._totals[key] = left

    def of(self, key: str) -> RecentCounts:
        """Return the counts of a listener."""
        return self._totals.get(key, _NOTHING)


_NOTHING = RecentCounts()


def are_times_untrusted(recent: RecentCounts) -> bool:
    """Return whether enough of the recent bodies have a time that is not trusted to report it."""
    has_enough = recent.accepted >= UNTRUSTED_TIMES_MINIMUM
    return has_enough and recent.untrusted_times > UNTRUSTED_TIMES_FROM * recent.accepted


_MAX_REMOVED = 10_000
"""Removals that the journal remembers."""

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Changes(msgspec.Struct, Generic[_Key, _Value], frozen=True):
    """The answer to a cursor."""

    cursor: str
    complete: bool
    """Whether `present` has every key; otherwise it has the keys that changed."""
    present: dict[_Key, _Value]
    removed: list[_Key]


class ChangeJournal(Generic[_Key, _Value]):
    """The newest state of each key, in the order of the changes. Pure.

    The journal is not a log: it returns only the last state of a key that changed twice. It answers a cursor with every
    key if another process issued the cursor, or if it no longer remembers the removals after it.
    """

    def __init__(self, incarnation: str) -> None:
        """`incarnation` marks the cursors of this process."""
        self._incarnation = incarnation
        self._revision = 0
        self._oldest = 0
        """A cursor below this revision may have missed removals that the journal forgot."""
        self._present: dict[_Key, tuple[int, _Value]] = {}
        self._removed: dict[_Key, int] = {}

    @property
    def present(self) -> dict[_Key, _Value]:
        """The state of every key."""
        return {key: value for key, (_, value) in self._present.items()}

    def get(self, key: _Key) -> _Value | None:
        """The newest state of a key; None if there is none."""
        entry = self._present.get(key)
        return None if entry is None else entry[1]

    def note(self, key: _Key, value: _Value | None) -> None:
        """Note the state of a key; None: it is removed. An equal state changes nothing."""
        entry = self._present.get(key)
        if value is None:
            self._note_removed(key, entry is not None)
            return
        if entry is not None and entry[1] == value:
            return
        self._revision += 1
        self._removed.pop(key, None)
        self._present.pop(key, None)  # move it to the end, for since()
        self._present[key] = (self._revision, value)

    def _note_removed(self, key: _Key, was_present: bool) -> None:
        if not was_present and key in self._removed:
            return
        self._revision += 1
        self._present.pop(key, None)
        self._removed[key] = self._revision
        if len(self._removed) > _MAX_REMOVED:
            first = next(iter(self._removed))
            self._oldest = self._removed.pop(first)

    def since(self, cursor: str | None) -> Changes[_Key, _Value]:
        """Return what changed after a cursor, or everything if the cursor is None or cannot be continued."""
        cursor_revision = self._revision_of(cursor)
        after = 0 if cursor_revision is None else cursor_revision
        present: dict[_Key, _Value] = {}
        for key, (revision, value) in reversed(self._present.items()):
            if revision <= after:
                break
            present[key] = value
        removed = (
            [key for key, revision in self._removed.items() if revision > after] if cursor_revision is not None else []
        )
        return Changes(f"{self._incarnation}.{self._revision}", cursor_revision is None, present, removed)

    def _revision_of(self, cursor: str | None) -> int | None:
        """Return the revision of a cursor from which an answer can continue; None if it cannot."""
        incarnation, _, number = (cursor or "").partition(".")
        if incarnation != self._incarnation or not number.isdecimal() or len(number) > 18:
            return None
        revision = int(number)
        return revision if self._oldest <= revision <= self._revision else None


class HealthTracker:
    """Tracks the health of everything that the gateway runs."""

    def __init__(
        self,
        *,
        state: RunState,
        clock: Clock,
        source: Source,
        registry: ListenerRegistry,
        counters: ArrivalCounters,
        dispatcher: dispatcher.Dispatcher,
        worker: DeliveryWorker,
        held_routes: Callable[[model.ListenerName], Iterable[HeldRoute]],
    ) -> None:
        """``held_routes`` returns the routes of a listener whose deliveries are held."""
        self._state = state
        self._clock = clock
        self._source = source
        self._registry = registry
        self._counters = counters
        self._dispatcher = dispatcher
        self._worker = worker
        self._held_routes = held_routes
        self._journal: ChangeJournal[Key, State] = ChangeJournal(secrets.token_hex(8))
        self._window = RecentWindow()
        self._failing: set[str] = set()
        """Destinations that failed at the last call of `log_faults`."""
        self._faults: dict[str, frozenset[ListenerFault]] = {}
        """Listener -> its faults at the last call of `log_faults`, without listeners that had none."""
        self._asked_at = self._swept_at = -math.inf
        self._sweeping = asyncio.Lock()
        self._touched: dict[tuple[config_secret.Kind, str], None] = {}
        """Documents that are noted, but the health of their listeners and destinations is not yet."""

    async def run(self) -> None:
        """Sweep every few seconds while callers ask. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        minute_began = loop.time()
        while True:
            if loop.time() - minute_began >= _MINUTE_SECONDS:
                minute_began = loop.time()
                self._window.end_minute()
                await self.log_faults()
            if loop.time() - self._asked_at < _READER_TIMEOUT_SECONDS:
                await self.sweep()
            else:
                self._count_recent()
            await asyncio.sleep(_SWEEP_SECONDS)

    async def log_faults(self) -> None:
        """Log each fault of a listener that began or ended since the last call, at most 100 of them."""
        former_faults, self._faults = self._faults, {}
        turns = timing.EventLoopTurns()
        changed = 0
        for key, document in self._state.snapshot.listeners.items():
            state = self.listener(key, document)
            faults = frozenset(faults_of(state, document)) - {ListenerFault.Unverified}
            if faults:
                self._faults[key] = faults
            former = former_faults.get(key, frozenset())
            for fault in sorted(faults ^ former):
                changed += 1
                about = {"listener": key, "tenant": document.tenant.name, "fault": fault.value}
                if changed > _LOGGED_FAULTS:
                    continue
                if fault in faults:
                    _log.warning("listener_fault_started", **about, **_about_fault(fault, state))
                else:
                    _log.info("listener_fault_ended", **about)
            await turns.give_way()
        if changed > _LOGGED_FAULTS:
            _log.warning("listener_faults_not_logged", count=changed - _LOGGED_FAULTS)
        self._log_failing_destinations()

    def _log_failing_destinations(self) -> None:
        """Log each destination that started or ceased to fail since the last call."""
        former, self._failing = self._failing, set()
        for key, document in self._state.snapshot.destinations.items():
            state = self.destination(key, document)
            if state.health not in _NOT_FAILING:
                self._failing.add(key)
                if key not in former:
                    about = {"health": state.health, "error": state.error, "status": state.status}
                    _log.warning("destination_fault_started", destination=key, **about)
        for key in sorted(former - self._failing):
            _log.info("destination_fault_ended", destination=key)

    async def sweep(self) -> None:
        """Compare everything with its last known state, and yield to the event loop between slices."""
        async with self._sweeping:
            await self._sweep()

    async def _sweep(self) -> None:
        for _ in self._sweep_slices():
            await asyncio.sleep(0)
        self._swept_at = asyncio.get_running_loop().time()

    def _sweep_slices(self) -> Iterator[None]:
        """Note the touched documents, and compare every listener and destination; yields after each slice."""
        self._count_recent()
        snapshot = self._state.snapshot
        self._note_documents()
        touched, self._touched = self._touched, {}
        for kind, key in touched:
            if key not in (snapshot.listeners if kind == "Listener" else snapshot.destinations):
                self._journal.note(("observed", kind, key), None)
        yield
        for index, (key, listener) in enumerate(snapshot.listeners.items()):
            if self._state.snapshot.listeners.get(key) is listener:
                self._journal.note(("observed", "Listener", key), self.listener(key, listener))
            if index % _SLICE == 0:
                yield
        for index, (key, destination) in enumerate(snapshot.destinations.items()):
            if self._state.snapshot.destinations.get(key) is destination:
                self._journal.note(("observed", "Destination", key), self.destination(key, destination))
            if index % _SLICE == 0:
                yield

    async def since(self, cursor: str | None) -> Changes[Key, State]:
        """Return what changed after a cursor, or everything."""
        self._asked_at = asyncio.get_running_loop().time()
        async with self._sweeping:  # half of a sweep is not an answer
            if self._asked_at - self._swept_at > 2 * _SWEEP_SECONDS:  # no caller asked for a while, so sweep at once
                await self._sweep()
            self._note_touched_documents()
            return self._journal.since(cursor)

    async def listener_states(self) -> dict[str, ListenerState]:
        """Return the health of every listener by ``namespace/name``, at most some seconds old."""
        return states_of_type(await self.since(None), ListenerState)

    def document(self, kind: config_secret.Kind, key: str) -> DocumentState | None:
        """Return the state of a document."""
        self._note_documents()
        state = self._journal.get(("document", kind, key))
        return state if isinstance(state, DocumentState) else None

    def _note_touched_documents(self) -> None:
        """Note the documents that the source touched, and at once the health of their listeners and destinations."""
        self._note_documents()
        snapshot = self._state.snapshot
        for kind, key in self._touched:
            observed: State | None = None
            if kind == "Listener" and key in snapshot.listeners:
                observed = self.listener(key, snapshot.listeners[key])
            elif kind == "Destination" and key in snapshot.destinations:
                observed = self.destination(key, snapshot.destinations[key])
            self._journal.note(("observed", kind, key), observed)
        self._touched.clear()

    def _note_documents(self) -> None:
        """Note the documents that the source touched."""
        for (kind, key), state in self._source.take_touched().items():
            self._journal.note(("document", kind, key), _document_state(kind, key, state))
            self._touched[kind, key] = None

    def _count_recent(self) -> None:
        """Move what the arrival counters counted since the last sweep into the window."""
        for name, counts in self._counters.take_recent():
            self._window.add(name.key, counts)

    def listener(self, key: str, document: documents.ListenerDocument) -> ListenerState:
        """Return the present health of a listener."""
        name = model.ListenerName(document.namespace, document.tenant.name, document.name)
        counts = self._counters.of(name)
        last, present = counts.last_accepted, [address.id for address in document.live_addresses]
        verified = [address for address in present if address in counts.first_visits]
        first = min((counts.first_visits[address] for address in verified), default=0)
        recent = self._window.of(key)
        share = recent.quarantined / recent.accepted if recent.accepted else 0.0
        receiving: Literal["Receiving", "NoVisitYet", "Silent"]
        receiving = "Receiving" if last else "NoVisitYet"
        if self._state.is_silent(key, document, last, self._clock.now()):
            receiving = "Silent"
        slow = [route.name for route in document.routes if self._is_too_slow(name, route.name)]
        refusing = counts.refused_in_a_row >= REFUSING_FROM
        return ListenerState(
            receiving=receiving,
            verified_since=model.format_time(first) if first else None,
            verified_addresses=tuple(verified),
            probed_addresses=tuple(address for address in present if address in counts.probed),
            refusing=refusing,
            refused_reason=str(counts.refused_reason) if refusing and counts.refused_reason is not None else None,
            missing=document.authentication.missing or None,
            quarantined_share=round(share, 3),
            quarantining=share > QUARANTINING_FROM,
            company_mismatch=recent.mismatches > 0,
            times_untrusted=are_times_untrusted(recent),
            held_deliveries=tuple(held._asdict() for held in self._held_routes(name)),
            retired_arrivals={
                address.id: model.format_time(-(-counts.retired_arrivals[address.id] // _HOUR) * _HOUR)
                for address in document.retired_addresses
                if address.id in counts.retired_arrivals
            },
            degraded_routes=tuple({"route": route, "reason": "ExpressionTooSlow"} for route in slow),
        )

    def _is_too_slow(self, listener: model.ListenerName, route: str) -> bool:
        live = self._registry.listeners.get(listener.key)
        return (live is not None and route in live.planner.too_slow) or self._worker.is_too_slow(listener, route)

    def until_trial(self, key: str) -> int:
        """Return in how many microseconds an open circuit allows its next attempt; 0 if nothing keeps one away."""
        return self._dispatcher.until_trial(key)

    def destination(self, key: str, document: documents.DestinationDocument) -> DestinationState:
        """Return the present health of a destination."""
        state, tried = self._dispatcher.scheduler.circuit_of(key).state, self._worker.activity.of(document)
        is_open = state is circuit.CircuitState.Open
        is_failing = is_open or activity.is_failing(tried, self._clock.now())
        error, status = (tried.error, tried.status) if is_failing else ("", 0)
        if key in self._worker.forbidden:
            error, status = SendError.AddressForbidden, 0
        if error in {SendError.AddressForbidden, AnswerError.Gone}:
            health = DestinationHealth(error)
        elif document.unresolved:
            health = DestinationHealth.SecretNotFound
        elif error in _TOKEN_ERRORS:
            health = DestinationHealth.TokenFailed
        elif is_failing:
            health = DestinationHealth.CircuitOpen if is_open else DestinationHealth.Failing
        else:
            health = DestinationHealth.Healthy if activity.is_tried(tried) else DestinationHealth.NotTried
        return DestinationState(
            health=health,
            circuit=state.value,
            error=str(error) or None,
            status=status or None,
            unresolved=document.missing or document.unresolved or None,
        )

    async def merge_activity(self, store: Store) -> None:
        """Learn what other gateways of the store know about destinations; one that failed there may be idle here."""
        if store.is_shared:
            self._worker.activity.merge(await store.destination_activity())

    def is_failing(self, key: str) -> bool:
        """Return whether a destination in force does not take deliveries."""
        document = self._state.snapshot.destinations.get(key)
        return document is not None and self.destination(key, document).health not in _NOT_FAILING

    def last_error(self, document: documents.DestinationDocument) -> dict[str, object] | None:
        """Return the last error of a destination: when, what, how often; None if no attempt failed."""
        tried = self._worker.activity.of(document)
        if not tried.failures:
            return None
        return {
            "error": tried.error,
            "status": tried.status or None,
            "at": model.format_time(tried.failed_at),
            "since": model.format_time(tried.failing_since),
            "failures": tried.failures,
            "recoveredAt": model.format_time(tried.recovered_at) if tried.recovered_at else None,
        }


_S = TypeVar("_S", bound=State)


def states_of_type(changes: Changes[Key, State], state_type: type[_S]) -> dict[str, _S]:
    """Return the states of one type by ``namespace/name``."""
    return {key: state for (_, _, key), state in changes.present.items() if isinstance(state, state_type)}


def document_states(changes: Changes[Key, State]) -> list[DocumentState]:
    """Return the states of documents as a list, because a listener and a destination may have the same name."""
    return [state for state in changes.present.values() if isinstance(state, DocumentState)]


def _about_fault(fault: ListenerFault, state: ListenerState) -> dict[str, object]:
    """Return what a line of the log says about a fault besides its name."""
    match fault:
        case ListenerFault.Refusing:
            return {"reason": state.refused_reason}
        case ListenerFault.Quarantining:
            return {"share": state.quarantined_share}
        case ListenerFault.DeliveriesHeld:
            return {"held": [f"{held['route']}: {held['reason']}" for held in state.held_deliveries]}
    return {}


def _document_state(kind: config_secret.Kind, key: str, state: DocumentStatus | None) -> DocumentState | None:
    return None if state is None else DocumentState(kind, key, state.hash, state.rejected, state.vanished)
