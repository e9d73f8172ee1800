"""Which published documents may go, and when: gathered, judged together, held back where they are suspiciously many.

A document goes because a plan no longer wants it; a plan knows only what events and complete lists have said. Pure:
times are seconds of a clock that only grows.
"""

from collections.abc import Collection
from typing import Literal

import msgspec

from usher_gateway.resources import removal_limit

Kind = Literal["Listener", "Destination"]
Identity = tuple[Kind, str]
"""Kind and ``namespace/name``."""


class Verdict(msgspec.Struct, frozen=True):
    """What comes of one judgement."""

    allowed: frozenset[Identity] = frozenset()
    halted: removal_limit.HaltedRemovals | None = None


class Removals:
    """Removals that are wanted and not yet judged, and those that are held back."""

    def __init__(self, settle_seconds: float, settle_most_seconds: float) -> None:
        self._settle, self._settle_most = settle_seconds, settle_most_seconds
        self._wanted: set[Identity] = set()
        self._first = self._last = 0.0
        self._is_settled = True
        self._is_reopened = False
        self._suspected: set[Kind] = set()
        self._allowed: set[Identity] = set()
        self.halted: removal_limit.HaltedRemovals | None = None

    def want(self, identity: Identity, now: float) -> bool:
        """A document is wanted no more; True where it may go at once because that was judged already."""
        if identity in self._allowed:
            return True
        if identity not in self._wanted:
            self._wanted.add(identity)
            if self._is_settled:
                self._first = now
            self._last, self._is_settled = now, False
        return False

    def keep(self, identity: Identity) -> None:
        """A document is wanted, or gone for good."""
        self._allowed.discard(identity)
        if identity in self._wanted:
            self._wanted.discard(identity)
            self._is_reopened = self.halted is not None

    def suspect(self, kind: Kind) -> None:
        """What is wanted to go of a kind waits for a person, however little it is, until it is confirmed or back."""
        self._suspected.add(kind)

    def due_in(self, now: float) -> float | None:
        """Seconds until ``judge`` is to be called; None where nothing waits for it."""
        if not self._wanted or self._is_settled:
            return None
        return max(0.0, min(self._last + self._settle, self._first + self._settle_most) - now)

    def is_reopened(self, confirmed: Collection[str]) -> bool:
        """Whether what is held back is to be judged anew: some of it is wanted again, or a person has confirmed it."""
        return self._is_reopened or (self.halted is not None and self.halted.digest in confirmed)

    def judge(self, published: int, confirmed: Collection[str]) -> Verdict:
        """Let everything through, or nothing.

        Args:
            published: how many listener documents are in force now.
            confirmed: digests that ListenerClasses carry.
        """
        was_suspicious = self.halted is not None and bool(self._suspected)
        self._is_settled, self._is_reopened, self.halted = True, False, None
        listeners = tuple(key for kind, key in self._wanted if kind == "Listener")
        is_suspicious = any(kind in self._suspected for kind, _ in self._wanted)
        others = tuple(f"{kind} {key}" for kind, key in self._wanted) if is_suspicious else ()
        self.halted = removal_limit.halted_removals(
            listeners or others, in_force=published, confirmed=confirmed, is_suspicious=is_suspicious
        )
        if self.halted is not None:
            return Verdict(frozenset(), self.halted)
        if is_suspicious or was_suspicious:
            self._suspected.clear()
        allowed = frozenset(self._wanted)
        self._allowed |= allowed
        self._wanted.clear()
        return Verdict(allowed)

    @property
    def waiting(self) -> frozenset[Identity]:
        """What is held back or not yet judged."""
        return frozenset(self._wanted)
