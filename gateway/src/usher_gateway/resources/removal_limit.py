"""The removal limit: the most listeners that one pass may remove before a user has to confirm it.

A mistake such as a deleted folder or namespace looks like a wish to remove every listener. So if a pass would remove
more than ``max(5, 10 %)`` of the listeners in force, Usher removes none of them until a user sets the annotation
``usher.dev/confirm-removals`` to the digest of exactly this set. Files and the operator share this rule. Pure.
"""

import hashlib
from collections.abc import Collection, Iterable

import msgspec

ALWAYS_ALLOWED = 5
"""One pass may always remove this many listeners, even of very few."""

ALLOWED_SHARE = 0.1
"""One pass may remove this share of the listeners in force."""


class HaltedRemovals(msgspec.Struct, frozen=True):
    """Removals that wait until a user confirms them."""

    digest: str
    """The value of the annotation ``usher.dev/confirm-removals`` that confirms them."""
    names: tuple[str, ...]
    """The listeners (``namespace/name``) that would be removed, sorted; other documents have their kind in front."""


def halted_removals(
    names: Iterable[str], *, in_force: int, confirmed: Collection[str], is_suspicious: bool = False
) -> HaltedRemovals | None:
    """Return the removals if they have to wait for a user, or None if they may go ahead.

    Args:
        names: The listeners that this pass would remove.
        in_force: The number of listeners in force before the pass.
        confirmed: The digests that users have confirmed.
        is_suspicious: True if the removals have to be confirmed even if they are few.
    """
    removed = tuple(sorted(names))
    if not is_suspicious and len(removed) <= max(ALWAYS_ALLOWED, ALLOWED_SHARE * in_force):
        return None
    digest = removal_digest(removed)
    return None if digest in confirmed else HaltedRemovals(digest, removed)


def removal_digest(names: Iterable[str]) -> str:
    """Return the digest (12 hex digits) that confirms the removal of exactly this set."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]
