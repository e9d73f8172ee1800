"""Fields of a body by JSON pointers (RFC 6901), compiled so that shared prefixes are walked once."""

from collections.abc import Iterable, Mapping

_Leaves = tuple[tuple[str, int], ...]


class _Node:
    __slots__ = ("children", "leaves")

    def __init__(self) -> None:
        self.children: list[tuple[str, _Node]] = []
        self.leaves: _Leaves = ()

    def child(self, token: str) -> "_Node":
        for name, node in self.children:
            if name == token:
                return node
        node = _Node()
        self.children.append((token, node))
        return node


class Extractor:
    """Takes some fields out of a body: for each field the first of its pointers that leads to a value wins."""

    def __init__(self, fields: Mapping[str, Iterable[str]], wanted: Iterable[str]) -> None:
        self._root = _Node()
        for field in wanted:
            for rank, pointer in enumerate(fields.get(field, ())):
                node = self._root
                for token in tokens_of(pointer):
                    node = node.child(token)
                node.leaves = (*node.leaves, (field, rank))

    def extract(self, body: object) -> dict[str, object]:
        """Field -> value; fields without one (absent or null) are missing."""
        found: dict[str, object] = {}
        ranks: dict[str, int] = {}
        _walk(self._root, body, found, ranks)
        return found


def tokens_of(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer, unescaped."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _walk(node: _Node, value: object, found: dict[str, object], ranks: dict[str, int]) -> None:
    for field, rank in node.leaves:
        if rank <= ranks.get(field, rank):
            found[field] = value
            ranks[field] = rank
    if type(value) is dict:
        for token, child in node.children:
            inner = value.get(token)
            if inner is not None:
                _walk(child, inner, found, ranks)
    elif type(value) is list:
        for token, child in node.children:
            if token.isascii() and token.isdecimal() and len(token) < 10:
                inner = value[int(token)] if int(token) < len(value) else None
                if inner is not None:
                    _walk(child, inner, found, ranks)
