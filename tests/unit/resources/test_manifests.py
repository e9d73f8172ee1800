import json

import hypothesis
import pytest
from hypothesis import strategies

from usher_gateway import resources
from usher_gateway.resources import tenant
from usher_gateway.resources.manifests import MAX_FILE_BYTES, load_manifests, merge_manifests

TENANT = "apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: %s}\n"


def problems_of(text: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.path) for problem in load_manifests(text.encode(), "a.yaml").problems]


def test_documents_and_lists_are_read_in_order() -> None:
    text = "---\n" + TENANT % "a" + "---\n---\napiVersion: v1\nkind: List\nitems:\n"
    text += "- {apiVersion: usher.dev/v1alpha1, kind: Tenant, metadata: {name: b}}\n---\n# nothing\n"
    loaded = load_manifests(text.encode(), "a.yaml")
    assert loaded.problems == ()
    assert [loaded_object.resource.key for loaded_object in loaded.objects] == ["default/a", "default/b"]
    assert [loaded_object.line for loaded_object in loaded.objects] == [2, 10]


def test_byte_order_mark_is_skipped() -> None:
    assert load_manifests(b"\xef\xbb\xbf" + (TENANT % "a").encode(), "a.yaml").problems == ()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: \xff", 1),
        (b"a: b\n\tc: d", 2),
        (b"a: [1, 2", 2),
        (b"a: *nowhere", 1),
        (b"x: \x00", 1),
        (b"[" * 100_000, 1),
        (b"a: 'unclosed\n", 2),
    ],
)
def test_invalid_yaml_is_one_problem_and_stops_removals(content: bytes, line: int) -> None:
    loaded = load_manifests(content, "a.yaml")
    assert [problem.line for problem in loaded.problems] == [line]
    assert not loaded.complete


def test_objects_before_a_syntax_error_are_loaded() -> None:
    loaded = load_manifests((TENANT % "a" + "---\n}").encode(), "a.yaml")
    assert len(loaded.objects) == 1
    assert not loaded.complete


def test_too_large_file_is_not_parsed() -> None:
    loaded = load_manifests(b"#" * (MAX_FILE_BYTES + 1), "a.yaml")
    assert "larger than" in loaded.problems[0].message


def test_alias_bomb_ends_early() -> None:
    lines = ["apiVersion: v1", "kind: Secret", "metadata: {name: a}", "a: &a {x: 1}"]
    lines += [
        f"{name}: &{name} {{{', '.join(f'k{index}: *{previous}' for index in range(9))}}}"
        for previous, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    lines.append("metadata2: *i")
    labels = "metadata: {name: a, labels: &l {a: x}}"
    text = "\n".join(line.replace("metadata: {name: a}", labels) for line in lines)
    assert {path for _, path in problems_of(text)} >= {"a", "i", "metadata2"}


def test_object_with_too_many_values_is_one_problem() -> None:
    labels = ", ".join(f"k{index}: v" for index in range(50_001))
    text = f"apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: a, labels: {{{labels}}}}}\n"
    assert len(problems_of(text)) == 1


@pytest.mark.parametrize("spec", ["&s {quota: *s}", "&s {<<: *s}"])
def test_recursive_alias_is_a_problem_and_no_loop(spec: str) -> None:
    loaded = load_manifests((TENANT % "a" + f"spec: {spec}\n").encode(), "a.yaml")
    assert loaded.problems
    assert loaded.objects == ()


def test_own_keys_override_merged_keys() -> None:
    text = TENANT % "a" + "spec: {state: Active, <<: [{state: Suspended, timeZone: UTC}, {timeZone: Europe/London}]}\n"
    (loaded,) = load_manifests(text.encode(), "a.yaml").objects
    assert isinstance(loaded.resource, resources.Tenant)
    assert (loaded.resource.spec.state, loaded.resource.spec.time_zone) == ("Active", "UTC")


def test_field_without_value_is_left_out() -> None:
    (loaded,) = load_manifests((TENANT % "a" + "spec: {state: , quota: ~}\n").encode(), "a.yaml").objects
    assert isinstance(loaded.resource, resources.Tenant)
    assert loaded.resource.spec == tenant.TenantSpec()


def test_too_large_object_is_a_problem() -> None:
    values = ", ".join("x" * 63 for _ in range(16))
    selector = f"{{matchExpressions: [{', '.join([f'{{key: k, operator: In, values: [{values}]}}'] * 8)}]}}"
    allowed = f"- {{hostname: a.example, namespaces: {{from: Selector, selector: {selector}}}}}\n"
    spec = f"spec:\n  controllerName: a/b\n  hostname: a.example\n  allowedHostnames:\n{f'  {allowed}' * 200}"
    text = f"apiVersion: usher.dev/v1alpha1\nkind: ListenerClass\nmetadata: {{name: a}}\n{spec}"
    (problem,) = load_manifests(text.encode(), "a.yaml").problems
    assert "at most 1500000 bytes" in problem.message


def test_too_large_annotations_are_a_problem() -> None:
    text = (TENANT % "a").replace("{name: a}", f"{{name: a, annotations: {{a: {'x' * 262_144}}}}}")
    assert problems_of(text) == [(3, "metadata.annotations")]


def test_too_large_secret_is_a_problem() -> None:
    value = "x" * (1024 * 1024 + 1)
    text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData: {{key: {value}}}\n"
    assert problems_of(text) == [(1, "data")]


def test_many_aliases_of_a_small_list_are_allowed() -> None:
    routes = "\n".join(
        f"  - {{name: r{index}, destinationRef: {{name: d}}, oncePer: {{per: *p, every: Day}}}}" for index in range(32)
    )
    text = (TENANT % "a").replace("Tenant", "Listener") + "spec:\n  tenantRef: {name: a}\n  dedupe: {per: &p [User]}\n"
    assert load_manifests(f"{text}  routes:\n{routes}".encode(), "a.yaml").problems == ()


def test_duplicate_object_is_reported_and_counts_once() -> None:
    parts = [load_manifests((TENANT % "a").encode(), name) for name in ("a.yaml", "b.yaml")]
    merged = merge_manifests(parts)
    assert [loaded_object.file for loaded_object in merged.objects] == ["a.yaml"]
    assert [(problem.file, problem.path) for problem in merged.problems] == [("b.yaml", "metadata.name")]


@pytest.mark.parametrize("kind", ["ConfigMap", "Service"])
def test_other_kinds_are_ignored_with_a_notice(kind: str) -> None:
    loaded = load_manifests(f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n".encode(), "a.yaml")
    assert [problem.severity for problem in loaded.problems] == ["notice"]
    assert loaded.complete


def test_only_an_object_without_a_name_stops_removals() -> None:
    assert not load_manifests(b"apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {}\n", "a.yaml").complete
    invalid = load_manifests((TENANT % "a" + "spec: {state: x}\n").encode(), "a.yaml")
    assert invalid.complete
    assert invalid.invalid == {("Tenant", "default/a")}


def test_problems_do_not_repeat_values_of_secrets() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {p: 123456789, q: yes, r: [hunter2]}\n"
    text += "data: {z: hunter2!}\ntype: [hunter2]\n---\nx: *hunter2\n"
    told = repr(load_manifests(text.encode(), "a.yaml").problems)
    assert told.count("Problem(") == 5
    assert "hunter2" not in told
    assert "123456789" not in told


@hypothesis.given(
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(max_size=5),
        lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), inner),
        max_leaves=8,
    )
)
def test_no_shape_of_a_spec_raises(spec: object) -> None:
    for kind in ("Tenant", "Listener", "Destination", "ListenerClass"):
        document = {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": spec}
        load_manifests(json.dumps(document).encode(), "a.yaml")


def test_line_of_a_missing_field_is_that_of_its_parent() -> None:
    loaded = load_manifests((TENANT % "a" + "spec:\n  quota:\n    visitsPerMonth: 1\n").encode(), "a.yaml").objects[0]
    assert loaded.line_of("spec.quota.visitsPerMonth") == 6
    assert loaded.line_of("spec.quota.whenExceeded") == 6
    assert loaded.line_of("spec.retention[3].x") == 5
