"""`usher tenants`, `destinations`, `listeners` and `top` against a real admin port, in a terminal of 80 columns."""

import csv
import io
import json
import re
import signal

import msgspec
import pytest

from support import admin_port, samples, terminal
from usher_gateway import documents, model


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["tenants"], "agency/acme"),
        (["destinations", "list"], "agency/crm"),
        (["listeners"], "agency/lobby"),
        (["top", "--once"], "acme"),
    ],
)
async def test_overview_fits_80_columns(served: admin_port.Served, command: list[str], name: str) -> None:
    out = await served.output_of(*command)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert re.search(f"^{name} ", out, re.MULTILINE)


async def test_tenants_show_what_waits_for_a_person(served: admin_port.Served) -> None:
    out = await served.output_of("tenants", "--failing", COLUMNS="120")
    troubles = r"crm fails, 1 dead, 1 held \(DestinationPaused\), quarantines"
    assert re.search(rf"^agency/acme +4 +- +{troubles} ", out, re.MULTILINE)
    (row,) = csv.DictReader(io.StringIO(await served.output_of("tenants", "-o", "csv")))
    assert (row["name"], row["todayVisits"], row["dead"]) == ("acme", "4", "1")
    assert json.loads(row["held"]) == {"DestinationPaused": 1}
    assert "agency/acme" in await served.output_of("tenants", "--silent")


async def test_tenant_shows_its_troubles_and_how_far_back_commands_reach(served: admin_port.Served) -> None:
    shown = await served.output_of("tenants", "show", "agency/acme")
    faults = "crm held: DestinationPaused since 11-25 12:00:00, Quarantining 20%,"
    assert f"\nTroubles:\nlobby  {faults}\n       Unverified not probed yet\n" in shown
    assert re.search(r"^crm +1 held DestinationPaused, 1 dead$", shown, re.MULTILINE)
    assert re.search(r"^last accepted +none yet\ntoday \(UTC\) +5 arrivals$", shown, re.MULTILINE)
    assert "Visits are kept for 30 days: `usher find` and `usher visits` reach back so far.\n" in shown
    assert "Receipts of erasure are kept for 1,095 days" in shown
    assert shown.endswith("Backups: kept 35 days.\n")
    row = json.loads(await served.output_of("tenants", "show", "acme", "-o", "json"))
    assert (row["timeZone"], row["troubles"][:2]) == ("UTC", ["crm fails", "1 dead"])
    run = await served.command("tenants", "show", "acne")
    assert (run.code, "did you mean `acme`?" in run.err) == (2, True)


async def test_tenant_with_one_arrival_of_each_kind_shows_it_in_the_singular(empty: admin_port.Served) -> None:
    for at in (samples.NOW, samples.NOW + samples.SECOND):  # the second one is a redelivery
        await empty.bench.accept(samples.arrival("1", at, visit_time=samples.NOW, time_trusted=True))
    shown = await empty.output_of("tenants", "show", "agency/acme")
    today = re.search(r"^today \(UTC\) +(.*?)^waiting ", shown, re.MULTILINE | re.DOTALL)
    assert today is not None
    assert [line.strip() for line in today[1].splitlines()] == ["2 arrivals", "1 visit", "1 redelivery"]


async def test_fault_says_since_when(served: admin_port.Served) -> None:
    since = "2025-11-25T12:00:00.000Z"
    served.arrivals.of(samples.LOBBY).quarantining.add(samples.NOW)
    (listener,) = json.loads(await served.output_of("listeners", "-o", "json"))["rows"]
    assert listener["faultsSince"] == {"DeliveriesHeld": since, "Quarantining": since, "Unverified": None}
    (tenant,) = json.loads(await served.output_of("tenants", "-o", "json"))["rows"]
    assert tenant["firstFaults"]["Quarantining"]["since"] == since
    shown = await served.output_of("listeners", "--failing", COLUMNS="400")
    assert "Quarantining 20% since 11-25 12:00:00  " in shown
    assert "Unverified" not in shown


async def test_tenant_that_refuses_a_source_shows_what_is_allowed(served: admin_port.Served) -> None:
    served.edit(source_ranges=("203.0.113.0/24",), source_policy="Enforce")
    served.refused_reason = "SourceNotAllowed"
    shown = await served.output_of("tenants", "show", "agency/acme")
    assert "allowedSources 203.0.113.0/24 (policy Enforce)" in " ".join(shown.split())


async def test_cursor_of_a_row_that_is_gone_begins_again(served: admin_port.Served) -> None:
    rows = json.loads(await served.output_of("tenants", "--cursor", "agency/gone", "-o", "json"))["rows"]
    assert [row["name"] for row in rows] == ["acme"]


async def test_destinations_show_what_waits_and_what_died(served: admin_port.Served) -> None:
    out = await served.output_of("destinations", "list", "--tenant", "acme", COLUMNS="120")
    assert re.search(
        r"^agency/crm +Healthy +- +- +1 held DestinationPaused, 1 dead +- +acme +crm.example$", out, re.MULTILINE
    )
    answer = json.loads(await served.output_of("destinations", "list", "--failing", "-o", "json"))
    assert [row["name"] for row in answer["rows"]] == ["crm"]


async def test_list_says_how_many_there_are_and_which_flag_selects_those_in_trouble(
    served: admin_port.Served,
) -> None:
    deliveries = "1 held delivery, 1 dead delivery"
    said = (await served.command("tenants", COLUMNS="200")).err
    none_yet = "1 unused (--unused)"  # the store of this test has some, its counters do not
    assert said.endswith(f"1 tenant, {deliveries}; 1 failing (--failing), 1 silent (--silent), {none_yet}\n")
    assert (await served.command("tenants", "--failing", COLUMNS="200")).err.endswith(
        f"1 tenant, {deliveries}; of all 1 silent (--silent), {none_yet}\n"
    )
    assert (await served.command("destinations")).err.endswith(
        f"\n1 destination, {deliveries}; 1 failing (--failing)\n"
    )
    assert (await served.command("tenants", "-o", "json")).err == ""


async def test_page_of_a_list_ends_with_the_command_for_the_next_one(served: admin_port.Served) -> None:
    lobby = served.state.snapshot.listeners["agency/lobby"]
    names = ("bar", "lobby", "pool")
    listeners = [msgspec.structs.replace(lobby, name=name, addresses=()) for name in names]
    snapshot = documents.Snapshot({each.key: each for each in listeners}, served.state.snapshot.destinations)
    served.registry.apply(snapshot, now=0.0)
    served.state.apply(snapshot, 0)
    run = await served.command("listeners", "--tenant", "acme", "--limit", "2", "-o", "json")
    page = json.loads(run.out)
    assert ([row["name"] for row in page["rows"]], page["nextCursor"]) == (["bar", "lobby"], "agency/lobby")
    total, _, following = run.err.partition("\nnext: usher ")
    assert total == "Showing 2 of 3 listeners; 3 failing (--failing), 3 unused (--unused)."
    assert following == "listeners --tenant acme --limit 2 --output json --cursor agency/lobby\n"
    last = await served.command(*following.split())
    page = json.loads(last.out)
    assert ([row["name"] for row in page["rows"]], page["nextCursor"]) == (["pool"], None)
    assert last.err == ""


@pytest.mark.parametrize("group", ["tenants", "destinations", "visits", "deliveries", "dead", "quarantine"])
async def test_word_list_is_implied(served: admin_port.Served, group: str) -> None:
    listed = await served.output_of(group, "list", "--namespace", "agency", "-o", "csv")
    assert await served.output_of(group, "--namespace", "agency", "-o", "csv") == listed
    assert await served.output_of(group) == await served.output_of(group, "list")


async def test_a_delivery_that_is_due_is_next_now_and_not_in_the_past(served: admin_port.Served) -> None:
    await served.output_of("dead", "redrive", "--route", "crm", "--yes")
    served.bench.clock.now += 60 * model.MICROSECONDS
    (row,) = json.loads(await served.output_of("destinations", "list", "-o", "json"))["rows"]
    assert (row["backlog"], row["nextDueAt"]) == (1, model.format_time(served.bench.clock()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tenants", "--tenant", "acmee"], "there is no tenant `acmee`"),
        (["tenants", "--namespace", "agencie"], "did you mean `agency`?"),
        (["destinations", "list", "--tenant", "agency/acne"], "did you mean `acme`?"),
        (["top", "--once", "--tenant", "acmee"], "did you mean `acme`?"),
        (["top"], "this is not a terminal"),
    ],
)
async def test_unknown_name_is_an_error_that_ends_with_2(
    served: admin_port.Served, arguments: list[str], said: str
) -> None:
    run = await served.command(*arguments)
    assert (run.code, run.out) == (2, "")
    assert said in run.err


async def test_top_reads_again_until_ctrl_c_and_restores_the_terminal(served: admin_port.Served) -> None:
    async with terminal.running(served, "top", "--seconds", "0.2", "--sort", "dead") as window:
        previous_attributes = window.attributes()
        await window.wait("TENANT", "DEAD↓", "acme", "1 failing")
        window.written = ""
        await window.wait("TENANT", "acme")
        window.process.send_signal(signal.SIGINT)
        assert await window.end() == (0, "")
        assert window.attributes() == previous_attributes
