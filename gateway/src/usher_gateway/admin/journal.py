"""Finds what changed since a caller last asked, by cursors over the newest state of each key. Pure.

The journal is not a log: it returns only the last state of a key that changed twice. It answers a cursor with every
key if another process issued the cursor, or if it no longer remembers the removals after it.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

_MAX_REMOVED = 10_000
"""Removals that the journal remembers."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Changes(msgspec.Struct, Generic[Key, Value], frozen=True):
    """The answer to a cursor."""

    cursor: str
    complete: bool
    """Whether `present` has every key; otherwise it has the keys that changed."""
    present: dict[Key, Value]
    removed: list[Key]


class ChangeJournal(Generic[Key, Value]):
    """The newest state of each key, in the order of the changes."""

    def __init__(self, incarnation: str) -> None:
        """`incarnation` marks the cursors of this process."""
        self._incarnation = incarnation
        self._revision = 0
        self._oldest = 0
        """A cursor below this revision may have missed removals that the journal forgot."""
        self._present: dict[Key, tuple[int, Value]] = {}
        self._removed: dict[Key, int] = {}

    @property
    def present(self) -> dict[Key, Value]:
        """The state of every key."""
        return {key: value for key, (_, value) in self._present.items()}

    def get(self, key: Key) -> Value | None:
        """The newest state of a key; None if there is none."""
        found = self._present.get(key)
        return None if found is None else found[1]

    def note(self, key: Key, value: Value | None) -> None:
        """Note the state of a key; None: it is removed. An equal state changes nothing."""
        known = self._present.get(key)
        if value is None:
            self._note_removed(key, known is not None)
            return
        if known is not None and known[1] == value:
            return
        self._revision += 1
        self._removed.pop(key, None)
        self._present.pop(key, None)  # move it to the end, for since()
        self._present[key] = (self._revision, value)

    def _note_removed(self, key: Key, was_present: bool) -> None:
        if not was_present and key in self._removed:
            return
        self._revision += 1
        self._present.pop(key, None)
        self._removed[key] = self._revision
        if len(self._removed) > _MAX_REMOVED:
            first = next(iter(self._removed))
            self._oldest = self._removed.pop(first)

    def since(self, cursor: str | None) -> Changes[Key, Value]:
        """Return what changed after a cursor, or everything if the cursor is None or cannot be continued."""
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
