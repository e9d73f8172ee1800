"""Turns types into structural OpenAPI v3 schemas, with every limit, list type, rule and description."""

import inspect as docstrings
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from definitions import cel
from usher_gateway import documents
from usher_gateway.resources import types

Schema = dict[str, Any]
"""A JSON schema, limited to the keywords of custom resource definitions."""

INT32_MAX = 2**31 - 1
"""Largest value of a 32-bit integer."""


class Plain(msgspec.Struct, frozen=True):
    """A type without its annotations, and the extra keywords of these."""

    type: inspect.Type
    extra: dict[str, Any]


def plain(wanted: inspect.Type) -> Plain:
    """Strip ``Annotated`` and ``| None``. The outermost annotation wins."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(wanted, inspect.Metadata):
            extra = {**(wanted.extra_json_schema or {}), **extra}
            wanted = wanted.type
        elif isinstance(wanted, inspect.UnionType):
            wanted = next(kind for kind in wanted.types if not isinstance(kind, inspect.NoneType))
        else:
            return Plain(wanted, extra)


def schema_of(wanted: inspect.Type, path: str) -> Schema:
    """Return the schema of a type. ``path``, such as ``Listener.spec.routes[]``, is for its default."""
    found = plain(wanted)
    match found.type:
        case inspect.StructType():
            shape = _struct(found.type, path)
        case inspect.ListType():
            shape = _list(found.type, found.extra, path)
        case inspect.DictType():
            shape = _map(found.type, path)
        case inspect.LiteralType():
            shape = {"type": "string", "enum": [str(value) for value in _in_order(found.type)]}
        case inspect.IntType():
            shape = _integer(found.type)
        case inspect.StrType():
            shape = _text(found.type, found.extra)
        case _:
            raise TypeError(f"{path}: no schema for {found.type}")
    return {"description": _description(found, path), **shape}


def _description(found: Plain, path: str) -> str:
    text = str(found.extra.get("description", ""))
    if not text and isinstance(found.type, inspect.StructType):
        text = docstring(found.type.cls)
    default = default_of(path)
    return f"{text} Default: {default}." if default else text


def docstring(described: type) -> str:
    """Return a class's docstring on one line."""
    return " ".join(docstrings.cleandoc(str(described.__doc__)).split())


def default_of(path: str) -> str:
    """Return the default of a field as text for people; ``""`` if it has none."""
    name = path.removeprefix("Listener.spec.fields.")
    if name != path and name in documents.DEFAULT_FIELDS:
        return ", then ".join(f"`{pointer}`" for pointer in documents.DEFAULT_FIELDS[name])
    value = types.DEFAULTS.get(path)
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`"
    return f"`{value}`" if value else ""


def _in_order(wanted: inspect.LiteralType) -> tuple[Any, ...]:
    """Return the words of a Literal. msgspec sorts them, so that the schema is stable."""
    return tuple(wanted.values)


def _struct(wanted: inspect.StructType, path: str) -> Schema:
    properties = {field.encode_name: schema_of(field.type, f"{path}.{field.encode_name}") for field in wanted.fields}
    shape: Schema = {"type": "object", "properties": properties}
    required = [field.encode_name for field in wanted.fields if field.required]
    if required:
        shape["required"] = required
    rules: tuple[types.Rule, ...] = getattr(wanted.cls, "rules", ())
    validations = [one for rule in rules for one in cel.validations(rule, frozenset(always_there(shape)))]
    if validations:
        shape["x-kubernetes-validations"] = validations
    return shape


def always_there(shape: Schema, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the fields that are always set."""
    for name in shape.get("required", ()):
        yield f"{path}{name}"
    for name, inner in shape.get("properties", {}).items():
        yield from always_there(inner, f"{path}{name}.")


def _list(wanted: inspect.ListType, extra: Mapping[str, Any], path: str) -> Schema:
    shape: Schema = {"type": "array", "items": schema_of(wanted.item_type, f"{path}[]")}
    if wanted.min_length:
        shape["minItems"] = wanted.min_length
    shape["maxItems"] = _limit(wanted.max_length, path)
    if "x-kubernetes-list-type" not in extra:
        raise TypeError(f"{path}: must have a list type")
    return shape | {key: value for key, value in extra.items() if key.startswith("x-kubernetes-")}


def _map(wanted: inspect.DictType, path: str) -> Schema:
    """Return the schema of a map, with a rule for its keys, because structural schemas cannot describe keys."""
    key = plain(wanted.key_type).type
    if not isinstance(key, inspect.StrType) or key.pattern is None:
        raise TypeError(f"{path}: keys must have a pattern")
    return {
        "type": "object",
        "additionalProperties": schema_of(wanted.value_type, f"{path}{{}}"),
        "maxProperties": _limit(wanted.max_length, path),
        "x-kubernetes-validations": [cel.keys(key.pattern, _limit(key.max_length, path))],
    }


def _integer(wanted: inspect.IntType) -> Schema:
    low, high = _limit(wanted.ge, "an integer"), _limit(wanted.le, "an integer")
    return {
        "type": "integer",
        "format": "int32" if high <= INT32_MAX else "int64",
        "minimum": low,
        "maximum": high,
    }


def _text(wanted: inspect.StrType, extra: Mapping[str, Any]) -> Schema:
    shape: Schema = {"type": "string"}
    if wanted.min_length:
        shape["minLength"] = wanted.min_length
    shape["maxLength"] = _limit(wanted.max_length, "a text")
    if wanted.pattern is not None:
        shape["pattern"] = wanted.pattern
    if "format" in extra:
        shape["format"] = extra["format"]
    return shape


def _limit(value: int | None, path: str) -> int:
    if value is None:
        raise TypeError(f"{path}: must have limits")
    return value
