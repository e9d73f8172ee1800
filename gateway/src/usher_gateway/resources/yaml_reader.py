"""Reads one YAML node as one type: the plain value, and every problem with its line.

A plain scalar means the same as at an API server, so that a file means the same with and without a cluster.
Source: sigs.k8s.io/yaml reads YAML 1.1: ``Off`` is false, ``yes`` is true, ``012`` is ten; times stay text.
"""

import functools
import math
import re
from collections.abc import Mapping

import msgspec
import yaml
from msgspec import inspect

from usher_gateway.resources import conditions, types

_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"})
NULL = frozenset({"", "~", "null", "Null", "NULL"})  # Scalars that mean null
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 64
_NUMBERS_BEGIN = frozenset("+-.0123456789")


def plain_value(text: str) -> object:
    """Return an unquoted scalar's value: None, bool, int, float or str."""
    if text in NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] not in _NUMBERS_BEGIN or len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return _float(text.lower().replace("_", ""))
    return text


def _float(text: str) -> object:
    if text.endswith((".inf", ".nan")):
        return float(text.replace(".", ""))
    value = float(text)
    return text if math.isinf(value) else value  # such as 1e400: it stays text


def _integer(text: str) -> object:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    try:
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return sign * int(digits, 8) if set(digits) <= set("01234567") else float(text)
        return sign * int(digits, 0)
    except ValueError:  # such as 0x_ or 0b2: it stays text
        return text


INVALID = object()  # Stands for a value that has a problem
_MAX_NODES = 50_000  # Most YAML nodes of one object, each use of an alias counted, so that an alias bomb ends early
_MAX_PROBLEMS = 200  # Most problems that are reported about one object

# Path -> fields that an API server adds to an object. Usher ignores them in files.
_IGNORED = {
    "": frozenset({"status"}),
    "metadata": frozenset(
        {
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
            "ownerReferences",
            "finalizers",
            "selfLink",
        }
    ),
}

_WORDS = {bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "nothing (null)"}


class NodeReader:
    """Reads one object, and collects its problems and each field's line."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[conditions.Problem] = []
        self.lines: dict[str, int] = {}
        self.resource = ""
        self._nodes = 0

    def report(self, node: yaml.Node, path: str, message: str, hint: str = "") -> object:
        """Add a problem at a node, and return INVALID."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(
                conditions.Problem(self.file, line_of(node), path, message, hint, resource=self.resource)
            )
        return INVALID

    def read(self, node: yaml.Node, expected: inspect.Type, path: str) -> object:
        """Return a node's plain value, or INVALID."""
        self.lines[path] = line_of(node)
        return INVALID if self._is_too_much(node, path, 1) else self._read(node, expected, path)

    def _is_too_much(self, node: yaml.Node, path: str, count: int) -> bool:
        """Count nodes, and return True once the object has too many. That is reported once."""
        nodes_before = self._nodes
        self._nodes += count
        if nodes_before <= _MAX_NODES < self._nodes:
            self.report(node, path, f"the object has more than {_MAX_NODES} values", "check its YAML aliases")
        return self._nodes > _MAX_NODES

    def _read(self, node: yaml.Node, expected: inspect.Type, path: str) -> object:
        shape = _shape_of(expected)
        kind = shape.kind
        if isinstance(kind, inspect.StructType):
            return self._struct(node, shape, path)
        if isinstance(kind, inspect.ListType):
            return self._list(node, kind, path, shape.extra)
        if isinstance(kind, inspect.DictType):
            return self._dict(node, kind, path)
        return self._scalar(node, kind, path, shape.extra)

    def _struct(self, node: yaml.Node, shape: "_Shape", path: str) -> object:
        pairs = self._pairs(node, path)
        if pairs is None:
            return INVALID
        fields = shape.fields
        value = {}
        misspelt = set()
        for name, (key, child) in pairs.items():
            field = fields.get(name)
            if field is None:
                if name not in _IGNORED.get(path, ()):
                    self.report(key, join(path, name), "unknown field", conditions.did_you_mean(name, fields))
                    misspelt.add(conditions.nearest(name, fields))
            elif not _is_null(child):  # as in a cluster, null means that the field is absent
                value[name] = self.read(child, field.type, join(path, name))
        for name in shape.required:
            if name not in value and name not in misspelt:
                what = str(_shape_of(fields[name].type).extra.get("description") or _what(fields[name].type))
                self.report(node, join(path, name), f"must have `{name}`", what)
        for broken in types.check_rules(shape.rules, value):
            where = join(path, broken.field) if broken.field else path
            self.report(pairs[broken.at][1] if broken.at in pairs else node, where, broken.message)
        return INVALID if any(item is INVALID for item in value.values()) else value

    def _pairs(self, node: yaml.Node, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]] | None:
        """Return key -> (key node, value node); None if the node is not a mapping."""
        if not isinstance(node, yaml.MappingNode):
            self.report(node, path, f"must be a mapping of fields, not {_describe(node)}")
            return None
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None:
                self.report(key, path, "keys must be text")
            elif name == "<<" and not key.style:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif name in pairs:
                hint = "keep one of them" if path else "put `---` on a line of its own between two objects"
                self.report(key, join(path, name), f"`{name}` occurs twice", hint)
            else:
                pairs[name] = (key, value)
        for other in merged:  # YAML 1.1: the mapping's own keys win, then the first merged mapping
            if not self._is_too_much(other, path, 1 + len(other.value)):
                pairs = (self._pairs(other, path) or {}) | pairs
        return pairs

    def _list(self, node: yaml.Node, expected: inspect.ListType, path: str, extra: Mapping[str, object]) -> object:
        if not isinstance(node, yaml.SequenceNode):
            return self.report(node, path, f"must be a list, not {_describe(node)}", "start each item with `- `")
        if not self._count(node, path, expected):
            return INVALID
        items = [self.read(child, expected.item_type, f"{path}[{index}]") for index, child in enumerate(node.value)]
        self._unique(node, path, extra)
        return INVALID if INVALID in items else items

    def _unique(self, node: yaml.SequenceNode, path: str, extra: Mapping[str, object]) -> None:
        """Report duplicates in a list whose items must differ, as a whole or in one field.

        It reads the nodes, because an item may be invalid in another field.
        """
        keys = extra.get("x-kubernetes-list-map-keys")
        field = str(keys[0]) if isinstance(keys, list) else ""
        if not field and extra.get("x-kubernetes-list-type") != "set":
            return
        earlier_values = set()
        for index, child in enumerate(node.value):
            key = _child(child, field) if field else child
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in earlier_values:
                where = join(f"{path}[{index}]", field) if field else f"{path}[{index}]"
                self.report(key, where, f"`{key.value}` occurs twice in this list", "each must be different")
            earlier_values.add(key.value)

    def _dict(self, node: yaml.Node, expected: inspect.DictType, path: str) -> object:
        pairs = self._pairs(node, path)
        if pairs is None or not self._count(node, path, expected):
            return INVALID
        value = {}
        for name, (key, child) in pairs.items():
            self._text(key, name, join(path, name), expected.key_type)
            if _is_null(child):
                continue
            value[name] = self.read(child, expected.value_type, join(path, name))
        return INVALID if INVALID in value.values() else value

    def _scalar(self, node: yaml.Node, expected: inspect.Type, path: str, extra: Mapping[str, object]) -> object:
        if not isinstance(node, yaml.ScalarNode):
            return self.report(node, path, f"must be {_what(expected)}, not {_describe(node)}")
        value = value_of(node)
        if isinstance(expected, inspect.IntType):
            return self._integer(node, value, expected, path)
        if isinstance(expected, inspect.BoolType):
            return value if isinstance(value, bool) else self.report(node, path, "must be true or false")
        if not isinstance(value, str):
            # never repeat a Secret's values
            example = "" if self.resource.startswith("Secret") else f': "{node.value}"'
            hint = "leave the field out" if value is None else f"put it in quotes{example}"
            message = f"must be {_what(expected)}, but YAML reads this as {_WORDS[type(value)]}"
            return self.report(node, path, message, hint)
        if isinstance(expected, inspect.LiteralType):
            words = [str(word) for word in expected.values]
            if value not in words:
                return self.report(
                    node, path, f"must be one of {', '.join(words)}", conditions.did_you_mean(value, words)
                )
            return value
        return self._text(node, value, path, expected, str(extra.get("description", "")))

    def _integer(self, node: yaml.Node, value: object, expected: inspect.IntType, path: str) -> object:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "write it without quotes" if isinstance(value, str) and value.isdigit() else ""
            return self.report(node, path, "must be a whole number", hint)
        low, high = expected.ge, expected.le
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"from {low} to {high}" if high is not None else f"at least {low}"
            return self.report(node, path, f"must be {bounds}")
        return value

    def _text(self, node: yaml.Node, value: str, path: str, expected: inspect.Type, what: str = "") -> object:
        if isinstance(expected, inspect.Metadata):
            expected = expected.type
        if not isinstance(expected, inspect.StrType):
            return value
        low, high = expected.min_length or 0, expected.max_length or len(value)
        if not low <= len(value) <= high:
            return self.report(node, path, f"must have {low} to {high} characters, has {len(value)}", what)
        if expected.pattern is not None and not _compiled(expected.pattern).fullmatch(value):
            return self.report(node, path, "does not have the right form", what or f"must match {expected.pattern}")
        return value

    def _count(self, node: yaml.Node, path: str, expected: inspect.ListType | inspect.DictType) -> bool:
        count, low, high = len(node.value), expected.min_length or 0, expected.max_length
        if count >= low and (high is None or count <= high):
            return True
        bounds = f"at least {low}" if high is None or count < low else f"at most {high}"
        self.report(node, path, f"must have {bounds} entries, has {count}")
        return False


class _Shape(msgspec.Struct, frozen=True):
    """A type, prepared for reading nodes. It is prepared once, because there are many nodes and few types."""

    declared: inspect.Type
    kind: inspect.Type  # The type without `None` and without annotations
    extra: Mapping[str, object]
    fields: dict[str, inspect.Field]
    required: tuple[str, ...]
    rules: tuple[types.Rule, ...]


# By `id()` of the type, because these types cannot be hashed. Each shape keeps its type alive.
_shapes: dict[int, _Shape] = {}


def _shape_of(expected: inspect.Type) -> _Shape:
    shape = _shapes.get(id(expected))
    if shape is None:
        shape = _shapes[id(expected)] = _shape_from(expected)
    return shape


def _shape_from(expected: inspect.Type) -> _Shape:
    kind = expected
    extra: Mapping[str, object] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra = kind.extra_json_schema or extra
            kind = kind.type
        elif isinstance(kind, inspect.UnionType):
            kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
        else:
            break
    if not isinstance(kind, inspect.StructType):
        return _Shape(expected, kind, extra, {}, (), ())
    fields = {field.encode_name: field for field in kind.fields}
    required = tuple([name for name, field in fields.items() if field.required])
    return _Shape(expected, kind, extra, fields, required, getattr(kind.cls, "rules", ()))


_compiled = functools.cache(re.compile)


def line_of(node: yaml.Node) -> int:
    """Return the line (from 1) on which a node starts."""
    return int(node.start_mark.line) + 1


def value_of(node: yaml.ScalarNode) -> object:
    """Return a scalar's value: text if it is quoted or a block, else the value that an API server reads."""
    return node.value if node.style else plain_value(node.value)


def join(path: str, name: str) -> str:
    """Return a field's path inside ``path``."""
    return f"{path}.{name}" if path else name


def _child(node: yaml.Node, field: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == field), None)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in NULL


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return _WORDS[type(value_of(node))] if isinstance(node, yaml.ScalarNode) else "something else"


_NAMES: dict[type[inspect.Type], str] = {
    inspect.IntType: "a whole number",
    inspect.BoolType: "true or false",
    inspect.StrType: "text",
    inspect.ListType: "a list",
}


def _what(expected: inspect.Type) -> str:
    """Return a type's description for messages."""
    if isinstance(expected, inspect.Metadata):
        return _what(expected.type)
    if isinstance(expected, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in expected.values)
    return _NAMES.get(type(expected), "a mapping of fields")
