"""The removal limit: one rule that says when a user has to confirm removals. Pure.

If more than ``max(5, 10 %)`` of a namespace's listeners or destinations would be removed within ten minutes, none is
removed until a user confirms it, and neither is the whole install's last listener. Edits that would take more of its
addresses than that out of service wait in the same way, and so do retired addresses that would end. A user confirms
exactly the removals that a message named, with the annotation ``usher.dev/confirm-removals``, whose value is the hash
in that message.

A mistake such as a deleted folder or namespace looks like a wish to remove everything in it, and a list that is wrong
looks like a wish to remove everything. Files and the operator share this rule.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from usher_gateway.resources import types

ALWAYS_ALLOWED = 5  # So many objects of a kind may always be removed, even of very few
ALLOWED_SHARE = 0.1  # This share of a namespace's objects of a kind may be removed
WINDOW_SECONDS = 600.0  # Removals within this time count together. Tombstones stay for as long.
_MAX_MESSAGES = 16  # How many messages about one halt a confirmation may name: the newest ones

RemovalKind = Literal["Listener", "Destination", "Address", "RetiredAddress"]

# Removal kinds after which the Listener's document stays in force.
ADDRESS_KINDS: frozenset[RemovalKind] = frozenset({"Address", "RetiredAddress"})

Identity = tuple[RemovalKind, str]  # Kind and name of a removal; it is unique in a namespace


class Removal(msgspec.Struct, frozen=True, order=True):
    """A document, or one Listener's addresses, that would go out of service."""

    kind: RemovalKind
    """``Listener`` and ``Destination``: a document ends. ``Address``: an edit retires a Listener's addresses.
    ``RetiredAddress``: a Listener's retired addresses end."""
    namespace: str
    name: str  # Name of the Listener or Destination
    addresses: tuple[str, ...] = ()  # `Address.id` of each address; empty for documents
    uid: str = ""  # The object's uid, so that no confirmation covers a later object of the same name; `""` from files
    version: str = ""
    """The published document's ``resourceVersion``, so that no confirmation covers the object's later documents;
    ``""`` from files."""

    @property
    def identity(self) -> Identity:
        """Kind and name."""
        return self.kind, self.name

    @property
    def count(self) -> int:
        """How many documents or addresses these are."""
        return len(self.addresses) or 1


class HaltedRemovals(msgspec.Struct, frozen=True, order=True):
    """One namespace's removals that wait until a user confirms them, as one message names them."""

    namespace: str
    digest: str  # The value of the annotation `usher.dev/confirm-removals` that confirms exactly these removals
    removals: tuple[Removal, ...]  # Sorted; empty if a halt began without them

    @classmethod
    def of(cls, removals: Collection[Removal]) -> "HaltedRemovals":
        """Return one namespace's removals, at least one, with the digest (12 hex digits) that confirms them."""
        ordered = tuple(sorted(removals))
        digest = hashlib.sha256(msgspec.json.encode(ordered)).hexdigest()[:_HASH_LENGTH]
        return cls(ordered[0].namespace, digest, ordered)

    @property
    def count(self) -> int:
        """How many documents and addresses wait."""
        return sum(removal.count for removal in self.removals)


class RemovalBounds(msgspec.Struct, frozen=True):
    """The facts that limit what a namespace may remove without a confirmation."""

    in_force: Mapping[RemovalKind, int]  # How many the namespace has in force now, by kind
    removed: Mapping[RemovalKind, int] = {}  # How many were removed within the last `WINDOW_SECONDS`, by kind
    limit: int | None = None  # The most of each kind; None means the usual limit
    removes_every_listener: bool = False  # True if the whole install would be left without a listener


class RemovalDecision(msgspec.Struct, frozen=True):
    """The decision about all removals that a namespace waits for."""

    allowed: frozenset[Removal]
    messages: tuple[HaltedRemovals, ...]
    """The unconfirmed messages since the halt began, for the next decision. The last names the removals that wait now.
    Empty if nothing waits."""


def decide(
    requested: Collection[Removal],
    *,
    messages: tuple[HaltedRemovals, ...],
    confirmed: Collection[str],
    bounds: RemovalBounds,
) -> RemovalDecision:
    """Decide about one namespace's removals: confirmed ones go ahead, and all others or none.

    A halt does not end because some objects are wanted again, for a user may be restoring them one by one. It ends once
    all are. If a user confirmed only some waiting removals, the others go on waiting, and those that no message named
    yet are judged together with the confirmed ones.

    ``requested`` has all removals that the namespace waits for, ``messages`` are the previous decision's, and
    ``confirmed`` has the hashes that users have confirmed.
    """
    waiting = frozenset(requested)
    covered = waiting.intersection(
        removal for message in messages if message.digest in confirmed for removal in message.removals
    )
    uncovered = waiting - covered
    named = messages[-1].removals if messages else ()
    # A halt may begin without names.
    is_still_halted = bool(messages) and (not named or not uncovered.isdisjoint(named))
    if not uncovered or not (is_still_halted or exceeds_limit(uncovered, bounds, confirmed=covered)):
        return RemovalDecision(waiting, ())
    halt = HaltedRemovals.of(uncovered)
    earlier = [message for message in messages if message.digest not in {*confirmed, halt.digest}]
    return RemovalDecision(covered, (*earlier[1 - _MAX_MESSAGES :], halt))


def exceeds_limit(removals: Iterable[Removal], bounds: RemovalBounds, *, confirmed: Iterable[Removal] = ()) -> bool:
    """Return whether a namespace has more removals than it may make without a confirmation.

    ``confirmed``: those that go ahead at the same time, and count like those in the last ``WINDOW_SECONDS``.
    """
    counts, confirmed_counts = count_by_kind(removals), count_by_kind(confirmed)
    if bounds.removes_every_listener and counts["Listener"]:
        return True
    for kind, count in counts.items():
        removed = bounds.removed.get(kind, 0)
        usual_limit = max(ALWAYS_ALLOWED, ALLOWED_SHARE * (bounds.in_force.get(kind, 0) + removed))
        if count + confirmed_counts[kind] + removed > (usual_limit if bounds.limit is None else bounds.limit):
            return True
    return False


def count_by_kind(removals: Iterable[Removal]) -> Counter[RemovalKind]:
    """Return how many documents and addresses removals take out of service, by kind."""
    counts: Counter[RemovalKind] = Counter()
    for removal in removals:
        counts[removal.kind] += removal.count
    return counts


def confirmations_of(annotations: Mapping[str, str]) -> frozenset[str]:
    """Return the hashes in a ListenerClass's annotation: one, or several with commas between them."""
    hashes = annotations.get(types.CONFIRM_REMOVALS, "").split(",")
    return frozenset(digest.strip() for digest in hashes if digest.strip())


def smallest_limit(limits: Iterable[int | None]) -> int | None:
    """Return an install's limit: the smallest that a class sets; None means the usual limit."""
    return min((limit for limit in limits if limit is not None), default=None)


_MAX_NAMES = 3  # Objects that a message names in each namespace, and hashes that match nothing
_HASH_LENGTH = 12  # Characters of a hash; longer values are cut in a message
_MESSAGE_CHARACTERS = 500  # The length from which a message does not name further namespaces


def describe_halts(halts: Iterable[HaltedRemovals]) -> str:
    """Return the namespaces with halted removals in order, each with a few names and the hash that confirms it.

    If they are many, the text says where the others are; the status field has the first thousand.
    """
    text, others = "", 0
    for halt in sorted(halts):
        if len(text) > _MESSAGE_CHARACTERS:
            others += 1
        else:
            text += f'{"; " if text else ""}"{halt.digest}" for {describe_removals(halt)}'
    return f"{text}; {others} more in `status.haltedRemovals` and the operator's log" if others else text


def confirm_command(class_name: str, halt: HaltedRemovals) -> str:
    """Return the command that confirms halted removals."""
    annotation = f"{types.CONFIRM_REMOVALS}={halt.digest}"
    return f"kubectl annotate --overwrite listenerclasses.usher.dev {class_name} {annotation}"


def describe_unused(confirmations: Collection[str], halts: Iterable[HaltedRemovals]) -> str:
    """Return which annotation values confirm nothing, and why; ``""`` if it has none."""
    digests = {halt.digest for halt in halts}
    unmatched, early = sorted(set(confirmations) - digests), sorted(digests.intersection(confirmations))
    descriptions = []
    if early:
        descriptions.append(
            f"the annotation has `{early[0]}`; if its removals go on waiting, it was there before they were: delete "
            "the annotation and add it again"
        )
    if unmatched:
        descriptions.append(_describe_unmatched(unmatched))
    return "; ".join(descriptions)


def _describe_unmatched(unmatched: Sequence[str]) -> str:
    cut = [text if len(text) <= _HASH_LENGTH else f"{text[:_HASH_LENGTH]}…" for text in unmatched[:_MAX_NAMES]]
    more = " and others" if len(unmatched) > _MAX_NAMES else ""
    return f"the annotation has {', '.join([f'`{text}`' for text in cut])}{more}, which matches nothing that waits"


def describe_removals(halted: HaltedRemovals) -> str:
    """Return a few halted removals' names, listeners first, how many more there are, and their namespace.

    Right after a start the operator has only the hash of what waited before.
    """
    listeners_first = sorted(halted.removals, key=lambda removal: removal.kind == "Destination")
    names = [_describe(removal) for removal in listeners_first] or ["removals"]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more} in namespace `{halted.namespace}`"


def _describe(removal: Removal) -> str:
    if removal.kind == "Address":
        return f"addresses of Listener `{removal.name}`"
    if removal.kind == "RetiredAddress":
        return f"retired addresses of Listener `{removal.name}`"
    return f"{removal.kind} `{removal.name}`"
