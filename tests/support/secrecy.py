"""What programs of the whole run told is searched for the secrets that they were given."""

import base64
from collections.abc import Iterator

_SHORTEST = 12
"""What is shorter may stand somewhere by chance, and no credential of a test is."""

_CHUNK = 64

_kept: set[str] = set()
_found: list[str] = []


def keep(value: str) -> None:
    """From now on, this value is searched for, plain and as the data of a Secret has it."""
    value = value.strip()
    if len(value) >= _SHORTEST:
        _kept.update((value, base64.b64encode(value.encode()).decode().rstrip("=")))


def keep_data(encoded: str) -> None:
    """The same with a piece out of the middle of a Secret's data: whoever tells that tells all of it."""
    middle = max(0, len(encoded) // 2 - _CHUNK // 2)
    _kept.add(encoded[middle : middle + _CHUNK])


def search(source: str, text: str) -> None:
    """Search what a program told: a log, an Event, a condition, metrics, a report."""
    for value in _kept:
        at = text.find(value)
        if at >= 0:
            _found.append(f"{source}: …{text[max(0, at - 200) : at]}<{value[:4]}…>")


def take_found() -> list[str]:
    """Where a secret was found, and what stood before it. Empties the list."""
    found = list(_found)
    _found.clear()
    return found


def watching() -> Iterator[None]:
    """For a session-wide fixture: fails at the end if a secret was told."""
    yield
    found = take_found()
    assert not found, "a secret was told:\n" + "\n".join(found)
