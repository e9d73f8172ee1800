"""The chart in an empty cluster: install, upgrade, uninstall. The cluster has no node, so no pod runs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster import kubectl as kubectls
from support import charts, clusters, releases, waiting

NAMESPACE = "usher-system"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kubectls.Kubectl]:
    """An empty cluster of the test's own, with a namespace that accepts only restricted pods."""
    if clusters.given() is not None:
        pytest.skip("the chart is installed under its usual names, which the given cluster may have already")
    with clusters.cluster(tmp_path_factory.mktemp("chart")) as ready:
        ready.kubectl.run("create", "namespace", NAMESPACE)
        ready.kubectl.run("label", "namespace", NAMESPACE, RESTRICTED)
        yield ready.kubectl


def helm(call: kubectls.Kubectl, *arguments: str) -> str:
    return charts.run(*arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={call.kubeconfig}")


async def names(call: kubectls.Kubectl, *kinds: str) -> set[str]:
    found = await call("get", ",".join(kinds), f"--namespace={NAMESPACE}", "--output=name")
    return set(found.split())


async def generations(call: kubectls.Kubectl) -> dict[str, int]:
    found: list[dict[str, Any]] = json.loads(
        await call("get", "statefulset,deployment,service", f"--namespace={NAMESPACE}", "--output=json")
    )["items"]
    return {one["metadata"]["name"]: one["metadata"].get("generation", 0) for one in found}


async def test_check_of_a_cluster_without_definitions_says_what_to_do(empty: kubectls.Kubectl) -> None:
    """The definitions stay once they are installed, so this deletes those of another test."""
    await empty("delete", "customresourcedefinitions", "--selector=app.kubernetes.io/part-of=usher")
    code, output = await releases.check_install(f"--kubeconfig={empty.kubeconfig}", f"--namespace={NAMESPACE}")
    assert code == 1
    assert "does not serve listenerclasses, tenants, listeners, destinations: install the chart with" in output


async def test_chart_is_installed_upgraded_and_uninstalled(empty: kubectls.Kubectl) -> None:
    notes = helm(empty, "install", "usher", str(charts.CHART))
    assert "kubectl create rolebinding usher-agency" in notes
    # the restricted namespace accepted the pods, which wait for a node
    pods = await waiting.until(lambda: names(empty, "pod"), lambda found: len(found) == 3)
    assert "pod/usher-gateway-0" in pods
    before = await generations(empty)
    helm(empty, "upgrade", "usher", str(charts.CHART))
    assert await generations(empty) == before
    spec = "listenerClass.create=true,listenerClass.spec.hostname=hooks.example.com,agencies={hotels}"
    await empty("create", "namespace", "hotels")
    helm(empty, "upgrade", "usher", str(charts.CHART), f"--set={spec}")
    classes = await empty.json("get", "listenerclasses")
    assert [one["spec"]["hostname"] for one in classes] == ["hooks.example.com"]
    helm(empty, "rollback", "usher", "1")
    helm(empty, "uninstall", "usher")
    kinds = ("statefulset", "deployment", "service", "networkpolicy", "role", "rolebinding", "poddisruptionbudget")
    await waiting.until(lambda: names(empty, *kinds), lambda found: not found)
    assert await names(empty, "persistentvolumeclaim") == {"persistentvolumeclaim/data-usher-gateway-0"}
    assert [one["metadata"]["name"] for one in await empty.json("get", "listenerclasses")] == ["public"]
