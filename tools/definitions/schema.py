"""Turns types into structural OpenAPI v3 schemas, with every limit, list type, rule and description."""

import functools
import inspect as docstrings
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from definitions import cel
from usher_gateway import documents, resources
from usher_gateway.resources import types

Schema = dict[str, Any]  # A JSON schema, limited to the keywords of custom resource definitions
INT32_MAX = 2**31 - 1  # Largest value of a 32-bit integer


class Plain(msgspec.Struct, frozen=True):
    """A type without its annotations, and the extra keywords of these."""

    type: inspect.Type
    extra: dict[str, Any]


def plain(kind: inspect.Type) -> Plain:
    """Strip ``Annotated`` and ``| None``. The outermost annotation wins."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra = {**(kind.extra_json_schema or {}), **extra}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
        else:
            return Plain(kind, extra)


def schema_of(kind: inspect.Type, path: str) -> Schema:
    """Return the schema of a type. ``path``, such as ``Listener.spec.routes[]``, is for its default."""
    stripped = plain(kind)
    match stripped.type:
        case inspect.StructType():
            shape = _struct(stripped.type, path)
        case inspect.ListType():
            shape = _list(stripped.type, stripped.extra, path)
        case inspect.DictType():
            shape = _map(stripped.type, path)
        case inspect.LiteralType():
            shape = {"type": "string", "enum": [str(value) for value in _in_order(stripped.type)]}
        case inspect.IntType():
            shape = _integer(stripped.type)
        case inspect.StrType():
            shape = _text(stripped.type, stripped.extra)
        case _:
            raise TypeError(f"{path}: no schema for {stripped.type}")
    return {"description": _description(stripped, path), **shape}


def _description(stripped: Plain, path: str) -> str:
    text = str(stripped.extra.get("description", ""))
    if not text and isinstance(stripped.type, inspect.StructType):
        text = docstring(stripped.type.cls)
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
    value = _defaults().get(path)
    if not value:
        return ""
    return f"`[{', '.join(value)}]`" if isinstance(value, list) else f"`{value}`"


@functools.cache
def _defaults() -> dict[str, object]:
    """The default of each field of every kind, by its path."""
    kinds = (resources.ListenerClass, resources.Tenant, resources.Listener, resources.Destination)
    return {
        path: default for kind in kinds for path, default in _defaults_below(inspect.type_info(kind), kind.kind_name)
    }


def _defaults_below(kind: inspect.Type, path: str, value: object = None) -> Iterator[tuple[str, object]]:
    """Yield the path and the default of the fields below a type. ``value``: the default of the whole, if it has one."""
    match plain(kind).type:
        case inspect.StructType(fields=fields):
            for field in fields:
                default = getattr(value, field.name) if isinstance(value, msgspec.Struct) else _default(field)
                here = f"{path}.{field.encode_name}"
                if isinstance(default, str | int | list):
                    yield here, default
                yield from _defaults_below(field.type, here, default)
        case inspect.ListType(item_type=item_type):
            yield from _defaults_below(item_type, f"{path}[]")


def _default(field: inspect.Field) -> object:
    return field.default_factory() if callable(field.default_factory) else field.default


def _in_order(literal: inspect.LiteralType) -> tuple[Any, ...]:
    """Return the words of a Literal. msgspec sorts them, so that the schema is stable."""
    return tuple(literal.values)


def _struct(struct: inspect.StructType, path: str) -> Schema:
    properties = {field.encode_name: schema_of(field.type, f"{path}.{field.encode_name}") for field in struct.fields}
    shape: Schema = {"type": "object", "properties": properties}
    required = [field.encode_name for field in struct.fields if field.required]
    if required:
        shape["required"] = required
    rules: tuple[types.Rule, ...] = getattr(struct.cls, "rules", ())
    validations = [validation for rule in rules for validation in cel.validations(rule, frozenset(always_there(shape)))]
    if validations:
        shape["x-kubernetes-validations"] = validations
    return shape


def always_there(shape: Schema, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the fields that are always set."""
    for name in shape.get("required", ()):
        yield f"{path}{name}"
    for name, inner in shape.get("properties", {}).items():
        yield from always_there(inner, f"{path}{name}.")


def _list(kind: inspect.ListType, extra: Mapping[str, Any], path: str) -> Schema:
    shape: Schema = {"type": "array", "items": schema_of(kind.item_type, f"{path}[]")}
    if kind.min_length:
        shape["minItems"] = kind.min_length
    shape["maxItems"] = _limit(kind.max_length, path)
    if "x-kubernetes-list-type" not in extra:
        raise TypeError(f"{path}: must have a list type")
    return shape | {key: value for key, value in extra.items() if key.startswith("x-kubernetes-")}


def _map(kind: inspect.DictType, path: str) -> Schema:
    """Return the schema of a map, with a rule for its keys, because structural schemas cannot describe keys."""
    key = plain(kind.key_type).type
    if not isinstance(key, inspect.StrType) or key.pattern is None:
        raise TypeError(f"{path}: keys must have a pattern")
    return {
        "type": "object",
        "additionalProperties": schema_of(kind.value_type, f"{path}{{}}"),
        "maxProperties": _limit(kind.max_length, path),
        "x-kubernetes-validations": [cel.keys(key.pattern, _limit(key.max_length, path))],
    }


def _integer(kind: inspect.IntType) -> Schema:
    low, high = _limit(kind.ge, "an integer"), _limit(kind.le, "an integer")
    return {
        "type": "integer",
        "format": "int32" if high <= INT32_MAX else "int64",
        "minimum": low,
        "maximum": high,
    }


def _text(kind: inspect.StrType, extra: Mapping[str, Any]) -> Schema:
    shape: Schema = {"type": "string"}
    if kind.min_length:
        shape["minLength"] = kind.min_length
    shape["maxLength"] = _limit(kind.max_length, "a text")
    if kind.pattern is not None:
        shape["pattern"] = kind.pattern
    if "format" in extra:
        shape["format"] = extra["format"]
    return shape


def _limit(value: int | None, path: str) -> int:
    if value is None:
        raise TypeError(f"{path}: must have limits")
    return value
