"""What has changed since somebody asked last: a cursor over the newest state of each thing. Pure.

Not a log: of a thing that changed twice only the last state is told. A cursor of another process, or an older one than
is remembered, is answered with everything.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

_MOST_REMOVED = 10_000
"""So many removals are remembered."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Changes(msgspec.Struct, Generic[Key, Value], frozen=True):
    """The answer to a cursor."""

    cursor: str
    complete: bool
    """Whether ``present`` is all there is; else it is what changed."""
    present: dict[Key, Value]
    removed: list[Key]


class Journal(Generic[Key, Value]):
    """The newest state of each thing, in the order in which they changed."""

    def __init__(self, incarnation: str) -> None:
        """``incarnation`` tells the cursors of this process from those of others."""
        self._incarnation = incarnation
        self._revision = 0
        self._oldest = 0
        """Cursors below do not know of removals that are forgotten."""
        self._present: dict[Key, tuple[int, Value]] = {}
        self._removed: dict[Key, int] = {}

    @property
    def present(self) -> dict[Key, Value]:
        """Everything there is."""
        return {key: value for key, (_, value) in self._present.items()}

    def get(self, key: Key) -> Value | None:
        """The newest state of a thing; None where there is none."""
        found = self._present.get(key)
        return None if found is None else found[1]

    def note(self, key: Key, value: Value | None) -> None:
        """Tell the present state of a thing; None: it is removed. What is as before changes nothing."""
        known = self._present.get(key)
        if value is None:
            self._note_removed(key, known is not None)
            return
        if known is not None and known[1] == value:
            return
        self._revision += 1
        self._removed.pop(key, None)
        self._present.pop(key, None)  # to the end, for since()
        self._present[key] = (self._revision, value)

    def _note_removed(self, key: Key, was_present: bool) -> None:
        if not was_present and key in self._removed:
            return
        self._revision += 1
        self._present.pop(key, None)
        self._removed[key] = self._revision
        if len(self._removed) > _MOST_REMOVED:
            first = next(iter(self._removed))
            self._oldest = self._removed.pop(first)

    def since(self, cursor: str | None) -> Changes[Key, Value]:
        """What changed after a cursor; everything where it is None, or not one that can be continued."""
        known = self._known(cursor)
        after = 0 if known is None else known
        present: dict[Key, Value] = {}
        for key, (revision, value) in reversed(self._present.items()):
            if revision <= after:
                break
            present[key] = value
        removed = [key for key, revision in self._removed.items() if revision > after] if known is not None else []
        return Changes(f"{self._incarnation}.{self._revision}", known is None, present, removed)

    def _known(self, cursor: str | None) -> int | None:
        incarnation, _, number = (cursor or "").partition(".")
        if incarnation != self._incarnation or not number.isdecimal() or len(number) > 18:
            return None
        revision = int(number)
        return revision if self._oldest <= revision <= self._revision else None
