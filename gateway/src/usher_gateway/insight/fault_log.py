"""Logs when a listener's or destination's fault begins and when it ends."""

import asyncio
from collections.abc import Mapping

import structlog

from usher_gateway import documents, timing
from usher_gateway.ingest.counters import ArrivalCounters
from usher_gateway.insight.health import HealthTracker, fault_since
from usher_gateway.insight.run_state import RunState
from usher_gateway.timing import Clock
from usher_gateway.words import states

_log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 60.0

_MAX_LINES = 100  # Lines about faults of listeners in a minute, because all may become silent at once


class FaultLog:
    """Compares the faults of everything in force with those of a minute ago.

    Args:
        state: the configuration in force.
        tracker: knows its health.
        counters: know more about the last arrivals.
        clock: the gateway's.
    """

    def __init__(self, *, state: RunState, tracker: HealthTracker, counters: ArrivalCounters, clock: Clock) -> None:
        self._state, self._tracker, self._counters, self._clock = state, tracker, counters, clock
        self._faults: dict[str, frozenset[states.ListenerFault]] = {}
        """Listener -> its faults at the last `write` call, without listeners that had none."""
        self._failing: set[str] = set()  # Destinations that failed at the last call of `write`

    async def run(self) -> None:
        """Write once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Log each listener fault that began or ended since the last call, at most 100 of them."""
        former_faults, self._faults = self._faults, {}
        turns = timing.EventLoopTurns()
        changed = 0
        for key, document in self._state.snapshot.listeners.items():
            state = self._tracker.listener(key, document)
            faults = frozenset(states.faults_of(state, document)) - {states.ListenerFault.Unverified}
            if faults:
                self._faults[key] = faults
            old_faults = former_faults.get(key, frozenset())
            for fault in sorted(faults ^ old_faults):
                changed += 1
                about = {"listener": key, "tenant": document.tenant.name, "fault": fault.value}
                if changed > _MAX_LINES:
                    continue
                if fault in faults:
                    _log.warning("listener_fault_started", **about, **self._cause(fault, state, document))
                else:
                    _log.info("listener_fault_ended", **about)
            await turns.give_way()
        if changed > _MAX_LINES:
            _log.warning("listener_faults_not_logged", count=changed - _MAX_LINES)
        self._log_failing_destinations()

    def _log_failing_destinations(self) -> None:
        """Log each destination that started or ceased to fail since the last call."""
        previously_failing, self._failing = self._failing, set()
        for key, document in self._state.snapshot.destinations.items():
            state = self._tracker.destination(key, document)
            if state.health not in states.NOT_FAILING:
                self._failing.add(key)
                if key not in previously_failing:
                    tenants = self._state.snapshot.first_tenants_of(key)
                    last = self._tracker.present_error(document) or {}
                    about = {"health": state.health, "error": state.error, "status": state.status, "tenants": tenants}
                    _log.warning("destination_fault_started", destination=key, since=last.get("since"), **about)
        for key in sorted(previously_failing - self._failing):
            _log.info("destination_fault_ended", destination=key)

    def _cause(
        self, fault: states.ListenerFault, state: states.ListenerState, document: documents.ListenerDocument
    ) -> dict[str, object]:
        """Return what a log line says about a fault besides its name."""
        counters = self._counters.of(document.listener_name)
        since = fault_since(fault, state, counters, self._clock)
        match fault:
            case states.ListenerFault.Refusing:
                source = counters.unexpected_source if state.refused_reason == "SourceNotAllowed" else None
                return {"reason": state.refused_reason, "since": since, **({"source": source} if source else {})}
            case states.ListenerFault.AuthenticationUnresolved:
                return {"missing": state.missing}
            case states.ListenerFault.CompanyMismatch:
                ids = {"expected": document.tenant.company_id, "came": counters.other_company}
                return {**ids, "since": since}
            case states.ListenerFault.DeliveriesHeld:
                return {"held": [describe_held(held_route) for held_route in state.held_deliveries], "since": since}
            case states.ListenerFault.Quarantining:
                reason = counters.quarantined_reason
                return {
                    "share": state.quarantined_share,
                    "reason": reason.name if reason is not None else None,
                    "source": counters.quarantined_source or None,
                    "since": since,
                }
            case states.ListenerFault.TimesUntrusted:
                return {
                    "share": state.untrusted_times_share,
                    "reason": state.untrusted_time_reason,
                    "since": since,
                    "hint": _TIME_HINTS.get(state.untrusted_time_reason or ""),
                }
            case states.ListenerFault.UnexpectedSource:
                return {"source": counters.unexpected_source, "since": since}
            case states.ListenerFault.Silent:
                return {"last_arrival": since, "silent_after_seconds": document.silence_after_seconds}
        return {}


# Why times are not trusted -> what to do.
_TIME_HINTS = {
    "NoOffset": "set `fields.occurredAtZone` of the Listener to the time zone of these times",
    "InFuture": "compare the clock and the time zone of the venue with `fields.occurredAtZone` of the Listener",
}


def describe_held(held: Mapping[str, str]) -> str:
    """Return a route whose deliveries are held and why, as in ``gold: FilterError (NoSuchField (tier))``."""
    missing = f" ({held['missing']})" if held["missing"] else ""
    return f"{held['route']}: {held['reason']}{missing}"
