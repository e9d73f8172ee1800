"""Variants of valid objects with one mistake or limit, built from their schema; files and servers must agree."""

import copy
import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
Path = tuple[str | int, ...]
Mutant = tuple[str, dict[str, Any]]  # (description of the change, the object)


def mutants(good: dict[str, Any], schema: Schema, known_shapes: set[str]) -> Iterator[Mutant]:
    """Yield the object with each field of its ``spec`` changed in every way that the schema restricts.

    A field whose schema is in ``known_shapes`` gets only the short list of changes.
    """
    for path, shape in _fields(good["spec"], schema["properties"]["spec"], ("spec",)):
        where, form = ".".join(map(str, path)), json.dumps({**shape, "description": ""}, sort_keys=True)
        for what, value in _values(_at(good, path), shape, is_new=form not in known_shapes):
            yield f"{where}: {what}", _with(good, path, value)
        if path != ("spec",):
            yield f"{where}: left out", _without(good, path)
        known_shapes.add(form)


def _fields(value: Any, shape: Schema, path: Path) -> Iterator[tuple[Path, Schema]]:
    """Yield every value inside, with its schema."""
    yield path, shape
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _fields(item, shape["items"], (*path, index))
    elif isinstance(value, dict):
        properties = shape.get("properties", {})
        for name, inner in value.items():
            yield from _fields(inner, properties.get(name) or shape["additionalProperties"], (*path, name))


def _values(value: Any, shape: Schema, *, is_new: bool) -> Iterator[tuple[str, Any]]:
    """Yield descriptions and replacements of a value."""
    yield "nothing", None
    if not is_new:
        return
    yield "another type", {"object": "x", "array": "x", "string": 7, "integer": "7"}[shape["type"]]
    match shape["type"]:
        case "string":
            yield from _texts(value, shape)
        case "integer":
            low, high = shape["minimum"], shape["maximum"]
            yield from (("lowest", low), ("highest", high), ("too low", low - 1), ("too high", high + 1))
            yield from (("whole float", float(low)), ("half", low + 0.5), ("huge", 10**30), ("a truth", True))
        case "array":
            yield from _lists(value, shape)
        case "object":
            yield "unknown field", {**value, "noSuchField": 1}
            yield "empty", {}
            if "maxProperties" in shape:
                example = next(iter(value.values()))
                yield "most entries", {f"k{index}": example for index in range(shape["maxProperties"])}
                yield "too many entries", {f"k{index}": example for index in range(shape["maxProperties"] + 1)}
                yield from (
                    (f"key {key!r}", {key: example}) for key in ("a b", "", "é", "-a", "a/b/c", "A.b/c", "x" * 64)
                )


def _texts(value: str, shape: Schema) -> Iterator[tuple[str, str]]:
    if "enum" in shape:
        yield from ((f"word {word}", word) for word in shape["enum"])
        yield "another case", value.swapcase()
        return
    longest = shape["maxLength"]
    for filler in ("a", "7", "é", "/a", ".a"):
        yield f"longest with {filler}", (value + filler * longest)[:longest]
        yield f"too long with {filler}", (value + filler * longest)[: longest + 1]
    yield "empty", ""
    for odd in ("\n", " ", "\t", "\u00a0", "\u2028", "\x0b", "\x00", "é", "🏨", "A", "_", "-", "/", "*", "%", "~", ":"):
        yield f"ends with {odd!r}", value + odd
        yield f"begins with {odd!r}", odd + value
        yield f"holds {odd!r}", value[:1] + odd + value[1:]


def _lists(value: list[Any], shape: Schema) -> Iterator[tuple[str, list[Any]]]:
    yield "empty", []
    yield "twice the same", [*value, value[0]]
    yield "an empty item", [*value, None]
    for what, count in (("most", shape["maxItems"]), ("too many", shape["maxItems"] + 1)):
        yield f"{what} items", [_numbered(value[0], index, shape) for index in range(count)]


def _numbered(item: Any, index: int, shape: Schema) -> Any:
    """Build another item of a list, different from the others if the schema requires that."""
    if isinstance(item, dict):
        keys = shape.get("x-kubernetes-list-map-keys", ["name"])
        return item | {key: f"n{index}" if isinstance(item[key], str) else index for key in keys if key in item}
    if isinstance(item, int):
        return item + index
    if "/" in item or ":" in item:
        return f"10.{index // 256}.{index % 256}.0/24"
    return item


def _at(whole: Any, path: Path) -> Any:
    for step in path:
        whole = whole[step]
    return whole


def _with(whole: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(whole)
    _at(changed, path[:-1])[path[-1]] = value
    return changed


def _without(whole: dict[str, Any], path: Path) -> dict[str, Any]:
    changed = copy.deepcopy(whole)
    del _at(changed, path[:-1])[path[-1]]
    return changed
