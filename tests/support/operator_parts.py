"""The parts of the operator that write, over a cache and a server of the test."""

from collections.abc import Callable
from typing import Any

from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.settings import OperatorSettings, OperatorTiming
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, ResourceStatus, StatusCondition, UnreadableResource
from usher_operator.write.child_writer import ChildRemover, ChildWriter
from usher_operator.write.reconcile import Reconciler
from usher_operator.write.removals import RemovalGuard
from usher_operator.write.status_writer import StatusWriter


class OperatorParts:
    """The writers, the removal guard and the reconciler, wired as in the operator; the test sets the time.

    The guard decides about a request as soon as the test asks it.
    """

    def __init__(
        self, server: Any, cache: Cache | None = None, on_applied: Callable[[Key], None] = lambda _: None
    ) -> None:
        self.now = 0.0
        self.cache = Cache(OperatorSettings()) if cache is None else cache
        self.queue: Workqueue[Key] = Workqueue(clock=self.clock, random=lambda: 0.5)
        common: dict[str, Any] = {"cache": self.cache, "queue": self.queue}
        metrics = OperatorMetrics()
        self.statuses = StatusWriter(api=server, **common, metrics=metrics, clock=self.clock)
        self.guard = RemovalGuard(
            **common,
            metrics=metrics,
            may_decide=lambda: True,
            warn=self.statuses.queue_event,
            timing=OperatorTiming(removal_settle_seconds=0.0),
            clock=self.clock,
        )
        self.children = ChildWriter(api=server, **common, metrics=metrics, clock=self.clock, on_applied=on_applied)
        self.remover = ChildRemover(
            api=server, **common, writer=self.children, removal_guard=self.guard, tombstone_seconds=600
        )
        self.reconciler = Reconciler(
            api=server,
            **common,
            gate=PauseGate(),
            children=self.children,
            removal_guard=self.guard,
            remover=self.remover,
            statuses=self.statuses,
            metrics=metrics,
            read_secrets=lambda _: None,
        )

    def clock(self) -> float:
        return self.now

    def queued(self) -> set[Key]:
        return set(iter(self.queue.take, None))


def record_of(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> kinds.ResourceRecord:
    """A resource with a stored status. ``generation``: its ``status.observedGeneration``."""
    parsed = UnreadableResource(uid="uid", generation=generation, message="", conditions=conditions, fields=fields)
    times = {entry.type: "then" for entry in conditions}
    return kinds.ResourceRecord(
        uid="uid", resource_version="1", generation=1, parsed=parsed, observed_generation=generation, times=times
    )


def status_of(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> ResourceStatus:
    """The status that a plan wants."""
    return ResourceStatus(generation, {entry.type: entry for entry in conditions}, fields)
