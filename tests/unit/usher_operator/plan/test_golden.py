"""Golden files: the views in cases/*.yaml, and the plans for them in golden/*.yaml.

``pytest --update-golden tests/unit/usher_operator/plan/test_golden.py`` updates the golden files: review the diff.
"""

import pathlib
from typing import Any

import pytest
import yaml

from support import views
from usher_operator import plan
from usher_operator.view import ClusterFeatures, DestinationReport, GatewayReport, Key, ListenerReport

HERE = pathlib.Path(__file__).parent
CASES = sorted((HERE / "cases").glob("*.yaml"))
SUBJECTS = {"listeners": ListenerReport, "destinations": DestinationReport}


def load(file: pathlib.Path) -> tuple[views.MemoryView, list[Key]]:
    header, *manifests = yaml.safe_load_all(file.read_text("utf-8"))
    if header is not None and "kind" in header:
        header, manifests = None, [header, *manifests]
    given: dict[str, Any] = header or {}
    built = views.MemoryView()
    features = given.pop("features", {})
    if "issuers" in features:
        features["issuers"] = frozenset(map(tuple, features["issuers"]))
    built.set(features=ClusterFeatures(**features))
    built.states = given.pop("secret_states", {})
    for raw in manifests:
        built.put(raw)
    built.settle()
    for kind, status in given.pop("says", {}).items():
        built.controllers_say(kind, status)
    if gateways := given.pop("gateways", None):
        built.set(gateways=tuple(gateway(built, fields) for fields in gateways))
    built.settle()
    keys = [key(text) for text in given.pop("keys", ())] or sorted(built.every_key())
    assert not given, f"unknown: {given}"
    return built, keys


def gateway(built: views.MemoryView, given: dict[str, Any]) -> GatewayReport:
    reports = {
        name: {path: report_type(**fields) for path, fields in given.get(name, {}).items()}
        for name, report_type in SUBJECTS.items()
    }
    return built.gateway(given["name"], **reports)


def key(text: str) -> Key:
    kind, path = text.split()
    namespace, _, name = path.rpartition("/")
    return Key(kind, namespace, name)  # type: ignore[arg-type]


def planned(file: pathlib.Path) -> str:
    built, keys = load(file)
    plans = [views.shown(plan.plan(built, planned_key)) for planned_key in keys]
    return yaml.safe_dump_all(plans, sort_keys=False, width=120, allow_unicode=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_plans_equal_the_golden_files(case: pathlib.Path, update_golden: bool) -> None:
    golden = HERE / "golden" / case.name
    if update_golden:
        golden.write_text(planned(case), "utf-8")
    assert planned(case) == golden.read_text("utf-8")


def test_each_golden_file_has_a_case() -> None:
    assert sorted(path.name for path in (HERE / "golden").iterdir()) == [case.name for case in CASES]
