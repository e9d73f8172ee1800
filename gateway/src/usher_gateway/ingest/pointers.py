"""Fields of a body by JSON pointers (RFC 6901), compiled so that shared prefixes are walked once."""

import functools
from collections.abc import Iterable, Mapping


class _Node:
    """One token of some pointers: the fields that end here, and the tokens that follow."""

    __slots__ = ("ends", "inner", "last")

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []
        """(field, rank): rank 0 is the pointer that wins over all others."""
        self.last: list[tuple[str, str, int]] = []
        """(token, field, rank): tokens after which nothing follows, with a field that ends there."""
        self.inner: list[tuple[str, _Node]] = []
        """Tokens after which more follow."""


class Extractor:
    """Takes some fields out of a body: for each field the first of its pointers that leads to a value wins."""

    def __init__(self, fields: Mapping[str, Iterable[str]], wanted: Iterable[str]) -> None:
        self._root = _compiled(tuple([(field, tuple(fields.get(field, ()))) for field in wanted]))

    def extract(self, body: object) -> dict[str, object]:
        """Field -> value; fields without one (absent or null) are missing."""
        found: dict[str, object] = {}
        ranks: dict[str, int] = {}
        if self._root.ends:
            _note(self._root.ends, body, found, ranks)
        _walk(self._root, body, found, ranks)
        return found


def tokens_of(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer, unescaped."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


@functools.lru_cache(maxsize=1_024)
def _compiled(wanted: tuple[tuple[str, tuple[str, ...]], ...]) -> _Node:
    """Compiled once for all listeners that map their bodies alike, which nearly all do."""
    ends = [(pointer, (field, rank)) for field, pointers in wanted for rank, pointer in enumerate(pointers)]
    return _compile([(tokens_of(pointer), end) for pointer, end in ends])


def _compile(paths: list[tuple[list[str], tuple[str, int]]]) -> _Node:
    node = _Node()
    following: dict[str, list[tuple[list[str], tuple[str, int]]]] = {}
    for tokens, end in paths:
        if tokens:
            following.setdefault(tokens[0], []).append((tokens[1:], end))
        else:
            node.ends.append(end)
    for token, rest in following.items():
        child = _compile(rest)
        if child.last or child.inner:
            node.inner.append((token, child))
        else:
            node.last.extend([(token, field, rank) for field, rank in child.ends])
    return node


def _walk(node: _Node, value: object, found: dict[str, object], ranks: dict[str, int]) -> None:
    if type(value) is dict:
        get = value.get
        for token, field, rank in node.last:
            inner = get(token)
            if inner is not None and (not rank or rank < ranks.get(field, rank + 1)):
                found[field], ranks[field] = inner, rank
        for token, child in node.inner:
            inner = get(token)
            if inner is not None:
                if child.ends:
                    _note(child.ends, inner, found, ranks)
                _walk(child, inner, found, ranks)
    elif type(value) is list:
        _walk_list(node, value, found, ranks)


def _walk_list(node: _Node, value: list[object], found: dict[str, object], ranks: dict[str, int]) -> None:
    for token, field, rank in node.last:
        inner = _item(value, token)
        if inner is not None:
            _note([(field, rank)], inner, found, ranks)
    for token, child in node.inner:
        inner = _item(value, token)
        if inner is not None:
            _note(child.ends, inner, found, ranks)
            _walk(child, inner, found, ranks)


def _item(value: list[object], token: str) -> object:
    is_index = token.isascii() and token.isdecimal() and len(token) < 10
    return value[int(token)] if is_index and int(token) < len(value) else None


def _note(ends: list[tuple[str, int]], value: object, found: dict[str, object], ranks: dict[str, int]) -> None:
    for field, rank in ends:
        if not rank or rank < ranks.get(field, rank + 1):
            found[field], ranks[field] = value, rank
