"""Tracks the health of documents, listeners and destinations, for callers that poll it: the operator sets conditions.

The tracker compares every listener and destination with its last known state every few seconds, in slices, and keeps
a journal of changes. So an answer costs only what changed since the caller's cursor, and no arrival waits for it.
"""

import asyncio
import collections
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

from usher_gateway import config_secret, documents, model
from usher_gateway.config import Source
from usher_gateway.delivery import activity, circuit, dispatcher
from usher_gateway.delivery.holds import HeldRoute
from usher_gateway.delivery.outcome import AnswerError
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import SendError
from usher_gateway.ingest.counters import ArrivalCounters, ListenerCounters, RecentCounts
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.insight.journal import ChangeJournal, Changes
from usher_gateway.insight.run_state import RunState
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock
from usher_gateway.words import states

WINDOW_MINUTES = 15  # How long the shares of quarantined arrivals and mismatched companies look back
QUARANTINING_FROM = 0.05  # If more than this share of the accepted arrivals was quarantined, the listener has a fault

# If more than this share of the accepted arrivals had a time that is not trusted, the listener has a fault.
UNTRUSTED_TIMES_FROM = 0.1

# A share stays a fault until it has fallen to this part of its threshold, so that it does not begin and end often.
FAULT_ENDS_AT = 0.5

# Report no share of untrusted times for fewer accepted arrivals, because one odd body would be a large share.
UNTRUSTED_TIMES_MINIMUM = 10

REFUSING_FROM = 3  # This many refusals in a row, without an accepted arrival between them, are not an accident

_SWEEP_SECONDS = 5.0
# The tracker stops sweeping if no caller has asked for this long, because 10,000 listeners cost 2 % of a core.
_READER_TIMEOUT_SECONDS = 300.0

_SLICE = 200  # How many listeners or destinations a sweep compares between two turns of the event loop

_MINUTE_SECONDS = 60.0

_TOKEN_ERRORS = frozenset((SendError.TokenRefused, SendError.TokenUnavailable, SendError.TokenKeyInvalid))


class RecentWindow:
    """Counts per listener over the last 15 minutes. It has no clock: its owner calls ``end_minute`` every minute."""

    def __init__(self) -> None:
        self._minutes: collections.deque[dict[str, RecentCounts]] = collections.deque()
        self._present: dict[str, RecentCounts] = {}
        self._totals: dict[str, RecentCounts] = {}

    def add(self, key: str, counts: RecentCounts) -> None:
        """Count arrivals in the present minute."""
        self._present[key] = self._present.get(key, _NOTHING).plus(counts)
        self._totals[key] = self._totals.get(key, _NOTHING).plus(counts)

    def end_minute(self) -> None:
        """Start a new minute, and drop the minute that is now more than 15 minutes old."""
        self._minutes.append(self._present)
        self._present = {}
        if len(self._minutes) < WINDOW_MINUTES:
            return
        for key, counts in self._minutes.popleft().items():
            remaining = self._totals[key].minus(counts)
            if remaining == _NOTHING:
                del self._totals[key]
            else:
                self._totals[key] = remaining

    def of(self, key: str) -> RecentCounts:
        """Return a listener's counts."""
        return self._totals.get(key, _NOTHING)


_NOTHING = RecentCounts()


def are_times_untrusted(recent: RecentCounts, *, were_untrusted: bool) -> bool:
    """Return whether enough recent bodies have a time that is not trusted to report it."""
    has_enough = were_untrusted or recent.accepted >= UNTRUSTED_TIMES_MINIMUM
    return has_enough and is_share_high(recent.untrusted_times, recent, UNTRUSTED_TIMES_FROM, was_high=were_untrusted)


def is_share_high(count: int, recent: RecentCounts, threshold: float, *, was_high: bool) -> bool:
    """Return whether a count's share of the accepted arrivals is a fault, also by whether it was one until now."""
    return count > threshold * (FAULT_ENDS_AT if was_high else 1) * recent.accepted


def fault_since(
    fault: states.ListenerFault, state: states.ListenerState, counters: ListenerCounters, clock: Clock
) -> str | None:
    """Return since when a listener has a fault (RFC 3339); None if that is not known."""
    match fault:
        case states.ListenerFault.Refusing:
            return model.format_time(clock.now() - (clock.steady() - counters.refused_since))
        case states.ListenerFault.CompanyMismatch:
            return model.time_or_none(counters.mismatching.since)
        case states.ListenerFault.DeliveriesHeld:
            return min(held_route["since"] for held_route in state.held_deliveries) or None
        case states.ListenerFault.Quarantining:
            return model.time_or_none(counters.quarantining.since)
        case states.ListenerFault.TimesUntrusted:
            return model.time_or_none(counters.untrusted_times.since)
        case states.ListenerFault.UnexpectedSource:
            return model.time_or_none(counters.unexpected.since)
        case states.ListenerFault.Silent:
            return model.time_or_none(counters.last_accepted)
    return None


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
        take_changed_holds: Callable[[], Iterable[str]],
    ) -> None:
        """``held_routes`` returns a listener's routes whose deliveries are held.

        ``take_changed_holds`` returns the listeners (``namespace/name``) for which that changed since its last call.
        """
        self._state = state
        self._clock = clock
        self._source = source
        self._registry = registry
        self._counters = counters
        self._dispatcher = dispatcher
        self._worker = worker
        self._held_routes = held_routes
        self._take_changed_holds = take_changed_holds
        self._journal: ChangeJournal[states.Key, states.State] = ChangeJournal(secrets.token_hex(8))
        self._window = RecentWindow()
        self._high_shares: set[tuple[str, states.ListenerFault]] = set()
        """(listener, fault) for shares that are a fault: `FAULT_ENDS_AT`."""
        self._asked_at = self._swept_at = -math.inf
        self._sweeping = asyncio.Lock()
        self._touched: dict[tuple[config_secret.Kind, str], None] = {}
        """The documents that changed, and the listeners whose holds changed: their health is not noted yet."""

    async def run(self) -> None:
        """Sweep every few seconds while callers ask. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        minute_began = loop.time()
        while True:
            if loop.time() - minute_began >= _MINUTE_SECONDS:
                minute_began = loop.time()
                self._window.end_minute()
            if self.is_asked:
                await self.sweep()
            else:
                self._count_recent()
            await asyncio.sleep(_SWEEP_SECONDS)

    @property
    def is_asked(self) -> bool:
        """True while a caller follows the changes."""
        return asyncio.get_running_loop().time() - self._asked_at < _READER_TIMEOUT_SECONDS

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

    async def since(self, cursor: str | None) -> Changes[states.Key, states.State]:
        """Return what changed after a cursor, or everything."""
        self._asked_at = asyncio.get_running_loop().time()
        async with self._sweeping:  # half of a sweep is not an answer
            if self._asked_at - self._swept_at > 2 * _SWEEP_SECONDS:  # no caller asked for a while, so sweep at once
                await self._sweep()
            self._note_touched_documents()
            return self._journal.since(cursor)

    async def listener_states(self) -> dict[str, states.ListenerState]:
        """Return every listener's health by ``namespace/name``, at most some seconds old."""
        return states_of_type(await self.since(None), states.ListenerState)

    def document(self, kind: config_secret.Kind, key: str) -> states.DocumentState | None:
        """Return a document's state."""
        self._note_documents()
        state = self._journal.get(("document", kind, key))
        return state if isinstance(state, states.DocumentState) else None

    def _note_touched_documents(self) -> None:
        """Note the documents that the source touched, and at once the changed objects' health."""
        self._note_documents()
        snapshot = self._state.snapshot
        for key in self._take_changed_holds():
            if key in snapshot.listeners:
                self._touched["Listener", key] = None
        for kind, key in self._touched:
            observed: states.State | None = None
            if kind == "Listener" and key in snapshot.listeners:
                observed = self.listener(key, snapshot.listeners[key])
            elif kind == "Destination" and key in snapshot.destinations:
                observed = self.destination(key, snapshot.destinations[key])
            self._journal.note(("observed", kind, key), observed)
        self._touched.clear()

    def _note_documents(self) -> None:
        """Note the documents that the source touched."""
        for (kind, key), state in self._source.take_touched().items():
            document = states.DocumentState(kind, key, state.hash, state.rejected, state.vanished) if state else None
            self._journal.note(("document", kind, key), document)
            self._touched[kind, key] = None

    def _count_recent(self) -> None:
        """Move what the arrival counters counted since the last sweep into the window."""
        for name, counts in self._counters.take_recent():
            self._window.add(name.key, counts)

    def listener(self, key: str, document: documents.ListenerDocument) -> states.ListenerState:
        """Return a listener's present health."""
        name = document.listener_name
        counts = self._counters.of(name)
        last, address_ids = counts.last_accepted, [address.id for address in document.live_addresses]
        verified = [address for address in address_ids if address in counts.first_visits]
        first = min((counts.first_visits[address] for address in verified), default=0)
        recent = self._window.of(key)
        accepted = max(1, recent.accepted)
        quarantining, times_untrusted = states.ListenerFault.Quarantining, states.ListenerFault.TimesUntrusted
        was_quarantining = (key, quarantining) in self._high_shares
        is_quarantining = is_share_high(recent.quarantined, recent, QUARANTINING_FROM, was_high=was_quarantining)
        are_untrusted = are_times_untrusted(recent, were_untrusted=(key, times_untrusted) in self._high_shares)
        for fault, is_high in ((quarantining, is_quarantining), (times_untrusted, are_untrusted)):
            (self._high_shares.add if is_high else self._high_shares.discard)((key, fault))
        receiving: Literal["Receiving", "NoVisitYet", "Silent"]
        receiving = "Receiving" if last else "NoVisitYet"
        if self._state.is_silent(key, document, last, self._clock.now()):
            receiving = "Silent"
        slow = [route.name for route in document.routes if self._is_too_slow(name, route.name)]
        refusing = counts.refused_in_a_row >= REFUSING_FROM
        return states.ListenerState(
            receiving=receiving,
            verified_since=model.time_or_none(first),
            verified_addresses=tuple(verified),
            probed_addresses=tuple(address for address in address_ids if address in counts.probed),
            refusing=refusing,
            refused_reason=str(counts.refused_reason) if refusing and counts.refused_reason is not None else None,
            missing=document.authentication.missing or None,
            quarantined_share=round(recent.quarantined / accepted, 3),
            quarantining=is_quarantining,
            company_mismatch=recent.mismatches > 0,
            times_untrusted=are_untrusted,
            untrusted_times_share=round(recent.untrusted_times / accepted, 2),
            untrusted_time_reason=(counts.untrusted_time_reason or None) if are_untrusted else None,
            unexpected_sources=recent.unexpected_sources > 0,
            held_deliveries=tuple(held_route._asdict() for held_route in self._held_routes(name)),
            retired_arrivals={
                address.id: model.format_time(-(-counts.retired_arrivals[address.id] // model.HOUR) * model.HOUR)
                for address in document.retired_addresses
                if address.id in counts.retired_arrivals
            },
            degraded_routes=tuple({"route": route, "reason": "ExpressionTooSlow"} for route in slow),
        )

    def _is_too_slow(self, listener: model.ListenerName, route: str) -> bool:
        live = self._registry.listeners.get(listener.key)
        return (live is not None and route in live.planner.too_slow) or self._worker.is_too_slow(listener, route)

    def destination(self, key: str, document: documents.DestinationDocument) -> states.DestinationState:
        """Return a destination's present health."""
        state, tried = self._dispatcher.scheduler.circuit_of(key).state, self._worker.activity.of(document)
        is_open = state is circuit.CircuitState.Open
        is_failing = is_open or activity.is_failing(tried, self._clock.now())
        error, status = (tried.error, tried.status) if is_failing else ("", 0)
        if key in self._worker.forbidden:
            error, status = SendError.AddressForbidden, 0
        if error in {SendError.AddressForbidden, AnswerError.Gone}:
            health = states.DestinationHealth(error)
        elif document.unresolved:
            health = states.DestinationHealth.SecretNotFound
        elif error in _TOKEN_ERRORS:
            health = states.DestinationHealth.TokenFailed
        elif is_failing:
            health = states.DestinationHealth.CircuitOpen if is_open else states.DestinationHealth.Failing
        else:
            health = states.DestinationHealth.Healthy if activity.is_tried(tried) else states.DestinationHealth.NotTried
        return states.DestinationState(
            health=health,
            circuit=state.value,
            error=str(error) or None,
            status=status or None,
            unresolved=document.missing or document.unresolved or None,
        )

    async def merge_activity(self, store: Store) -> None:
        """Learn what other gateways know: who fails there may be idle here, and who fails here may work there.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        if not store.is_shared:
            return
        self._worker.activity.merge(await store.destination_activity())
        if self._counters.has_refused(REFUSING_FROM):
            ahead = self._clock.now() - self._clock.steady()
            self._counters.note_accepted_elsewhere(await store.listener_activity(), ahead)

    def is_failing(self, key: str) -> bool:
        """Return whether a destination in force does not take deliveries."""
        document = self._state.snapshot.destinations.get(key)
        return document is not None and self.destination(key, document).health not in states.NOT_FAILING

    def is_rejecting(self, key: str) -> bool:
        """Return whether a destination in force fails with an error after which deliveries are not tried again."""
        document = self._state.snapshot.destinations.get(key)
        state = self.destination(key, document) if document is not None else None
        return state is not None and states.has_rejecting_error(state.health, state.error)

    def present_error(self, document: documents.DestinationDocument) -> dict[str, object] | None:
        """Return a destination's last error, if no attempt has succeeded since; else None."""
        last = self.last_error(document)
        return None if last is None or last["recoveredAt"] else last

    def last_error(self, document: documents.DestinationDocument) -> dict[str, object] | None:
        """Return a destination's last error: when, what, how often; None if no attempt failed."""
        tried = self._worker.activity.of(document)
        if not tried.failures:
            return None
        return {
            "error": tried.error,
            "status": tried.status or None,
            "at": model.format_time(tried.failed_at),
            "since": model.format_time(tried.failing_since),
            "failures": tried.failures,
            "recoveredAt": model.time_or_none(tried.recovered_at),
        }


_S = TypeVar("_S", bound=states.State)


def states_of_type(changes: Changes[states.Key, states.State], state_type: type[_S]) -> dict[str, _S]:
    """Return one type's states by ``namespace/name``."""
    return {key: state for (_, _, key), state in changes.present.items() if isinstance(state, state_type)}


def document_states(changes: Changes[states.Key, states.State]) -> list[states.DocumentState]:
    """Return document states as a list, because a listener and a destination may have the same name."""
    return [state for state in changes.present.values() if isinstance(state, states.DocumentState)]
