"""The chart as helm renders it, without a cluster."""

import base64
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer.main
import yaml

from support import charts, promtool
from usher_gateway.cli import main as gateway_cli
from usher_operator import cli as operator_cli

ROOT = Path(__file__).parents[2]
PODS = ("StatefulSet", "Deployment", "Job", "Pod")
CASES = sorted(charts.CHART.glob("ci/*-values.yaml"))
MONITORED = "--set=" + ",".join(
    f"{component}.networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"
    for component in ("gateway", "operator")
)
POSTGRESQL = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"
GATEWAYS = ("Deployment", "usher-system/usher-gateway")
OWN_NAMES = "--set=configurationNamespace.name=usher-config"


@pytest.mark.parametrize("values", CASES, ids=lambda file: file.stem)
def test_chart_passes_helm_lint(values: Path) -> None:
    """`lint` knows no API of a cluster, so it cannot see what needs one."""
    without = ("--set=listenerClass.create=false", "--set=monitoring.kind=")
    assert "0 chart(s) failed" in charts.run("lint", "--strict", str(charts.CHART), f"--values={values}", *without)


def test_notes_name_both_sources_of_visits_until_one_is_set() -> None:
    install = ("install", "usher", str(charts.CHART), "--dry-run=client", "--namespace=usher-system")
    missing = (
        "namespace of your Ingress controller, or an `ipBlock` of the nodes as pods see them if it uses their network"
    )
    assert missing in " ".join(charts.run(*install).partition("\nNOTES:\n")[2].split())
    given = "--set=gateway.networkPolicy.ingressFrom[0].ipBlock.cidr=192.0.2.0/28"
    assert "ingressFrom" not in charts.run(*install, given).partition("\nNOTES:\n")[2]


def test_chart_makes_no_secret() -> None:
    assert "Secret" not in {kind for kind, _ in charts.objects()}


LABELS = {"name", "instance", "component", "version", "part-of", "managed-by"}


@pytest.mark.parametrize("values", CASES, ids=lambda file: file.stem)
def test_every_object_has_the_recommended_labels(values: Path) -> None:
    for key, manifest in charts.objects(f"--values={values}", *charts.OTHER_APIS).items():
        labels = manifest["metadata"]["labels"]
        assert labels.keys() >= {"helm.sh/chart", *(f"app.kubernetes.io/{name}" for name in LABELS)}, key
        assert labels["app.kubernetes.io/instance"] == "usher"


def test_common_labels_and_annotations_are_on_every_object() -> None:
    for key, manifest in charts.objects(
        f"--values={charts.CHART / 'ci' / 'full-values.yaml'}", *charts.OTHER_APIS
    ).items():
        assert manifest["metadata"]["labels"]["example.com/cost-centre"] == "guest-wifi", key
        assert manifest["metadata"]["annotations"]["example.com/contact"] == "platform-team", key
        if key[0] in {"StatefulSet", "Deployment"}:
            pod = manifest["spec"]["template"]["metadata"]
            assert pod["labels"]["example.com/cost-centre"] == "guest-wifi"
            assert "example.com/contact" not in pod["annotations"]


def test_label_of_a_monitor_may_also_be_a_common_label() -> None:
    labels = "--set=commonLabels.release=all,monitoring.labels.release=prometheus,monitoring.kind=PodMonitor"
    objects = charts.objects(labels, MONITORED, *charts.OTHER_APIS)
    assert objects["PodMonitor", "usher-system/usher"]["metadata"]["labels"]["release"] == "prometheus"


def test_common_label_does_not_replace_one_by_which_pods_are_selected() -> None:
    label = "--set=commonLabels.app\\.kubernetes\\.io/component=all"
    assert charts.objects(label) == charts.objects()


def test_pods_are_selected_by_labels_that_no_upgrade_changes() -> None:
    objects = charts.objects("--set=gateway.podDisruptionBudget.enabled=true")
    selectors = [
        manifest["spec"].get("podSelector", {}).get("matchLabels")
        or manifest["spec"]["selector"].get("matchLabels", manifest["spec"]["selector"])
        for (kind, _), manifest in objects.items()
        if kind in {"StatefulSet", "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    ]
    assert len(selectors) == 10
    expected_labels = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
    assert [selector for selector in selectors if selector.keys() != expected_labels] == []


@pytest.mark.parametrize("component", ["gateway", "operator"])
def test_replicas_spread_over_zones_and_hosts(component: str) -> None:
    spec = charts.objects(POSTGRESQL)["Deployment", f"usher-system/usher-{component}"]["spec"]
    spread = spec["template"]["spec"]["topologySpreadConstraints"]
    assert [(constraint["topologyKey"], constraint["whenUnsatisfiable"]) for constraint in spread] == [
        ("topology.kubernetes.io/zone", "ScheduleAnyway"),
        ("kubernetes.io/hostname", "ScheduleAnyway"),
    ]
    assert [constraint["labelSelector"] for constraint in spread] == [spec["selector"]] * 2


@pytest.mark.parametrize("values", [(), (POSTGRESQL, "--set=store.postgresql.migrations=Hook")])
def test_every_pod_has_a_network_policy_and_requests_disk(values: tuple[str, ...]) -> None:
    objects = charts.objects(*values)
    selected = [
        manifest["spec"]["podSelector"]["matchLabels"]
        for (kind, _), manifest in objects.items()
        if kind == "NetworkPolicy" and set(manifest["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    ]
    pods = {key: manifest for key, manifest in objects.items() if key[0] in PODS}
    assert len(pods) >= 6
    for key, manifest in pods.items():
        pod = manifest if key[0] == "Pod" else manifest["spec"]["template"]
        labels = pod["metadata"]["labels"].items()
        assert [selector for selector in selected if selector.items() <= labels], key
        (container,) = pod["spec"]["containers"]
        assert "ephemeral-storage" in container["resources"]["requests"], key


def test_policy_of_the_migration_is_there_before_its_job() -> None:
    """Helm makes no object of the release before its hooks, so a policy of the release would come after the Job."""
    objects = charts.objects(POSTGRESQL, "--set=store.postgresql.migrations=Hook")
    name = "usher-system/usher-migration"
    policy, job = (objects[kind, name]["metadata"]["annotations"] for kind in ("NetworkPolicy", "Job"))
    assert policy["helm.sh/hook"] == job["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(policy["helm.sh/hook-weight"]) < int(job.get("helm.sh/hook-weight", 0))
    assert {entry["ports"][0]["port"] for entry in objects["NetworkPolicy", name]["spec"]["egress"]} == {53, 5432}


# Object with a pod -> where its spec is.
POD_SPECS = {
    ("StatefulSet", "usher-system/usher-gateway"): ("spec", "template", "spec"),
    GATEWAYS: ("spec", "template", "spec"),
    ("Deployment", "usher-system/usher-operator"): ("spec", "template", "spec"),
    ("Pod", "usher-system/usher-test-tenant"): ("spec",),
}


@pytest.mark.parametrize("key", POD_SPECS, ids="-".join)
def test_pods_are_restricted_and_read_only(key: tuple[str, str]) -> None:
    spec = charts.objects(*([POSTGRESQL] if key == GATEWAYS else []))[key]
    for word in POD_SPECS[key]:
        spec = spec[word]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"]
    assert spec["enableServiceLinks"] is False
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"  # so that `kubectl describe` says why
    if key[0] != "Pod":
        assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()


OPENSHIFT = "--api-versions=security.openshift.io/v1"


def test_openshift_chooses_the_users_of_every_pod() -> None:
    """Its default constraint rejects a pod that names a user outside of the namespace's range."""
    hook = "--set=store.postgresql.migrations=Hook"
    objects = {**charts.objects(OPENSHIFT), **charts.objects(OPENSHIFT, POSTGRESQL, hook)}
    pods = [
        manifest["spec"].get("template", manifest)["spec"] for (kind, _), manifest in objects.items() if kind in PODS
    ]
    assert len(pods) == 8
    chosen = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert [pod["securityContext"] for pod in pods] == [chosen] * 8


def test_accounts_mount_no_token_unless_a_pod_asks_for_it() -> None:
    accounts = {path: manifest for (kind, path), manifest in charts.objects().items() if kind == "ServiceAccount"}
    assert accounts.keys() == {f"usher-system/usher-{name}" for name in ("gateway", "operator", "test")}
    assert {account["automountServiceAccountToken"] for account in accounts.values()} == {False}


def command_of(name: str) -> Any:
    builds = {"usher": gateway_cli.build, "usher-operator": operator_cli.build}
    return typer.main.get_command(builds[name]())


@pytest.mark.parametrize("values", CASES, ids=lambda file: file.stem)
def test_programs_know_the_arguments_that_the_pods_give_them(values: Path) -> None:
    objects = charts.objects(f"--values={values}", *charts.OTHER_APIS)
    pods = [
        manifest["spec"].get("template", manifest)["spec"]
        for (kind, _), manifest in objects.items()
        if kind in {"StatefulSet", "Deployment", "Pod"}
    ]
    assert len(pods) == 6
    for pod in pods:
        program, name, *arguments = pod["containers"][0]["args"]
        command = command_of(program).get_command(None, name)
        command.make_context(name, list(arguments))  # parses, and refuses what it does not know


def test_helm_test_has_one_name_for_each_check() -> None:
    """helm prints the name of each hook, and stops at the first that fails."""
    hooks = {
        manifest["metadata"]["annotations"]["helm.sh/hook-weight"]: (
            *key,
            manifest["metadata"]["annotations"]["helm.sh/hook"],
        )
        for key, manifest in charts.objects().items()
        if charts.is_hook(manifest)
    }
    assert hooks == {
        "0": ("Pod", "usher-system/usher-test-definitions", "test"),
        "1": ("Pod", "usher-system/usher-test-operator", "test"),
        "2": ("Pod", "usher-system/usher-test-gateway", "test"),
        "3": ("Pod", "usher-system/usher-test-tenant", "test"),
    }


def is_selected(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    (expression,) = selector["matchExpressions"]
    return labels.items() >= selector["matchLabels"].items() and labels[expression["key"]] in expression["values"]


def test_service_monitor_scrapes_the_admin_service_of_both_programs() -> None:
    objects = charts.objects("--set=monitoring.kind=ServiceMonitor", MONITORED, *charts.OTHER_APIS)
    spec = objects["ServiceMonitor", "usher-system/usher"]["spec"]
    assert spec["endpoints"] == [{"port": "admin"}]
    scraped = {
        path
        for (kind, path), manifest in objects.items()
        if kind == "Service"
        and is_selected(manifest["metadata"]["labels"], spec["selector"])
        and "admin" in [port["name"] for port in manifest["spec"]["ports"]]
    }
    assert scraped == {"usher-system/usher-gateway-admin", "usher-system/usher-operator-admin"}


def test_pod_monitor_scrapes_the_pods_of_both_programs() -> None:
    objects = charts.objects("--set=monitoring.kind=PodMonitor", MONITORED, *charts.OTHER_APIS)
    spec = objects["PodMonitor", "usher-system/usher"]["spec"]
    assert spec["podMetricsEndpoints"] == [{"port": "admin"}]
    for key in (("StatefulSet", "usher-system/usher-gateway"), ("Deployment", "usher-system/usher-operator")):
        pod = objects[key]["spec"]["template"]
        assert is_selected(pod["metadata"]["labels"], spec["selector"])
        assert "admin" in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]


def test_prometheus_rules_are_the_rule_files() -> None:
    objects = charts.objects("--set=monitoring.rules.enabled=true", *charts.OTHER_APIS)
    for file in promtool.rule_files():
        rule = objects["PrometheusRule", f"usher-system/usher-{file.stem}"]
        assert rule["spec"] == yaml.safe_load(file.read_text("utf-8"))


def test_dashboards_are_the_files_of_the_boards() -> None:
    objects = charts.objects("--set=monitoring.dashboards.enabled=true")
    boards = {path: manifest for (kind, path), manifest in objects.items() if kind == "ConfigMap"}
    files = sorted((charts.CHART / "files" / "dashboards").glob("*.json"))
    assert [f"usher-system/usher-dashboard-{file.stem}" for file in files] == sorted(boards)
    for file, board in zip(files, (boards[path] for path in sorted(boards)), strict=True):
        assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert "annotations" not in board["metadata"]
        assert json.loads(board["data"][f"usher-{file.name}"]) == json.loads(file.read_text("utf-8"))


def test_links_of_boards_lead_to_the_documentation() -> None:
    values = "--set=monitoring.dashboards.enabled=true,monitoring.documentation=https://git.example.com/usher"
    board = charts.objects(values)["ConfigMap", "usher-system/usher-dashboard-gateway"]
    urls = re.findall(r'"url": "([^"]+)"', board["data"]["usher-gateway.json"])
    assert urls
    assert {url.rpartition("/")[0] for url in urls} == {"https://git.example.com/usher/docs/runbooks"}


def rules(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """The rules of roles and the subjects of bindings."""
    return {
        key: (manifest.get("rules"), manifest.get("roleRef"), manifest.get("subjects"))
        for key, manifest in objects.items()
        if "Role" in key[0] and manifest["metadata"].get("labels", {}).get("app.kubernetes.io/component") != "test"
    }


def manifests(*files: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of some files, by the same keys as those of the chart."""
    shipped: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        for document in yaml.safe_load_all(file.read_text("utf-8")):
            metadata = document["metadata"]
            path = f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else metadata["name"]
            shipped[document["kind"], path] = document
    return shipped


# Manifests with rights that every install has.
RIGHTS = [*sorted((ROOT / "operator" / "rbac").glob("*.yaml")), ROOT / "crds" / "access" / "roles.yaml"]


def test_rights_are_those_of_the_manifests() -> None:
    assert rules(charts.objects(OWN_NAMES)) == rules(manifests(*RIGHTS))


def test_kubernetes_tokens_bring_their_rights_and_the_roles_of_people() -> None:
    more = [
        ROOT / "operator" / "rbac" / "optional" / "kubernetes-tokens.yaml",
        ROOT / "crds" / "access" / "people.yaml",
    ]
    objects = charts.objects(OWN_NAMES, "--set=gateway.kubernetesTokens.enabled=true")
    assert rules(objects) == rules(manifests(*RIGHTS, *more))


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ("", []),
        ("enabled=true", ["--admin-kubernetes-tokens"]),
        ("enabled=true,audience=usher.dev", ["--admin-kubernetes-tokens", "--admin-token-audience=usher.dev"]),
    ],
)
def test_gateway_takes_kubernetes_tokens_only_if_enabled(values: str, flags: list[str]) -> None:
    given = ",".join(f"gateway.kubernetesTokens.{value}" for value in values.split(",") if value)
    objects = charts.objects(*([f"--set={given}"] if given else []))
    (container,) = objects["StatefulSet", "usher-system/usher-gateway"]["spec"]["template"]["spec"]["containers"]
    present = [flag for flag in container["args"] if "kubernetes-tokens" in flag or "audience" in flag]
    assert present == flags


def test_pages_have_no_ingress_by_default() -> None:
    objects = charts.objects()
    assert [kind for kind, _ in objects if kind == "Ingress"] == []
    (_, admin) = objects["NetworkPolicy", "usher-system/usher-gateway"]["spec"]["ingress"]
    assert len(admin["from"]) == 2  # the operator and `helm test`


def test_ingress_leads_to_the_pages_alone_and_from_its_controller_alone() -> None:
    objects = charts.objects(f"--values={charts.CHART}/ci/full-values.yaml", *charts.OTHER_APIS)
    (rule,) = objects["Ingress", "usher-system/webhooks-pages"]["spec"]["rules"]
    backend = {"service": {"name": "webhooks-gateway-admin", "port": {"name": "admin"}}}
    assert rule["host"] == "usher.example.com"
    assert rule["http"]["paths"] == [
        {"path": path, "pathType": "Prefix", "backend": backend} for path in ("/ui", "/my")
    ]
    (container,) = objects["StatefulSet", "usher-system/webhooks-gateway"]["spec"]["template"]["spec"]["containers"]
    assert {"--admin-host=usher.example.com", "--page-role=support desk=look"} <= set(container["args"])
    (_, admin) = objects["NetworkPolicy", "usher-system/webhooks-gateway"]["spec"]["ingress"]
    controller = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-internal"}}}
    assert (admin["ports"], controller in admin["from"], len(admin["from"])) == ([{"port": "admin"}], True, 4)


def test_agencies_are_admitted_by_bindings() -> None:
    objects = charts.objects("--set=agencies={hotels,cafes}")
    bindings = [
        manifest
        for (kind, path), manifest in objects.items()
        if kind == "RoleBinding" and path.endswith("/usher-agency")
    ]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["hotels", "cafes"]
    assert bindings[0]["subjects"] == [
        {"kind": "ServiceAccount", "name": "usher-operator", "namespace": "usher-system"}
    ]
    assert ("ClusterRoleBinding", "usher-agency") not in objects
    assert ("ClusterRoleBinding", "usher-agency") in charts.objects("--set=rbac.allNamespaces=true")


def test_definitions_are_those_of_the_repository_and_stay() -> None:
    objects = charts.objects()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text("utf-8"))
        rendered = objects["CustomResourceDefinition", definition["metadata"]["name"]]
        assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        del rendered["metadata"]["labels"]
        assert rendered == definition
    without = charts.objects("--set=crds.enabled=false")
    assert not [kind for kind, _ in without if kind == "CustomResourceDefinition"]


def test_second_release_shares_no_object_with_the_first() -> None:
    second = charts.CHART / "ci" / "second-values.yaml"
    first = charts.objects()
    other = charts.objects(f"--values={second}", release="second", namespace="second-system")
    assert other.keys() & first.keys() == set()


def test_chart_indexes_can_show_the_chart() -> None:
    chart = yaml.safe_load((charts.CHART / "Chart.yaml").read_text("utf-8"))
    assert chart.keys() >= {"home", "sources", "maintainers", "icon"}
    image = base64.b64decode(chart["icon"].removeprefix("data:image/svg+xml;base64,"), validate=True)
    assert ElementTree.fromstring(image).tag == "{http://www.w3.org/2000/svg}svg"
    lists = {
        name: yaml.safe_load(chart["annotations"][f"artifacthub.io/{name}"]) for name in ("crds", "changes", "links")
    }
    assert sorted(f"usher.dev_{kind['name'].partition('.')[0]}.yaml" for kind in lists["crds"]) == sorted(
        file.name for file in (ROOT / "crds").glob("*.yaml")
    )
    assert {change["kind"] for change in lists["changes"]} <= {
        "added",
        "changed",
        "deprecated",
        "removed",
        "fixed",
        "security",
    }
    assert all(link.keys() == {"name", "url"} for link in lists["links"])


def test_every_value_has_a_comment() -> None:
    rows = [line for line in (charts.CHART / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((), []),
        (("operator.certificateSecrets={wildcard}",), ["wildcard"]),
        (("listenerClass.spec.tls.mode=Provided", "listenerClass.spec.tls.secretName=own"), ["own"]),
        (("listenerClass.spec.tls.mode=Class", "listenerClass.spec.tls.secretName=own"), []),
    ],
)
def test_operator_gets_only_the_certificates_that_the_values_name(values: tuple[str, ...], names: list[str]) -> None:
    given = ["listenerClass.create=true", "listenerClass.spec.hostname=hooks.example.com", *values]
    objects = charts.objects(*[f"--set={value}" for value in given], *charts.OTHER_APIS)
    key = "usher-system/usher-operator-certificates"
    assert ("RoleBinding", key) in objects if names else ("RoleBinding", key) not in objects
    rules = objects["Role", key]["rules"] if names else []
    expected = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]}
    assert rules == ([expected] if names else [])
