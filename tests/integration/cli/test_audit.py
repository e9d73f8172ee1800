"""`usher audit` shows each look and each change, and what it shows is never personal."""

import csv
import io
import json
from typing import Any
from unittest import mock

import pytest
import structlog.testing

from support import admin_port, leaks, samples
from usher_gateway import model
from usher_gateway.words import listings


async def test_each_look_and_each_change_has_an_entry(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    await served.output_of("visits", "show", dead["visit"], "--body")
    await served.output_of("dead", "show", dead["id"], "--answer")
    await served.command("find", piped="somebody@example.org")
    await served.output_of("dead", "redrive", "--tenant", "acme", "--yes")
    rows = json.loads(await served.output_of("audit", "-o", "json"))["rows"]
    assert [(row["action"], row["count"], row["who"]) for row in rows] == [
        ("redrive", 1, "operate"),
        ("find person", 0, "operate"),
        ("show answer", 1, "operate"),
        ("show body", 1, "operate"),
    ]
    assert rows[0]["selection"] == {"tenant": "acme", "state": "dead", "deliveries": [dead["id"]]}
    assert "somebody" not in json.dumps(rows)
    leaks.PERSONAL_DATA.search("audit log", json.dumps(rows))


async def test_entry_of_a_replay_has_the_id_that_selects_its_deliveries(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--reason", "Filter", "--yes")
    (entry,) = (await served.get("/api/audit?action=replay"))["rows"]
    (replay,) = (await served.get("/api/replays"))["rows"]
    assert next(iter(entry["selection"].items())) == ("id", replay["id"])
    (delivery,) = json.loads(await served.output_of("deliveries", "--replay", replay["id"], "-o", "json"))["rows"]
    assert delivery["replay"] == replay["id"]


async def test_reference_comes_first_and_selects_entries(served: admin_port.Served) -> None:
    for reference in ("DSR-7", "DSR-8"):
        suppressing = ("person", "suppress", "--yes", "--reference", reference)
        await served.output_of(*suppressing, piped="x@example.org")
    table = await served.output_of("audit", "--reference", "DSR-8", COLUMNS="120")
    _, row = table.splitlines()
    assert "suppress person      0  reference DSR-8, fields email" in row


async def test_unknown_action_is_refused_with_the_list_of_actions(served: admin_port.Served) -> None:
    run = await served.command("audit", "--action", "look")
    assert run.code == 2
    assert "there is no such action: there are find person, show body, show answer," in run.said


async def test_preview_and_refused_request_have_no_entry(served: admin_port.Served) -> None:
    await served.command("dead", "redrive", "--tenant", "acme")
    await served.command("find", piped="x@example.org", USHER_TOKEN=served.tokens.observe)
    assert await served.output_of("audit") == "No entries.\n"


async def test_audit_log_needs_the_operate_token(served: admin_port.Served) -> None:
    run = await served.command("audit", USHER_TOKEN=served.tokens.observe)
    assert (run.code, "the token `observe` may not do this: it lacks the scope" in run.err) == (2, True)


async def test_entries_as_table_csv_and_lines(served: admin_port.Served) -> None:
    for _ in range(3):
        await served.output_of("dead", "redrive", "--tenant", "acme", "--yes")
    table = await served.output_of("audit", "--limit", "2")
    assert [line.split()[2:5] for line in table.splitlines()[1:]] == [["operate", "redrive", "0"]] * 2
    assert max(map(len, table.splitlines())) <= 80
    lines = [json.loads(line) for line in (await served.output_of("audit", "--lines")).splitlines()]
    cells = list(csv.DictReader(io.StringIO(await served.output_of("audit", "-o", "csv"))))
    assert [row["id"] for row in cells] == [row["id"] for row in lines]
    assert len(lines) == 3
    run = await served.command("audit", "--lines", "--limit", "2")
    assert (run.code, "--lines prints every entry" in run.err) == (2, True)
    run = await served.command("audit", "--action", "show body")
    assert run.out == "No entries.\n"


async def test_nothing_is_shown_while_the_entry_cannot_be_stored(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("secret"))
    (visit, *_) = (await served.get("/api/visits"))["rows"]
    refused = mock.AsyncMock(side_effect=model.StoreUnavailableError("the disk is full"))
    with mock.patch.object(served.bench.store, "add_audit_entry", refused), structlog.testing.capture_logs() as logs:
        status, problem = await served.ask("GET", f"/api/visits/{visit['id']}/body")
        changed = await served.post("/api/deliveries/redrive", tenant="acme")
    assert (status, problem["code"]) == (503, "StoreUnavailable")
    assert changed["redriven"] == 1
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["audit_entry_not_stored"]


async def test_shortened_json_has_the_cursor_of_the_next_page(served: admin_port.Served) -> None:
    for reference in ("DSR-1", "DSR-2"):
        await served.command("find", "--reference", reference, piped="ada@example.com")
    first = json.loads(await served.output_of("audit", "--limit", "1", "-o", "json"))
    second = json.loads(await served.output_of("audit", "--cursor", first["nextCursor"], "-o", "json"))
    references = [row["selection"]["reference"] for row in (*first["rows"], *second["rows"])]
    assert (references[:2], second["nextCursor"]) == (["DSR-2", "DSR-1"], None)


async def test_looks_at_bodies_answers_and_urls_are_listed_by_tenant(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    await served.output_of("visits", "show", dead["visit"], "--body")
    await served.output_of("dead", "show", dead["id"], "--answer")
    await served.output_of("url", "--tenant", "acme")
    rows = json.loads(await served.output_of("audit", "--tenant", "agency/acme", "-o", "json"))["rows"]
    about = {"namespace": "agency", "tenant": "acme"}
    assert [row["selection"] for row in rows] == [
        {"listener": "agency/lobby", "tenant": "acme"},
        {"id": dead["id"], **about},
        {"id": dead["visit"], **about},
    ]
    assert await served.output_of("audit", "--tenant", "zoo") == "No entries (--tenant zoo).\n"


@pytest.mark.parametrize("named", ["acme", "agency/acme"])
async def test_requests_about_a_person_are_listed_by_tenant(served: admin_port.Served, named: str) -> None:
    for arguments in (("suppress", "--yes"), ("erase", "--yes"), ("unsuppress",)):
        await served.output_of("person", *arguments, "--tenant", named, piped="x@example.org")
    for tenant in ("acme", "agency/acme"):
        rows = json.loads(await served.output_of("audit", "--tenant", tenant, "-o", "json"))["rows"]
        actions = [row["action"] for row in rows]
        assert actions == ["unsuppress person", "erase person", "suppress person"]
    (request,) = (await served.get("/api/persons/erasures"))["rows"]
    assert (rows[1]["selection"]["id"], rows[1]["selection"]["tenants"]) == (request["id"], 1)


async def test_table_shows_the_digits_of_an_id_that_commands_take(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    await served.output_of("dead", "show", dead["id"], "--answer")
    table = await served.output_of("audit", COLUMNS="80")
    assert f"  id {dead['id'][: listings.SHORT_ID]}, " in table


async def test_change_that_fails_half_way_has_an_entry(served: admin_port.Served) -> None:
    await served.bench.accept(*[samples.arrival(f"{number}") for number in range(250)])
    change, slices = served.bench.store._change, []

    async def change_once(job: Any) -> Any:
        slices.append(job)
        if len(slices) == 2:
            raise model.StoreUnavailableError("away")
        return await change(job)

    with mock.patch.object(served.bench.store, "_change", change_once):
        status, _ = await served.ask("POST", "/api/deliveries/cancel", json={"all": True})
    assert status == 503
    assert len((await served.get("/api/deliveries?state=cancelled&limit=1000"))["rows"]) == 100
    (entry,) = (await served.get("/api/audit?action=cancel"))["rows"]
    assert entry["selection"] == {"all": True, "interrupted": True}


async def test_fault_of_the_gateway_is_recorded_and_blames_no_caller(served: admin_port.Served) -> None:
    with mock.patch.object(served.bench.store, "start_replay", side_effect=ValueError):
        status, _ = await served.ask("POST", "/api/replays", json={"tenant": "acme", "reason": "Filter"})
    (entry,) = (await served.get("/api/audit?action=replay"))["rows"]
    assert (status, entry["selection"]["interrupted"]) == (500, True)


async def test_sample_without_an_entry_is_not_sent(served: admin_port.Served) -> None:
    with mock.patch.object(served.bench.store, "add_audit_entry", side_effect=model.StoreUnavailableError("away")):
        status, answer = await served.ask("POST", "/api/destinations/test", json={"destination": "agency/crm"})
    assert (status, "answer" in answer) == (503, False)


async def test_times_and_ids_are_recorded_as_parsed_not_as_written(served: admin_port.Served) -> None:
    selection = {"since": "2020-11-25T12:00:00.00000044770090123Z", "state": "cancelled"}
    await served.ask("POST", "/api/deliveries/redrive", json=selection)
    (entry,) = (await served.get("/api/audit"))["rows"]
    assert entry["selection"] == {"since": "2020-11-25T12:00:00.000Z", "state": "cancelled"}


async def test_refused_change_has_no_entry(served: admin_port.Served) -> None:
    for selection in (
        {"all": True, "state": "jane.doe@example.com"},
        {"visit": "01920000-0000-7000-8000-000000000001"},
    ):
        for path in ("/api/deliveries/cancel", "/api/quarantine/release"):
            assert (await served.ask("POST", path, json=selection))[0] in {400, 404}
    assert (await served.get("/api/audit"))["rows"] == []


@pytest.mark.parametrize("state", ["released", "jane.doe@example.com"])
async def test_release_selects_only_unreleased_arrivals(served: admin_port.Served, state: str) -> None:
    served.mend(user=("/visitor/ref",))
    for selection in ({"state": state}, {"state": state, "all": True}):
        status, answer = await served.ask("POST", "/api/quarantine/release", json=selection)
        assert (status, "state must be unreleased" in answer["detail"]) == (400, True)
    assert (await served.get("/api/audit"))["rows"] == []
