"""The chart in an empty cluster: install, upgrade, uninstall. The cluster has no node, so no pod runs."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster import foreign
from local_cluster import kubectl as kubectls
from support import charts, clusters, release_processes, waiting

NAMESPACE = "usher-system"
KINDS = ("statefulset", "deployment", "service", "networkpolicy", "role", "rolebinding", "poddisruptionbudget")
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kubectls.Kubectl]:
    """An empty cluster of the test's own, with a namespace that accepts only restricted pods."""
    clusters.require_local()
    with clusters.cluster(tmp_path_factory.mktemp("chart")) as ready:
        ready.kubectl.run("create", "namespace", NAMESPACE)
        ready.kubectl.run("label", "namespace", NAMESPACE, RESTRICTED)
        yield ready.kubectl


def helm(call: kubectls.Kubectl, *arguments: str) -> str:
    return charts.run(*arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={call.kubeconfig}")


def uninstall(call: kubectls.Kubectl) -> None:
    """Uninstall the release, if there is one, and delete the namespace that it leaves."""
    helm(call, "uninstall", "usher", "--ignore-not-found")
    call.run("delete", "namespace", "usher-system-config", "--ignore-not-found", "--timeout=60s")


async def names(call: kubectls.Kubectl, *kinds: str) -> set[str]:
    output = await call("get", ",".join(kinds), f"--namespace={NAMESPACE}", "--output=name")
    return set(output.split())


async def generations(call: kubectls.Kubectl) -> dict[str, int]:
    objects: list[dict[str, Any]] = json.loads(
        await call("get", "statefulset,deployment,service", f"--namespace={NAMESPACE}", "--output=json")
    )["items"]
    return {resource["metadata"]["name"]: resource["metadata"].get("generation", 0) for resource in objects}


async def test_check_of_a_cluster_without_definitions_says_what_to_do(empty: kubectls.Kubectl) -> None:
    """The definitions stay once they are installed, so this deletes those of another test."""
    await empty("delete", "customresourcedefinitions", "--selector=app.kubernetes.io/part-of=usher")
    code, output = await release_processes.check_install(f"--kubeconfig={empty.kubeconfig}", f"--namespace={NAMESPACE}")
    assert code == 1
    assert "does not serve listenerclasses, tenants, listeners, destinations: install the chart with" in output


@pytest.fixture
async def installed(empty: kubectls.Kubectl) -> kubectls.Kubectl:
    """The cluster with a release that has the chart's own values. A test may change it, or uninstall it."""
    if "usher" not in helm(empty, "list", "--short").split():
        uninstall(empty)
    defaults = ("--reset-values", "--take-ownership", "--force-conflicts")
    helm(empty, "upgrade", "usher", str(charts.CHART), "--install", *defaults)
    return empty


async def test_install_that_timed_out_is_completed_by_the_same_command(empty: kubectls.Kubectl) -> None:
    """No pod becomes ready in this cluster, so `--wait` fails as it does with an image that the nodes cannot pull."""
    uninstall(empty)
    upgrade = ("upgrade", "usher", str(charts.CHART), "--install", "--take-ownership")
    with pytest.raises(charts.HelmError, match=r"not ready|deadline|timed out"):
        helm(empty, *upgrade, "--wait", "--timeout=3s")
    assert "failed" in helm(empty, "status", "usher")
    helm(empty, *upgrade)
    assert "deployed" in helm(empty, "status", "usher")


async def test_same_upgrade_changes_nothing(installed: kubectls.Kubectl) -> None:
    # the restricted namespace accepted the pods, which wait for a node, and more of them after another test's upgrade
    pods = await waiting.until(lambda: names(installed, "pod"), lambda pod_names: len(pod_names) >= 3)
    assert "pod/usher-gateway-0" in pods
    previous_generations = await generations(installed)
    notes = helm(installed, "upgrade", "usher", str(charts.CHART))
    assert "kubectl create rolebinding usher-agency" in notes
    assert await generations(installed) == previous_generations


@pytest.mark.parametrize(
    "way", [("--server-side", "--field-manager=gitops", "--force-conflicts"), ("--server-side=false",)]
)
async def test_gitops_tool_sees_no_difference_after_the_install(
    installed: kubectls.Kubectl, way: tuple[str, ...]
) -> None:
    """`kubectl diff` compares a rendering with the cluster, as Argo CD and Flux do, and fails on a difference."""
    rendered = charts.render("--no-hooks", f"--kube-version={await version(installed)}")
    assert await installed("diff", *way, "--filename=-", stdin=rendered) == ""


async def version(call: kubectls.Kubectl) -> str:
    git_version: str = json.loads(await call("version", "--output=json"))["serverVersion"]["gitVersion"]
    return git_version


async def test_monitor_appears_once_the_cluster_has_its_definition(installed: kubectls.Kubectl) -> None:
    values = f"--values={charts.CHART / 'ci' / 'gateway-api-values.yaml'}"
    upgrade = ("upgrade", "usher", str(charts.CHART), values)
    with pytest.raises(charts.HelmError, match="install that first, or leave"):
        helm(installed, *upgrade)
    for file in foreign.files(foreign.PROMETHEUS_OPERATOR):
        await installed("apply", "--server-side", f"--filename={file}")
    await asyncio.to_thread(installed.wait_established, "podmonitors.monitoring.coreos.com")
    helm(installed, *upgrade)
    assert await names(installed, "podmonitor") == {"podmonitor.monitoring.coreos.com/usher"}
    helm(installed, "upgrade", "usher", str(charts.CHART), "--reset-values")
    assert await names(installed, "podmonitor") == set()


async def test_second_release_is_installed_and_removed_beside_the_first(installed: kubectls.Kubectl) -> None:
    values = f"--values={charts.CHART / 'ci' / 'second-values.yaml'}"
    place = ("--namespace=second-system", f"--kubeconfig={installed.kubeconfig}")
    charts.run("install", "second", str(charts.CHART), "--create-namespace", values, *place)
    charts.run("uninstall", "second", *place)
    assert await installed("get", "clusterroles", "usher-agency", "usher-view", "usher-operator", "--output=name")


async def test_change_of_the_store_needs_a_confirmation_in_either_direction(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART))
    postgresql = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"
    with pytest.raises(
        charts.HelmError, match=r"in SQLite .*data-usher-gateway-0.* set store.confirmChangeTo=PostgreSQL"
    ):
        helm(installed, *upgrade, postgresql)
    assert "statefulset.apps/usher-gateway" in await names(installed, "statefulset")
    helm(installed, *upgrade, postgresql, "--set=store.confirmChangeTo=PostgreSQL")
    assert "deployment.apps/usher-gateway" in await names(installed, "deployment")
    helm(installed, *upgrade, postgresql)
    with pytest.raises(charts.HelmError, match=r"in PostgreSQL .* set store.confirmChangeTo=SQLite"):
        helm(installed, *upgrade, "--reset-values")
    helm(installed, *upgrade, "--set=store.confirmChangeTo=SQLite")
    assert "statefulset.apps/usher-gateway" in await names(installed, "statefulset")


@pytest.mark.parametrize(
    ("value", "differs"),
    [
        ("size=50Gi", "size cannot change from 10Gi to 50Gi in place"),
        ("className=fast", "className cannot change in place"),
        ("existingClaim=visits", "existingClaim cannot be set or removed in place"),
    ],
)
async def test_change_of_the_volume_is_refused_with_what_to_do(
    installed: kubectls.Kubectl, value: str, differs: str
) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART), f"--set=gateway.storage.{value}")
    with pytest.raises(charts.HelmError, match=f"gateway.storage.{differs}") as refused:
        helm(installed, *upgrade)
    command = "kubectl delete statefulset usher-gateway --namespace=usher-system --cascade=orphan"
    assert command in str(refused.value)
    await installed(*command.split()[1:])
    helm(installed, *upgrade)
    with pytest.raises(charts.HelmError, match=r"gateway\.storage\..* in place"):
        helm(installed, "upgrade", "usher", str(charts.CHART), "--reset-values")
    await installed(*command.split()[1:])


async def test_change_to_another_claim_is_refused_with_what_to_do(installed: kubectls.Kubectl) -> None:
    orphan = ("delete", "statefulset", "usher-gateway", f"--namespace={NAMESPACE}", "--cascade=orphan")
    upgrade = ("upgrade", "usher", str(charts.CHART))
    to_two = (*upgrade, "--set=gateway.storage.existingClaim=two")
    await installed(*orphan)
    helm(installed, *upgrade, "--set=gateway.storage.existingClaim=one")
    with pytest.raises(charts.HelmError, match=f"existingClaim cannot change from one to two .*{' '.join(orphan)}"):
        helm(installed, *to_two)
    await installed(*orphan)
    helm(installed, *to_two)
    await installed(*orphan)


async def wait_for_claim(call: kubectls.Kubectl, claim: str) -> None:
    """Wait until the cluster has made the claim of a StatefulSet."""
    await waiting.until(
        lambda: names(call, "persistentvolumeclaim"), lambda claims: f"persistentvolumeclaim/{claim}" in claims
    )


OTHER_NAME = "--set=fullnameOverride=other"
EMPTY_VOLUME = (
    "PersistentVolumeClaim data-usher-gateway-0 has the visits .* other-gateway would begin with an empty volume "
    r"\(PersistentVolumeClaim data-other-gateway-0\)\. Set fullnameOverride=usher, or "
    r"gateway\.storage\.existingClaim=data-usher-gateway-0"
)


async def test_other_name_is_refused_because_of_the_volume(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART))
    with pytest.raises(charts.HelmError, match=EMPTY_VOLUME):
        helm(installed, *upgrade, OTHER_NAME)
    helm(installed, *upgrade, "--set=fullnameOverride=usher")


async def test_other_name_is_refused_after_the_stateful_set_is_deleted(installed: kubectls.Kubectl) -> None:
    await wait_for_claim(installed, "data-usher-gateway-0")
    await installed("delete", "statefulset", "usher-gateway", f"--namespace={NAMESPACE}", "--cascade=orphan")
    with pytest.raises(charts.HelmError, match=EMPTY_VOLUME):
        helm(installed, "upgrade", "usher", str(charts.CHART), OTHER_NAME)


async def test_other_name_is_refused_in_a_new_install_beside_the_volume(installed: kubectls.Kubectl) -> None:
    await wait_for_claim(installed, "data-usher-gateway-0")
    uninstall(installed)
    with pytest.raises(charts.HelmError, match=EMPTY_VOLUME):
        helm(installed, "install", "usher", str(charts.CHART), "--take-ownership", OTHER_NAME)


async def test_other_name_is_accepted_with_the_claim_of_the_previous_one(installed: kubectls.Kubectl) -> None:
    await wait_for_claim(installed, "data-usher-gateway-0")
    claim = "--set=gateway.storage.existingClaim=data-usher-gateway-0"
    helm(installed, "upgrade", "usher", str(charts.CHART), OTHER_NAME, claim)
    assert await names(installed, "statefulset") == {"statefulset.apps/other-gateway"}
    helm(installed, "upgrade", "usher", str(charts.CHART), "--reset-values")
    assert await names(installed, "statefulset") == {"statefulset.apps/usher-gateway"}


async def test_other_name_with_another_claim_is_refused(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART), OTHER_NAME)
    with pytest.raises(charts.HelmError, match="existingClaim cannot change from data-usher-gateway-0 to visits"):
        helm(installed, *upgrade, "--set=gateway.storage.existingClaim=visits")


async def test_change_of_the_store_with_the_name_needs_a_confirmation(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART))
    postgresql = "--set=store.type=PostgreSQL,store.postgresql.secret.name=database"
    with pytest.raises(charts.HelmError, match=r"in SQLite .*data-usher-gateway-0.* store.confirmChangeTo=PostgreSQL"):
        helm(installed, *upgrade, postgresql, OTHER_NAME)
    helm(installed, *upgrade, postgresql, OTHER_NAME, "--set=store.confirmChangeTo=PostgreSQL")
    assert "deployment.apps/other-gateway" in await names(installed, "deployment")
    with pytest.raises(charts.HelmError, match=r"in PostgreSQL .* set store.confirmChangeTo=SQLite"):
        helm(installed, *upgrade, "--reset-values", "--set=fullnameOverride=third")
    helm(installed, *upgrade, "--reset-values", "--set=store.confirmChangeTo=SQLite")


async def test_volume_of_another_program_refuses_nothing(installed: kubectls.Kubectl) -> None:
    place = ("--namespace=shared-system", f"--kubeconfig={installed.kubeconfig}")
    labels = {"app.kubernetes.io/name": "database", "app.kubernetes.io/instance": "second"}
    labels["app.kubernetes.io/component"] = "gateway"
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    database = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "database", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "database", "image": "database"}]},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }
    await installed("create", "namespace", "shared-system")
    await installed("apply", "--namespace=shared-system", "--filename=-", stdin=json.dumps(database))
    values = f"--values={charts.CHART / 'ci' / 'second-values.yaml'}"
    charts.run("install", "second", str(charts.CHART), values, *place)
    charts.run("uninstall", "second", *place)


async def test_releases_in_one_namespace_whose_names_contain_each_other(installed: kubectls.Kubectl) -> None:
    await wait_for_claim(installed, "data-usher-gateway-0")
    values = (f"--values={charts.CHART / 'ci' / 'second-values.yaml'}", "--set=configurationNamespace.name=two-config")
    helm(installed, "install", "usher-gateway", str(charts.CHART), *values)
    await wait_for_claim(installed, "data-usher-gateway-gateway-0")
    helm(installed, "upgrade", "usher", str(charts.CHART))
    helm(installed, "upgrade", "usher-gateway", str(charts.CHART), *values)
    helm(installed, "uninstall", "usher-gateway", "--wait")
    await installed("delete", "pvc", "data-usher-gateway-gateway-0", f"--namespace={NAMESPACE}")


async def test_role_edit_suffices_to_look_for_the_volume(installed: kubectls.Kubectl) -> None:
    await installed("create", "rolebinding", "anna", "--clusterrole=edit", "--user=anna", f"--namespace={NAMESPACE}")
    anna = ("--dry-run=server", "--kube-as-user=anna", f"--kubeconfig={installed.kubeconfig}")
    with pytest.raises(charts.HelmError, match=EMPTY_VOLUME):
        charts.render(*anna, OTHER_NAME)


async def test_same_size_in_another_unit_changes_no_volume(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART), "--set=gateway.storage.size=10240Mi")
    helm(installed, *upgrade)
    helm(installed, *upgrade)


async def test_missing_namespace_of_an_agency_is_named_before_anything_changes(installed: kubectls.Kubectl) -> None:
    upgrade = ("upgrade", "usher", str(charts.CHART), "--set=agencies={default,absent},gateway.logLevel=debug")
    generations_before = await generations(installed)
    with pytest.raises(charts.HelmError, match=r"agencies has absent, .*create namespace absent"):
        helm(installed, *upgrade)
    assert await generations(installed) == generations_before


async def test_volume_of_an_uninstalled_release_is_not_left_behind_silently(installed: kubectls.Kubectl) -> None:
    await waiting.until(lambda: names(installed, "persistentvolumeclaim"), lambda claims: len(claims) == 1)
    uninstall(installed)
    install = ("install", "usher", str(charts.CHART), "--set=store.type=PostgreSQL")
    with pytest.raises(charts.HelmError, match="PersistentVolumeClaim data-usher-gateway-0"):
        helm(installed, *install, "--set=store.postgresql.secret.name=database")


async def test_uninstall_leaves_definitions_classes_and_the_volume(installed: kubectls.Kubectl) -> None:
    await installed("create", "namespace", "hotels")
    spec = "listenerClass.create=true,listenerClass.spec.hostname=hooks.example.com,agencies={hotels}"
    helm(installed, "upgrade", "usher", str(charts.CHART), f"--set={spec}")
    uninstall(installed)
    kinds = (*KINDS, "clusterrole", "clusterrolebinding", "validatingadmissionpolicy", "namespace")
    selected = ("get", ",".join(kinds), "--all-namespaces", "--selector=app.kubernetes.io/instance=usher")

    async def left() -> str:
        return await installed(*selected, "--output=name")

    await waiting.until(left, lambda remaining: not remaining, limit_seconds=60)
    assert await names(installed, "persistentvolumeclaim") == {"persistentvolumeclaim/data-usher-gateway-0"}
    assert [
        listener_class["metadata"]["name"] for listener_class in await installed.json("get", "listenerclasses")
    ] == ["public"]


async def test_install_in_another_namespace_takes_over_the_definitions(installed: kubectls.Kubectl) -> None:
    uninstall(installed)
    place = ("--namespace=other-system", f"--kubeconfig={installed.kubeconfig}")
    install = ("install", "usher", str(charts.CHART), "--create-namespace", *place)
    with pytest.raises(charts.HelmError, match=r"CustomResourceDefinition.*invalid ownership metadata"):
        charts.run(*install)
    charts.run(*install, "--take-ownership")
    charts.run("uninstall", "usher", "--wait", *place)
    await installed("delete", "namespace", "other-system-config")


async def test_upgrade_sets_back_what_was_changed_by_hand_if_it_is_forced(installed: kubectls.Kubectl) -> None:
    await installed("scale", "deployment/usher-operator", "--replicas=1", f"--namespace={NAMESPACE}")
    upgrade = ("upgrade", "usher", str(charts.CHART))
    with pytest.raises(charts.HelmError, match=r'conflict with "kubectl".*\.spec\.replicas'):
        helm(installed, *upgrade)
    helm(installed, *upgrade, "--force-conflicts")
    operator = await installed.json("get", "deployment", "usher-operator", f"--namespace={NAMESPACE}")
    assert operator["spec"]["replicas"] == 2


async def test_release_fits_into_its_secret_four_times(installed: kubectls.Kubectl) -> None:
    """Helm stores each release in a Secret, which may have 1 MiB."""
    secrets = await installed.json("get", "secrets", f"--namespace={NAMESPACE}", "--selector=owner=helm,name=usher")
    assert max(len(json.dumps(secret)) for secret in secrets) < 2**20 / 4
