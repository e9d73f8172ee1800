"""Decides which published documents may be removed, and when.

A plan that no longer wants a document requests its removal, and so does an edit that takes addresses out of service.
The guard waits until a namespace has requested nothing further for a while and has no key in the queue. Then it decides
about all requests of that namespace together, by the rule in ``usher_gateway.resources.removal_limit``.

A halted removal waits until a user confirms it or until a plan wants the document again. Later requests in the same
namespace join it. Other namespaces never wait for it.

An edit to a Listener itself takes addresses out of service at once, if it stays within the limit. An edit to a class
may concern many Listeners, so it waits until the namespace is decided as a whole.

A tombstone stays as long as removals count together. So a namespace's tombstones are its recent removals, also
after a restart.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
import structlog

from usher_gateway.resources import removal_limit
from usher_gateway.resources.removal_limit import HaltedRemovals, Identity, Removal, RemovalBounds, RemovalKind
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import Workqueue
from usher_operator.settings import OperatorTiming
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, OperatorReason, Plan, StatusCondition

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 0.5  # Interval at which the guard looks for namespaces to decide

# How long after a start a namespace stays halted that waited for a confirmation before, if it requests nothing.
_RESUME_SECONDS = 120.0


class _NamespaceRemovals(msgspec.Struct):
    """The removals that one namespace's plans request."""

    requested: dict[Identity, Removal] = {}
    """Removals that are not yet decided, or halted."""
    allowed: dict[Identity, Removal] = {}
    """Removals that may go ahead, until they are done or a plan wants what they remove."""
    retired: dict[Identity, tuple[float, int]] = {}
    """When a Listener's addresses last went out of service (monotonic seconds), and how many; without a
    confirmation."""
    messages: tuple[HaltedRemovals, ...] = ()
    """``RemovalDecision.messages``."""
    undecided_since: float | None = None
    """When the first change after the last decision came (monotonic seconds); None if nothing has changed."""
    changed_at: float = 0.0
    """When the last change came (monotonic seconds)."""

    @property
    def is_empty(self) -> bool:
        """True if nothing has to be remembered."""
        is_undecided = self.undecided_since is not None
        return not (self.requested or self.allowed or self.retired or self.messages or is_undecided)

    @property
    def halted(self) -> HaltedRemovals | None:
        """The removals that wait for a confirmation; only their former hash before the first decision after a start."""
        return self.messages[-1] if self.messages and self.messages[-1].digest else None

    def change(self, now: float) -> None:
        """Note a change, because of which the namespace has to be decided."""
        self.undecided_since = now if self.undecided_since is None else self.undecided_since
        self.changed_at = now

    def decide(self, now: float, confirmed: frozenset[str], bounds: RemovalBounds) -> list[Removal]:
        """Decide about all requests; returns the removals that may go ahead now."""
        decision = removal_limit.decide(
            self.requested.values(), messages=self.messages, confirmed=confirmed, bounds=bounds
        )
        has_waited = bool(self.messages)
        self.messages, self.undecided_since = decision.messages, None
        for removal in decision.allowed:
            self.allow(removal, now, is_confirmed=has_waited)
        return sorted(decision.allowed)

    def allow(self, removal: Removal, now: float, *, is_confirmed: bool = False) -> None:
        """Let a requested removal go ahead."""
        self.allowed[removal.identity] = self.requested.pop(removal.identity)
        if removal.kind in removal_limit.ADDRESS_KINDS and not is_confirmed:
            self.retired[removal.identity] = now, removal.count

    def forget(self, identity: Identity) -> bool:
        """Forget a removal; returns whether it was requested."""
        self.allowed.pop(identity, None)
        return self.requested.pop(identity, None) is not None

    def forget_old(self, now: float) -> None:
        """Forget addresses that went out of service more than ``WINDOW_SECONDS`` ago."""
        since = now - removal_limit.WINDOW_SECONDS
        self.retired = {identity: retired for identity, retired in self.retired.items() if retired[0] > since}

    def count_removed(self, tombstones: Iterable[Key]) -> Counter[RemovalKind]:
        """Count by kind the documents that have a tombstone or will have one, and the addresses that left.

        A Listener that is edited again counts only with what it requests now.
        """
        identities = {*map(_identity_of, tombstones), *self.allowed}
        removed = Counter(kind for kind, _ in identities if kind not in removal_limit.ADDRESS_KINDS)
        for identity, (_, count) in self.retired.items():
            if identity not in self.requested:
                removed[identity[0]] += count
        return removed


class RemovalGuard:
    """Decides about requested removals at the right moments, and reports a halt.

    Args:
        may_decide: the guard decides nothing while it returns False.
        warn: called with an object, its uid and what its Event has to say.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        queue: Workqueue[Key],
        metrics: OperatorMetrics,
        may_decide: Callable[[], bool],
        warn: Callable[[Key, str, StatusCondition], None],
        timing: OperatorTiming,
        clock: Callable[[], float],
    ) -> None:
        self._cache, self._queue, self._metrics = cache, queue, metrics
        self._may_decide, self._warn, self._timing, self._clock = may_decide, warn, timing, clock
        self._namespaces: dict[str, _NamespaceRemovals] = {}
        self._ignored: frozenset[str] = frozenset()
        """Confirmations that named nothing when the guard first read them, because what they name had come back."""
        self._former_hashes: frozenset[str] = frozenset()  # Those that the classes named at a start

    def request(self, removal: Removal) -> bool:
        """Request a removal; True if an earlier decision allows it. If not, ask again once its key is queued."""
        pending = self._of(removal.namespace)
        if pending.allowed.get(removal.identity) == removal:
            return True
        if pending.requested.get(removal.identity) != removal:
            pending.forget(removal.identity)
            pending.requested[removal.identity] = removal
            pending.change(self._clock())
        return False

    def withdraw(self, key: Key) -> None:
        """Forget a document's removal, because it is done or because a plan does not want it any more."""
        self._withdraw(key.namespace, _identity_of(key))

    def _withdraw(self, namespace: str, identity: Identity) -> None:
        pending = self._namespaces.get(namespace)
        if pending is None:
            return
        if pending.forget(identity):
            pending.change(self._clock())  # if it was halted, the others are named again
        self._drop_if_empty(namespace)

    def review_retirement(self, plan: Plan) -> bool:
        """Request what a Listener's plan would take out of service.

        If it is allowed, the cache allows it from now on, and this returns True: the plan has to be made again.
        """
        key = plan.key
        if key.kind != "Listener":
            return False
        allowed: set[str] = set()
        requested: dict[RemovalKind, Removal | None] = {"Address": plan.retiring, "RetiredAddress": plan.ending}
        for kind, removal in requested.items():
            if removal is None:
                self._withdraw(key.namespace, (kind, key.name))
            elif self.request(removal) or (kind == "Address" and self._may_retire_now(removal)):
                allowed.update(removal.addresses)
        was_allowed = self._cache.may_retire(key, frozenset(allowed))
        self._cache.allow_retirement(key, frozenset(allowed))
        return not was_allowed

    def _may_retire_now(self, retiring: Removal) -> bool:
        """Allow an edit to a Listener itself, if it stays within the limit and nothing in its namespace waits."""
        pending = self._of(retiring.namespace)
        if pending.messages or not self._cache.is_edited(_key_of(retiring)):
            return False
        addresses = [removal for removal in pending.requested.values() if removal.kind == "Address"]
        if removal_limit.exceeds_limit(addresses, self._bounds(retiring.namespace)):
            return False
        pending.allow(retiring, self._clock())
        return True

    def is_waiting(self, key: Key) -> bool:
        """True if a document's removal is halted or not yet decided."""
        pending = self._namespaces.get(key.namespace)
        return pending is not None and _identity_of(key) in pending.requested

    def halt(self, namespaces: Iterable[str]) -> None:
        """Halt what these namespaces remove next, however little, until a user confirms it."""
        for namespace in namespaces:
            self._halt(namespace)

    def _halt(self, namespace: str, digest: str = "") -> None:
        pending = self._of(namespace)
        pending.messages = pending.messages or (HaltedRemovals(namespace, digest, ()),)

    def resume_halts(self) -> None:
        """Halt again what waited for a confirmation before a restart, also if little of it is left.

        The classes' statuses name the namespaces. If one requests nothing soon, its resources are back.
        """
        halted = {item for listener_class in self._cache.our_classes() for item in listener_class.halted.items()}
        self._former_hashes |= {digest for _, digest in halted}
        for namespace, digest in halted:
            self._halt(namespace, digest)  # with its hash, so that another restart before the decision has it too
            self._of(namespace).change(self._clock() + _RESUME_SECONDS)

    async def run(self) -> None:
        """Decide whenever a decision is due, until cancelled."""
        may_decide = False
        while True:
            could_decide, may_decide = may_decide, self._may_decide()
            if may_decide and not could_decide:
                self.resume_halts()
            if may_decide:
                self.decide_due()
            await asyncio.sleep(_CHECK_SECONDS)

    def decide_due(self) -> None:
        """Decide about the namespaces whose requests are complete, and about those with a new confirmation."""
        confirmed = self._confirmed()
        for namespace, pending in list(self._namespaces.items()):
            pending.forget_old(self._clock())
            self._drop_if_empty(namespace)
        due = [
            namespace for namespace, pending in self._namespaces.items() if self._is_due(namespace, pending, confirmed)
        ]
        if not due:
            return
        removes_every_listener = self._removes_every_listener()
        for namespace in due:
            self._decide(namespace, confirmed, removes_every_listener=removes_every_listener)
        halted = tuple(sorted(pending.halted for pending in self._namespaces.values() if pending.halted is not None))
        self._metrics.removals_halted.set(sum(halt.count for halt in halted))
        self._queue.add_all(self._cache.set_halted(halted))

    def _confirmed(self) -> frozenset[str]:
        """The hashes that users confirmed after a message named them, perhaps before a restart.

        If the objects came back before a user confirmed their removal, the hash must not confirm the next removal.
        """
        confirmed = self._cache.confirmations()
        announced = {message.digest for pending in self._namespaces.values() for message in pending.messages}
        announced |= self._former_hashes
        self._ignored = (self._ignored | (confirmed - announced)) & confirmed
        return confirmed - self._ignored

    def _is_due(self, namespace: str, pending: _NamespaceRemovals, confirmed: frozenset[str]) -> bool:
        """Return whether to decide about a namespace. A busy one is decided at the latest after a while."""
        if any(message.removals and message.digest in confirmed for message in pending.messages):
            return True
        if pending.undecided_since is None:
            return False
        now = self._clock()
        has_settled = now >= pending.changed_at + self._timing.removal_settle_seconds
        is_overdue = now >= pending.undecided_since + self._timing.max_removal_settle_seconds
        return is_overdue or (has_settled and not self._queue.is_busy(namespace))

    def _decide(self, namespace: str, confirmed: frozenset[str], *, removes_every_listener: bool) -> None:
        pending, previous_halt = self._namespaces[namespace], self._namespaces[namespace].halted
        bounds = self._bounds(namespace, removes_every_listener=removes_every_listener)
        self._queue.add_all(map(_key_of, pending.decide(self._clock(), confirmed, bounds)))
        if pending.halted is not None and pending.halted != previous_halt:
            self._announce(pending.halted)
        self._drop_if_empty(namespace)

    def _bounds(self, namespace: str, *, removes_every_listener: bool = False) -> RemovalBounds:
        pending, index = self._of(namespace), self._cache.child_index
        return RemovalBounds(
            index.count_in_force(namespace),
            pending.count_removed(index.tombstones.keys_of(namespace)),
            self._cache.removal_limit,
            removes_every_listener,
        )

    def _removes_every_listener(self) -> bool:
        """Return whether no listener stays in force if everything goes ahead that plans request.

        A listener that only a stale gateway has is not in force, but its removal counts.
        """
        leaving = {
            _key_of(removal)
            for pending in self._namespaces.values()
            for removal in (*pending.requested.values(), *pending.allowed.values())
            if removal.kind == "Listener"
        }
        index = self._cache.child_index
        return sum(index.published(key) is not None for key in leaving) == index.listeners_in_force

    def _announce(self, halt: HaltedRemovals) -> None:
        """Log a halt, and post an Event about one object in it, because an agency sees no ListenerClass."""
        described = removal_limit.describe_removals(halt)
        _log.error(
            "removals_halted", namespace=halt.namespace, count=halt.count, removals=described, digest=halt.digest
        )
        removal = min(halt.removals, key=lambda removal: (removal.kind == "Destination", removal))
        class_name = min(self._cache.our_class_names(), default="NAME")
        waiting = "1 removal waits" if halt.count == 1 else f"{halt.count} removals wait"
        message = (
            f"{waiting} ({described}), because they exceed the removal limit, and gateways still "
            "serve what they remove; to undo them, apply the objects again; to confirm them, the platform's owner must "
            f"run: {removal_limit.confirm_command(class_name, halt)}"
        )
        condition = StatusCondition("Ready", "False", OperatorReason.RemovalsHalted, message, 0)
        self._warn(_key_of(removal), removal.uid, condition)

    def _of(self, namespace: str) -> _NamespaceRemovals:
        return self._namespaces.setdefault(namespace, _NamespaceRemovals())

    def _drop_if_empty(self, namespace: str) -> None:
        if self._namespaces[namespace].is_empty:
            del self._namespaces[namespace]


def _key_of(removal: Removal) -> Key:
    return Key("Destination" if removal.kind == "Destination" else "Listener", removal.namespace, removal.name)


def _identity_of(key: Key) -> Identity:
    return "Destination" if key.kind == "Destination" else "Listener", key.name
