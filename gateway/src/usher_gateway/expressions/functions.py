"""The functions for expressions that the native core lacks: texts, digests and local times.

Their names and results are the same as in CEL's strings extension, as far as that has them. The core calls them, with
the interpreter's lock held, so the calls in one evaluation share a work budget.
"""

import base64
import datetime
import functools
import hashlib
import importlib.resources
import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_TEXT = 262_144  # Longest text that a function returns, in characters
MAX_SPLIT = 100  # Most items of `split`; it leaves out the others

_CALL_WORK = 2_000
_CHARACTER_WORK = 10
_TIME_WORK = 20_000
# A pattern for `format`: any text, with the strftime(3) directives that mean the same everywhere.
_DIRECTIVES = re.compile(r"(?:[^%]|%[YmdHMSyjBbAaIpzZ%])*", re.DOTALL)


class TooExpensiveError(Exception):
    """A call would use more work than is left, or its value is too large."""


class FunctionCalls:
    """The calls of one evaluation. A unit of work is about a nanosecond."""

    def __init__(self, max_work: int, copies: int) -> None:
        self._left = max_work  # The work that the calls may still do together
        self._copies = copies  # How often the core may copy what a call returns
        self.error: Exception | None = None  # Why a call failed: the core hides the class of the error

    def bound(self, names: Iterable[str]) -> dict[str, Callable[..., Any]]:
        """Return functions as the core may call them."""
        return {name: functools.partial(self._call, FUNCTIONS[name]) for name in names}

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            work = _TIME_WORK if function in (_date, _format) else _CALL_WORK
            self._spend(work + _CHARACTER_WORK * sum(map(_length, arguments)))
            result = function(*arguments)
            self._spend(_length(result) * (_CHARACTER_WORK + self._copies))
        except Exception as error:
            self.error = error
            raise
        return result

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise TooExpensiveError


def _length(value: object) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return len(value) + sum([_length(item) for item in value if isinstance(item, str)])
    return 1


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value


def _encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else _text(value).encode()


def _lower_ascii(text: object) -> str:
    return _text(text).encode().lower().decode()  # bytes change only ASCII letters


def _upper_ascii(text: object) -> str:
    return _text(text).encode().upper().decode()


def _trim(text: object) -> str:
    return _text(text).strip()


def _replace(text: object, old: object, new: object) -> str:
    whole, searched, inserted = _text(text), _text(old), _text(new)
    count = whole.count(searched)
    if len(whole) + count * (len(inserted) - len(searched)) > MAX_TEXT:
        raise TooExpensiveError
    return whole.replace(searched, inserted)


def _split(text: object, separator: object) -> list[str]:
    whole, between = _text(text), _text(separator)
    return whole.split(between, MAX_SPLIT)[:MAX_SPLIT] if between else list(whole[:MAX_SPLIT])


def _join(items: object, separator: object = "") -> str:
    if not isinstance(items, list):
        raise TypeError("not a list")
    texts = [_text(item) for item in items]
    if sum(map(len, texts)) + len(texts) * len(_text(separator)) > MAX_TEXT:
        raise TooExpensiveError
    return _text(separator).join(texts)


def _substring(text: object, start: object, end: object = None) -> str:
    whole, first = _text(text), _number(start)
    last = len(whole) if end is None else _number(end)
    if not 0 <= first <= last <= len(whole):
        raise IndexError("outside of the text")
    return whole[first:last]


def _md5(value: object) -> str:
    """Return the digest by which APIs such as Mailchimp's name a person."""
    return hashlib.md5(_encoded(value), usedforsecurity=False).hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(_encoded(value)).hexdigest()


def _base64(value: object) -> str:
    return base64.b64encode(_encoded(value)).decode()


def _local(time: object, zone: object) -> datetime.datetime:
    """Return a time, as RFC 3339 text or a timestamp, in an IANA zone."""
    moment = time if isinstance(time, datetime.datetime) else datetime.datetime.fromisoformat(_text(time))
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset")
    try:
        return moment.astimezone(_zone(_text(zone)))
    except OverflowError as error:  # such as a time in the year 10,000
        raise ValueError("there is no such time in the zone") from error


@functools.cache
def _zone_names() -> frozenset[str]:
    """Return the names that tzdata lists, because ``zoneinfo.available_timezones`` opens 600 files."""
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text("utf-8").split())


@functools.lru_cache(maxsize=1024)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    if name not in _zone_names():  # a search for a name that does not exist would take a millisecond
        raise ValueError("there is no such zone")
    return zoneinfo.ZoneInfo(name)


def _date(time: object, zone: object) -> str:
    return _local(time, zone).date().isoformat()


def _format(time: object, pattern: object, zone: object) -> str:
    if not _DIRECTIVES.fullmatch(_text(pattern)) or len(_text(pattern)) > MAX_TEXT // 16:
        raise ValueError("the pattern has a directive that is not allowed")
    return _local(time, zone).strftime(_text(pattern))


# The functions by their names in expressions. Each may also be written as a method of its first argument.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "base64": _base64,
    "date": _date,
    "format": _format,
    "join": _join,
    "lowerAscii": _lower_ascii,
    "md5": _md5,
    "replace": _replace,
    "sha256": _sha256,
    "split": _split,
    "substring": _substring,
    "trim": _trim,
    "upperAscii": _upper_ascii,
}
