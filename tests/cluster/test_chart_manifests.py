"""A real API server judges everything that the chart renders, without storing it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import foreign
from support import charts, clusters, installs

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
    system = await make_namespace("system", RESTRICTED, is_admitted=False)
    configuration, agency = [await make_namespace(name, is_admitted=False) for name in ("config", "agency")]
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


@pytest.mark.parametrize(
    "name", ["class.yaml", "class-gateway-api.yaml", "agency.yaml", "receiver.yaml", "volume-pod.yaml"]
)
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
