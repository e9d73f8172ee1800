"""A real API server judges everything that the chart renders, without storing it."""

import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cluster import foreign
from support import api, charts, clusters, dry_run, installs

EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
CASES = [*sorted(charts.CHART.glob("ci/*-values.yaml")), EXAMPLES / "values.yaml"]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


RUNTIME_CLASS = """
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: sandboxed}
handler: runsc
"""


@pytest.fixture(scope="module")
def prepared(definitions: clusters.Cluster) -> Iterator[clusters.Cluster]:
    """The cluster with all definitions that the chart may use, and the runtime class of ci/full-values.yaml."""
    definitions.define_missing(foreign.PROMETHEUS_OPERATOR)
    definitions.kubectl.run("apply", "--filename=-", stdin=RUNTIME_CLASS)
    yield definitions
    definitions.kubectl.run("delete", "runtimeclass", "sandboxed", "--ignore-not-found")


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
async def test_api_server_accepts_every_manifest(
    prepared: clusters.Cluster, make_namespace: installs.Namespaces, values: Path
) -> None:
    system, configuration, agency = [
        await make_namespace(name, is_admitted=False) for name in ("system", "config", "agency")
    ]
    places = [f"--set=configurationNamespace.name={configuration}"]
    if values.stem in {"full-values", "values"}:
        places.append(f"--set=agencies={{{agency}}}")
    rendered = charts.render(f"--values={values}", *places, *charts.OTHER_APIS, namespace=system)
    for account in ("usher-test", "webhooks-test"):  # the admission of pods looks for it
        await prepared.kubectl("create", "serviceaccount", account, f"--namespace={system}")
    arguments = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-")
    accepted = (await prepared.kubectl(*arguments, stdin=rendered)).splitlines()
    assert len(accepted) == rendered.count("\n# Source: ")
    assert all(line.endswith("(server dry run)") for line in accepted)


@pytest.mark.parametrize("name", ["class.yaml", "agency.yaml", "receiver.yaml", "volume-pod.yaml"])
async def test_api_server_accepts_every_manifest_of_the_install_page(
    prepared: clusters.Cluster, make_namespace: installs.Namespaces, name: str
) -> None:
    namespace = await make_namespace("example", RESTRICTED, is_admitted=False)
    text = (EXAMPLES / name).read_text("utf-8")
    for place in ("agency", "usher-system"):
        text = text.replace(f"namespace: {place}", f"namespace: {namespace}")
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
    accepted = (await prepared.kubectl(*arguments, stdin=text)).splitlines()
    assert len(accepted) == text.count("\nkind: ")


def drop(place: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        *parents, last = place
        node: Any = pod["spec"]
        for word in parents:
            node = node[0][word] if isinstance(node, list) else node[word]
        (node[0] if isinstance(node, list) else node).pop(last)

    return change


NEEDED = {
    "runAsNonRoot": ("securityContext", "runAsNonRoot"),
    "seccompProfile": ("securityContext", "seccompProfile"),
    "allowPrivilegeEscalation": ("containers", "securityContext", "allowPrivilegeEscalation"),
    "capabilities": ("containers", "securityContext", "capabilities"),
}
"""Field -> where it is in a pod's spec."""


@pytest.fixture
async def judge(definitions: clusters.Cluster) -> AsyncIterator[dry_run.Server]:
    async with dry_run.Server(definitions) as ready:
        yield ready


@pytest.mark.parametrize("component", ["gateway", "operator", "test"])
async def test_restricted_namespace_accepts_a_pod_and_misses_each_dropped_field(
    judge: dry_run.Server, server: api.Api, make_namespace: installs.Namespaces, component: str
) -> None:
    namespace = await make_namespace("restricted", RESTRICTED, is_admitted=False)
    (pod,) = [
        candidate
        for candidate in pods(namespace)
        if candidate["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    account = {"name": pod["spec"]["serviceAccountName"], "namespace": namespace}
    await server.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    collection = f"/api/v1/namespaces/{namespace}/pods"
    answer = await judge.create_at(collection, json.dumps(pod))
    assert answer.is_accepted, answer.message
    for field, place in NEEDED.items():
        weak = copy.deepcopy(pod)
        drop(place)(weak)
        answer = await judge.create_at(collection, json.dumps(weak))
        assert answer.status == 403, field
        assert "violates PodSecurity" in answer.message


def pods(namespace: str) -> list[dict[str, Any]]:
    """The pods of the chart, as their controllers would create them."""
    all_pods = []
    for (kind, _), manifest in charts.objects(namespace=namespace).items():
        if kind in {"StatefulSet", "Deployment", "Pod"}:
            template = manifest if kind == "Pod" else manifest["spec"]["template"]
            labels = template["metadata"]["labels"]
            metadata = {"name": "pod", "namespace": namespace, "labels": labels}
            spec = copy.deepcopy(template["spec"])
            spec.setdefault("volumes", []).append({"name": "data", "emptyDir": {}})
            all_pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return all_pods
