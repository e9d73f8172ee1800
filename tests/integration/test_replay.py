"""A replay that a gateway process takes over after a SIGKILL sends each visit once more, with its header."""

import collections
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support import databases, gateways, waiting
from usher_gateway.simulator import receiver

VISITS = 60


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_replay_killed_in_the_middle_delivers_each_visit_once_more(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    database = request.getfixturevalue("database") if engine == "postgresql" else None
    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as peer:
        manifests = gateways.one_route(f"http://127.0.0.1:{peer.port}")
        async with gateways.Gateway(tmp_path, manifests, database=database) as gateway:
            await gateway.start()
            for number in range(VISITS):
                assert (await gateways.post(gateway.port, "/wifi", gateways.visit(number))).is_acknowledgement
            await waiting.wait_until(lambda: len(peer.kept("/crm")) == VISITS)
            asked = {"state": "delivered", "destination": "default/crm", "perSecond": 20}
            started = await ask(gateway, "POST", "/api/replays", asked)
            await waiting.wait_until(lambda: len(peer.kept("/crm")) > VISITS)
            await gateway.kill()
            if database is not None:
                databases.let_gateways_die(database)
            await gateway.start()

            async def replay() -> Any:
                return await ask(gateway, "GET", f"/api/replays/{started['id']}")

            done = await waiting.until(replay, lambda row: row["deliveries"].get("delivered") == VISITS)
            assert (done["state"], done["created"]) == ("done", VISITS)
            visits = (await ask(gateway, "GET", "/api/visits?limit=1000"))["rows"]
            assert (await ask(gateway, "GET", "/api/usage/check"))["violations"] == []
    again = [each for each in peer.kept("/crm") if "usher-replay" in each.headers]
    assert {each.headers["usher-replay"] for each in again} == {started["id"]}
    ids_by_body: dict[bytes, set[str]] = collections.defaultdict(set)
    for each in again:
        ids_by_body[each.body].add(each.headers["webhook-id"])
    assert {len(ids) for ids in ids_by_body.values()} == {1}, "a delivery sent twice around a kill keeps its id"
    assert len(ids_by_body) == len(visits) == VISITS


async def test_replay_waits_for_the_configuration_after_a_restart(tmp_path: Path) -> None:
    """Without a configuration no route has a once-per rule: 40 visits of one visitor would all be sent."""
    once = {"per": ["User"], "every": "Day"}
    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as peer:
        route = gateways.route("crm", "crm", state="Paused", oncePer=once)
        manifests = [
            gateways.TENANT,
            gateways.listener("wifi", [route], dedupe={"windowSeconds": 0}),
            gateways.destination("crm", f"http://127.0.0.1:{peer.port}/crm"),
        ]
        async with gateways.Gateway(tmp_path, manifests) as gateway:
            await gateway.start()
            for number in range(40):
                body = json.dumps({**json.loads(gateways.visit(1)), "number": number}).encode()
                assert (await gateways.post(gateway.port, "/wifi", body)).is_acknowledgement
            asked = {"reason": "Paused", "ignorePause": True, "perSecond": 20}
            started = await ask(gateway, "POST", "/api/replays", asked)
            await gateway.kill()
            await gateway.start()

            async def replay() -> Any:
                return await ask(gateway, "GET", f"/api/replays/{started['id']}")

            done = await waiting.until(replay, lambda row: row["state"] == "done")
            assert (done["created"], done["leftOut"]["oncePer"]) == (1, 39)


async def ask(gateway: gateways.Gateway, method: str, path: str, selection: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {(gateway.data / 'operate.token').read_text().strip()}"}
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.admin}", headers=headers) as session,
        session.request(method, path, json=selection) as answer,
    ):
        assert answer.status < 300, await answer.text()
        return await answer.json()
