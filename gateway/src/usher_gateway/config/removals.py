"""The removal limit for files: a reading is a pass, and the namespace is that of the manifests. Pure.

A document whose removal waits stays in the snapshot, so the next reading asks for its removal again. ``RemovalHistory``
holds everything else that the next reading has to know. A restart forgets it, and uses the files as they are.
"""

from collections.abc import Sequence

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import types
from usher_gateway.resources.conditions import Problem
from usher_gateway.resources.manifests import ObjectsByIdentity
from usher_gateway.resources.removal_limit import (
    WINDOW_SECONDS,
    HaltedRemovals,
    Removal,
    RemovalBounds,
    RemovalDecision,
    RemovalKind,
    confirmations_of,
    decide,
    describe_removals,
    describe_unmatched,
    exceeds_limit,
    smallest_limit,
)

_MAX_NAMED = 16
"""How many sets of a namespace a confirmation may name."""


class RemovalHistory(msgspec.Struct, frozen=True):
    """The removals that later readings have to know."""

    halted: tuple[HaltedRemovals, ...] = ()
    """Removals that wait for a confirmation, at most one set per namespace."""
    named: tuple[HaltedRemovals, ...] = ()
    """The same, and earlier sets of these namespaces, which a confirmation may still name."""
    ignored: frozenset[str] = frozenset()
    """Hashes in annotations that are older than the message with the same hash: they confirmed earlier removals."""
    recent: tuple[tuple[float, Removal], ...] = ()
    """Unconfirmed removals of the last minute, with their times (monotonic seconds)."""


def limit_removals(
    history: RemovalHistory,
    in_force: documents.Snapshot,
    declared: documents.Snapshot,
    *,
    classes: Sequence[resources.ListenerClass],
    limit: int | None,
    seconds: float,
    time: int,
) -> RemovalHistory:
    """Decide about the documents and addresses that a reading would take out of service.

    Args:
        history: The result of the previous reading.
        in_force: The documents in force.
        declared: The documents of the files.
        classes: The ListenerClasses of the files, with confirmations and limits.
        limit: The limit of the gateway; None means that of the classes, or the usual one.
        seconds: Time of the reading, by a monotonic clock.
        time: The same by the gateway's clock, in microseconds.
    """
    limit = smallest_limit(listener_class.spec.removal_limit for listener_class in classes) if limit is None else limit
    confirmed = frozenset().union(
        *(confirmations_of(listener_class.metadata.annotations) for listener_class in classes)
    )
    usable = (confirmed - history.ignored).intersection(halt.digest for halt in history.named)
    recent = tuple(
        (then, removal)
        for then, removal in history.recent
        if seconds - then < WINDOW_SECONDS and not _is_served(removal, in_force)
    )
    waited = frozenset(removal for halt in history.halted for removal in halt.removals)
    removes_every_listener = not declared.listeners and not any(removal.kind == "Listener" for removal in waited)

    def is_too_much(rest: frozenset[Removal]) -> bool:
        namespace = next(iter(rest)).namespace
        bounds = RemovalBounds(_count(in_force, namespace), limit, removes_every_listener)
        gone = [
            removal for _, removal in recent if removal.namespace == namespace and not _is_served(removal, declared)
        ]
        return exceeds_limit(rest, bounds, recent=gone)

    decisions = []
    for namespace, requested in _removed(in_force, declared, time).items():
        named = [halt for halt in history.named if halt.namespace == namespace]
        decisions.append(decide(requested, named=named, confirmed=usable, waited=waited, is_too_much=is_too_much))
    return _next_history(msgspec.structs.replace(history, recent=recent), decisions, confirmed, seconds)


def _is_served(removal: Removal, snapshot: documents.Snapshot) -> bool:
    """Return whether an address is in service again, so that the edit that removed it can be undone within a minute."""
    listener = snapshot.listeners.get(f"{removal.namespace}/{removal.name}")
    if removal.kind != "Address" or listener is None:
        return False
    return any(address.id == removal.address for address in listener.live_addresses)


def _next_history(
    history: RemovalHistory, decisions: list[RemovalDecision], confirmed: frozenset[str], seconds: float
) -> RemovalHistory:
    halted = tuple(decision.halted for decision in decisions if decision.halted is not None)
    named: list[HaltedRemovals] = []
    for halt in halted:
        earlier = [
            named_halt for named_halt in history.named if named_halt.namespace == halt.namespace and named_halt != halt
        ]
        named += [*earlier[1 - _MAX_NAMED :], halt]
    new = {halt.digest for halt in named} - {halt.digest for halt in history.named}
    unconfirmed = [(seconds, removal) for decision in decisions for removal in sorted(decision.unconfirmed)]
    return RemovalHistory(
        halted=halted,
        named=tuple(named),
        ignored=(history.ignored | new) & confirmed,
        recent=(*history.recent, *unconfirmed),
    )


def with_kept_documents(
    in_force: documents.Snapshot, declared: documents.Snapshot, history: RemovalHistory
) -> documents.Snapshot:
    """Return the snapshot with the documents whose removal or change waits.

    They do not keep addresses that another listener has now.
    """
    if not history.halted:
        return declared
    listeners, destinations = dict(declared.listeners), dict(declared.destinations)
    changed = {
        f"{removal.namespace}/{removal.name}"
        for halt in history.halted
        for removal in halt.removals
        if removal.kind == "Address"
    }
    unchanged = [document for key, document in declared.listeners.items() if key not in changed]
    taken = {(address.host, address.path, address.query) for document in unchanged for address in document.addresses}
    for removal in (removal for halt in history.halted for removal in halt.removals):
        key = f"{removal.namespace}/{removal.name}"
        if removal.kind == "Destination":
            destinations[key] = in_force.destinations[key]
            continue
        old = in_force.listeners[key]
        free = tuple(address for address in old.addresses if (address.host, address.path, address.query) not in taken)
        if free:
            listeners[key] = msgspec.structs.replace(old, addresses=free)
    return documents.Snapshot(listeners, destinations)


def halt_problems(history: RemovalHistory, objects: ObjectsByIdentity) -> list[Problem]:
    """Return a problem for each namespace whose removals wait; it names the hash that confirms them."""
    classes = [loaded for loaded in objects.values() if isinstance(loaded.resource, resources.ListenerClass)]
    file, line = (classes[0].file, classes[0].line) if classes else ("", 0)
    confirmed = frozenset().union(*(confirmations_of(loaded.resource.metadata.annotations) for loaded in classes))
    unmatched = describe_unmatched(confirmed, history.halted)
    problems = []
    for halt in history.halted:
        message = (
            f"RemovalsHalted: {describe_removals(halt)} would be taken out of service at once; none of them is, and "
            "edits that change addresses wait too"
        )
        hint = f'if this is meant, annotate a ListenerClass with {types.CONFIRM_REMOVALS}: "{halt.digest}", or restart'
        hint += f"; {unmatched}" if unmatched else ""
        problems.append(Problem(file, line, "", message, hint))
    return problems


def _removed(in_force: documents.Snapshot, declared: documents.Snapshot, time: int) -> dict[str, list[Removal]]:
    """Return the documents and addresses that a reading would take out of service, by namespace."""
    removals: dict[str, list[Removal]] = {}
    gone = [in_force.listeners[key] for key in in_force.listeners.keys() - declared.listeners.keys()]
    gone_destinations = [
        in_force.destinations[key] for key in in_force.destinations.keys() - declared.destinations.keys()
    ]
    for listener in gone:
        removals.setdefault(listener.namespace, []).append(Removal("Listener", listener.namespace, listener.name))
    for destination in gone_destinations:
        removals.setdefault(destination.namespace, []).append(
            Removal("Destination", destination.namespace, destination.name)
        )
    for key in in_force.listeners.keys() & declared.listeners.keys():
        changed = declared.listeners[key]
        for address in documents.retiring_addresses(in_force.listeners[key], changed, time):
            removal = Removal("Address", changed.namespace, changed.name, address.id)
            removals.setdefault(changed.namespace, []).append(removal)
    return removals


def _count(snapshot: documents.Snapshot, namespace: str) -> dict[RemovalKind, int]:
    """Return how many documents of a namespace are in force."""
    return {
        "Listener": sum(listener.namespace == namespace for listener in snapshot.listeners.values()),
        "Destination": sum(destination.namespace == namespace for destination in snapshot.destinations.values()),
        "Address": sum(
            len(listener.live_addresses) for listener in snapshot.listeners.values() if listener.namespace == namespace
        ),
    }
