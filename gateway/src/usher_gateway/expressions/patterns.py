"""Patterns for ``matches``: RE2 compiles each once, within a memory limit, and takes time linear in the text."""

import functools
from typing import Any

import re2

# Most memory of a compiled pattern, in bytes. A larger one is refused within about 2 ms, before it is complete.
MAX_PATTERN_MEMORY = 128 * 1024

MAX_PATTERNS = 2048  # Most compiled patterns in memory. They take at most 256 MiB, and usually a few kilobytes each.


@functools.lru_cache(maxsize=MAX_PATTERNS)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = MAX_PATTERN_MEMORY
    options.never_capture = True
    options.log_errors = False
    return re2.compile(pattern.encode(), options)


def matches(text: object, pattern: str) -> bool:
    """Return whether a part of a text matches a pattern."""
    if not isinstance(text, str):
        raise TypeError("only a text can match a pattern")
    return _compile(pattern).search(text.encode()) is not None


def program_size(pattern: str) -> int:
    """Return how many instructions a compiled pattern has: its time for a text is proportional to them."""
    return int(_compile(pattern).programsize)


def problem_of(pattern: object) -> str | None:
    """Return why a pattern cannot be used, or None."""
    if not isinstance(pattern, str):
        return "must be a text, not bytes"
    try:
        _compile(pattern)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        if "too large" in reason:
            return (
                "is too large: repeat fewer times, or use [a-z] instead of a class such as \\pL that has thousands of "
                "characters"
            )
        return f"is not valid: {reason}; its syntax is RE2's"
    return None
