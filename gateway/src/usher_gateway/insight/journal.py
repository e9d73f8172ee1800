"""A journal of the newest states, from which a caller that polls learns what changed since its last question."""

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

_MAX_REMOVED = 10_000  # Removals that the journal remembers

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Changes(msgspec.Struct, Generic[_Key, _Value], frozen=True):
    """The answer to a cursor."""

    cursor: str
    complete: bool
    """Whether `present` has every key; otherwise it has the keys that changed."""
    present: dict[_Key, _Value]
    removed: list[_Key]


class ChangeJournal(Generic[_Key, _Value]):
    """Each key's newest state, in the order of the changes. Pure.

    The journal is not a log: it returns only the last state if a key changed twice. It answers a cursor with every
    key if another process issued the cursor, or if it no longer remembers the removals after it.
    """

    def __init__(self, incarnation: str) -> None:
        """`incarnation` marks this process's cursors."""
        self._incarnation = incarnation
        self._revision = 0
        self._oldest = 0  # A cursor below this revision may have missed removals that the journal forgot
        self._present: dict[_Key, tuple[int, _Value]] = {}
        self._removed: dict[_Key, int] = {}

    @property
    def present(self) -> dict[_Key, _Value]:
        """Every key's state."""
        return {key: value for key, (_, value) in self._present.items()}

    def get(self, key: _Key) -> _Value | None:
        """A key's newest state; None if there is none."""
        entry = self._present.get(key)
        return None if entry is None else entry[1]

    def note(self, key: _Key, value: _Value | None) -> None:
        """Note a key's state; None: it is removed. An equal state changes nothing."""
        entry = self._present.get(key)
        if value is None:
            self._note_removed(key, entry is not None)
            return
        if entry is not None and entry[1] == value:
            return
        self._revision += 1
        self._removed.pop(key, None)
        self._present.pop(key, None)  # move it to the end, for since()
        self._present[key] = (self._revision, value)

    def _note_removed(self, key: _Key, was_present: bool) -> None:
        if not was_present and key in self._removed:
            return
        self._revision += 1
        self._present.pop(key, None)
        self._removed[key] = self._revision
        if len(self._removed) > _MAX_REMOVED:
            first = next(iter(self._removed))
            self._oldest = self._removed.pop(first)

    def since(self, cursor: str | None) -> Changes[_Key, _Value]:
        """Return what changed after a cursor, or everything if the cursor is None or cannot be continued."""
        cursor_revision = self._revision_of(cursor)
        after = 0 if cursor_revision is None else cursor_revision
        present: dict[_Key, _Value] = {}
        for key, (revision, value) in reversed(self._present.items()):
            if revision <= after:
                break
            present[key] = value
        removed = (
            [key for key, revision in self._removed.items() if revision > after] if cursor_revision is not None else []
        )
        return Changes(f"{self._incarnation}.{self._revision}", cursor_revision is None, present, removed)

    def _revision_of(self, cursor: str | None) -> int | None:
        """Return a cursor's revision from which an answer can continue; None if it cannot."""
        incarnation, _, number = (cursor or "").partition(".")
        if incarnation != self._incarnation or not number.isdecimal() or len(number) > 18:
            return None
        revision = int(number)
        return revision if self._oldest <= revision <= self._revision else None
