"""Decides which published documents may be removed, and when.

A plan that no longer wants a document requests its removal. The guard waits until a namespace has requested nothing
further for a while and has no key in the queue. Then it decides about all requests of that namespace together, and
removes none of them if they exceed the removal limit. Events and complete lists are the only source of plans, so a
wrong list must not remove everything.

A halted removal waits until a user confirms it or until a plan wants the document again. Later requests of the same
namespace join it. Other namespaces never wait for it.
"""

import asyncio
import contextlib
import datetime
import time
import typing
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import structlog

from usher_gateway.resources.removal_limit import (
    WINDOW_SECONDS,
    HaltedRemovals,
    Identity,
    Removal,
    RemovalBounds,
    RemovalDecision,
    RemovalKind,
    confirm_command,
    decide,
    describe_removals,
    exceeds_limit,
    namespaces_in,
)
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.installation import Installation
from usher_operator.view import Key, ObjectRef, OperatorReason, Plan, StatusCondition
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
"""Interval at which the guard looks for work while no decision is due."""

_SUSPICION_SECONDS = 120.0
"""How long after a start the namespaces that waited for a confirmation are suspected, if they request nothing."""

_MAX_NAMED = 16
"""How many earlier messages of a namespace a confirmation may still name."""

DocumentKind = Literal["Listener", "Destination"]


class _NamespaceRemovals:
    """The requested removals of one namespace. Pure: times are monotonic seconds."""

    def __init__(self) -> None:
        self.requested: dict[Identity, Removal] = {}
        """Removals that are not yet decided, or halted."""
        self.allowed: dict[Identity, Removal] = {}
        """Removals that may go ahead, until their documents are deleted or wanted again."""
        self.suspected: set[RemovalKind] = set()
        """Kinds of which every removal has to be confirmed."""
        self.halted: HaltedRemovals | None = None
        self.is_undecided = False
        self._retiring: dict[str, frozenset[Identity]] = {}
        """Name of a Listener -> its addresses that are requested or allowed to retire."""
        self._serving: dict[str, frozenset[str]] = {}
        """Name of a Listener -> its addresses in service once these retire."""
        self._named: list[HaltedRemovals] = []
        self._recent: list[tuple[float, Removal]] = []
        self._first = self._last = 0.0

    def is_empty(self, now: float) -> bool:
        """True if nothing has to be remembered."""
        self._forget_old(now)
        return not (self.requested or self.allowed or self.suspected or self.halted or self._recent)

    def request(self, removal: Removal, now: float) -> bool:
        """Request a removal; True if it may go ahead."""
        if removal.identity in self.allowed:
            return True
        if self.requested.get(removal.identity) != removal:
            self._first = self._first if self.is_undecided else now
            self._last, self.is_undecided = now, True
            self.requested[removal.identity] = removal
        return False

    def withdraw(self, identity: Identity, now: float) -> None:
        """Forget a removal; if it was halted, the others are named again."""
        self.allowed.pop(identity, None)
        if self.requested.pop(identity, None) is not None and not self.is_undecided:
            self._first, self._last, self.is_undecided = now, now, True

    def retire(
        self,
        name: str,
        removals: Collection[Removal],
        now: float,
        bounds: RemovalBounds,
        *,
        serving: frozenset[str],
        is_own_edit: bool,
    ) -> bool:
        """See ``PendingRemovals.retire``."""
        retiring = {removal.identity: removal for removal in removals}
        for identity in self._retiring.pop(name, frozenset()) - retiring.keys():
            self.withdraw(identity, now)
        self._serving.pop(name, None)
        if not retiring:
            return False
        self._retiring[name], self._serving[name] = frozenset(retiring), serving
        new = [removal for identity, removal in retiring.items() if identity not in self.allowed]
        if is_own_edit and self.halted is None and not self._are_too_many(new, now, bounds):
            for removal in new:
                self.requested.pop(removal.identity, None)
                self.allowed[removal.identity] = removal
            self._forget_returning(new)
            self._recent += [(now, removal) for removal in new]
        answers = [self.request(removal, now) for removal in retiring.values()]
        return all(answers)

    def _are_too_many(self, addresses: Iterable[Removal], now: float, bounds: RemovalBounds) -> bool:
        """Return whether addresses exceed the limit together with those that wait and those of the last minute."""
        self._forget_old(now)
        waiting = [removal for removal in self.requested.values() if removal.kind == "Address"]
        return exceeds_limit({*addresses, *waiting}, bounds, recent=self._out_of_service())

    def due_at(self, settle_seconds: float, max_settle_seconds: float) -> float | None:
        """When to decide; None if nothing has changed."""
        if not self.is_undecided:
            return None
        return min(self._last + settle_seconds, self._first + max_settle_seconds)

    def is_due(self, now: float, settle_seconds: float, max_settle_seconds: float, *, is_busy: bool) -> bool:
        """Return whether to decide now. A busy namespace is decided at the latest after `max_settle_seconds`."""
        if not self.is_undecided:
            return False
        has_settled = not is_busy and now >= self._last + settle_seconds
        return has_settled or now >= self._first + max_settle_seconds

    def is_confirmed(self, confirmed: Collection[str]) -> bool:
        """True if users confirmed removals that are halted now."""
        confirmed_sets = [halt for halt in self._named if halt.digest in confirmed]
        if not confirmed_sets or self.halted is None:
            return False
        halted = frozenset(self.halted.removals)
        return any(not halted.isdisjoint(halt.removals) for halt in confirmed_sets)

    def decide(self, now: float, bounds: RemovalBounds, confirmed: Collection[str]) -> RemovalDecision:
        """See ``PendingRemovals.decide``."""
        self._forget_old(now)

        def is_too_much(rest: frozenset[Removal]) -> bool:
            is_suspected = bool(self.suspected & {removal.kind for removal in rest})
            return is_suspected or exceeds_limit(rest, bounds, recent=self._out_of_service())

        decision = decide(
            self.requested.values(),
            named=self._named,
            confirmed=confirmed,
            waited=self.halted.removals if self.halted else (),
            is_too_much=is_too_much,
        )
        self.is_undecided, self.halted = False, decision.halted
        if decision.halted is None:
            self.suspected.clear()
            self._named.clear()
        elif decision.halted not in self._named:
            self._named = [*self._named[1 - _MAX_NAMED :], decision.halted]
        for removal in decision.allowed:
            self.allowed[removal.identity] = self.requested.pop(removal.identity)
        self._forget_returning(decision.allowed)
        self._recent += [(now, removal) for removal in decision.unconfirmed]
        return decision

    def _out_of_service(self) -> list[Removal]:
        """The removals of the last minute, without addresses that return if what is requested goes ahead."""
        return [removal for _, removal in self._recent if not self._is_returning(removal)]

    def _forget_returning(self, allowed: Iterable[Removal]) -> None:
        """Forget the addresses that return because others retire."""
        names = {removal.name for removal in allowed if removal.kind == "Address"}
        self._recent = [
            (then, removal)
            for then, removal in self._recent
            if removal.name not in names or not self._is_returning(removal)
        ]

    def _is_returning(self, removal: Removal) -> bool:
        return removal.kind == "Address" and removal.address in self._serving.get(removal.name, ())

    def _forget_old(self, now: float) -> None:
        self._recent = [(then, removal) for then, removal in self._recent if now - then < WINDOW_SECONDS]


class PendingRemovals:
    """The requested removals of all namespaces. Pure: times are monotonic seconds.

    Args:
        settle_seconds: a namespace is decided this long after its last request.
        max_settle_seconds: a namespace is decided at the latest this long after its first request.
    """

    def __init__(self, *, settle_seconds: float, max_settle_seconds: float) -> None:
        self._settle_seconds, self._max_settle_seconds = settle_seconds, max_settle_seconds
        self._namespaces: dict[str, _NamespaceRemovals] = {}

    def request(self, removal: Removal, now: float) -> bool:
        """Request a removal; True if an earlier decision allows it. If not, ask again once its key is queued."""
        return self._of(removal.namespace).request(removal, now)

    def withdraw(self, removal: Removal, now: float) -> None:
        """Forget a removal, because it is done or because a plan does not want it any more."""
        pending = self._namespaces.get(removal.namespace)
        if pending is not None:
            pending.withdraw(removal.identity, now)
            self._forget_if_empty(removal.namespace, now)

    def retire(
        self,
        namespace: str,
        name: str,
        removals: Collection[Removal],
        now: float,
        bounds: RemovalBounds,
        *,
        serving: frozenset[str],
        is_own_edit: bool,
    ) -> bool:
        """Request that addresses of a Listener retire, instead of those of earlier calls; True if all of them may.

        An edit of a Listener itself takes effect at once if it stays within the limit. Any other edit may concern many
        Listeners, so the namespace is decided as a whole. An address that returns to service does not count any more
        as removed in the last minute, so that an edit can be undone at once.

        Args:
            namespace: of the Listener.
            name: of the Listener.
            removals: one for each address; empty if none is to retire any more.
            now: the present time.
            bounds: of the namespace.
            serving: ``Address.id`` of the Listener's addresses in service once these retire.
            is_own_edit: True if the Listener itself was edited.
        """
        if not removals and namespace not in self._namespaces:
            return False
        pending = self._of(namespace)
        may_retire = pending.retire(name, removals, now, bounds, serving=serving, is_own_edit=is_own_edit)
        self._forget_if_empty(namespace, now)
        return may_retire

    def suspect(self, kind: RemovalKind, namespaces: Iterable[str]) -> None:
        """Halt every removal of a kind, however few, until a user confirms it or the documents are wanted again."""
        for namespace in namespaces:
            self._of(namespace).suspected.add(kind)

    def end_suspicion(self, namespaces: Iterable[str], now: float) -> None:
        """Stop to suspect namespaces that requested nothing."""
        for namespace in namespaces:
            pending = self._namespaces.get(namespace)
            if pending is not None and not pending.requested:
                pending.suspected.clear()
                self._forget_if_empty(namespace, now)

    def due_in(self, now: float) -> float | None:
        """Seconds until a namespace has to be decided; None if none waits for a decision."""
        due = [due_at for pending in self._namespaces.values() if (due_at := self._due_at(pending)) is not None]
        return max(0.0, min(due) - now) if due else None

    def due(
        self, now: float, confirmed: Collection[str], is_busy: Callable[[str], bool] = lambda _: False
    ) -> list[str]:
        """The namespaces to decide now: those without a recent request, and those with a new confirmation.

        Args:
            now: the present time.
            confirmed: digests that ListenerClasses carry.
            is_busy: says whether a namespace has keys in the queue, whose plans may request further removals.
        """
        return [
            namespace
            for namespace, pending in self._namespaces.items()
            if pending.is_confirmed(confirmed)
            or pending.is_due(now, self._settle_seconds, self._max_settle_seconds, is_busy=is_busy(namespace))
        ]

    @property
    def undecided(self) -> dict[str, list[Removal]]:
        """The removals that wait for a decision, due or not, by namespace."""
        return {
            namespace: list(pending.requested.values())
            for namespace, pending in self._namespaces.items()
            if pending.is_undecided
        }

    @property
    def allowed(self) -> list[Removal]:
        """The removals that may go ahead and are not done yet."""
        return [removal for pending in self._namespaces.values() for removal in pending.allowed.values()]

    def decide(
        self, namespace: str, now: float, bounds: RemovalBounds, confirmed: Collection[str] = ()
    ) -> RemovalDecision:
        """Allow all removals of a namespace that a user confirmed, and all others or none of them.

        Args:
            namespace: a namespace that is due.
            now: the present time.
            bounds: of the namespace.
            confirmed: digests that ListenerClasses carry.
        """
        decision = self._namespaces[namespace].decide(now, bounds, confirmed)
        self._forget_if_empty(namespace, now)
        return decision

    @property
    def halted(self) -> tuple[HaltedRemovals, ...]:
        """The removals that wait for a confirmation, by namespace."""
        return tuple(sorted(pending.halted for pending in self._namespaces.values() if pending.halted is not None))

    def is_waiting(self, removal: Removal) -> bool:
        """True if a removal is halted or not yet decided."""
        pending = self._namespaces.get(removal.namespace)
        return pending is not None and removal.identity in pending.requested

    def _of(self, namespace: str) -> _NamespaceRemovals:
        return self._namespaces.setdefault(namespace, _NamespaceRemovals())

    def _forget_if_empty(self, namespace: str, now: float) -> None:
        if self._namespaces[namespace].is_empty(now):
            del self._namespaces[namespace]

    def _due_at(self, pending: _NamespaceRemovals) -> float | None:
        return pending.due_at(self._settle_seconds, self._max_settle_seconds)


class RemovalGuard:
    """Decides about pending removals at the right moments, and reports a halt."""

    def __init__(
        self,
        *,
        pending: PendingRemovals,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        installation: Installation,
        metrics: OperatorMetrics,
        warn: Callable[[Key, str, StatusCondition], None],
    ) -> None:
        """Prepare the guard.

        Args:
            pending: the requested removals.
            cache: what is known of the cluster.
            queue: keys whose removal is allowed are added here.
            gate: the guard decides nothing while it is closed.
            installation: the guard decides nothing without the right install key.
            metrics: the operator's metrics.
            warn: called with an object, its uid and what its Event has to say.
        """
        self._warn = warn
        self._pending, self._cache, self._queue = pending, cache, queue
        self._gate, self._installation, self._metrics = gate, installation, metrics
        self._wake = asyncio.Event()

    def check_soon(self) -> None:
        """Look at once whether a decision is due: something changed on which it may depend."""
        self._wake.set()

    def suspect(self, kind: DocumentKind) -> None:
        """Halt every removal of a kind, because its CRD was deleted and with it objects that users want."""
        self._pending.suspect(kind, self._cache.child_index.namespaces_with(kind))

    def review_retirements(self, plan: Plan) -> bool:
        """Request what a plan of a Listener would take out of service; True if the plan has to be made again.

        The cache then allows it.
        """
        key = plan.key
        if key.kind != "Listener":
            return False
        may_retire = self._pending.retire(
            key.namespace,
            key.name,
            plan.retiring,
            time.monotonic(),
            self._bounds_of(key.namespace),
            serving=plan.serving,
            is_own_edit=self._cache.is_edited(key),
        )
        self._cache.allow_retirement(
            key, frozenset(removal.address for removal in plan.retiring) if may_retire else frozenset()
        )
        return may_retire and plan.children is None

    def suspect_stored_halts(self) -> None:
        """Halt again what waited for a confirmation before a restart, also if little of it is left.

        The conditions of the classes name the namespaces. If one requests nothing soon, its resources are back.
        """
        stored = [condition for listener_class in self._cache.our_classes() for condition in listener_class.conditions]
        messages = [condition.message for condition in stored if condition.reason == OperatorReason.RemovalsHalted]
        namespaces = frozenset().union(*map(namespaces_in, messages))
        for kind in typing.get_args(RemovalKind):
            self._pending.suspect(kind, namespaces)
        asyncio.get_running_loop().call_later(
            _SUSPICION_SECONDS, lambda: self._pending.end_suspicion(namespaces, time.monotonic())
        )

    async def run(self) -> None:
        """Decide whenever a decision is due, until cancelled."""
        self.suspect_stored_halts()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pending.due_in(time.monotonic()) or _CHECK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()  # before asking what is due, so that no later change is missed
            due = self._pending.due(time.monotonic(), self._cache.confirmations(), self._queue.is_busy)
            if not due:
                continue
            if self._gate.reasons or not self._installation.is_key_known:
                await asyncio.sleep(_CHECK_SECONDS)
                continue
            self._decide(due)

    def _decide(self, due: list[str]) -> None:
        confirmed, now = self._cache.confirmations(), time.monotonic()
        previous_halts = self._pending.halted
        removes_every_listener = self._removes_every_listener()
        # if so, halt all namespaces together, because each one alone would leave the listeners of the others
        together = self._pending.undecided if removes_every_listener else ()
        for namespace in dict.fromkeys((*due, *together)):
            bounds = self._bounds_of(namespace, removes_every_listener=removes_every_listener)
            decision = self._pending.decide(namespace, now, bounds, confirmed)
            for removal in decision.allowed:
                kind: DocumentKind = "Destination" if removal.kind == "Destination" else "Listener"
                self._queue.add(Key(kind, removal.namespace, removal.name))
        self._report(previous_halts)

    def _bounds_of(self, namespace: str, *, removes_every_listener: bool = False) -> RemovalBounds:
        in_force = self._cache.child_index.count_in_force(namespace)
        return RemovalBounds(in_force, self._cache.removal_limit, removes_every_listener)

    def _removes_every_listener(self) -> bool:
        """Return whether no listener stays in force if every undecided removal goes ahead.

        A listener that only a stale gateway has is not in force, but its removal counts.
        """
        undecided = _listener_keys(removal for removals in self._pending.undecided.values() for removal in removals)
        index = self._cache.child_index
        if not undecided:
            return False
        leaving = undecided | _listener_keys(self._pending.allowed)
        return sum(index.published(key) is not None for key in leaving) == index.listeners_in_force

    def _report(self, previous_halts: Collection[HaltedRemovals]) -> None:
        halted = self._pending.halted
        for halt in halted:
            if halt not in previous_halts:
                _log.error(
                    "removals_halted",
                    namespace=halt.namespace,
                    count=len(halt.removals),
                    removals=describe_removals(halt),
                    digest=halt.digest,
                )
                self._warn_in_namespace(halt)
        self._metrics.removals_halted.set(sum(len(halt.removals) for halt in halted))
        for key in self._cache.set_halted(halted):
            self._queue.add(key)

    def _warn_in_namespace(self, halt: HaltedRemovals) -> None:
        """Post an Event about one of the objects, because an agency sees its own namespace and no ListenerClass."""
        removal = min(halt.removals, key=_names_first)
        key = Key("Destination" if removal.kind == "Destination" else "Listener", removal.namespace, removal.name)
        class_name = min(
            (listener_class.resource.metadata.name for listener_class in self._cache.our_classes()), default="NAME"
        )
        message = (
            f"{len(halt.removals)} removals wait ({describe_removals(halt)}), because they exceed the removal limit, "
            "and gateways still serve what they remove; to undo them, apply the objects again; to confirm them, the "
            f"platform's owner must run: {confirm_command(class_name, halt)}"
        )
        self._warn(key, removal.uid, StatusCondition("Ready", "False", OperatorReason.RemovalsHalted, message, 0))


def _names_first(removal: Removal) -> tuple[bool, Removal]:
    return removal.kind == "Destination", removal


def _listener_keys(removals: Iterable[Removal]) -> set[Key]:
    return {Key("Listener", removal.namespace, removal.name) for removal in removals if removal.kind == "Listener"}


class AgeClock:
    """Counts how old each tombstone is, or for how long each Certificate has been unused. Pure.

    The age when a timestamp is first read is taken from the wall clock; from then on a monotonic clock counts. So a
    wall clock that jumps forward ends no tombstone early, and one that jumps back does not prolong it.
    """

    def __init__(self, seconds: float = 600.0) -> None:
        self._seconds = seconds
        """Age at which an object may be deleted."""
        self._ends: dict[ObjectRef, tuple[str, float]] = {}
        """Timestamp of each object, and its end by the monotonic clock."""

    def seconds_left(self, ref: ObjectRef, written_at: str, wall: datetime.datetime, monotonic: float) -> float:
        """Seconds until an object may be deleted; zero or negative if it may be deleted now.

        Args:
            ref: the config Secret or the Certificate.
            written_at: timestamp in the object (RFC 3339); an unreadable one counts as long ago.
            wall: the present wall-clock time.
            monotonic: the present time by the monotonic clock, in seconds.
        """
        counted = self._ends.get(ref)
        if counted is None or counted[0] != written_at:
            counted = (written_at, monotonic + self._seconds - max(0.0, _age_seconds(written_at, wall)))
            self._ends[ref] = counted
        return counted[1] - monotonic

    def forget(self, ref: ObjectRef) -> None:
        """Forget an object that was deleted."""
        self._ends.pop(ref, None)


def _age_seconds(written_at: str, wall: datetime.datetime) -> float:
    try:
        written = datetime.datetime.fromisoformat(written_at)
    except ValueError:
        return float("inf")
    return (wall - written).total_seconds()
