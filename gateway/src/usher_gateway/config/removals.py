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
    before: documents.Snapshot,
    now: documents.Snapshot,
    *,
    classes: Sequence[resources.ListenerClass],
    limit: int | None,
    seconds: float,
    time: int,
) -> RemovalHistory:
    """Decide about the documents and addresses that a reading would take out of service.

    Args:
        history: The result of the previous reading.
        before: The documents in force.
        now: The documents of the files.
        classes: The ListenerClasses of the files, with confirmations and limits.
        limit: The limit of the gateway; None means that of the classes, or the usual one.
        seconds: Time of the reading, by a monotonic clock.
        time: The same by the gateway's clock, in microseconds.
    """
    limit = smallest_limit(one.spec.removal_limit for one in classes) if limit is None else limit
    confirmed = frozenset().union(*(confirmations_of(one.metadata.annotations) for one in classes))
    usable = (confirmed - history.ignored).intersection(one.digest for one in history.named)
    recent = tuple(
        (then, removal)
        for then, removal in history.recent
        if seconds - then < WINDOW_SECONDS and not _is_served(removal, before)
    )
    waited = frozenset(removal for one in history.halted for removal in one.removals)
    removes_every_listener = not now.listeners and not any(one.kind == "Listener" for one in waited)

    def is_too_much(rest: frozenset[Removal]) -> bool:
        namespace = next(iter(rest)).namespace
        bounds = RemovalBounds(_count(before, namespace), limit, removes_every_listener)
        gone = [removal for _, removal in recent if removal.namespace == namespace and not _is_served(removal, now)]
        return exceeds_limit(rest, bounds, recent=gone)

    decisions = []
    for namespace, requested in _removed(before, now, time).items():
        named = [one for one in history.named if one.namespace == namespace]
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
    halted = tuple(one.halted for one in decisions if one.halted is not None)
    named: list[HaltedRemovals] = []
    for one in halted:
        earlier = [known for known in history.named if known.namespace == one.namespace and known != one]
        named += [*earlier[1 - _MAX_NAMED :], one]
    new = {one.digest for one in named} - {one.digest for one in history.named}
    unconfirmed = [(seconds, removal) for one in decisions for removal in sorted(one.unconfirmed)]
    return RemovalHistory(
        halted=halted,
        named=tuple(named),
        ignored=(history.ignored | new) & confirmed,
        recent=(*history.recent, *unconfirmed),
    )


def with_kept_documents(
    before: documents.Snapshot, now: documents.Snapshot, history: RemovalHistory
) -> documents.Snapshot:
    """Return the snapshot with the documents whose removal or change waits.

    They do not keep addresses that another listener has now.
    """
    if not history.halted:
        return now
    listeners, destinations = dict(now.listeners), dict(now.destinations)
    changed = {
        f"{one.namespace}/{one.name}" for halt in history.halted for one in halt.removals if one.kind == "Address"
    }
    unchanged = [document for key, document in now.listeners.items() if key not in changed]
    taken = {(one.host, one.path, one.query) for document in unchanged for one in document.addresses}
    for removal in (removal for one in history.halted for removal in one.removals):
        key = f"{removal.namespace}/{removal.name}"
        if removal.kind == "Destination":
            destinations[key] = before.destinations[key]
            continue
        old = before.listeners[key]
        free = tuple(one for one in old.addresses if (one.host, one.path, one.query) not in taken)
        if free:
            listeners[key] = msgspec.structs.replace(old, addresses=free)
    return documents.Snapshot(listeners, destinations)


def halt_problems(history: RemovalHistory, objects: ObjectsByIdentity) -> list[Problem]:
    """Return a problem for each namespace whose removals wait; it names the hash that confirms them."""
    classes = [one for one in objects.values() if isinstance(one.resource, resources.ListenerClass)]
    file, line = (classes[0].file, classes[0].line) if classes else ("", 0)
    confirmed = frozenset().union(*(confirmations_of(one.resource.metadata.annotations) for one in classes))
    unmatched = describe_unmatched(confirmed, history.halted)
    found = []
    for one in history.halted:
        message = (
            f"RemovalsHalted: {describe_removals(one)} would be taken out of service at once; none of them is, and "
            "edits that change addresses wait too"
        )
        hint = f'if this is meant, annotate a ListenerClass with {types.CONFIRM_REMOVALS}: "{one.digest}", or restart'
        hint += f"; {unmatched}" if unmatched else ""
        found.append(Problem(file, line, "", message, hint))
    return found


def _removed(before: documents.Snapshot, now: documents.Snapshot, time: int) -> dict[str, list[Removal]]:
    """Return the documents and addresses that a reading would take out of service, by namespace."""
    found: dict[str, list[Removal]] = {}
    gone = [before.listeners[key] for key in before.listeners.keys() - now.listeners.keys()]
    gone_destinations = [before.destinations[key] for key in before.destinations.keys() - now.destinations.keys()]
    for listener in gone:
        found.setdefault(listener.namespace, []).append(Removal("Listener", listener.namespace, listener.name))
    for one in gone_destinations:
        found.setdefault(one.namespace, []).append(Removal("Destination", one.namespace, one.name))
    for key in before.listeners.keys() & now.listeners.keys():
        changed = now.listeners[key]
        for address in documents.retiring_addresses(before.listeners[key], changed, time):
            removal = Removal("Address", changed.namespace, changed.name, address.id)
            found.setdefault(changed.namespace, []).append(removal)
    return found


def _count(snapshot: documents.Snapshot, namespace: str) -> dict[RemovalKind, int]:
    """Return how many documents of a namespace are in force."""
    return {
        "Listener": sum(one.namespace == namespace for one in snapshot.listeners.values()),
        "Destination": sum(one.namespace == namespace for one in snapshot.destinations.values()),
        "Address": sum(len(one.live_addresses) for one in snapshot.listeners.values() if one.namespace == namespace),
    }
