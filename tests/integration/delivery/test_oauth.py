"""A destination with OAuth 2.0: a real token endpoint, and a destination that refuses old tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from aiohttp import test_utils, web

from support import gateway as gateways
from support import waiting
from support.gateway import visit

MANIFESTS = (
    gateways.CLASS
    + gateways.TENANT
    + gateways.LISTENER.replace("routes: []", "routes: [{name: crm, destinationRef: {name: crm}}]")
    + """
apiVersion: v1
kind: Secret
metadata: {name: crm, namespace: agency}
stringData: {secret: "client-sesame"}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm, namespace: agency}
spec:
  type: HTTP
  http:
    url: BASEvisits
    authentication:
      type: OAuth2
      oauth2:
        grant: ClientCredentials
        tokenURL: BASEtoken
        clientCredentials: {clientID: usher, sendAs: Form, secretRef: {name: crm, key: secret}}
"""
)


class Vendor:
    """Issues tokens, and accepts only the newest one."""

    def __init__(self) -> None:
        self.issued: list[dict[str, str]] = []
        self.visits: list[tuple[int, str]] = []
        self.token_status = 200
        self.repeats_request = False

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/token":
            form = dict((await request.post()).items())
            self.issued.append({name: str(value) for name, value in form.items()})
            token = {"access_token": f"wx3token-{len(self.issued)}", "token_type": "Bearer", "expires_in": 3600}
            return web.json_response(token, status=self.token_status)
        sent = request.headers.get("authorization", "")
        status = 200 if sent == f"Bearer wx3token-{len(self.issued)}" else 401
        self.visits.append((status, sent))
        return web.Response(status=status, text=sent if self.repeats_request else "")


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
async def gateway(tmp_path: Path, vendor: Vendor) -> AsyncIterator[gateways.RunningGateway]:
    async with (
        test_utils.RawTestServer(vendor.answer) as server,
        gateways.running(tmp_path, MANIFESTS.replace("BASE", str(server.make_url("/")))) as running,
    ):
        await running.wait_configured()
        yield running


async def test_visits_are_sent_with_a_token_that_is_renewed_when_it_is_refused(
    gateway: gateways.RunningGateway, vendor: Vendor
) -> None:
    assert (await gateway.post(visit(1))).acknowledges
    await waiting.until(gateway.meters, lambda meters: meters.get("delivered") == 1)
    assert vendor.issued == [
        {"grant_type": "client_credentials", "client_id": "usher", "client_secret": "client-sesame"}
    ]
    vendor.issued.append({})  # the vendor has withdrawn the token
    assert (await gateway.post(visit(2))).acknowledges
    meters = await waiting.until(gateway.meters, lambda meters: meters.get("delivered") == 2)
    assert [status for status, _ in vendor.visits] == [200, 401, 200]
    assert meters["attempts"] == 2


async def test_token_and_client_secret_appear_nowhere(gateway: gateways.RunningGateway, vendor: Vendor) -> None:
    vendor.repeats_request = True
    with structlog.testing.capture_logs() as logs:
        run = await gateway.command("destinations", "test", "agency/crm")
        assert run.code == 0, run.err
        vendor.token_status = 400
        vendor.issued.append({})
        assert (await gateway.post(visit(1))).acknowledges
        await waiting.wait_until(lambda: gateway.gateway.worker.counters.errors.get("TokenRefused"))
    listed = await gateway.command("deliveries", "list")
    for text in (run.out, listed.out, str(logs), gateway.exposition()):
        assert "wx3token" not in text
        assert "sesame" not in text
    assert "TokenRefused" in str(logs)


async def test_sample_says_that_there_was_no_token(gateway: gateways.RunningGateway, vendor: Vendor) -> None:
    vendor.token_status = 400
    run = await gateway.command("destinations", "test", "agency/crm")
    assert "no access token after" in run.out
    assert "ms: a visit would be tried again (TokenRefused)" in run.out
    assert vendor.visits == []
