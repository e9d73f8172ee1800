"""A replay respects the once-per rule of its route."""

import datetime
import functools
from pathlib import Path

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
        replays = []
        for selection in ({}, {"ignorePause": True}, {"ignorePause": True, "ignoreOncePer": True}):
            preview = await gateway.ask("POST", "/api/replays", reason="Paused", dryRun=True, **selection)
            started = await gateway.ask("POST", "/api/replays", reason="Paused", **selection)
            ask = functools.partial(gateway.ask, "GET", f"/api/replays/{started['id']}")
            done = await waiting.until(ask, lambda row: row["state"] == "done")
            assert done["reasons"] == preview["reasons"]
            assert done["leftOut"].items() <= preview["leftOut"].items()
            replays.append((done["created"], {name: count for name, count in done["leftOut"].items() if count}))
    assert replays == [(0, {"paused": 3}), (1, {"oncePer": 2}), (2, {"replayedBefore": 1})]
