"""Bytes of YAML to typed resources, with every problem at once. Pure: reads no file."""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from usher_gateway import resources
from usher_gateway.resources import conditions, types, yaml_reader

MAX_FILE_BYTES = 32 * 1024 * 1024
"""Largest file that is read: some 40,000 listeners."""

MAX_OBJECT_BYTES = 1_500_000
"""Largest object, as JSON: etcd takes no more."""

MAX_SECRET_BYTES = 1024 * 1024
"""Largest Secret, its values together: an API server takes no more."""

MAX_ANNOTATION_BYTES = 256 * 1024
"""Most bytes of an object's annotations, keys and values together: an API server takes no more."""

_BASE: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Loader(_BASE):  # type: ignore[misc]  # which of the two it is, is known at run time only
    """Every scalar stays text, so that scalars.py decides: no tag is looked for. C bounds nesting at 1,000."""

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:  # noqa: ARG002 - the base's
        return "tag:yaml.org,2002:str"

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        """Paths are not told apart."""

    def ascend_resolver(self) -> None:
        """Paths are not told apart."""


class Loaded(msgspec.Struct, frozen=True):
    """A valid object and where it stands: file, line, and the line of each field path."""

    resource: resources.Resource
    file: str
    line: int
    lines: dict[str, int]

    def line_of(self, path: str) -> int:
        """The line of a field path, or of the nearest field around it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)


class Manifests(msgspec.Struct, frozen=True):
    """What files hold. Not ``complete``: something in them could not be told, so nothing may be taken for removed."""

    objects: tuple[Loaded, ...] = ()
    problems: tuple[conditions.Problem, ...] = ()
    invalid: frozenset[tuple[str, str]] = frozenset()
    """(kind, key) of objects with errors."""
    namespaces: dict[str, dict[str, str]] = {}
    """Labels of the Namespace objects found."""
    complete: bool = True


def load(content: bytes, file: str) -> Manifests:
    """The objects of one file."""
    if len(content) > MAX_FILE_BYTES:
        return _unreadable(file, 1, f"the file is larger than {MAX_FILE_BYTES} bytes", "split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return _unreadable(file, line, "the file is not UTF-8", "save it as UTF-8")
    collector = _Collector(file)
    try:
        for document in yaml.compose_all(text, Loader=_Loader):
            collector.add(document)
    except (yaml.YAMLError, RecursionError) as error:
        collector.broken(error)
    return collector.manifests()


def merge(parts: Iterable[Manifests]) -> Manifests:
    """Several files as one set, in their order; an object that stands in two places is a problem, the first counts."""
    seen: dict[tuple[str, str], Loaded] = {}
    found: list[conditions.Problem] = []
    invalid: set[tuple[str, str]] = set()
    namespaces: dict[str, dict[str, str]] = {}
    complete = True
    for part in parts:
        found.extend(part.problems)
        invalid |= part.invalid
        namespaces |= part.namespaces
        complete = complete and part.complete
        for loaded in part.objects:
            identity = identity_of(loaded.resource)
            if identity in seen:
                found.append(_twice(loaded, seen[identity]))
            else:
                seen[identity] = loaded
    return Manifests(tuple(seen.values()), tuple(found), frozenset(invalid), namespaces, complete)


def identity_of(resource: resources.Resource) -> tuple[str, str]:
    """(kind, key) of an object."""
    return resource.kind_name, resource.key


def _twice(loaded: Loaded, first: Loaded) -> conditions.Problem:
    kind, key = identity_of(loaded.resource)
    message = f"{kind} `{key}` stands also in {first.file}:{first.line}"
    return conditions.Problem(
        loaded.file, loaded.line, "metadata.name", message, "keep one of them", resource=f"{kind} {key}"
    )


def _unreadable(file: str, line: int, message: str, hint: str) -> Manifests:
    return Manifests(problems=(conditions.Problem(file, line, "", message, hint),), complete=False)


class _Collector:
    """Gathers the objects of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._objects: list[Loaded] = []
        self._problems: list[conditions.Problem] = []
        self._invalid: set[tuple[str, str]] = set()
        self._namespaces: dict[str, dict[str, str]] = {}
        self._complete = True

    def manifests(self) -> Manifests:
        return merge(
            [
                Manifests(
                    tuple(self._objects),
                    tuple(self._problems),
                    frozenset(self._invalid),
                    self._namespaces,
                    self._complete,
                )
            ]
        )

    def broken(self, error: Exception) -> None:
        """The rest of the file cannot be parsed."""
        self._complete = False
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deep"
        if "alias" in what or "anchor" in what or "tag" in what:
            what = re.sub(r"\s*['\"].*['\"]", "", what)  # what stands there may be a credential without quotes
        hint = "check indentation, quotes and colons near this line"
        if "cannot start any token" in what:
            hint = "indent with spaces, not with tabs; put quotes around text that begins with @, ` or %"
        self._note(line, "", f"not readable as YAML: {what}", hint)

    def add(self, node: yaml.Node | None) -> None:
        """One document, or one item of a List."""
        if node is None or (isinstance(node, yaml.ScalarNode) and yaml_reader.value_of(node) is None):
            return
        fields = _fields(node)
        api_version, kind = _text(fields.get("apiVersion")), _text(fields.get("kind"))
        if kind == "List" and api_version in {"v1", "usher.dev/v1alpha1"}:
            items = fields.get("items")
            for item in items.value if isinstance(items, yaml.SequenceNode) else ():
                self.add(item)
        elif (api_version, kind) in resources.KINDS:
            self._object(node, resources.KINDS[api_version, kind], fields)
        else:
            self._foreign(node, api_version, kind, fields)

    def _object(self, node: yaml.Node, kind: type[resources.Resource], fields: dict[str, yaml.Node]) -> None:
        reader = yaml_reader.NodeReader(self._file)
        key = _key(fields, namespaced=kind.namespaced)
        reader.resource = f"{kind.kind_name} {key}" if key else kind.kind_name
        plain = reader.read(node, _type_of(kind), "")
        if not reader.problems and len(msgspec.json.encode(plain)) > MAX_OBJECT_BYTES:
            reader.report(node, "", f"must have at most {MAX_OBJECT_BYTES} bytes: no API server takes more")
        if not reader.problems and plain is not yaml_reader.INVALID:
            try:
                resource = msgspec.convert(plain, kind)
            except msgspec.ValidationError as error:
                reader.report(node, "", str(error))
            else:
                loaded = Loaded(resource, self._file, yaml_reader.line_of(node), reader.lines)
                reader.problems.extend(_bad_values(loaded, reader.resource))
                if not reader.problems:
                    self._objects.append(loaded)
                    return
        self._problems.extend(reader.problems)
        if key:
            self._invalid.add((kind.kind_name, key))
        else:
            self._complete = False

    def _foreign(self, node: yaml.Node, api_version: str, kind: str, fields: dict[str, yaml.Node]) -> None:
        """What is none of ours: a Namespace's labels are noted, other groups are ignored, mistakes are reported."""
        line = yaml_reader.line_of(fields.get("kind") or node)
        kinds = {name: version for version, name in resources.KINDS}
        if not api_version or not kind:
            hint = "each object starts with `apiVersion: usher.dev/v1alpha1` and `kind`"
            self._mistake(yaml_reader.line_of(node), "kind", "must have `apiVersion` and `kind`", hint)
        elif kind in kinds:
            line = yaml_reader.line_of(fields["apiVersion"])
            self._mistake(line, "apiVersion", f"{kind} has another apiVersion", f"write `apiVersion: {kinds[kind]}`")
        elif api_version.startswith("usher.dev/"):
            self._mistake(line, "kind", f"unknown kind `{kind}`", conditions.did_you_mean(kind, kinds))
        elif (api_version, kind) == ("v1", "Namespace"):
            labels = _fields(_fields(fields.get("metadata")).get("labels"))
            self._namespaces[_name(fields, "name")] = {name: _text(value) for name, value in labels.items()}
        else:
            self._note(line, "kind", f"{kind} ({api_version}) is not read", severity="notice")

    def _mistake(self, line: int, path: str, message: str, hint: str) -> None:
        self._complete = False
        self._note(line, path, message, hint)

    def _note(
        self, line: int, path: str, message: str, hint: str = "", severity: conditions.Severity = "error"
    ) -> None:
        self._problems.append(conditions.Problem(self._file, line, path, message, hint, severity))


def _bad_values(loaded: Loaded, name: str) -> Iterator[conditions.Problem]:
    annotations = loaded.resource.metadata.annotations
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATION_BYTES:
        path, message = "metadata.annotations", f"must have at most {MAX_ANNOTATION_BYTES} bytes together"
        yield conditions.Problem(loaded.file, loaded.line_of(path), path, message, resource=name)
    if isinstance(loaded.resource, resources.Secret):
        if loaded.resource.size > MAX_SECRET_BYTES:
            message = f"must have values of at most {MAX_SECRET_BYTES} bytes together"
            yield conditions.Problem(loaded.file, loaded.line, "data", message, resource=name)
        for key in loaded.resource.bad_base64_keys:
            path, hint = f"data.{key}", "put plain text under `stringData`"
            yield conditions.Problem(loaded.file, loaded.line_of(path), path, "must be base64", hint, resource=name)


@functools.cache
def _type_of(kind: type[resources.Resource]) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return dict(_scalar_pairs(node)) if isinstance(node, yaml.MappingNode) else {}


def _scalar_pairs(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            yield key.value, value


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _name(fields: dict[str, yaml.Node], field: str) -> str:
    return _text(_fields(fields.get("metadata")).get(field))


def _key(fields: dict[str, yaml.Node], *, namespaced: bool) -> str:
    """The key of an object that may be invalid; "" where it cannot be told."""
    name = _name(fields, "name")
    if not name or not namespaced:
        return name
    return f"{_name(fields, 'namespace') or types.DEFAULT_NAMESPACE}/{name}"
