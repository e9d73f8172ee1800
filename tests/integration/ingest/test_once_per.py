"""A replay respects the once-per rule of its route."""

import contextlib
import datetime
from pathlib import Path
from typing import Any

import aiohttp

from support import gateway as in_process
from support import gateways, waiting


async def test_replay_of_a_paused_route_respects_its_once_per_rule(tmp_path: Path) -> None:
    rule = {"per": ["User"], "every": "Day"}

    def manifests(state: str) -> list[gateways.Manifest]:
        mail = gateways.route("mail", "mail", oncePer=rule, state=state)
        unlimited = {"per": ["User", "Venue"], "windowSeconds": 0}
        return [
            gateways.TENANT,
            gateways.listener("wifi", [mail], dedupe=unlimited),
            gateways.destination("mail", "http://127.0.0.1:1/", state="Paused"),
        ]

    async with in_process.running(tmp_path, manifests("Active")) as gateway:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        assert (
            await gateways.post(gateway.port, "/wifi", gateways.visit(1, user=1, loginDatetime=now))
        ).is_acknowledgement
        gateway.configure(manifests("Paused"))
        listeners = gateway.gateway.registry
        await waiting.wait_until(
            lambda: [live.document.routes[0].state for live in listeners.listeners.values()] == ["Paused"]
        )
        for number, user in ((2, 1), (3, 2), (4, 2)):
            body = gateways.visit(number, user=user, loginDatetime=now)
            assert (await gateways.post(gateway.port, "/wifi", body)).is_acknowledgement
        headers = {"Authorization": f"Bearer {(tmp_path / 'data' / 'operate.token').read_text().strip()}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.gateway.admin.port}", headers=headers) as admin:
            replays = []
            for selection in ({}, {"ignorePause": True}, {"ignorePause": True, "ignoreOncePer": True}):
                asked = {"reason": "Paused", **selection}
                preview = await answer_of(admin.post("/api/replays", json={**asked, "dryRun": True}))
                started = await answer_of(admin.post("/api/replays", json=asked))

                async def replay(path: str = f"/api/replays/{started['id']}") -> Any:
                    return await answer_of(admin.get(path))

                done = await waiting.until(replay, lambda row: row["state"] == "done")
                assert done["reasons"] == preview["reasons"]
                assert done["leftOut"].items() <= preview["leftOut"].items()
                replays.append((done["created"], {name: count for name, count in done["leftOut"].items() if count}))
    assert replays == [(0, {"paused": 3}), (1, {"oncePer": 2}), (2, {"replayedBefore": 1})]


async def answer_of(request: contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]) -> Any:
    async with request as answer:
        return await answer.json()
