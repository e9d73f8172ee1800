"""docs/resources.md and docs/expressions.md say what the code does. UPDATE_DOCS=1 writes the tables anew."""

import os
import pathlib
import re
from collections.abc import Iterator

import pytest
from msgspec import inspect

from usher_gateway import expressions, resources
from usher_gateway.resources import condition, defaults

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def fields_of(wanted: inspect.Type, path: str) -> Iterator[tuple[str, inspect.Type, str, bool]]:
    """(path, type, description, required) of every field inside a struct."""
    assert isinstance(wanted, inspect.StructType)
    for field in wanted.fields:
        inner, text = field.type, ""
        while isinstance(inner, inspect.Metadata | inspect.UnionType):
            if isinstance(inner, inspect.UnionType):
                inner = next(one for one in inner.types if not isinstance(one, inspect.NoneType))
                continue
            text = text or str((inner.extra_json_schema or {}).get("description", ""))
            inner = inner.type
        here = f"{path}.{field.encode_name}"
        nested = inner
        if isinstance(inner, inspect.ListType):
            nested, here_inside = inner.item_type, f"{here}[]"
        else:
            here_inside = here
        if isinstance(nested, inspect.StructType) and not text:
            text = str(nested.cls.__doc__).strip()
        yield here, inner, text, field.required
        if isinstance(nested, inspect.StructType):
            yield from fields_of(nested, here_inside)


def shape(wanted: inspect.Type) -> str:
    match wanted:
        case inspect.Metadata():
            return shape(wanted.type)
        case inspect.LiteralType():
            return " \\| ".join(f"`{value}`" for value in wanted.values)
        case inspect.IntType():
            return f"{wanted.ge}..{wanted.le}"
        case inspect.ListType():
            most = f", at most {wanted.max_length}" if wanted.max_length else ""
            return f"list{most}"
        case inspect.StructType():
            return "object"
        case inspect.DictType():
            return "map"
    return "text"


def table(kind: type[resources.Resource]) -> str:
    spec = next(field.type for field in inspect.type_info(kind).fields if field.encode_name == "spec")  # type: ignore[attr-defined]
    lines = ["| field | form | default | meaning |", "| --- | --- | --- | --- |"]
    for path, wanted, text, required in fields_of(spec, f"{kind.kind_name}.spec"):
        default = defaults.DEFAULTS.get(path, "")
        given = f"[{', '.join(default)}]" if isinstance(default, list) else str(default or "")
        shown = "required" if required else given and f"`{given}`"
        name = path.removeprefix(f"{kind.kind_name}.")
        lines.append(f"| `{name}` | {shape(wanted)} | {shown} | {text} |")
    return "\n".join(lines)


def reasons() -> str:
    return ", ".join(f"`{reason}`" for reason in condition.Reason)


def section(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    assert pattern.search(text), name
    return pattern.sub(lambda found: found.group(1) + content + found.group(2), text)


def test_the_page_of_resources_shows_every_field_and_default() -> None:
    page = DOCS / "resources.md"
    text = page.read_text("utf-8")
    wanted = section(text, "reasons", reasons())
    for kind in (resources.ListenerClass, resources.Tenant, resources.Listener, resources.Destination):
        wanted = section(wanted, kind.kind_name, table(kind))
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(wanted, "utf-8")
    assert page.read_text("utf-8") == wanted, "run UPDATE_DOCS=1 pytest tests/unit/test_docs_resources.py"


def test_every_default_belongs_to_a_field() -> None:
    paths = set()
    for kind in resources.KINDS.values():
        if kind is not resources.Secret:
            spec = next(field.type for field in inspect.type_info(kind).fields if field.encode_name == "spec")  # type: ignore[attr-defined]
            paths |= {path for path, *_ in fields_of(spec, f"{kind.kind_name}.spec")}
    assert set(defaults.DEFAULTS) <= paths


@pytest.mark.parametrize("kind", [resources.Tenant, resources.Listener, resources.Destination, resources.ListenerClass])
def test_a_description_that_names_a_default_names_the_right_one(kind: type[resources.Resource]) -> None:
    spec = next(field.type for field in inspect.type_info(kind).fields if field.encode_name == "spec")  # type: ignore[attr-defined]
    for path, _, text, _ in fields_of(spec, f"{kind.kind_name}.spec"):
        named = re.search(r"Default (\w+)", text)
        if named:
            assert str(defaults.DEFAULTS.get(path, "Hostname")) == named.group(1), path


def test_the_page_of_expressions_names_every_function_field_and_bound() -> None:
    text = (DOCS / "expressions.md").read_text("utf-8")
    for name in expressions.FUNCTIONS | expressions.MACROS | expressions.VISIT_FIELDS:
        assert f"`{name}`" in text, name
    for bound in (expressions.MAX_LENGTH, expressions.MAX_DEPTH, expressions.MAX_PATTERN_LENGTH, expressions.MAX_ITEMS):
        assert str(bound) in text
