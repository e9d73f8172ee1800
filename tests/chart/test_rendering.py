"""The chart as helm renders it, without a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from support import charts

ROOT = Path(__file__).parents[2]
CASES = sorted(charts.CHART.glob("ci/*-values.yaml"))
OWN_NAMES = "--set=configurationNamespace.name=usher-config"


def test_chart_passes_helm_lint() -> None:
    assert "0 chart(s) failed" in charts.run("lint", "--strict", str(charts.CHART))


@pytest.mark.parametrize("values", CASES, ids=lambda one: one.stem)
def test_two_renderings_are_equal(values: Path) -> None:
    arguments = (f"--values={values}", "--api-versions=usher.dev/v1alpha1/ListenerClass")
    assert charts.render(*arguments) == charts.render(*arguments)


def test_chart_makes_no_secret() -> None:
    assert "Secret" not in {kind for kind, _ in charts.objects()}


@pytest.mark.parametrize("component", ["gateway", "operator"])
def test_pods_are_restricted_and_read_only(component: str) -> None:
    kind = {"gateway": "StatefulSet", "operator": "Deployment"}[component]
    spec = charts.objects()[kind, f"usher-system/usher-{component}"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


def rules(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """The rules of roles and the subjects of bindings."""
    return {
        key: (one.get("rules"), one.get("roleRef"), one.get("subjects"))
        for key, one in objects.items()
        if "Role" in key[0]
    }


def test_rights_are_those_of_the_manifests() -> None:
    shipped: dict[tuple[str, str], dict[str, Any]] = {}
    for file in [*sorted((ROOT / "operator" / "rbac").glob("*.yaml")), ROOT / "crds" / "access" / "roles.yaml"]:
        for document in yaml.safe_load_all(file.read_text("utf-8")):
            metadata = document["metadata"]
            path = f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else metadata["name"]
            shipped[document["kind"], path] = document
    assert rules(charts.objects(OWN_NAMES)) == rules(shipped)


def test_agencies_are_admitted_by_bindings() -> None:
    found = charts.objects("--set=agencies={hotels,cafes}")
    bindings = [one for (kind, path), one in found.items() if kind == "RoleBinding" and path.endswith("/usher-agency")]
    assert [one["metadata"]["namespace"] for one in bindings] == ["hotels", "cafes"]
    assert bindings[0]["subjects"] == [
        {"kind": "ServiceAccount", "name": "usher-operator", "namespace": "usher-system"}
    ]
    assert ("ClusterRoleBinding", "usher-agency") not in found
    assert ("ClusterRoleBinding", "usher-agency") in charts.objects("--set=rbac.allNamespaces=true")


def test_definitions_are_those_of_the_repository_and_stay() -> None:
    found = charts.objects()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text("utf-8"))
        rendered = found["CustomResourceDefinition", definition["metadata"]["name"]]
        assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert rendered == definition
    without = charts.objects("--set=crds.install=false")
    assert not [kind for kind, _ in without if kind == "CustomResourceDefinition"]


def test_names_of_two_releases_differ_except_the_shared_ones() -> None:
    one, other = charts.objects(), charts.objects(release="second", namespace="second-system")
    shared = {path for kind, path in one.keys() & other.keys() if kind != "CustomResourceDefinition"}
    assert shared == {
        "usher-agency",
        "usher-view",
        "usher-edit",
        "usher-admin",
        "hostnames.usher.dev",
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("gateway.replicas=2", "'replicas' not allowed"),
        ("nonsense=1", "'nonsense' not allowed"),
        ("image.digest=latest", "does not match pattern"),
        ("operator.replicas=0", "minimum"),
        ("gateway.trustedProxies={10.0.0.1}", "does not match pattern"),
        ("listenerClass.create=true", "missing property 'hostname'"),
        ("gateway.storage.size=much", "does not match pattern"),
    ],
)
def test_impossible_values_are_refused(values: str, says: str) -> None:
    with pytest.raises(charts.HelmError, match=says):
        charts.render(f"--set={values}")


def test_class_before_its_definition_is_refused_with_a_hint() -> None:
    spec = "--set=listenerClass.create=true,listenerClass.spec.hostname=hooks.example.com"
    with pytest.raises(charts.HelmError, match="install the chart without it first"):
        charts.render(spec)
    found = charts.objects(spec, "--api-versions=usher.dev/v1alpha1/ListenerClass")
    assert found["ListenerClass", "public"]["spec"]["controllerName"] == "usher.dev/usher"


def test_every_value_has_a_comment() -> None:
    rows = [line for line in (charts.CHART / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []
