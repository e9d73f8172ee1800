"""crds/ and docs/reference/ are what `make crds` makes, and say something of everything."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from definitions import definition, output
from house import source
from unit.plan import reasons
from usher_gateway.resources import defaults, load, status

MADE = output.files()
KINDS = tuple(definition.NAMES)
ACCESS = source.ROOT / "crds" / "access"


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_stands_in_the_repository(name: str) -> None:
    file = source.ROOT / name
    assert file.exists(), "run make crds"
    assert file.read_text("utf-8") == MADE[name], "run make crds"


def test_nothing_stands_there_that_is_no_longer_made() -> None:
    there = {source.shown(file) for folder in output.FOLDERS for file in (source.ROOT / folder).glob("*.*")}
    assert there == {*MADE, *output.WRITTEN_BY_HAND}


def shapes(shape: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, shape
    for name, inner in shape.get("properties", {}).items():
        yield from shapes(inner, f"{path}.{name}")
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if word in shape:
            yield from shapes(shape[word], path + mark)


def told(kind: definition.Kind) -> list[tuple[str, dict[str, Any]]]:
    """Every schema of a kind's spec and status, with its path."""
    properties = definition.object_schema(kind)["properties"]
    return [pair for part in ("spec", "status") for pair in shapes(properties[part], f"{kind.kind_name}.{part}")]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_a_limit_and_a_description(kind: definition.Kind) -> None:
    limits = {
        "string": ({"maxLength"}, {"enum"}),
        "integer": ({"minimum", "maximum"},),
        "array": ({"maxItems", "x-kubernetes-list-type"},),
        "object": ({"properties"}, {"maxProperties"}),
    }
    for path, shape in told(kind):
        assert any(words <= shape.keys() for words in limits[shape["type"]]), path
        assert re.fullmatch(r"[^ ].*[.`)]", shape["description"]), path


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_defaulted_or_let_through_unseen(kind: definition.Kind) -> None:
    for path, shape in told(kind):
        assert not {"default", "x-kubernetes-preserve-unknown-fields", "nullable"} & shape.keys(), path


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_is_about_the_whole_text(kind: definition.Kind) -> None:
    """Files are compared with the whole pattern, a server looks for it anywhere."""
    for path, shape in told(kind):
        pattern = shape.get("pattern", "^$")
        assert pattern.startswith("^"), path
        assert pattern.endswith("$"), path
        assert "|" not in flat(pattern), f"{path}: ^a|b$ is not about the whole text"


def flat(pattern: str) -> str:
    """A pattern without escapes, sets and groups."""
    pattern = re.sub(r"\[[^\]]*\]", "", re.sub(r"\\.", "", pattern))
    while "(" in pattern:
        pattern = re.sub(r"\([^()]*\)", "", pattern)
    return pattern


def test_every_default_belongs_to_a_field() -> None:
    paths = {path for kind in KINDS for path, _ in told(kind)}
    assert set(defaults.DEFAULTS) <= paths


@pytest.mark.parametrize("case", reasons.CASES, ids=lambda case: f"{case.kind}-{case.type}-{case.reason}")
def test_a_reason_that_is_told_of_a_kind_stands_on_its_page(case: reasons.Case) -> None:
    page = MADE[f"docs/reference/{case.kind.lower()}.md"]
    shown = f"| `{case.type}` | {case.status} | `{case.reason}` |"
    of_others = case.type == "Ready" and case.reason not in {"Ready", "Suspended", "ListenersNotReady", "Pending"}
    assert (shown in page) == (not of_others)


@pytest.mark.parametrize(
    "path", sorted((source.ROOT / "tests" / "unit" / "plan" / "golden").glob("*.yaml")), ids=source.shown
)
def test_what_the_operator_tells_has_a_place_in_the_definition(path: Path) -> None:
    """What has none would be dropped by a server, or refuse the whole status."""
    for planned in yaml.safe_load_all(path.read_text("utf-8")):
        kind = planned["key"].partition(" ")[0]
        if planned.get("status") is not None:
            fields = {name: value for name, value in planned["status"].items() if name != "conditions"}
            msgspec.convert(fields, status.STATUSES[kind])


@pytest.mark.parametrize("path", sorted((source.ROOT / "examples" / "kinds").glob("*.yaml")), ids=source.shown)
def test_an_example_of_a_kind_has_no_mistake(path: Path) -> None:
    assert [one for one in load.load(path.read_bytes(), path.name).problems if one.severity == "error"] == []


def test_the_policy_knows_the_class_that_is_meant_where_none_is_named() -> None:
    default = defaults.DEFAULTS["Listener.spec.listenerClassName"]
    text = (ACCESS / "hostnames.yaml").read_text("utf-8")
    assert f'object.spec.listenerClassName : "{default}")' in text


def test_the_roles_name_every_kind_and_no_class_but_for_reading() -> None:
    plurals = {names.plural for names in definition.NAMES.values()}
    view, *writing = yaml.safe_load_all((ACCESS / "roles.yaml").read_text("utf-8"))
    assert {name for rule in view["rules"] for name in rule["resources"]} == plurals
    for role in writing:
        assert {name for rule in role["rules"] for name in rule["resources"]} == plurals - {"listenerclasses"}


def test_the_largest_object_of_a_kind_is_kept_by_etcd() -> None:
    """All but a ListenerClass, whose hundreds of selectors nobody writes out: files and etcd say so."""
    for kind in KINDS:
        largest = most_bytes(definition.object_schema(kind)["properties"]["spec"])
        assert (largest < load.MAX_OBJECT_BYTES) == (kind.kind_name != "ListenerClass"), kind


def most_bytes(shape: dict[str, Any]) -> int:
    """Bytes of the largest value as JSON; characters of a pattern are ASCII."""
    match shape:
        case {"enum": words}:
            return max(map(len, words)) + 2
        case {"type": "string"}:
            return int(shape["maxLength"]) * (1 if "pattern" in shape else 4) + 2
        case {"type": "array"}:
            return (most_bytes(shape["items"]) + 1) * int(shape["maxItems"]) + 2
        case {"maxProperties": most}:
            return (most_bytes(shape["additionalProperties"]) + 320) * int(most) + 2
        case {"properties": properties}:
            return sum(len(name) + 4 + most_bytes(inner) for name, inner in properties.items()) + 2
    return 20
