"""Each value of the chart has an effect; impossible values are refused with a hint."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import charts

SYSTEM = "usher-system"
GATEWAY = ("StatefulSet", f"{SYSTEM}/usher-gateway")
BLOCK = "store.postgresql.peers[0].ipBlock"
SMALLEST_POSTGRESQL = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"

# Value that is true by default -> an object that exists only then.
SWITCHES = {
    "configurationNamespace.create": ("Namespace", "usher-system-config"),
    "rbac.create": ("ClusterRole", "usher-operator"),
    "rbac.agencyRole": ("ClusterRole", "usher-agency"),
    "rbac.aggregate": ("ClusterRole", "usher-edit"),
    "crds.enabled": ("CustomResourceDefinition", "tenants.usher.dev"),
    "hostnamePolicy.enabled": ("ValidatingAdmissionPolicy", "hostnames.usher.dev"),
    "gateway.networkPolicy.enabled": ("NetworkPolicy", f"{SYSTEM}/usher-gateway"),
    "gateway.serviceAccount.create": ("ServiceAccount", f"{SYSTEM}/usher-gateway"),
    "operator.networkPolicy.enabled": ("NetworkPolicy", f"{SYSTEM}/usher-operator"),
    "operator.podDisruptionBudget.enabled": ("PodDisruptionBudget", f"{SYSTEM}/usher-operator"),
    "operator.serviceAccount.create": ("ServiceAccount", f"{SYSTEM}/usher-operator"),
}

# Value that is true by default -> the argument that the operator has if it is false.
FLAGS = {
    "operator.gatewayAPI": "--no-gateway-api",
    "operator.certManager": "--no-cert-manager",
    "operator.checkRoutes": "--no-check-routes",
}

# Values whose effect other tests of the chart show.
ELSEWHERE = {
    "fullnameOverride",
    "image.tag",
    "rbac.allNamespaces",
    "monitoring.kind",
    "monitoring.rules.enabled",
    "monitoring.dashboards.enabled",
    "listenerClass.create",
    "store.type",
    "store.confirmChangeTo",
    "store.postgresql.migrations",
    "gateway.autoscaling.enabled",
    "gateway.kubernetesTokens.enabled",
    "gateway.podDisruptionBudget.enabled",
    "gateway.storage.existingClaim",
    "pages.ingress.enabled",
}


def values_of(file: str) -> dict[str, Any]:
    """The values of a file in ci/."""
    given: dict[str, Any] = yaml.safe_load((charts.CHART / "ci" / f"{file}-values.yaml").read_text("utf-8"))
    return given


def values() -> set[str]:
    """The values that the chart's page lists."""
    rows = re.findall(r"^\| `([A-Za-z.]+)` \|", (charts.CHART / "README.md").read_text("utf-8"), re.MULTILINE)
    return set(rows)


def at(document: Any, place: str) -> Any:
    """Return what is at a dotted place, or None."""
    for word in place.split("."):
        document = document.get(word) if isinstance(document, dict) else None
    return document


def texts(value: Any) -> list[str]:
    """The numbers and texts in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    return [text for each in value for text in texts(each)] if isinstance(value, list) else [str(value)]


def rendered(part: str, *arguments: str) -> str:
    """The objects of the gateway or the operator, or those of all parts but the definitions, as text."""
    return json.dumps(
        [
            manifest
            for (kind, _), manifest in charts.objects(*arguments).items()
            if kind != "CustomResourceDefinition"
            and part in {manifest["metadata"]["labels"].get("app.kubernetes.io/component"), ""}
        ]
    )


# Value -> the file in ci/ that sets it to something that no default has.
SET = {
    value: file
    for file in ("autoscaling", "postgresql", "full")
    for value in values() - SWITCHES.keys() - FLAGS.keys() - ELSEWHERE
    if at(values_of(file), value) is not None
}


def leaves(document: dict[str, Any], place: str = "") -> dict[str, Any]:
    """The values of a file by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= leaves(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}": value}
    return found


def test_page_begins_with_ten_values_that_work_together(tmp_path: Path) -> None:
    page = (charts.CHART / "README.md").read_text("utf-8")
    (block,) = re.findall(r"## Ten values to set first\n\n```yaml\n(.*?)```", page, re.DOTALL)
    first = leaves(yaml.safe_load(block))
    assert first.keys() <= values()
    assert len({name.removeprefix("gateway.").removeprefix("operator.") for name in first}) == 10
    file = tmp_path / "my-values.yaml"
    file.write_text(block, "utf-8")
    assert charts.render(f"--values={file}", *charts.OTHER_APIS)


def test_every_value_is_tested() -> None:
    assert SWITCHES.keys() | FLAGS.keys() | ELSEWHERE | SET.keys() == values()


@pytest.mark.parametrize("value", sorted(SET))
def test_value_is_in_the_objects_of_its_part(value: str) -> None:
    """The API server judges whether it is at a valid place (tests/cluster/test_chart_manifests.py)."""
    part = value.partition(".")[0] if value.startswith(("gateway.", "operator.")) else ""
    file = charts.CHART / "ci" / f"{SET[value]}-values.yaml"
    present = rendered(part, f"--values={file}", *charts.OTHER_APIS)
    default = rendered(part, *([] if SET[value] == "full" else [SMALLEST_POSTGRESQL]))
    words = [rf"(?<![\w-]){re.escape(text)}(?![\w-])" for text in texts(at(values_of(SET[value]), value))]
    assert [word for word in words if not re.search(word, present)] == []
    assert [word for word in words if not re.search(word, default)]


@pytest.mark.parametrize("value", SWITCHES)
def test_switch_removes_its_object(value: str) -> None:
    assert SWITCHES[value] in charts.objects()
    assert SWITCHES[value] not in charts.objects(f"--set={value}=false")


@pytest.mark.parametrize("value", FLAGS)
def test_optional_api_is_switched_off_by_a_flag(value: str) -> None:
    assert FLAGS[value] in rendered("operator", f"--set={value}=false")
    assert FLAGS[value] not in rendered("operator")


def container(workload: dict[str, Any]) -> dict[str, Any]:
    """The container of a workload."""
    (only_container,) = workload["spec"]["template"]["spec"]["containers"]
    container_of_pod: dict[str, Any] = only_container
    return container_of_pod


def test_tag_is_the_version_of_the_chart_unless_it_is_set() -> None:
    def image(*arguments: str) -> Any:
        return container(charts.objects(*arguments)["Deployment", f"{SYSTEM}/usher-operator"])["image"]

    assert re.fullmatch(r"usher:\d+\.\d+\.\d+", image())
    assert image("--set=image.tag=nightly") == "usher:nightly"


def test_rollback_replaces_a_gateway_that_never_became_ready() -> None:
    """With OrderedReady, the default, Kubernetes waits for the broken pod before it replaces it."""
    assert charts.objects()[GATEWAY]["spec"]["podManagementPolicy"] == "Parallel"


def test_gateway_uses_an_existing_claim_instead_of_making_one() -> None:
    gateway = charts.objects("--set=gateway.storage.existingClaim=visits")[GATEWAY]["spec"]
    assert "volumeClaimTemplates" not in gateway
    volumes = {volume["name"]: volume for volume in gateway["template"]["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "visits"}
    assert "data" not in {volume["name"] for volume in charts.objects()[GATEWAY]["spec"]["template"]["spec"]["volumes"]}


def test_people_run_usher_in_the_pod_of_the_gateway_without_naming_the_tokens() -> None:
    assert {"name": "USHER_DATA", "value": "/tokens"} in container(charts.objects()[GATEWAY])["env"]


def test_gateway_policy_allows_only_the_ranges_of_allowed_destinations() -> None:
    policy = charts.objects("--set=gateway.allowDestinations={10.1.0.0/16}")["NetworkPolicy", f"{SYSTEM}/usher-gateway"]
    peers = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule.get("to", ()) if "ipBlock" in peer]
    assert {"cidr": "10.1.0.0/16"} in peers
    public = next(peer for peer in peers if peer["cidr"] == "0.0.0.0/0")
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"} == set(public["except"])
    assert [peer for peer in peers if peer["cidr"] == "0.0.0.0/0" and "except" not in peer] == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("gateway.replicaCount=0", "minimum"),
        ("gateway.replicaCount=40", "maximum"),
        ("store.type=MySQL", "must be one of"),
        ("store.postgresql.secret.key=", "minLength"),
        ("store.postgresql.peers[0].cidr=10.20.0.0/28", "'cidr' not allowed"),
        ("nonsense=1", "'nonsense' not allowed"),
        ("replicaCount=2", "absent: set gateway.replicaCount or operator.replicaCount"),
        ("installCRDs=true", "absent: set crds.enabled"),
        ("ingress.enabled=true", "absent: create a ListenerClass"),
        ("image.registry=registry.example.com", "absent: write it into image.repository"),
        ("gateway.storage.storageClass=fast", "absent: set gateway.storage.className"),
        ("operator.securityContext.runAsUser=1", "absent: set operator.podSecurityContext or"),
        ("image.digest=latest", "does not match pattern"),
        ("operator.replicaCount=0", "minimum"),
        ("gateway.allowDestinations={foo bar}", "does not match pattern"),
        ("pages.ingress.from[0].cidr=10.20.0.0/28", "'cidr' not allowed"),
        ("gateway.storage.size=much", "does not match pattern"),
        ("gateway.terminationGracePeriodSeconds=5", "minimum"),
        ("monitoring.kind=Probe", "must be one of"),
        ("monitoring.interval=often", "does not match pattern"),
        ("monitoring.documentation=docs", "does not match pattern"),
        ("apiServer.ports={https}", "got string, want integer"),
        ("fullnameOverride=1usher", "does not match pattern"),
        ("image.tag=a b", "does not match pattern"),
        ("listenerClass.name=", "minLength"),
        (f"{BLOCK}.except={{10.20.0.0/28}}", "missing property 'cidr'"),
        ("pages.ingress.hosts[0].host=usher.example.com,pages.ingress.hosts[0].paths={/api}", "must be one of"),
        ("pages.ingress.hosts[0].host=usher.example.com,pages.ingress.hosts[0].paths={/}", "must be one of"),
        ("pages.roles={desk=admin}", "does not match pattern"),
        ("pages.userHeader=X User", "does not match pattern"),
    ],
)
def test_wrong_value_is_refused_by_the_schema(value: str, says: str) -> None:
    with pytest.raises(charts.HelmError, match=says):
        charts.render(f"--set={value}")


@pytest.mark.parametrize(
    "place",
    [
        "apiServer.cidrs[0]",
        "gateway.allowDestinations[0]",
        "gateway.trustedProxies[0]",
        "gateway.networkPolicy.ingressFrom[0].ipBlock.cidr",
        "gateway.networkPolicy.metricsFrom[0].ipBlock.cidr",
        "operator.networkPolicy.metricsFrom[0].ipBlock.cidr",
        f"{BLOCK}.cidr",
        f"{BLOCK}.cidr=10.0.0.0/8,{BLOCK}.except[0]",
        "pages.ingress.from[0].ipBlock.cidr",
        "pages.proxies[0]",
    ],
)
def test_impossible_range_is_refused_at_every_place(place: str) -> None:
    value = place.partition("[")[0]
    with pytest.raises(charts.HelmError, match=f"{value} has 10.0.0.0/33, which is no range .* such as 10.20.0.0/16"):
        charts.render(f"--set={place}=10.0.0.0/33")


@pytest.mark.parametrize("cidr", ["300.0.0.0/8", "10.0.0/8", "10.0.0.1", "fd00::/129", "fd00/8", "fd00::1", "proxy/8"])
def test_text_that_is_no_range_is_refused(cidr: str) -> None:
    with pytest.raises(charts.HelmError, match=f"gateway.trustedProxies has {cidr}, which is no range of addresses"):
        charts.render(f"--set=gateway.trustedProxies={{{cidr}}}")


@pytest.mark.parametrize(
    "value", ["gateway", "apiServer.ports", "gateway.networkPolicy.enabled", "rbac.create", "operator.replicaCount"]
)
def test_value_that_is_needed_cannot_be_removed(value: str) -> None:
    """Without its ports, the rule for the API server would allow connections to every address."""
    with pytest.raises(charts.HelmError, match=f"missing property '{value.rpartition('.')[2]}'"):
        charts.render(f"--set={value}=null")


def test_empty_value_can_be_removed() -> None:
    assert charts.render(
        "--set=gateway.nodeSelector=null,gateway.podLabels=null,commonLabels=null,commonAnnotations=null,gateway.resources.limits=null,agencies=null"
    )


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

    assert numbers(list(charts.objects("--set=crds.enabled=false", *arguments, **about).values())) == []


@pytest.mark.parametrize("size", ["2Gi", "2048Mi", "2.5G", "1Ti", "10Gi"])
def test_volume_above_the_free_space_that_the_gateway_keeps_is_accepted(size: str) -> None:
    assert charts.render(f"--set=gateway.storage.size={size}")


def test_small_volume_is_accepted_with_a_lower_bound_of_free_space() -> None:
    assert charts.render("--set=gateway.storage.size=500Mi,gateway.extraArgs={--accept-min-free-mib=100}")


def test_other_settings_of_the_store_are_accepted_as_arguments() -> None:
    arguments = "--store-durability=Replicated,--store-password-file,/database/password"
    assert charts.render(f"--set={DATABASE},gateway.extraArgs={{{arguments}}}")


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
PAGES = "pages.ingress.hosts[0].host=usher.example.com,pages.ingress.hosts[0].paths={/my}"
# Values -> what the error says to do.
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
    "gateway.service.nodePort=30080": "need gateway.service.type NodePort or LoadBalancer",
    "gateway.service.externalTrafficPolicy=Local": "need gateway.service.type NodePort or LoadBalancer",
    "gateway.service.loadBalancerClass=example.com/internal": "needs gateway.service.type LoadBalancer",
    "gateway.kubernetesTokens.audience=usher.dev": "needs gateway.kubernetesTokens.enabled",
    "monitoring.rules.enabled=true": "install that first, or load the files",
    "store.type=PostgreSQL": "needs store.postgresql.secret.name",
    "store.postgresql.secret.name=database": "needs store.type PostgreSQL",
    "gateway.replicaCount=2": "above 1 needs store.type PostgreSQL",
    "gateway.extraArgs={--data=/tmp}": "must not have --data, .* set gateway.storage, or store.type",
    "gateway.extraArgs={--accept-clock,--data,/tmp}": "must not have --data, ",
    "gateway.extraArgs={--store=postgresql://usher@db/usher}": "must not have --store, ",
    f"{DATABASE},gateway.extraArgs={{--store,postgresql://usher@db/usher}}": "must not have --store, ",
    "gateway.extraEnv[0].name=USHER_STORE,gateway.extraEnv[0].value=x": "extraEnv must not have USHER_STORE, ",
    "gateway.autoscaling.enabled=true": "needs store.type PostgreSQL",
    f"{DATABASE},gateway.autoscaling.enabled=true,gateway.autoscaling.minReplicas=9": "must not be above maxReplicas",
    f"{DATABASE},store.postgresql.migrationSecret.name=owner": "because only the Job uses it",
    f"{DATABASE},gateway.preStopSeconds=30": "must be at least 55",
    "gateway.allowDestinations={10.0.0.1/8}": "write 10.0.0.0/8, or a length of 32",
    "gateway.trustedProxies={192.168.7.200/26}": "write 192.168.7.192/26, or",
    f"{DATABASE},{BLOCK}.cidr=10.20.0.1/28": "peers has 10.20.0.1/28, .* write 10.20.0.0/28",
    "pages.ingress.enabled=true": r"needs pages\.ingress\.hosts",
    f"pages.ingress.enabled=true,{PAGES}": r"needs pages\.ingress\.from",
    "pages.proxies={10.0.0.0/8}": "go together",
    "pages.roles={desk=look}": "go together",
    "pages.proxies={10.0.0.1/8},pages.roles={desk=look}": "write 10.0.0.0/8",
    "pages.proxies={0.0.0.0/0},pages.roles={desk=look}": "everybody",
    "pages.proxies={::/0},pages.roles={desk=look}": "everybody",
    "apiServer.cidrs={10.0.0.10/24}": "apiServer.cidrs has 10.0.0.10/24, .* write 10.0.0.0/24",
    "monitoring.kind=PodMonitor": "install that first, or leave monitoring.kind empty",
}


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
