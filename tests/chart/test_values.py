"""Each value of the chart has an effect; impossible values are refused with a hint."""

import functools
import re
from typing import Any

import pytest

from support import charts

FULL = (f"--values={charts.CHART / 'ci' / 'full-values.yaml'}", *charts.OTHER_APIS)

TEAM = {"example.com/team": "platform"}
SELECTOR = {"app.kubernetes.io/name": "usher", "app.kubernetes.io/instance": "usher"}
ZONES = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
HOSTS = {**ZONES, "topologyKey": "kubernetes.io/hostname"}
SYSTEM = "usher-system"
GATEWAY = ("StatefulSet", f"{SYSTEM}/webhooks-gateway")
OPERATOR = ("Deployment", f"{SYSTEM}/webhooks-operator")
GATEWAY_POLICY = ("NetworkPolicy", f"{SYSTEM}/webhooks-gateway")
OPERATOR_POLICY = ("NetworkPolicy", f"{SYSTEM}/webhooks-operator")
PUBLIC = ("Service", f"{SYSTEM}/webhooks-gateway")
ALERTS = ("PrometheusRule", f"{SYSTEM}/webhooks-gateway")
BOARD = ("ConfigMap", f"{SYSTEM}/webhooks-dashboard-agency")
MONITOR = ("ServiceMonitor", f"{SYSTEM}/webhooks")
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"


def from_namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def of_pod(component: str, key: tuple[str, str]) -> dict[str, tuple[tuple[str, str], str, Any]]:
    """Return the effects of the values that gateway and operator share."""
    selector = {"matchLabels": {**SELECTOR, "app.kubernetes.io/component": component}}
    spread = {**(ZONES if component == "gateway" else HOSTS), "labelSelector": selector}
    places: dict[str, tuple[str, Any]] = {
        "extraArgs": (f"{CONTAINER}.args.-1", {"gateway": "--accept-min-free-mib=2048", "operator": "--workers=32"}),
        "extraEnv": (f"{CONTAINER}.env.-1", {"name": "TZ", "value": "UTC"}),
        "extraVolumes": (f"{POD}.volumes.-1", {"name": "extra", "emptyDir": {}}),
        "extraVolumeMounts": (f"{CONTAINER}.volumeMounts.-1", {"name": "extra", "mountPath": "/extra"}),
        "podLabels": ("spec.template.metadata.labels.example\\.com/team", "platform"),
        "podAnnotations": ("spec.template.metadata.annotations", {"example.com/scrape": "true"}),
        "priorityClassName": (f"{POD}.priorityClassName", "system-cluster-critical"),
        "runtimeClassName": (f"{POD}.runtimeClassName", "sandboxed"),
        "nodeSelector": (f"{POD}.nodeSelector", {"kubernetes.io/os": "linux"}),
        "tolerations": (f"{POD}.tolerations", [{"key": "dedicated", "operator": "Exists"}]),
        "affinity": (f"{POD}.affinity", {"nodeAffinity": {}}),
        "topologySpreadConstraints": (f"{POD}.topologySpreadConstraints", [spread]),
        "resources.requests": (f"{CONTAINER}.resources.requests.cpu", {"gateway": 1, "operator": "200m"}),
        "resources.limits": (f"{CONTAINER}.resources.limits.memory", {"gateway": "2Gi", "operator": "1Gi"}),
        "logLevel": (f"{CONTAINER}.args", "--log-level=debug"),
        "serviceAccount.name": (
            f"{POD}.serviceAccountName",
            {"gateway": "webhooks", "operator": "webhooks-operator-account"},
        ),
    }
    effects = {}
    for name, (place, effect) in places.items():
        differs = isinstance(effect, dict) and effect.keys() == {"gateway", "operator"}
        effects[f"{component}.{name}"] = (key, place, effect[component] if differs else effect)
    return effects


EFFECTS: dict[str, tuple[tuple[str, str], str, Any]] = {
    "fullnameOverride": (GATEWAY, "metadata.name", "webhooks-gateway"),
    "image.repository": (GATEWAY, f"{CONTAINER}.image", f"registry.example.com/usher@sha256:{'0' * 64}"),
    "image.digest": (OPERATOR, f"{CONTAINER}.image", f"registry.example.com/usher@sha256:{'0' * 64}"),
    "image.pullPolicy": (GATEWAY, f"{CONTAINER}.imagePullPolicy", "Never"),
    "image.pullSecrets": (GATEWAY, f"{POD}.imagePullSecrets", [{"name": "registry"}]),
    "controllerName": (OPERATOR, f"{CONTAINER}.args", "--controller-name=example.com/usher"),
    "configurationNamespace.name": (GATEWAY, f"{CONTAINER}.args", "--config-namespace=webhooks-config"),
    "agencies": (("RoleBinding", "cafes/usher-agency"), "subjects.0.name", "webhooks-operator-account"),
    "rbac.allNamespaces": (("ClusterRoleBinding", "usher-agency"), "roleRef.name", "usher-agency"),
    "monitoring.kind": (MONITOR, "spec.endpoints.0.port", "admin"),
    "monitoring.labels": (MONITOR, "metadata.labels.release", "prometheus"),
    "monitoring.interval": (MONITOR, "spec.endpoints.0.interval", "30s"),
    "monitoring.documentation": (
        ALERTS,
        "spec.groups.0.rules.0.annotations.runbook_url",
        "https://git.example.com/usher/docs/runbooks/GatewayDown.md",
    ),
    "monitoring.rules.enabled": (ALERTS, "spec.groups.0.name", "usher-gateway"),
    "monitoring.rules.labels": (ALERTS, "metadata.labels.release", "prometheus"),
    "monitoring.dashboards.enabled": (BOARD, "kind", "ConfigMap"),
    "monitoring.dashboards.label": (BOARD, "metadata.labels.example_board", "1"),
    "monitoring.dashboards.folder": (BOARD, "metadata.annotations.grafana_folder", "Webhooks"),
    "apiServer.cidrs": (OPERATOR_POLICY, "spec.egress.1.to.1", {"ipBlock": {"cidr": "10.0.0.10/32"}}),
    "apiServer.ports": (GATEWAY_POLICY, "spec.egress.2.ports", [{"port": 443}, {"port": 8443}]),
    "listenerClass.create": (("ListenerClass", "hooks"), "kind", "ListenerClass"),
    "listenerClass.name": (("ListenerClass", "hooks"), "metadata.name", "hooks"),
    "listenerClass.spec": (
        ("ListenerClass", "hooks"),
        "spec",
        {"controllerName": "example.com/usher", "hostname": "hooks.example.com"},
    ),
    "gateway.terminationGracePeriodSeconds": (GATEWAY, f"{POD}.terminationGracePeriodSeconds", 60),
    "gateway.storage.size": (GATEWAY, "spec.volumeClaimTemplates.0.spec.resources.requests.storage", "50Gi"),
    "gateway.storage.className": (GATEWAY, "spec.volumeClaimTemplates.0.spec.storageClassName", "fast"),
    "gateway.allowDestinations": (GATEWAY, f"{CONTAINER}.args", "--allow-destination=10.1.0.0/16"),
    "gateway.trustedProxies": (GATEWAY, f"{CONTAINER}.args", "--trusted-proxies=10.0.0.0/8"),
    "gateway.service.type": (PUBLIC, "spec.type", "LoadBalancer"),
    "gateway.service.port": (PUBLIC, "spec.ports.0.port", 8080),
    "gateway.service.annotations": (PUBLIC, "metadata.annotations", {"example.com/load-balancer": "internal"}),
    "gateway.networkPolicy.ingressFrom": (GATEWAY_POLICY, "spec.ingress.0.from", [from_namespace("ingress")]),
    "gateway.networkPolicy.metricsFrom": (GATEWAY_POLICY, "spec.ingress.1.from.2", from_namespace("monitoring")),
    "gateway.networkPolicy.extraEgress": (
        GATEWAY_POLICY,
        "spec.egress.-1",
        {"to": [{"podSelector": {"matchLabels": {"app": "crm"}}}]},
    ),
    "gateway.podDisruptionBudget.enabled": (
        ("PodDisruptionBudget", f"{SYSTEM}/webhooks-gateway"),
        "spec.maxUnavailable",
        0,
    ),
    "gateway.serviceAccount.annotations": (
        ("ServiceAccount", f"{SYSTEM}/webhooks"),
        "metadata.annotations",
        TEAM,
    ),
    "operator.replicas": (OPERATOR, "spec.replicas", 3),
    "operator.gatewayAPI": (OPERATOR, f"{CONTAINER}.args", "--no-gateway-api"),
    "operator.certManager": (OPERATOR, f"{CONTAINER}.args", "--no-cert-manager"),
    "operator.networkPolicy.metricsFrom": (OPERATOR_POLICY, "spec.ingress.0.from.1", from_namespace("monitoring")),
    "operator.serviceAccount.annotations": (
        ("ServiceAccount", f"{SYSTEM}/webhooks-operator-account"),
        "metadata.annotations",
        TEAM,
    ),
    **of_pod("gateway", GATEWAY),
    **of_pod("operator", OPERATOR),
}
"""Value -> the object, the place in it, and what ci/full-values.yaml sets there (or adds to a list)."""

POSTGRESQL = f"--values={charts.CHART / 'ci' / 'postgresql-values.yaml'}"
AUTOSCALING = f"--values={charts.CHART / 'ci' / 'autoscaling-values.yaml'}"
SMALLEST_POSTGRESQL = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"
GATEWAYS = ("Deployment", f"{SYSTEM}/usher-gateway")
AUTOSCALER = ("HorizontalPodAutoscaler", f"{SYSTEM}/usher-gateway")
BUDGET = ("PodDisruptionBudget", f"{SYSTEM}/usher-gateway")
GATEWAYS_POLICY = ("NetworkPolicy", f"{SYSTEM}/usher-gateway")
MIGRATION = ("Job", f"{SYSTEM}/usher-migration")
JOB_ADDRESS = f"{CONTAINER}.env.0.valueFrom.secretKeyRef"
ADDRESS = f"{CONTAINER}.env.2.valueFrom.secretKeyRef"
AUTHORITY = f"{POD}.volumes.3.secret"

POSTGRESQL_EFFECTS: dict[str, tuple[str, tuple[str, str], str, Any]] = {
    "store.postgresql.secret.name": (POSTGRESQL, GATEWAYS, f"{ADDRESS}.name", "usher-database-app"),
    "store.postgresql.secret.key": (POSTGRESQL, GATEWAYS, f"{ADDRESS}.key", "pooled-uri"),
    "store.postgresql.caSecret.name": (POSTGRESQL, GATEWAYS, f"{AUTHORITY}.secretName", "usher-database-ca"),
    "store.postgresql.caSecret.key": (POSTGRESQL, GATEWAYS, f"{AUTHORITY}.items.0.key", "authority.crt"),
    "store.postgresql.migrations": (POSTGRESQL, GATEWAYS, f"{CONTAINER}.args.11", "--no-migrate"),
    "store.postgresql.migrationSecret.name": (POSTGRESQL, MIGRATION, f"{JOB_ADDRESS}.name", "usher-database-owner"),
    "store.postgresql.migrationSecret.key": (POSTGRESQL, MIGRATION, f"{JOB_ADDRESS}.key", "direct-uri"),
    "store.postgresql.port": (POSTGRESQL, GATEWAYS_POLICY, "spec.egress.3.ports", [{"port": 6432}]),
    "store.postgresql.peers": (
        AUTOSCALING,
        GATEWAYS_POLICY,
        "spec.egress.3.to",
        [{"ipBlock": {"cidr": "10.20.0.0/28"}}],
    ),
    "gateway.replicas": (POSTGRESQL, GATEWAYS, "spec.replicas", 5),
    "gateway.preStopSeconds": (POSTGRESQL, GATEWAYS, f"{CONTAINER}.lifecycle.preStop.sleep.seconds", 20),
    "gateway.autoscaling.enabled": (AUTOSCALING, AUTOSCALER, "spec.scaleTargetRef.name", "usher-gateway"),
    "gateway.autoscaling.minReplicas": (AUTOSCALING, AUTOSCALER, "spec.minReplicas", 4),
    "gateway.autoscaling.maxReplicas": (AUTOSCALING, AUTOSCALER, "spec.maxReplicas", 12),
    "gateway.autoscaling.targetCPUUtilizationPercentage": (
        AUTOSCALING,
        AUTOSCALER,
        "spec.metrics.0.resource.target",
        {"type": "Utilization", "averageUtilization": 60},
    ),
}
"""Value that needs PostgreSQL -> a file that sets it, the object, the place in it, and what is there."""

SWITCHES = {
    "configurationNamespace.create": ("Namespace", "usher-system-config"),
    "rbac.create": ("ClusterRole", "usher-operator"),
    "rbac.agencyRole": ("ClusterRole", "usher-agency"),
    "rbac.aggregate": ("ClusterRole", "usher-edit"),
    "crds.install": ("CustomResourceDefinition", "tenants.usher.dev"),
    "hostnamePolicy.enabled": ("ValidatingAdmissionPolicy", "hostnames.usher.dev"),
    "gateway.networkPolicy.enabled": ("NetworkPolicy", f"{SYSTEM}/usher-gateway"),
    "gateway.serviceAccount.create": ("ServiceAccount", f"{SYSTEM}/usher-gateway"),
    "operator.networkPolicy.enabled": ("NetworkPolicy", f"{SYSTEM}/usher-operator"),
    "operator.podDisruptionBudget.enabled": ("PodDisruptionBudget", f"{SYSTEM}/usher-operator"),
    "operator.serviceAccount.create": ("ServiceAccount", f"{SYSTEM}/usher-operator"),
}
"""Value that is true by default -> an object that exists only then."""


@functools.cache
def full() -> dict[tuple[str, str], dict[str, Any]]:
    return charts.objects(*FULL)


@functools.cache
def default() -> dict[tuple[str, str], dict[str, Any]]:
    """The objects with the default values, under the names of the full ones."""
    return charts.objects("--set=fullnameOverride=webhooks", *charts.OTHER_APIS)


def at(document: Any, place: str) -> Any:
    """Return what is at a dotted place, or None."""
    for word in re.split(r"(?<!\\)\.", place):
        try:
            document = document[int(word) if isinstance(document, list) else word.replace("\\.", ".")]
        except (LookupError, TypeError):
            return None
    return document


def values() -> set[str]:
    """The values that the chart's page lists."""
    rows = re.findall(r"^\| `([A-Za-z.]+)` \|", (charts.CHART / "README.md").read_text("utf-8"), re.MULTILINE)
    return set(rows)


def test_every_value_is_in_one_of_the_tables() -> None:
    elsewhere = {"image.tag", "store.type", "store.confirmChangeTo"}
    assert EFFECTS.keys() | POSTGRESQL_EFFECTS.keys() | SWITCHES.keys() | elsewhere == values()


@pytest.mark.parametrize("value", EFFECTS)
def test_value_has_its_effect(value: str) -> None:
    key, place, expected = EFFECTS[value]
    rendered, rendered_by_default = at(full()[key], place), at(default().get(key), place)
    if isinstance(rendered, list) and not isinstance(expected, list):
        assert expected in rendered
        assert expected not in (rendered_by_default or [])
    else:
        assert rendered == expected
        assert rendered_by_default != expected or value == "fullnameOverride"


@functools.cache
def with_values(argument: str) -> dict[tuple[str, str], dict[str, Any]]:
    return charts.objects(argument)


@pytest.mark.parametrize("value", POSTGRESQL_EFFECTS)
def test_value_for_postgresql_has_its_effect(value: str) -> None:
    file, key, place, expected = POSTGRESQL_EFFECTS[value]
    assert at(with_values(file)[key], place) == expected
    assert at(with_values(SMALLEST_POSTGRESQL).get(key), place) != expected


@pytest.mark.parametrize("value", SWITCHES)
def test_switch_removes_its_object(value: str) -> None:
    assert SWITCHES[value] in charts.objects()
    assert SWITCHES[value] not in charts.objects(f"--set={value}=false")


def test_tag_is_the_version_of_the_chart_unless_it_is_set() -> None:
    def image(*arguments: str) -> Any:
        return at(charts.objects(*arguments)["Deployment", f"{SYSTEM}/usher-operator"], f"{CONTAINER}.image")

    assert re.fullmatch(r"usher:\d+\.\d+\.\d+", image())
    assert image("--set=image.tag=nightly") == "usher:nightly"


def test_rollback_replaces_a_gateway_that_never_became_ready() -> None:
    """With OrderedReady, the default, Kubernetes waits for the broken pod before it replaces it."""
    assert at(full()[GATEWAY], "spec.podManagementPolicy") == "Parallel"


def test_people_run_usher_in_the_pod_of_the_gateway_without_naming_the_tokens() -> None:
    assert {"name": "USHER_DATA", "value": "/tokens"} in at(full()[GATEWAY], f"{CONTAINER}.env")


def test_gateway_policy_allows_only_the_ranges_of_allowed_destinations() -> None:
    peers = [
        peer["ipBlock"]
        for rule in at(full()[GATEWAY_POLICY], "spec.egress")
        for peer in rule.get("to", ())
        if "ipBlock" in peer
    ]
    assert {"cidr": "10.1.0.0/16"} in peers
    public = next(peer for peer in peers if peer["cidr"] == "0.0.0.0/0")
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"} == set(public["except"])
    assert [peer for peer in peers if peer["cidr"] == "0.0.0.0/0" and "except" not in peer] == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("gateway.replicas=0", "minimum"),
        ("gateway.replicas=40", "maximum"),
        ("store.type=MySQL", "must be one of"),
        ("store.postgresql.secret.key=", "minLength"),
        ("store.postgresql.peers[0].cidr=10.20.0.0/28", "'cidr' not allowed"),
        ("nonsense=1", "'nonsense' not allowed"),
        ("image.digest=latest", "does not match pattern"),
        ("operator.replicas=0", "minimum"),
        ("gateway.trustedProxies={10.0.0.1}", "does not match pattern"),
        ("gateway.allowDestinations={foo bar}", "does not match pattern"),
        ("gateway.storage.size=much", "does not match pattern"),
        ("gateway.terminationGracePeriodSeconds=5", "minimum"),
        ("monitoring.kind=Probe", "must be one of"),
        ("monitoring.interval=often", "does not match pattern"),
        ("monitoring.documentation=docs", "does not match pattern"),
        ("apiServer.ports={https}", "got string, want integer"),
        ("fullnameOverride=1usher", "does not match pattern"),
        ("image.tag=a b", "does not match pattern"),
        ("listenerClass.name=", "minLength"),
    ],
)
def test_wrong_value_is_refused_by_the_schema(value: str, says: str) -> None:
    with pytest.raises(charts.HelmError, match=says):
        charts.render(f"--set={value}")


@pytest.mark.parametrize(
    "value", ["gateway", "apiServer.ports", "gateway.networkPolicy.enabled", "rbac.create", "operator.replicas"]
)
def test_value_that_is_needed_cannot_be_removed(value: str) -> None:
    """Without its ports, the rule for the API server would allow connections to every address."""
    with pytest.raises(charts.HelmError, match=f"missing property '{value.rpartition('.')[2]}'"):
        charts.render(f"--set={value}=null")


def test_empty_value_can_be_removed() -> None:
    assert charts.render("--set=gateway.nodeSelector=null,gateway.resources.limits=null,agencies=null")


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("--set-string=agencies={1234},gateway.storage.className=12,configurationNamespace.name=34",), {}),
        (("--set-string=gateway.serviceAccount.name=12,operator.serviceAccount.name=34",), {}),
        ((), {"namespace": "1234"}),
        (("--set=fullnameOverride=webhooks",), {"release": "1234"}),
    ],
)
def test_name_that_looks_like_a_number_stays_text(arguments: tuple[str, ...], about: dict[str, str]) -> None:
    def numbers(document: Any) -> list[Any]:
        if isinstance(document, list):
            return [number for each in document for number in numbers(each)]
        if not isinstance(document, dict):
            return []
        names = {"name", "namespace", "serviceAccountName", "storageClassName", "app.kubernetes.io/instance"}
        own_numbers = [document[key] for key in names & document.keys() if isinstance(document[key], int)]
        return own_numbers + [number for each in document.values() for number in numbers(each)]

    assert numbers(list(charts.objects("--set=crds.install=false", *arguments, **about).values())) == []


@pytest.mark.parametrize("size", ["2Gi", "2048Mi", "2.5G", "1Ti", "10Gi"])
def test_volume_above_the_free_space_that_the_gateway_keeps_is_accepted(size: str) -> None:
    assert charts.render(f"--set=gateway.storage.size={size}")


def test_small_volume_is_accepted_with_a_lower_bound_of_free_space() -> None:
    assert charts.render("--set=gateway.storage.size=500Mi,gateway.extraArgs={--accept-min-free-mib=100}")


@pytest.mark.parametrize("name", ["1usher", "usher.prod"])
def test_release_whose_services_would_have_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(charts.HelmError, match="set fullnameOverride to a name that starts with a letter"):
        charts.render(release=name)
    assert charts.render("--set=fullnameOverride=usher", release=name)


def test_long_namespace_needs_a_name_for_the_configuration_namespace() -> None:
    with pytest.raises(charts.HelmError, match=r"set configurationNamespace\.name"):
        charts.render(namespace="n" * 57)
    assert charts.render("--set=configurationNamespace.name=usher-config", namespace="n" * 57)


DATABASE = SMALLEST_POSTGRESQL.removeprefix("--set=")
BLOCK = "store.postgresql.peers[0].ipBlock"
IMPOSSIBLE = {
    "image.repository=registry.example.com/usher:0.1.0": "the tag to image.tag",
    "image.repository=https://registry.example.com/usher": "must not have a scheme",
    "image.repository=usher@sha256:00": "the digest to image.digest",
    "gateway.storage.size=1Gi": "must be at least 2Gi",
    "gateway.storage.size=1900M": "must be at least 2Gi",
    "gateway.storage.size=0Gi": "must be at least 2Gi",
    "configurationNamespace.name=usher-system": "choose another, or leave it empty",
    "gateway.serviceAccount.name=usher-operator": "must differ",
    "agencies={usher-system}": "put Tenants, Listeners and Destinations into namespaces of agencies",
    "agencies={usher-system-config}": "which is a namespace of Usher",
    "rbac.create=false,agencies={hotels}": "bind the ClusterRole usher-agency yourself",
    "rbac.create=false,rbac.allNamespaces=true": "bind the ClusterRole usher-agency yourself",
    "listenerClass.create=true": "needs listenerClass.spec.hostname",
    "listenerClass.create=true,listenerClass.spec.hostname=hooks.example.com": "install the chart without it first",
    "monitoring.rules.enabled=true": "install that first, or load the files",
    "store.type=PostgreSQL": "needs store.postgresql.secret.name",
    "store.postgresql.secret.name=database": "needs store.type PostgreSQL",
    "gateway.autoscaling.enabled=true": "needs store.type PostgreSQL",
    f"{DATABASE},gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=9": "must not be above maxReplicas",
    f"{DATABASE},store.postgresql.migrationSecret.name=owner": "because only the Job uses it",
    f"{DATABASE},gateway.preStopSeconds=30": "must be at least 55",
    "gateway.allowDestinations={10.0.0.1/8}": "write 10.0.0.0/8, or a length of 32",
    "gateway.trustedProxies={192.168.7.200/26}": "write 192.168.7.192/26, or",
    f"{DATABASE},{BLOCK}.cidr=database": "peers has database, which is not a range: write an address and a length",
    f"{DATABASE},{BLOCK}.cidr=10.20.0.1": "peers has 10.20.0.1, which is not a range",
    f"{DATABASE},{BLOCK}.cidr=10.20.0.1/28": "peers has 10.20.0.1/28, .* write 10.20.0.0/28",
    f"{DATABASE},{BLOCK}.cidr=10.20.0.0/16,{BLOCK}.except={{10.20.1.0}}": "peers has 10.20.1.0,",
    f"{DATABASE},{BLOCK}.except={{10.20.0.0/28}}": "which is not a range",
    "monitoring.kind=PodMonitor": "install that first, or leave monitoring.kind empty",
}
"""Values -> what the error says to do."""


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_impossible_combination_is_refused_with_what_to_do(value: str) -> None:
    with pytest.raises(charts.HelmError, match=IMPOSSIBLE[value]):
        charts.render(f"--set={value}")


def test_impossible_combination_fails_in_helm_lint() -> None:
    with pytest.raises(charts.HelmError, match="1 chart"):
        charts.run("lint", str(charts.CHART), "--set=fullnameOverride=usher,gateway.autoscaling.enabled=true")


def test_monitor_that_a_policy_would_block_is_refused() -> None:
    with pytest.raises(charts.HelmError, match=r"needs gateway.networkPolicy.metricsFrom"):
        charts.render("--set=monitoring.kind=PodMonitor", *charts.OTHER_APIS)


def test_ranges_names_and_single_addresses_may_be_allowed_destinations() -> None:
    allowed = "10.0.0.0/8,192.168.7.200/32,0.0.0.0/0,fd00::/8,crm.internal,10.0.0.1:80"
    assert charts.render(f"--set=gateway.allowDestinations={{{allowed}}}")
