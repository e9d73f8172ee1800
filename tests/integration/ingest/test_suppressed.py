"""A visit of a suppressed person is acknowledged, and only counted."""

import json
from pathlib import Path

from support import gateway as gateways

EMAIL = "ada.lovelace@example.org"


async def suppress(gateway: gateways.RunningGateway) -> None:
    report = {"searchedAs": ["email"], "tenants": 1, "suppressed": 1, "cancelled": 0, "stored": 1}
    answer = await gateway.ask("POST", "/api/persons/suppress", value=EMAIL)
    assert answer == report | {"arrivalsByTenant": {"agency/acme": 1}}


async def test_suppressed_visit_gets_its_200_and_is_only_counted(tmp_path: Path) -> None:
    def visit(user: int) -> bytes:
        return json.dumps({"user": {"id": user, "email": EMAIL, "venue": {"id": 9}}}).encode()

    async with gateways.running(tmp_path) as gateway:
        assert (await gateway.post(visit(1))).acknowledges
        await suppress(gateway)
        answers = [await gateway.post(visit(user)) for user in (1, 2, 3)]
        assert [answer.acknowledges for answer in answers] == [True] * 3
        assert gateway.counted() == {"visit": 1, "suppressed": 3}
        assert await gateway.meters() == {"visits": 1, "suppressed": 3}
        assert gateway.store.count("arrivals") == gateway.store.count("bodies") == 1
        assert 'counted_as="suppressed"} 3.0' in gateway.exposition()
