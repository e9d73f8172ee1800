"""A real Prometheus scrapes a real operator: every panel of its board has data, and only the staged alert fires.

The windows of the rules are 60 times shorter, as in tests/monitoring/test_staged_day.py. UPDATE_DOCS=1 draws the board.
"""

import datetime
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from boards import output, pictures
from prometheus import debian, server
from support import agencies, api, clusters, promtool
from usher_operator.plan import children

pytestmark = [agencies.SHARED, pytest.mark.long]

BOARD = json.loads(output.files()[f"{output.FOLDER}/operator.json"])
PICTURE = Path(__file__).parents[2] / "docs" / "boards" / "operator.png"


@pytest.fixture(autouse=True)
def prometheus_programs() -> None:
    """Skip on machines other than Debian: the tests take Prometheus from Debian's packages."""
    try:
        debian.programs()
    except debian.NotDebianError as error:
        # Prometheus itself must answer the queries. Only Debian's packages have it without an internet connection.
        pytest.skip(str(error))


def certificate_class(agency: agencies.Agency) -> dict[str, Any]:
    """A class whose hostnames get a Certificate each."""
    name = f"board-{agency.namespace}"
    issuer = {"name": "letsencrypt", "kind": "ClusterIssuer"}
    exposure = {"type": "Ingress", "scope": "Hostname", "ingress": {"className": "nginx"}}
    tls = {"mode": "PerHostname", "issuerRef": issuer}
    klass = agency.platform.install.klass(hostname=f"{name}.example.com", exposure=exposure, tls=tls)
    klass["metadata"]["name"] = name
    return klass


@pytest_asyncio.fixture(loop_scope="package")
async def platform(definitions: clusters.Cluster, tmp_path: Path) -> AsyncIterator[agencies.Platform]:
    """A separate platform, so that only the staged alert fires."""
    async with agencies.running_platform(definitions, tmp_path) as ready:
        yield ready


async def test_panels_have_data_and_only_the_staged_alert_fires(agency: agencies.Agency, tmp_path: Path) -> None:
    platform = agency.platform
    klass = certificate_class(agency)
    targets = {
        f"127.0.0.1:{platform.operator.admin}": {"app_kubernetes_io_component": "operator"},
        f"127.0.0.1:{platform.gateway.admin}": {"app_kubernetes_io_component": "gateway"},
    }
    rules = [server.compress(file.read_text("utf-8"), 60) for file in promtool.rule_files()]
    async with server.Prometheus(tmp_path / "prometheus", targets, rules) as prometheus:
        await prometheus.wait_for(
            "usher_build_info and on () usher_operator_build_info"
            ' unless on () ALERTS{alertname=~"GatewayDown|OperatorDown"}'
        )
        begun = time.time()
        await agency.apply(klass, agency.tenant(), agency.destination(), agency.listener())
        await agency.wait_ready("listeners.usher.dev/lobby")
        await agency.apply(agency.listener("terrace", listenerClassName=klass["metadata"]["name"]))
        await agency.wait("Listener", "terrace", "Ready", "False", "IssuerNotFound")
        name = children.object_name(klass["spec"]["hostname"])
        certificate = api.Resource("Certificate", name, platform.install.system)
        await platform.server.wait(certificate, lambda current: current is not None)
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
        await platform.server.merge(certificate, {"status": {"notAfter": expiry.isoformat()}}, "status")
        await prometheus.wait_for('ALERTS{alertname="ListenersNotReady",alertstate="firing"}')
        for panel in BOARD["panels"]:
            for target in panel["targets"]:
                await prometheus.wait_for(pictures.filled(target["expr"]))
        fired = {alert["alertname"] for alert in await prometheus.fired(begun)}
        assert fired - server.OF_THE_MACHINE == {"ListenersNotReady"}
        if os.environ.get("UPDATE_DOCS"):
            await pictures.Drawing(prometheus, begun).draw(BOARD, PICTURE)
    await platform.server.delete(api.of(klass))
