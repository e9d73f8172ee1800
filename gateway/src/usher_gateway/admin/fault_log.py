"""Logs when a fault of a listener or destination begins and when it ends."""

import asyncio

import structlog

from usher_gateway import timing
from usher_gateway.admin import states
from usher_gateway.admin.health import HealthTracker
from usher_gateway.admin.run_state import RunState

_log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 60.0

_MAX_LINES = 100
"""Lines about faults of listeners in a minute, because all may become silent at once."""


class FaultLog:
    """Compares the faults of everything in force with those of a minute ago.

    Args:
        state: has what is in force.
        tracker: knows its health.
    """

    def __init__(self, *, state: RunState, tracker: HealthTracker) -> None:
        self._state, self._tracker = state, tracker
        self._faults: dict[str, frozenset[states.ListenerFault]] = {}
        """Listener -> its faults at the last call of `write`, without listeners that had none."""
        self._failing: set[str] = set()
        """Destinations that failed at the last call of `write`."""

    async def run(self) -> None:
        """Write once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Log each fault of a listener that began or ended since the last call, at most 100 of them."""
        former_faults, self._faults = self._faults, {}
        turns = timing.EventLoopTurns()
        changed = 0
        for key, document in self._state.snapshot.listeners.items():
            state = self._tracker.listener(key, document)
            faults = frozenset(states.faults_of(state, document)) - {states.ListenerFault.Unverified}
            if faults:
                self._faults[key] = faults
            former = former_faults.get(key, frozenset())
            for fault in sorted(faults ^ former):
                changed += 1
                about = {"listener": key, "tenant": document.tenant.name, "fault": fault.value}
                if changed > _MAX_LINES:
                    continue
                if fault in faults:
                    _log.warning("listener_fault_started", **about, **_about_fault(fault, state))
                else:
                    _log.info("listener_fault_ended", **about)
            await turns.give_way()
        if changed > _MAX_LINES:
            _log.warning("listener_faults_not_logged", count=changed - _MAX_LINES)
        self._log_failing_destinations()

    def _log_failing_destinations(self) -> None:
        """Log each destination that started or ceased to fail since the last call."""
        former, self._failing = self._failing, set()
        for key, document in self._state.snapshot.destinations.items():
            state = self._tracker.destination(key, document)
            if state.health not in states.NOT_FAILING:
                self._failing.add(key)
                if key not in former:
                    about = {"health": state.health, "error": state.error, "status": state.status}
                    _log.warning("destination_fault_started", destination=key, **about)
        for key in sorted(former - self._failing):
            _log.info("destination_fault_ended", destination=key)


def _about_fault(fault: states.ListenerFault, state: states.ListenerState) -> dict[str, object]:
    """Return what a line of the log says about a fault besides its name."""
    match fault:
        case states.ListenerFault.Refusing:
            return {"reason": state.refused_reason}
        case states.ListenerFault.Quarantining:
            return {"share": state.quarantined_share}
        case states.ListenerFault.DeliveriesHeld:
            return {"held": [f"{held['route']}: {held['reason']}" for held in state.held_deliveries]}
    return {}
