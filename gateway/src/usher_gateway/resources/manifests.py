"""Loads typed resources from YAML and reports every problem at once. Pure: it reads no file.

``load_manifests`` turns one file's bytes into objects and problems. ``merge_manifests`` merges several files into one
set. ``locate`` turns the compiler's findings into problems with a file and a line.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from usher_gateway import resources
from usher_gateway.resources import conditions, types, yaml_reader
from usher_gateway.resources.conditions import Problem

MAX_FILE_BYTES = 32 * 1024 * 1024  # Largest file that is read; it holds about 40,000 listeners
MAX_OBJECT_BYTES = 1_500_000  # Largest object, as JSON: etcd accepts no more
MAX_SECRET_BYTES = 1024 * 1024  # Largest Secret, all values together: an API server accepts no more

# Most bytes in an object's annotations, keys and values together: an API server accepts no more.
MAX_ANNOTATION_BYTES = 256 * 1024

# Most hints that are searched for in one pass, because each search compares a name with every known name.
_MAX_HINTS = 200

_BASE: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Loader(_BASE):  # type: ignore[misc]  # which of the two loaders it is, is known only at run time
    """Keeps every scalar as text, because yaml_reader.plain_value() reads it. The C parser bounds nesting at 1,000."""

    def resolve(self, kind: type[yaml.Node], value: object, implicit: object) -> str:  # noqa: ARG002 - the base's
        return "tag:yaml.org,2002:str"

    def descend_resolver(self, current_node: yaml.Node | None, current_index: object) -> None:
        """Do nothing: no tag depends on a path."""

    def ascend_resolver(self) -> None:
        """Do nothing: no tag depends on a path."""


class LoadedObject(msgspec.Struct, frozen=True):
    """A valid object with its file, its line, and each field's line."""

    resource: resources.Resource
    file: str
    line: int
    lines: dict[str, int]

    def line_of(self, path: str) -> int:
        """Return a field's line, or the line of the nearest field around it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)

    def problem(
        self, path: str, message: str, hint: str = "", severity: conditions.Severity = "error"
    ) -> conditions.Problem:
        """Return a problem with a field."""
        return Problem(self.file, self.line_of(path), path, message, hint, severity, " ".join(self.resource.identity))


ObjectsByIdentity = Mapping[tuple[str, str], LoadedObject]  # (kind, key) -> object, in order


class Manifests(msgspec.Struct, frozen=True):
    """The content of files."""

    objects: tuple[LoadedObject, ...] = ()
    problems: tuple[Problem, ...] = ()
    invalid: frozenset[tuple[str, str]] = frozenset()  # (kind, key) of objects with errors
    namespaces: dict[str, dict[str, str]] = {}  # Labels of the Namespace objects found
    complete: bool = True
    """False if some object could not be identified, so that no absent object may be taken for removed."""

    @property
    def first_unidentified(self) -> Problem | None:
        """The first error in a place where Usher cannot tell which object it is, or which objects are there."""
        errors = (problem for problem in self.problems if problem.severity == "error")
        return next((problem for problem in errors if " " not in problem.resource), None)


def load_manifests(content: bytes, file: str) -> Manifests:
    """Return one file's objects and problems."""
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
        collector.stop_at(error)
    return collector.manifests()


def merge_manifests(parts: Iterable[Manifests]) -> Manifests:
    """Return several files as one set, in their order. If an object occurs twice, the first counts: a problem."""
    objects: dict[tuple[str, str], LoadedObject] = {}
    problems: list[Problem] = []
    invalid: set[tuple[str, str]] = set()
    namespaces: dict[str, dict[str, str]] = {}
    complete = True
    for part in parts:
        problems.extend(part.problems)
        invalid |= part.invalid
        namespaces |= part.namespaces
        complete = complete and part.complete
        for loaded in part.objects:
            first = objects.setdefault(loaded.resource.identity, loaded)
            if first is not loaded:
                problems.append(_duplicate(loaded, first))
    return Manifests(tuple(objects.values()), tuple(problems), frozenset(invalid), namespaces, complete)


def _duplicate(loaded: LoadedObject, first: LoadedObject) -> Problem:
    kind, key = loaded.resource.identity
    message = f"{kind} `{key}` is also in {first.file}:{first.line}"
    return Problem(loaded.file, loaded.line, "metadata.name", message, "keep one of them", resource=f"{kind} {key}")


def _unreadable(file: str, line: int, message: str, hint: str) -> Manifests:
    return Manifests(problems=(Problem(file, line, "", message, hint),), complete=False)


class _Collector:
    """Collects one file's objects."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._objects: list[LoadedObject] = []
        self._problems: list[Problem] = []
        self._invalid: set[tuple[str, str]] = set()
        self._namespaces: dict[str, dict[str, str]] = {}
        self._complete = True

    def manifests(self) -> Manifests:
        manifests = Manifests(
            tuple(self._objects),
            tuple(self._problems),
            frozenset(self._invalid),
            self._namespaces,
            self._complete,
        )
        return merge_manifests([manifests])

    def stop_at(self, error: Exception) -> None:
        """Report that the file cannot be parsed from here on."""
        self._complete = False
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deep"
        if "alias" in reason or "anchor" in reason or "tag" in reason:
            reason = re.sub(r"\s*['\"].*['\"]", "", reason)  # the quoted text may be a credential
        hint = "check indentation, quotes and colons near this line"
        if "cannot start any token" in reason:
            hint = "indent with spaces, not with tabs; put quotes around text that begins with @, ` or %"
        self._note(line, "", f"not readable as YAML: {reason}", hint)

    def add(self, node: yaml.Node | None) -> None:
        """Add one document, or one List item."""
        if node is None or (isinstance(node, yaml.ScalarNode) and yaml_reader.value_of(node) is None):
            return
        fields = _fields(node)
        api_version, kind = _text(fields.get("apiVersion")), _text(fields.get("kind"))
        if kind == "List" and api_version in {"v1", types.API_VERSION}:
            items = fields.get("items")
            for item in items.value if isinstance(items, yaml.SequenceNode) else ():
                self.add(item)
        elif (api_version, kind) in resources.KINDS:
            self._add_object(node, resources.KINDS[api_version, kind], fields)
        else:
            self._add_other(node, api_version, kind, fields)

    def _add_object(self, node: yaml.Node, kind: type[resources.Resource], fields: dict[str, yaml.Node]) -> None:
        reader = yaml_reader.NodeReader(self._file)
        key = _key(fields, namespaced=kind.namespaced)
        reader.resource = f"{kind.kind_name} {key}" if key else kind.kind_name
        plain = reader.read(node, _type_of(kind), "")
        if not reader.problems and len(msgspec.json.encode(plain)) > MAX_OBJECT_BYTES:
            reader.report(node, "", f"must have at most {MAX_OBJECT_BYTES} bytes, because no API server accepts more")
        if not reader.problems and plain is not yaml_reader.INVALID:
            try:
                resource = msgspec.convert(plain, kind)
            except msgspec.ValidationError as error:
                reader.report(node, "", str(error))
            else:
                loaded = LoadedObject(resource, self._file, yaml_reader.line_of(node), reader.lines)
                reader.problems.extend(_value_problems(loaded, reader.resource))
                if not reader.problems:
                    self._objects.append(loaded)
                    return
        self._problems.extend(reader.problems)
        if key:
            self._invalid.add((kind.kind_name, key))
        else:
            self._complete = False

    def _add_other(self, node: yaml.Node, api_version: str, kind: str, fields: dict[str, yaml.Node]) -> None:
        """Handle an object that is not an Usher resource.

        Keep a Namespace's labels, ignore other API groups with a notice, and report mistakes.
        """
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
            self._note(line, "kind", f"Usher does not read {kind} ({api_version})", severity="notice")

    def _mistake(self, line: int, path: str, message: str, hint: str) -> None:
        self._complete = False
        self._note(line, path, message, hint)

    def _note(
        self, line: int, path: str, message: str, hint: str = "", severity: conditions.Severity = "error"
    ) -> None:
        self._problems.append(Problem(self._file, line, path, message, hint, severity))


def _value_problems(loaded: LoadedObject, name: str) -> Iterator[Problem]:
    """Yield problems with values that the type cannot express."""
    annotations = loaded.resource.metadata.annotations
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATION_BYTES:
        path, message = "metadata.annotations", f"must have at most {MAX_ANNOTATION_BYTES} bytes together"
        yield loaded.problem(path, message)
    if isinstance(loaded.resource, resources.Secret):
        if loaded.resource.size > MAX_SECRET_BYTES:
            message = f"must have values of at most {MAX_SECRET_BYTES} bytes together"
            yield Problem(loaded.file, loaded.line, "data", message, resource=name)
        for key in loaded.resource.bad_base64_keys:
            path, hint = f"data.{key}", "put plain text under `stringData`"
            yield loaded.problem(path, "must be base64", hint)


@functools.cache
def _type_of(kind: type[resources.Resource]) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _name(fields: dict[str, yaml.Node], field: str) -> str:
    return _text(_fields(fields.get("metadata")).get(field))


def _key(fields: dict[str, yaml.Node], *, namespaced: bool) -> str:
    """Return an object's key, though the object may be invalid; ``""`` if it has no name."""
    name = _name(fields, "name")
    if not name or not namespaced:
        return name
    return f"{_name(fields, 'namespace') or types.DEFAULT_NAMESPACE}/{name}"


def locate(findings: Iterable[conditions.Finding], objects: ObjectsByIdentity, manifests: Manifests) -> list[Problem]:
    """Return the compiler's findings as problems: with file and line, a hint, and the problem that caused them.

    ``objects`` are those in force, ``manifests`` the files as they are now.
    """
    hints = _HintFinder(objects, manifests)
    return [_located(finding, objects.get((finding.kind, finding.key)), manifests, hints) for finding in findings]


def _located(
    finding: conditions.Finding, loaded: LoadedObject | None, manifests: Manifests, hints: "_HintFinder"
) -> Problem:
    file, line = (loaded.file, loaded.line_of(finding.path)) if loaded else ("", 0)
    if not file and manifests.objects:
        file, line = manifests.objects[0].file, 1
    because = _cause(finding, manifests)
    return Problem(
        file=file,
        line=line,
        path=finding.path,
        message=finding.message,
        hint="" if because else finding.hint or hints.hint_for(finding),
        severity=finding.severity,
        resource=f"{finding.kind} {finding.key}".strip(),
        reason=str(finding.reason),
        because=because,
    )


def _cause(finding: conditions.Finding, manifests: Manifests) -> str:
    """Return the problem behind a missing object: the object has a mistake, or is in a part that cannot be read."""
    if finding.missing is None:
        return ""
    if finding.missing in manifests.invalid:
        return " ".join(finding.missing)
    unidentified = manifests.first_unidentified
    return unidentified.file_and_line if unidentified else ""


class _HintFinder:
    """Finds out which existing name was probably meant by a missing one."""

    def __init__(self, objects: ObjectsByIdentity, manifests: Manifests) -> None:
        self._hints_left = _MAX_HINTS
        self._objects = objects
        self._manifests = manifests

    @functools.cached_property
    def _known(self) -> tuple[dict[tuple[str, str], list[str]], dict[tuple[str, str], list[str]]]:
        """(kind, namespace) -> names, and (kind, name) -> namespaces; built for the first missing name only."""
        names: dict[tuple[str, str], list[str]] = {}
        namespaces: dict[tuple[str, str], list[str]] = {}
        for kind, key in (*self._objects, *sorted(self._manifests.invalid - self._objects.keys())):
            namespace, _, name = key.rpartition("/")
            names.setdefault((kind, namespace), []).append(name)
            namespaces.setdefault((kind, name), []).append(namespace)
        return names, namespaces

    def hint_for(self, finding: conditions.Finding) -> str:
        """Return the hint for a finding; ``""`` if there is none."""
        if finding.missing is None or not self._hints_left:
            return ""
        self._hints_left -= 1
        kind, key = finding.missing
        namespace, _, name = key.rpartition("/")
        names, namespaces = self._known
        elsewhere = namespaces.get((kind, name))
        if elsewhere:
            return f"there is one in namespace `{elsewhere[0]}`, but references stay inside one namespace"
        return conditions.did_you_mean(name, names.get((kind, namespace), ()))
