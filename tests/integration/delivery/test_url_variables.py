"""A destination whose URL depends on the visit, as Mailchimp's. The filled URL goes there and nowhere else."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from support import gateway as gateways
from support import waiting
from usher_gateway.simulator import receiver, receiving

EMAIL = "Jane.Doe@Example.com"
DIGEST = hashlib.md5(EMAIL.lower().encode(), usedforsecurity=False).hexdigest()
PATH = f"/lists/9/members/{DIGEST}"
MANIFESTS = (
    gateways.CLASS
    + gateways.TENANT
    + gateways.LISTENER.replace("routes: []", "routes: [{name: list, destinationRef: {name: mailer}}]")
    + """
apiVersion: v1
kind: Secret
metadata: {name: mailer, namespace: agency}
stringData: {key: "sesame/open"}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: mailer, namespace: agency}
spec:
  type: HTTP
  transform: '{"email_address": visit.email, "status_if_new": "subscribed"}'
  http:
    method: PUT
    url: "URLlists/9/members/{member}?key={key}"
    urlVariables:
    - {name: member, value: "md5(visit.email.lowerAscii())"}
    - {name: key, valueFrom: {secretKeyRef: {name: mailer, key: key}}}
"""
)


@pytest.fixture
async def gateway(tmp_path: Path, peer: receiver.Receiver) -> AsyncIterator[gateways.RunningGateway]:
    async with gateways.running(tmp_path, MANIFESTS.replace("URL", f"{peer.url}/")) as running:
        await running.wait_configured()
        yield running


def visit(email: str, user: int = 7) -> bytes:
    return json.dumps({"user": {"id": user, "email": email, "venue": {"id": 9}}}).encode()


async def test_visit_goes_to_its_own_url(gateway: gateways.RunningGateway, peer: receiver.Receiver) -> None:
    assert (await gateway.post(visit(EMAIL))).acknowledges
    await waiting.wait_until(lambda: peer.kept(PATH))
    (request,) = peer.kept(PATH)
    assert (request.method, request.path) == ("PUT", f"{PATH}?key=sesame%2Fopen")
    assert json.loads(request.body) == {"email_address": EMAIL, "status_if_new": "subscribed"}


async def test_filled_url_appears_nowhere(gateway: gateways.RunningGateway, peer: receiver.Receiver) -> None:
    peer.set_behaviour("*", receiving.Behaviour(status=400))
    with structlog.testing.capture_logs() as logs:
        assert (await gateway.post(visit(EMAIL))).acknowledges
        await waiting.wait_until(lambda: peer.kept(PATH))
        await waiting.until(gateway.meters, lambda meters: meters.get("died"))
        questions = (
            ("deliveries", "list"),
            ("dead", "list"),
            ("destinations",),
            ("destinations", "test", "agency/mailer"),
        )
        runs = [await gateway.command(*question, "-o", "json") for question in questions]
        told = [run.out + run.err for run in runs]
    assert "{member}" in told[-1]
    for text in (*told, gateway.exposition(), str(logs)):
        assert DIGEST not in text
        assert "sesame" not in text


async def test_visit_without_a_value_is_held(gateway: gateways.RunningGateway, peer: receiver.Receiver) -> None:
    gateway.write(gateway.manifests.read_text().replace("md5(visit.email.lowerAscii())", "visit.email"))
    await waiting.wait_until(
        lambda: gateway.gateway.snapshot.destinations["agency/mailer"].url_variables[0].value == "visit.email"
    )
    for user, email in enumerate(("", "..")):
        assert (await gateway.post(visit(email, user))).acknowledges

    async def held() -> dict[str, int]:
        return {group.reason.name: group.count for group in await gateway.gateway.store.held_groups()}

    await waiting.until(held, lambda counts: counts == {"FormatError": 2})
    assert peer.all_counts() == {}
