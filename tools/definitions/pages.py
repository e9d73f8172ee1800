"""Makes the reference page of each kind: fields with types, limits and defaults, rules, status and conditions."""

from collections.abc import Iterator
from pathlib import Path

from definitions import definition, schema
from usher_gateway.resources import types
from usher_operator.state.values import ConditionType

ROOT = Path(__file__).parents[2]

_ABOUT = (
    "`make crds` makes this page from the code, like the [definitions](../../crds/README.md). The page "
    "[Resources](../resources.md) explains how the kinds work together."
)

_DEFAULTS = (
    "A field that is left out has its default. Without a default it means nothing or no limit, or the last column says "
    "what it means. Defaults are not written into objects."
)

# Reason -> the kinds that it applies to, if not every kind with the condition, and docs/conditions.md names no kind.
_REASONS = {
    "ClassNotFound": ("Listener",),
    "ClassNotPermitted": ("Listener", "Destination"),
    "HostnameConflict": ("Listener",),
    "HostnameReserved": ("Listener",),
    "HostnameNotAllowed": ("Listener",),
    "PathConflict": ("Listener",),
    "ExpressionInvalid": ("Listener", "Destination"),
    "LimitExceeded": ("Listener", "Destination"),
    "ConfigTooLarge": ("Listener", "Destination"),
    "NamespaceNotPermitted": ("Listener", "Destination"),
    "SecretNameTaken": ("Listener",),
    "DestinationNotFound": ("Listener",),
    "Suspended": ("Tenant", "Listener", "Destination"),
}


def pages() -> dict[str, str]:
    """Return path below the repository -> page."""
    return {f"docs/reference/{kind.kind_name.lower()}.md": _page(kind) for kind in definition.NAMES}


def _page(kind: definition.Kind) -> str:
    name, names = kind.kind_name, definition.NAMES[kind]
    whole = definition.object_schema(kind)
    scope = "in a namespace" if kind.namespaced else "for the whole cluster"
    example = (ROOT / "examples" / "kinds" / f"{name.lower()}.yaml").read_text("utf-8")
    known_as = f"`kubectl get {names.short}`, or `kubectl get {names.plural}.{definition.GROUP}`"
    parts = [
        f"# {name}",
        whole["description"],
        f"`apiVersion: {types.API_VERSION}`, {scope}; {known_as}. {_ABOUT}",
        f"## Example\n\n```yaml\n{example}```",
        f"## Fields\n\n{_DEFAULTS}\n\n{_fields(whole, name, 'spec')}",
        "## Rules between fields\n\n" + "\n".join(_rules(whole)),
        "## Status\n\nWritten by the operator; files have none.\n\n" + _fields(whole, name, "status"),
        "## Conditions\n\nMore about them: [Conditions](../conditions.md).\n\n" + "\n".join(_conditions(name)),
    ]
    return "\n\n".join(parts) + "\n"


def _fields(whole: schema.Schema, name: str, part: str) -> str:
    lines = ["| field | form | default | meaning |", "| --- | --- | --- | --- |"]
    shape = whole["properties"][part]
    lines += [_row(f"{name}.{path}", inner, needed=needed) for path, inner, needed in _below(shape, part)]
    return "\n".join(lines)


def _below(shape: schema.Schema, path: str) -> Iterator[tuple[str, schema.Schema, bool]]:
    """Yield (path, schema, whether it is required) of every field inside."""
    for name, inner in shape.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, inner, name in shape.get("required", ())
        yield from _below(inner, here)
        yield from _below(inner.get("items", {}), f"{here}[]")


def _row(path: str, shape: schema.Schema, *, needed: bool) -> str:
    default = schema.default_of(path)
    text = shape["description"].removesuffix(f" Default: {default}.")
    shown = "required" if needed else default
    return f"| `{path.partition('.')[2]}` | {_form(shape)} | {shown} | {_cell(text)} |"


def _form(shape: schema.Schema) -> str:
    match shape:
        case {"enum": words}:
            return " \\| ".join(f"`{word}`" for word in words)
        case {"type": "string"}:
            kind = "time" if shape.get("format") == "date-time" else "text"
            least = shape.get("minLength", 0)
            return f"{kind}, {f'{least} to ' if least else 'at most '}{shape['maxLength']} characters"
        case {"type": "integer"}:
            return f"{shape['minimum']}..{shape['maximum']}"
        case {"type": "array"}:
            least = f"{shape['minItems']} to " if "minItems" in shape else "at most "
            keys = shape.get("x-kubernetes-list-map-keys")
            unique = f", each another `{keys[0]}`" if keys else ""
            unique = ", all different" if shape["x-kubernetes-list-type"] == "set" else unique
            inner = f" of {_form(shape['items'])}" if "enum" in shape["items"] else ""
            return f"list{inner}, {least}{shape['maxItems']}{unique}"
        case {"maxProperties": most}:
            return f"map, at most {most}"
    return "object"


def _rules(whole: schema.Schema) -> Iterator[str]:
    """Yield the table of every rule with its place."""
    yield "| where | what must hold |"
    yield "| --- | --- |"
    for path, shape in _shapes(whole, ""):
        for rule in shape.get("x-kubernetes-validations", ()):
            where = f"{path}{rule.get('fieldPath', '')}".lstrip(".")
            yield f"| `{where}` | {_cell(rule['message'])} |"


def _shapes(shape: schema.Schema, path: str) -> Iterator[tuple[str, schema.Schema]]:
    yield path, shape
    for name, inner in shape.get("properties", {}).items():
        yield from _shapes(inner, f"{path}.{name}")
    if "items" in shape:
        yield from _shapes(shape["items"], f"{path}[]")


def _conditions(name: str) -> Iterator[str]:
    """Yield the rows of docs/conditions.md about a kind."""
    yield "| condition | status | reason | meaning, and what to do |"
    yield "| --- | --- | --- | --- |"
    for line in (ROOT / "docs" / "conditions.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != 4 or not cells[0].startswith("`"):
            continue
        condition, reason, meaning = cells[0].strip("`"), cells[2].strip("`"), cells[3]
        if meaning.startswith("("):
            is_about = meaning.startswith(f"({name}) ")
        else:
            is_about = name in ConditionType[condition].kinds and name in _REASONS.get(reason, (name,))
        if is_about:
            yield line.replace(f"({name}) ", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
