"""A problem with a file: where it is, what is wrong, and how to mend it."""

import difflib
from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning", "notice"]


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing to tell whoever wrote a file. ``line`` counts from 1; ``path`` is a field such as ``spec.routes[0]``.

    Messages never repeat values of Secrets.
    """

    file: str
    line: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"
    resource: str = ""
    """``Kind namespace/name``, where it is known."""
    reason: str = ""
    """Reason of the condition, for what compile() found."""
    because: str = ""
    """What it only follows from: the ``resource`` of another problem, or its ``file:line``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word; else all of them, where they are few; else nothing."""
    words = sorted(known)
    near = nearest(word, words)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"known: {', '.join(words)}" if 0 < len(words) <= 16 else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    lowered = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of the problems is more than a warning."""
    return any(found.severity == "error" for found in problems)
