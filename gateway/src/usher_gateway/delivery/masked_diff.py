"""Shows how two requests differ, with or without the values. Pure.

Without values, each one is replaced by its type and a number: equal values in the two requests have the same number. So
a reader sees which fields a change adds, drops, renames or gives another value, and learns nothing about the person.
"""

import difflib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from usher_gateway.destinations import DestinationRequest

_MAX_LINES = 200  # Most lines of one difference

# Most values that are compared in a request: a comparison's time grows with more than their square.
_MAX_VALUES = 400

_HIDDEN = "•••"
_CUT = f"(the requests are long: only the first {_MAX_VALUES} values of each are compared)"
_NOT_SHOWN = "(the requests differ in a part that is not shown: a header, or a hidden part of the URL)"

# The keys of a CloudEvent around its data.
_EVENT_KEYS = frozenset(
    (
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "usherroute",
        "usherlate",
        "usherreceivedat",
        "datacontenttype",
        "data",
        "data_base64",
    )
)

_Item = TypeVar("_Item")


class ShownRequest(msgspec.Struct, frozen=True):
    """A request, with the parts of its URL that may be shown."""

    request: DestinationRequest
    url: str
    """Shortened, with its variables' names."""
    url_values: Mapping[str, Any]
    """Values for the variables that are expressions, by name."""


class ValueMask:
    """Hides the values in documents.

    Args:
        expressions: the text of the transforms that made the documents. It shows which keys are constants: a transform
            can turn a value into a key.
    """

    def __init__(self, expressions: str) -> None:
        self._expressions = expressions

    def hide(self, values: list[Any], shown_keys: frozenset[str]) -> list[Any]:
        """Return values in which all texts and numbers are hidden, and the keys that are not in ``shown_keys``."""
        numbers: dict[tuple[type, object], int] = {}
        return [self._hide(value, shown_keys, numbers) for value in values]

    def _hide(self, value: Any, shown_keys: frozenset[str], numbers: dict[tuple[type, object], int]) -> Any:
        if isinstance(value, dict):
            return {
                key if key in shown_keys or self._has_literal(key) else _label(key, numbers): self._hide(
                    item, shown_keys, numbers
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._hide(item, shown_keys, numbers) for item in value]
        return value if value in (None, "") else _label(value, numbers)

    def _has_literal(self, key: str) -> bool:
        return f"'{key}'" in self._expressions or f'"{key}"' in self._expressions


def _label(value: object, numbers: dict[tuple[type, object], int]) -> str:
    """Return a value's type, and a number that equal values share."""
    number = numbers.setdefault((type(value), value), len(numbers) + 1)
    name = {str: "text", bool: "boolean"}.get(type(value), "number")
    return f"{_HIDDEN} {name} {number}"


def diff_lines(in_force: ShownRequest, changed: ShownRequest, mask: ValueMask | None, body: object) -> list[str]:
    """Return the lines of a unified diff of two requests, without its head. Without a mask they have personal data.

    ``body``: the visit's body as JSON. Its keys are field names, so a mask shows them.
    """
    cuts = [_Cut(), _Cut()]
    requests = [cut.shorten(_readable(request)) for cut, request in zip(cuts, (in_force, changed), strict=True)]
    if mask is not None:
        shown_keys = _EVENT_KEYS.union(_keys(body), in_force.url_values, changed.url_values)
        hidden = mask.hide([[request["urlVariables"], request["body"]] for request in requests], shown_keys)
        requests = [
            request | {"urlVariables": variables, "body": content}
            for request, (variables, content) in zip(requests, hidden, strict=True)
        ]
    old, new = [
        msgspec.json.format(msgspec.json.encode(request), indent=2).decode().split("\n") for request in requests
    ]
    lines = list(difflib.unified_diff(old, new, n=1, lineterm=""))[2:]
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], f"… and {len(lines) - _MAX_LINES} lines more"]
    lines = lines or [_NOT_SHOWN]
    return [*lines, _CUT] if any(cut.is_reached for cut in cuts) else lines


class _Cut:
    """Shortens a document to its first values, without looking at the others."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES
        self.is_reached = False

    def shorten(self, value: Any) -> Any:
        self._left -= 1
        if isinstance(value, dict):
            return {key: self.shorten(item) for key, item in self._first(value.items())}
        if isinstance(value, list):
            return [self.shorten(item) for item in self._first(value)]
        return value

    def _first(self, items: Iterable[_Item]) -> Iterator[_Item]:
        for item in items:
            if self._left <= 0:
                self.is_reached = True
                return
            yield item


def _readable(shown_request: ShownRequest) -> dict[str, Any]:
    content_type = dict(shown_request.request.headers).get("content-type", "")
    return {
        "method": shown_request.request.method,
        "url": shown_request.url,
        "urlVariables": dict(shown_request.url_values),
        "contentType": content_type,
        "body": _document(shown_request.request.body, content_type),
    }


def _document(body: bytes, content_type: str) -> Any:
    """Return a body as JSON, or as text if it is none."""
    text = body.decode("utf-8", "replace")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text


def _keys(value: object) -> Iterator[str]:
    """Yield every key inside a JSON value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)
