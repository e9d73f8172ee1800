"""crds/, docs/reference/ and parts of the chart equal what `make crds` generates, and describe every field."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from definitions import chart, definition, output
from support import plan_reasons, source
from usher_gateway.resources import conditions
from usher_gateway.resources.listener import DEFAULT_CLASS
from usher_gateway.resources.manifests import MAX_OBJECT_BYTES, load_manifests

MADE = output.files()
KINDS = tuple(definition.NAMES)
ACCESS = source.ROOT / "crds" / "access"


def test_generated_files_are_up_to_date() -> None:
    existing = {name: source.ROOT / name for name in MADE if (source.ROOT / name).exists()}
    stale = [name for name, text in MADE.items() if name not in existing or existing[name].read_text("utf-8") != text]
    assert stale == [], "run make crds"


def test_generated_folders_hold_no_other_file() -> None:
    there = {source.shown(file) for folder in output.FOLDERS for file in (source.ROOT / folder).glob("*.*")}
    assert there == {*MADE, *output.WRITTEN_BY_HAND} - {chart.README, chart.SCHEMA}


def shapes(shape: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, shape
    for name, inner in shape.get("properties", {}).items():
        yield from shapes(inner, f"{path}.{name}")
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if word in shape:
            yield from shapes(shape[word], path + mark)


def all_schemas(kind: definition.Kind) -> list[tuple[str, dict[str, Any]]]:
    """Every schema inside of a kind's spec and status, with its path."""
    properties = definition.object_schema(kind)["properties"]
    return [pair for part in ("spec", "status") for pair in shapes(properties[part], f"{kind.kind_name}.{part}")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_limit_and_a_description(kind: definition.Kind) -> None:
    limits = {
        "string": ({"maxLength"}, {"enum"}),
        "integer": ({"minimum", "maximum"},),
        "array": ({"maxItems", "x-kubernetes-list-type"},),
        "object": ({"properties"}, {"maxProperties"}),
    }
    for path, shape in all_schemas(kind):
        assert any(words <= shape.keys() for words in limits[shape["type"]]), path
        assert re.fullmatch(r"[^ ].*[.`)]", shape["description"]), path


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_has_a_default_or_keeps_unknown_fields(kind: definition.Kind) -> None:
    for path, shape in all_schemas(kind):
        assert not {"default", "x-kubernetes-preserve-unknown-fields", "nullable"} & shape.keys(), path


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_matches_the_whole_text(kind: definition.Kind) -> None:
    """The API server searches for a pattern anywhere in the text, while Usher matches the whole text of a file."""
    for path, shape in all_schemas(kind):
        pattern = shape.get("pattern", "^$")
        assert pattern.startswith("^"), path
        assert pattern.endswith("$"), path
        assert "|" not in flat(pattern), f"{path}: ^a|b$ does not match the whole text"


def flat(pattern: str) -> str:
    """A pattern without escapes, sets and groups."""
    pattern = re.sub(r"\[[^\]]*\]", "", re.sub(r"\\.", "", pattern))
    while "(" in pattern:
        pattern = re.sub(r"\([^()]*\)", "", pattern)
    return pattern


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_shows_the_reason_beside_ready(kind: definition.Kind) -> None:
    heads = [head for head, _ in definition.NAMES[kind].columns]
    assert heads[heads.index("Ready") + 1] == "Reason"


def test_reference_pages_list_exactly_the_reasons_of_each_kind() -> None:
    """A reason that Ready copies from another condition is listed with that condition only."""
    own_reasons = {"Ready", "Suspended", "ListenersNotReady", "Pending"}
    differing = [
        (case.kind, case.type, case.reason)
        for case in plan_reasons.CASES
        if (f"| `{case.type}` | {case.status} | `{case.reason}` |" in MADE[f"docs/reference/{case.kind.lower()}.md"])
        != (case.type != "Ready" or case.reason in own_reasons)
    ]
    assert plan_reasons.CASES
    assert differing == []


def golden_plans() -> list[Any]:
    """The plans in the operator's golden files that have a status."""
    return [
        plan
        for path in sorted((source.ROOT / "tests" / "unit" / "usher_operator" / "plan" / "golden").glob("*.yaml"))
        for plan in yaml.safe_load_all(path.read_text("utf-8"))
        if plan.get("status") is not None
    ]


def test_reference_pages_list_no_condition_of_another_kind() -> None:
    planned = {
        (plan["key"].partition(" ")[0], condition.partition("=")[0])
        for plan in golden_plans()
        for condition in plan["status"]["conditions"]
    }
    planned |= {(case.kind, case.type) for case in plan_reasons.CASES}
    listed = {
        (kind.kind_name, row[0].strip("`"))
        for kind in KINDS
        for row in source.table_rows(
            MADE[f"docs/reference/{kind.kind_name.lower()}.md"].partition("\n## Conditions\n")[2]
        )
    }
    assert listed - planned == set(), "docs/conditions.md names the kind before the meaning: `(Tenant) ...`"


def test_status_that_the_operator_writes_fits_the_definition() -> None:
    """The API server drops unknown fields of a status and rejects a status with a wrong value."""
    plans = golden_plans()
    assert plans
    for plan in plans:
        fields = {name: value for name, value in plan["status"].items() if name != "conditions"}
        msgspec.convert(fields, conditions.STATUSES[plan["key"].partition(" ")[0]])


def test_examples_of_the_kinds_have_no_errors() -> None:
    examples = sorted((source.ROOT / "examples" / "kinds").glob("*.yaml"))
    problems = [problem for path in examples for problem in load_manifests(path.read_bytes(), path.name).problems]
    assert examples
    assert [problem for problem in problems if problem.severity == "error"] == []


def test_hostname_policy_assumes_the_default_listener_class() -> None:
    text = (ACCESS / "hostnames.yaml").read_text("utf-8")
    assert f'object.spec.listenerClassName : "{DEFAULT_CLASS}")' in text


def test_roles_name_every_kind_and_only_read_listener_classes() -> None:
    plurals = {names.plural for names in definition.NAMES.values()}
    view, *writing = yaml.safe_load_all((ACCESS / "roles.yaml").read_text("utf-8"))
    assert {name for rule in view["rules"] for name in rule["resources"]} == plurals
    for role in writing:
        assert {name for rule in role["rules"] for name in rule["resources"]} == plurals - {"listenerclasses"}


def test_largest_object_of_every_kind_but_listener_class_fits_etcd() -> None:
    """A ListenerClass with hundreds of selectors is too large: `usher check` and etcd reject it."""
    for kind in KINDS:
        largest = most_bytes(definition.object_schema(kind)["properties"]["spec"])
        assert (largest < MAX_OBJECT_BYTES) == (kind.kind_name != "ListenerClass"), kind


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
