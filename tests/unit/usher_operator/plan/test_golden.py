"""Golden files: the objects in cases/*.yaml, and the plans for them in golden/*.yaml.

A case with `whole: true` shows whole Secrets. The others show the documents and URLs in them, because nothing else in a
Secret depends on the case.

``pytest --update-golden tests/unit/usher_operator/plan/test_golden.py`` updates the golden files: review the diff.
"""

import base64
import json
import pathlib
from typing import Any

import msgspec
import pytest
import yaml

from support.planning import Cluster
from usher_gateway import config_secret, documents
from usher_operator.state import child_labels
from usher_operator.state.values import (
    ClusterFeatures,
    DesiredChild,
    DestinationReport,
    GatewayReport,
    Key,
    ListenerReport,
    Plan,
    StatusCondition,
)

HERE = pathlib.Path(__file__).parent
CASES = sorted((HERE / "cases").glob("*.yaml"))
SUBJECTS = {"listeners": ListenerReport, "destinations": DestinationReport}


def load(file: pathlib.Path) -> tuple[Cluster, list[Key], bool]:
    header, *manifests = yaml.safe_load_all(file.read_text("utf-8"))
    if header is not None and "kind" in header:
        header, manifests = None, [header, *manifests]
    given: dict[str, Any] = header or {}
    cluster = Cluster()
    features = given.pop("features", {})
    if "issuers" in features:
        features["issuers"] = frozenset(map(tuple, features["issuers"]))
    cluster.set_features(ClusterFeatures(**features))
    for raw in manifests:
        cluster.put(raw)
    cluster.settle()
    for kind, status in given.pop("says", {}).items():
        cluster.controllers_say(kind, status)
    if (gateways := given.pop("gateways", None)) is not None:
        cluster.set_gateways(*(gateway(cluster, fields) for fields in gateways))
    cluster.settle()
    keys = [key(text) for text in given.pop("keys", ())] or sorted(cluster.every_key())
    is_whole = given.pop("whole", False)
    assert not given, f"unknown: {given}"
    return cluster, keys, is_whole


def gateway(cluster: Cluster, given: dict[str, Any]) -> GatewayReport:
    reports = {
        name: {path: msgspec.convert(fields, report_type) for path, fields in given.get(name, {}).items()}
        for name, report_type in SUBJECTS.items()
    }
    return cluster.gateway(given["name"], **reports)


def key(text: str) -> Key:
    kind, path = text.split()
    namespace, _, name = path.rpartition("/")
    return Key(kind, namespace, name)  # type: ignore[arg-type]


def planned(file: pathlib.Path) -> str:
    cluster, keys, is_whole = load(file)
    plans = [shown(cluster.plan(planned_key), is_whole=is_whole) for planned_key in keys]
    return yaml.safe_dump_all(plans, sort_keys=False, width=120, allow_unicode=True)


def shown(planned: Plan, *, is_whole: bool) -> dict[str, Any]:
    """A plan as people read it: what is in Secrets decoded, what a hash says left out."""
    readable: dict[str, Any] = {"key": f"{planned.key.kind} {planned.key.path}"}
    if planned.children is None:
        readable["children"] = "left as they are"
    elif planned.children:
        manifests = [_readable(child) for child in planned.children]
        readable["children"] = manifests if is_whole else [_without_wrapping(manifest) for manifest in manifests]
    if planned.status is not None:
        readable["status"] = {
            "observedGeneration": planned.status.observed_generation,
            **planned.status.fields,
            "conditions": [_line(condition) for condition in planned.status.conditions.values()],
        }
    for name in ("is_behind", "again_at", "unknown_secrets", "unread_namespace"):
        value = getattr(planned, name)
        if value:
            readable[name] = msgspec.to_builtins(value)
    return readable


def _line(condition: StatusCondition) -> str:
    head = f"{condition.type}={condition.status} {condition.reason} ({condition.observed_generation})"
    return f"{head}: {condition.message}" if condition.message else head


def _readable(child: DesiredChild) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(json.dumps(child.manifest))
    assert child_labels.owner_of(manifest["metadata"]["annotations"]) is not None
    assert manifest["metadata"]["annotations"].pop(config_secret.DESIRED_ANNOTATION) == child.desired
    if "data" in manifest:
        manifest["data"] = {name: _decoded(value) for name, value in manifest["data"].items()}
    return manifest


def _without_wrapping(manifest: dict[str, Any]) -> dict[str, Any]:
    if manifest["kind"] != "Secret":
        return manifest
    path = f"{manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
    envelope = manifest["data"].get(config_secret.DATA_KEY)
    return {"secret": path, **({"document": envelope["document"]} if envelope else {"data": manifest["data"]})}


def _decoded(value: str) -> Any:
    text = base64.b64decode(value).decode()
    if not text.startswith("{"):
        return text
    envelope = json.loads(text)
    kind = documents.ListenerDocument if envelope["kind"] == "Listener" else documents.DestinationDocument
    return {**envelope, "document": _without_defaults(msgspec.convert(envelope["document"], kind))}


def _without_defaults(value: Any) -> Any:
    """A document as plain values, less what is as it is by default."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        plain = {}
        for field in fields:
            default = field.default_factory() if callable(field.default_factory) else field.default
            if getattr(value, field.name) != default:
                plain[field.name] = _without_defaults(getattr(value, field.name))
        return plain
    if isinstance(value, tuple):
        return [_without_defaults(element) for element in value]
    return msgspec.to_builtins(value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_plans_equal_the_golden_files(case: pathlib.Path, update_golden: bool) -> None:
    golden = HERE / "golden" / case.name
    if update_golden:
        golden.write_text(planned(case), "utf-8")
    assert planned(case) == golden.read_text("utf-8"), "if the new plan is right, write it with --update-golden"


def test_each_golden_file_has_a_case() -> None:
    assert sorted(path.name for path in (HERE / "golden").iterdir()) == [case.name for case in CASES]
