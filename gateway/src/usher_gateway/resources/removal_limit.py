"""The removal limit: the most objects of a namespace that one pass may remove before a user has to confirm it.

A mistake such as a deleted folder or namespace looks like a wish to remove everything in it. So if a pass would remove
more than ``max(5, 10 %)`` or more than 20 of the listeners or destinations that a namespace has in force, or the last
listener of the whole install, Usher removes nothing of that namespace. The halt ends for exactly the removals that a
message named, when a user sets the annotation ``usher.dev/confirm-removals`` to the hash in that message. The same
limit holds for edits that retire addresses. Files and the operator share this rule. Pure.

A single deletion of many small ones looks harmless. So a pass also counts the removals of the last minute.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

import msgspec

from usher_gateway.resources import types

ALWAYS_ALLOWED = 5
"""One pass may always remove this many objects of a kind, even of very few."""

ALLOWED_SHARE = 0.1
"""One pass may remove this share of a namespace's objects of a kind."""

MOST_ALLOWED = 20
"""One pass may never remove more objects of a kind than this."""

WINDOW_SECONDS = 60.0
"""Unconfirmed removals within this time count as one pass."""

RemovalKind = Literal["Listener", "Destination", "Address"]
Identity = tuple[RemovalKind, str, str]
"""Kind, name and address of a removal; it is unique in a namespace."""


class Removal(msgspec.Struct, frozen=True, order=True):
    """One thing that would go out of service."""

    kind: RemovalKind
    """``Listener`` and ``Destination``: a document ends. ``Address``: an edit retires an address of a Listener."""
    namespace: str
    name: str
    """Name of the Listener or Destination."""
    address: str = ""
    """Identifies the address within its Listener; ``""`` for documents."""
    uid: str = ""
    """The object's uid, so that no confirmation covers a later object of the same name; ``""`` from files."""
    version: str = ""
    """``resourceVersion`` of the published document, so that no confirmation covers a later document of the object;
    ``""`` from files."""

    @property
    def identity(self) -> Identity:
        """Kind, name and address."""
        return self.kind, self.name, self.address


class HaltedRemovals(msgspec.Struct, frozen=True, order=True):
    """Removals of one namespace that wait until a user confirms them."""

    namespace: str
    digest: str
    """The value of the annotation ``usher.dev/confirm-removals`` that confirms exactly these removals."""
    removals: tuple[Removal, ...]
    """Sorted."""

    @classmethod
    def of(cls, removals: Collection[Removal]) -> "HaltedRemovals":
        """Return removals of one namespace, at least one, with the digest (12 hex digits) that confirms them."""
        ordered = tuple(sorted(removals))
        lines = "\n".join("\0".join(msgspec.structs.astuple(removal)) for removal in ordered)
        return cls(ordered[0].namespace, hashlib.sha256(lines.encode()).hexdigest()[:_HASH_LENGTH], ordered)


class RemovalBounds(msgspec.Struct, frozen=True):
    """The facts that bound how much of a namespace one pass may remove."""

    in_force: Mapping[RemovalKind, int]
    """How many the namespace has in force now, by kind."""
    limit: int | None = None
    """The most of each kind; None means the usual limit."""
    removes_every_listener: bool = False
    """True if the pass would leave the whole install without a listener."""


class RemovalDecision(msgspec.Struct, frozen=True):
    """Result of a pass over one namespace."""

    allowed: frozenset[Removal] = frozenset()
    unconfirmed: frozenset[Removal] = frozenset()
    """The allowed removals that no user confirmed: they count for ``WINDOW_SECONDS``."""
    halted: HaltedRemovals | None = None


def decide(
    requested: Collection[Removal],
    *,
    named: Iterable[HaltedRemovals],
    confirmed: Collection[str],
    waited: Collection[Removal],
    is_too_much: Callable[[frozenset[Removal]], bool],
) -> RemovalDecision:
    """Decide about the removals of one namespace: confirmed ones go ahead, and all others or none of them.

    A halt does not end because some of the objects are wanted again, for a user may be restoring them one by one. But
    if a user confirmed a part of what waits, the rest is judged again.

    Args:
        requested: All removals that the namespace waits for.
        named: The removals that earlier messages named.
        confirmed: The hashes that users have confirmed.
        waited: The removals that are halted so far.
        is_too_much: Says whether a pass with these removals has to wait (``exceeds_limit``).
    """
    all_removals = frozenset(requested)
    if not all_removals:
        return RemovalDecision()
    covered = frozenset(
        removal
        for halt in (*named, HaltedRemovals.of(all_removals))
        if halt.digest in confirmed
        for removal in halt.removals
    )
    rest = all_removals - covered
    is_still_halted = rest == all_removals and not rest.isdisjoint(waited)
    if rest and (is_still_halted or is_too_much(rest)):
        return RemovalDecision(all_removals & covered, halted=HaltedRemovals.of(rest))
    return RemovalDecision(all_removals, unconfirmed=rest)


def exceeds_limit(removals: Iterable[Removal], bounds: RemovalBounds, *, recent: Iterable[Removal] = ()) -> bool:
    """Return whether a pass would remove more of a namespace than the limit allows.

    Args:
        removals: The unconfirmed removals of the pass.
        bounds: The documents of the namespace, and the limit.
        recent: The unconfirmed removals of the last minute, which are not in force any more.
    """
    removals = tuple(removals)
    if bounds.removes_every_listener and any(removal.kind == "Listener" for removal in removals):
        return True
    present, past = Counter(removal.kind for removal in removals), Counter(removal.kind for removal in recent)
    return any(
        present[kind] + past[kind] > _limit_of(bounds.in_force.get(kind, 0) + past[kind], bounds.limit)
        for kind in sorted(present)
    )


def _limit_of(count: int, limit: int | None) -> float:
    return min(MOST_ALLOWED, max(ALWAYS_ALLOWED, ALLOWED_SHARE * count)) if limit is None else limit


def confirmations_of(annotations: Mapping[str, str]) -> frozenset[str]:
    """Return the hashes in the annotation of a ListenerClass: one, or several with commas between them."""
    hashes = annotations.get(types.CONFIRM_REMOVALS, "").split(",")
    return frozenset(digest.strip() for digest in hashes if digest.strip())


def smallest_limit(limits: Iterable[int | None]) -> int | None:
    """Return the limit of an install: the smallest that a class sets; None means the usual limit."""
    return min((limit for limit in limits if limit is not None), default=None)


_MAX_NAMES = 3
"""Objects that a message names in each namespace, and hashes that match nothing."""

_HASH_LENGTH = 12
"""Characters of a hash; longer values are cut in a message."""

_MESSAGE_CHARACTERS = 500
"""The length from which a message names further namespaces without their objects and hashes."""

_MAX_FURTHER_NAMESPACES = 10
"""Namespaces that a message names beyond that length."""


def describe_halts(halts: Iterable[HaltedRemovals]) -> str:
    """Return the namespaces with halted removals in order, each with a few names and the hash that confirms it.

    If they are many, the text names some without a hash, and says where all hashes are.
    """
    text, further = "", []
    for halt in sorted(halts):
        if len(text) > _MESSAGE_CHARACTERS:
            further.append(f"in namespace `{halt.namespace}`")
        else:
            text += f'{"; " if text else ""}"{halt.digest}" for {describe_removals(halt)}'
    if further:
        more = " and others" if len(further) > _MAX_FURTHER_NAMESPACES else ""
        text += f"; also removals {', '.join(further[:_MAX_FURTHER_NAMESPACES])}{more}: "
        text += "the operator's log (removals_halted) has their hashes"
    return text


def confirm_command(class_name: str, halt: HaltedRemovals) -> str:
    """Return the command that confirms halted removals."""
    annotation = f"{types.CONFIRM_REMOVALS}={halt.digest}"
    return f"kubectl annotate --overwrite listenerclasses.usher.dev {class_name} {annotation}"


def describe_unmatched(confirmations: Collection[str], halts: Iterable[HaltedRemovals]) -> str:
    """Return which values of the annotation confirm no halted removals; ``""`` if all of them do."""
    unmatched = sorted(set(confirmations) - {halt.digest for halt in halts})
    if not unmatched:
        return ""
    cut = [text if len(text) <= _HASH_LENGTH else f"{text[:_HASH_LENGTH]}…" for text in unmatched[:_MAX_NAMES]]
    more = " and others" if len(unmatched) > _MAX_NAMES else ""
    return f"the annotation has {', '.join([f'`{text}`' for text in cut])}{more}, which matches nothing that waits"


def namespaces_in(description: str) -> frozenset[str]:
    """Return the namespaces that a text of ``describe_halts`` names."""
    return frozenset(re.findall(r"in namespace `([^`]+)`", description))


def describe_removals(halted: HaltedRemovals) -> str:
    """Return a few names of halted removals, listeners first, how many more there are, and their namespace."""
    listeners_first = sorted(halted.removals, key=lambda removal: removal.kind == "Destination")
    names = list(dict.fromkeys(_describe(removal) for removal in listeners_first))
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more} in namespace `{halted.namespace}`"


def _describe(removal: Removal) -> str:
    if removal.kind == "Address":
        return f"addresses of Listener `{removal.name}`"
    return f"{removal.kind} `{removal.name}`"
