"""The removal limit for files: one reading's removals are decided together, by namespace. Pure.

A document whose removal waits stays in the snapshot, so the next reading asks for its removal again. ``RemovalHistory``
holds everything else that the next reading has to know. A restart forgets it, and uses the files as they are.
While retired addresses may not end, edits to their Listener go on.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import types
from usher_gateway.resources.conditions import Problem
from usher_gateway.resources.manifests import ObjectsByIdentity
from usher_gateway.resources.removal_limit import (
    ADDRESS_KINDS,
    WINDOW_SECONDS,
    HaltedRemovals,
    Removal,
    RemovalBounds,
    RemovalKind,
    confirmations_of,
    count_by_kind,
    decide,
    describe_removals,
    describe_unused,
    smallest_limit,
)


class RemovalHistory(msgspec.Struct, frozen=True):
    """The removals that later readings have to know."""

    messages: Mapping[str, tuple[HaltedRemovals, ...]] = {}
    """``RemovalDecision.messages`` for each namespace whose removals wait."""
    ignored: frozenset[str] = frozenset()
    """Hashes in annotations that are older than the message with the same hash: they confirmed earlier removals."""
    recent: tuple[tuple[float, Removal], ...] = ()
    """Removals within ``WINDOW_SECONDS``, with their times (monotonic seconds); for addresses each Listener's last
    ones, unless they were confirmed."""

    @property
    def halted(self) -> tuple[HaltedRemovals, ...]:
        """The removals that wait for a confirmation, by namespace."""
        return tuple(messages[-1] for _, messages in sorted(self.messages.items()))

    @property
    def digests(self) -> frozenset[str]:
        """The hashes in all messages."""
        return frozenset(message.digest for messages in self.messages.values() for message in messages)


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

    ``history``: the previous reading's result. ``declared``: the files' documents. ``classes`` have
    confirmations and limits. ``limit`` None means the classes' limit, or the usual one. ``seconds``: the reading's
    time, by a monotonic clock; ``time``: by the gateway's, in microseconds.
    """
    limit = smallest_limit(listener_class.spec.removal_limit for listener_class in classes) if limit is None else limit
    confirmed = frozenset().union(
        *(confirmations_of(listener_class.metadata.annotations) for listener_class in classes)
    )
    requested: dict[str, list[Removal]] = {}
    requested_identities = set()
    for removal in _removed(in_force, declared, time):
        requested_identities.add((removal.namespace, removal.identity))
        requested.setdefault(removal.namespace, []).append(removal)
    recent = [
        (then, removal)
        for then, removal in history.recent
        if seconds - then < WINDOW_SECONDS
        and not _is_declared(removal, declared)
        and (removal.namespace, removal.identity) not in requested_identities
    ]
    messages, removed = {}, []
    for namespace, removals in requested.items():
        bounds = RemovalBounds(
            _count(in_force, namespace),
            count_by_kind(removal for _, removal in recent if removal.namespace == namespace),
            limit,
            removes_every_listener=not declared.listeners,
        )
        decision = decide(
            removals,
            messages=history.messages.get(namespace, ()),
            confirmed=confirmed - history.ignored,
            bounds=bounds,
        )
        if decision.messages:
            messages[namespace] = decision.messages
        is_confirmed = namespace in history.messages
        counted = (removal for removal in decision.allowed if removal.kind not in ADDRESS_KINDS or not is_confirmed)
        removed += [(seconds, removal) for removal in counted]
    decided = RemovalHistory(messages, recent=(*recent, *removed))
    ignored = (history.ignored | (decided.digests - history.digests)) & confirmed
    return msgspec.structs.replace(decided, ignored=ignored)


def _removed(in_force: documents.Snapshot, declared: documents.Snapshot, time: int) -> Iterator[Removal]:
    """Yield the documents and addresses that a reading would take out of service."""
    for key, listener in in_force.listeners.items():
        newest = declared.listeners.get(key)
        if newest is None:
            yield Removal("Listener", listener.namespace, listener.name)
            continue
        if retiring := documents.retiring_addresses(listener, newest, time):
            yield Removal("Address", listener.namespace, listener.name, tuple(address.id for address in retiring))
        if ended := documents.ended_addresses(listener, newest, time):
            yield Removal("RetiredAddress", listener.namespace, listener.name, tuple(address.id for address in ended))
    for key, destination in in_force.destinations.items():
        if key not in declared.destinations:
            yield Removal("Destination", destination.namespace, destination.name)


def _is_declared(removal: Removal, declared: documents.Snapshot) -> bool:
    """Return whether a removed document is back."""
    if removal.kind in ADDRESS_KINDS:
        return False
    declared_documents = declared.destinations if removal.kind == "Destination" else declared.listeners
    return _key(removal) in declared_documents


def _key(removal: Removal) -> str:
    return f"{removal.namespace}/{removal.name}"


def with_kept_documents(
    in_force: documents.Snapshot, declared: documents.Snapshot, history: RemovalHistory
) -> documents.Snapshot:
    """Return the snapshot with the documents whose removal or change waits.

    They do not keep addresses that another listener has now.
    """
    waiting = [removal for halt in history.halted for removal in halt.removals]
    if not waiting:
        return declared
    listeners, destinations = dict(declared.listeners), dict(declared.destinations)
    changed = {_key(removal) for removal in waiting if removal.kind == "Address"}
    unchanged = [document for key, document in declared.listeners.items() if key not in changed]
    taken = {address.place for document in unchanged for address in document.addresses}
    for removal in waiting:
        key = _key(removal)
        if removal.kind == "Destination":
            destinations[key] = in_force.destinations[key]
        elif removal.kind == "RetiredAddress":
            if key not in changed:  # if it is, the whole document in force stays
                listeners[key] = _with_retired(declared.listeners[key], in_force.listeners[key], removal, taken)
        elif (remaining_document := in_force.listeners[key].without_places(taken)).addresses:
            listeners[key] = remaining_document
    return documents.Snapshot(listeners, destinations)


def _with_retired(
    declared: documents.ListenerDocument,
    in_force: documents.ListenerDocument,
    removal: Removal,
    taken: Container[object],
) -> documents.ListenerDocument:
    """Return a document with the retired addresses that may not end yet."""
    waiting = [
        address
        for address in in_force.retired_addresses
        if address.id in removal.addresses and address.place not in taken
    ]
    return msgspec.structs.replace(declared, addresses=(*declared.addresses, *waiting))


def halt_problems(history: RemovalHistory, objects: ObjectsByIdentity) -> list[Problem]:
    """Return a problem for each namespace whose removals wait; it names the hash that confirms them."""
    classes = [loaded for loaded in objects.values() if isinstance(loaded.resource, resources.ListenerClass)]
    file, line = (classes[0].file, classes[0].line) if classes else ("", 0)
    confirmed = frozenset().union(*(confirmations_of(loaded.resource.metadata.annotations) for loaded in classes))
    unused = describe_unused(confirmed, history.halted)
    problems = []
    for halt in history.halted:
        message = (
            f"RemovalsHalted: {describe_removals(halt)} would be taken out of service at once; none of them is, and "
            "edits that change addresses wait too"
        )
        hint = f'if this is meant, annotate a ListenerClass with {types.CONFIRM_REMOVALS}: "{halt.digest}", or restart'
        hint += f"; {unused}" if unused else ""
        problems.append(Problem(file, line, "", message, hint))
    return problems


def _count(snapshot: documents.Snapshot, namespace: str) -> Counter[RemovalKind]:
    """Return how many documents and addresses a namespace has in force."""
    counts: Counter[RemovalKind] = Counter()
    for listener in snapshot.listeners.values():
        if listener.namespace == namespace:
            counts["Listener"] += 1
            counts["Address"] += len(listener.live_addresses)
            counts["RetiredAddress"] += len(listener.retired_addresses)
    counts["Destination"] = sum(destination.namespace == namespace for destination in snapshot.destinations.values())
    return counts
