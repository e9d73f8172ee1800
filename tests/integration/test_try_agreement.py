"""A try of a changed listener on a simulated week agrees with what the changed listener then does."""

import collections
import json
import time
from pathlib import Path
from typing import Any

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway import model
from usher_gateway.simulator import receiver, schedule

WEEK = schedule.Pattern(
    authentications=250,
    duration_seconds=7 * schedule.DAY_SECONDS,
    curve=schedule.HOTEL * 7,
    redeliveries=0.0,
    untimed=0.0,
    returning=0.5,
)
COMPANY = schedule.Company(seed=5)

NAME = "{'id': visit.userId, 'at': visit.occurredAt, 'name': visit.firstName}"
NAME_OF_REGULARS = "{'id': visit.userId, 'at': visit.occurredAt, 'name': visit.visitCount > 1 ? '*' : visit.firstName}"

PRESENT = [
    gateways.route("crm", "crm", transform=NAME),
    gateways.route("mail", "parked", when="visit.gender != ''"),
    gateways.route("survey", "parked"),
    gateways.route("old", "parked"),
]
# The filter of `loyalty` fails for devices other than iOS, because bodies have no tier.
CHANGED = [
    gateways.route("crm", "crm", transform=NAME_OF_REGULARS, repeats="Forward"),
    gateways.route("mail", "parked", when="visit.gender == 'female' || visit.source == 'sms'"),
    gateways.route("survey", "parked", oncePer={"per": ["User"], "every": "Week"}),
    gateways.route("loyalty", "parked", when="body.user.device.platform == 'iOS' || body.user.tier == 'gold'"),
]

Outcomes = dict[str, collections.Counter[str]]


def manifests(routes: list[gateways.Manifest], port: int) -> list[gateways.Manifest]:
    return [
        gateways.TENANT,
        gateways.listener("wifi", routes),
        gateways.destination("crm", f"http://127.0.0.1:{port}/crm"),
        gateways.destination("parked", "http://127.0.0.1:1/", state="Paused"),
    ]


def outcome_of(verdict: dict[str, Any]) -> str:
    """Return how a try counts a verdict of the gateway."""
    if "skipped" in verdict:
        return str(verdict["skipped"])
    return "errors" if verdict["held"] == "FilterError" else "sent"


async def verdicts(gateway: in_process.RunningGateway, bodies: list[bytes]) -> list[dict[str, str]]:
    """Post bodies; return the outcome of each route for each of them, in their order."""
    for body in bodies:
        assert (await gateways.post(gateway.port, "/wifi", body)).is_acknowledgement
    rows = (await gateway.ask("GET", "/api/visits?limit=1000"))["rows"]
    assert len(rows) == len(bodies)
    return [{each["route"]: outcome_of(each) for each in row["verdicts"]} for row in reversed(rows)]


def counted(outcomes: list[dict[str, str]], route: str) -> collections.Counter[str]:
    return collections.Counter([each[route] for each in outcomes if route in each])


def tried(counts: dict[str, Any]) -> dict[str, int]:
    errors = {"errors": sum(counts["errors"].values())} if counts["errors"] else {}
    return {"sent": counts["sent"], **counts["skipped"], **errors}


async def test_try_agrees_with_what_the_changed_listener_then_does(tmp_path: Path) -> None:
    start = time.time_ns() // 1000 - int(7 * schedule.DAY_SECONDS) * model.MICROSECONDS
    bodies = [schedule.body_of(event, COMPANY, start) for event in schedule.plan(WEEK, COMPANY.seed)]
    file = tmp_path / "changed.yaml"
    gateways.write_manifests(file, [gateways.listener("wifi", CHANGED)])
    folders = [tmp_path / name for name in ("present", "changed")]
    for folder in folders:
        folder.mkdir()

    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as peer:
        async with in_process.running(folders[0], manifests(PRESENT, peer.port)) as gateway:
            before = await verdicts(gateway, bodies)
            sent_before = counted(before, "crm")["sent"]
            await waiting.wait_until(lambda: len(peer.kept("/crm")) == sent_before)
            run = await gateway.command("try", file, "-o", "json")
            assert run.code == 0, run.err
            documents_before = [json.loads(each.body) for each in peer.kept("/crm")]
            assert len(documents_before) == sent_before, "a try sends nothing"
        async with in_process.running(folders[1], manifests(CHANGED, peer.port)) as gateway:
            after = await verdicts(gateway, bodies)
            sent_after = counted(after, "crm")["sent"]
            await waiting.wait_until(lambda: len(peer.kept("/crm")) == sent_before + sent_after)
            documents_after = [json.loads(each.body) for each in peer.kept("/crm")[sent_before:]]

    (listener,) = json.loads(run.out)["listeners"]
    assert (listener["tried"], listener["endedBy"]) == (len(bodies), "")
    routes = {route["route"]: route for route in listener["routes"]}
    assert list(routes) == ["crm", "mail", "survey", "old", "loyalty"]
    for name, route in routes.items():
        assert tried(route["now"] or {"sent": 0, "skipped": {}, "errors": {}}) == {"sent": 0} | counted(after, name)
        assert tried(route["before"] or {"sent": 0, "skipped": {}, "errors": {}}) == {"sent": 0} | counted(before, name)
        pairs = [(old.get(name), new.get(name)) for old, new in zip(before, after, strict=True)]
        assert route["newlySent"] == sum(old != "sent" and new == "sent" for old, new in pairs)
        skipped = collections.Counter([new or "NoRoute" for old, new in pairs if old == "sent"])
        assert route["newlySkipped"] == {
            reason: count for reason, count in skipped.items() if reason not in {"sent", "errors"}
        }
    named_before = {(each["id"], each["at"]): each["name"] for each in documents_before}
    named_after = {(each["id"], each["at"]): each["name"] for each in documents_after}
    assert routes["crm"]["changed"] == sum(named_after[key] != name for key, name in named_before.items()) > 0
    assert routes["loyalty"]["now"]["errors"] == {"NoSuchField (body.user.tier)": counted(after, "loyalty")["errors"]}
    assert counted(after, "survey")["OncePer"] > 0
