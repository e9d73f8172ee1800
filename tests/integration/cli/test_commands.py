"""The commands that use a gateway's admin port, in a terminal of 80 columns."""

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import admin_port, command_line, samples, terminal
from support import gateway as gateways
from usher_gateway import documents, model
from usher_gateway.access import tokens
from usher_gateway.cli import tables
from usher_gateway.delivery import holds
from usher_gateway.words import listings

LOBBY = """
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.example.com
  allowedHostnames: [{hostname: www.acme.example}]
---
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme, namespace: agency}
spec: {displayName: Acme}
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby, namespace: agency}
spec:
  tenantRef: {name: acme}
  addresses:
  - {name: kept, hostname: www.acme.example, path: /hooks/purple.php, query: [{name: k, value: secret7}]}
  authentication: {type: None}
  routes: []
"""


@pytest.mark.parametrize("width", ["80", "200"])
async def test_listings_fit_the_terminal_with_ids_that_show_takes(served: admin_port.Served, width: str) -> None:
    for group in ("visits", "deliveries"):
        out = await served.output_of(group, "list", COLUMNS=width)
        assert max(len(line) for line in out.splitlines()) <= int(width)
        rows = (await served.get(f"/api/{group}"))["rows"]
        assert len(out.splitlines()) == len(rows) + 1
        for row in rows:
            short_id = next(word for word in out.split() if len(word) > 9 and row["id"].startswith(word))
            assert row["id"] in await served.output_of(group, "show", short_id)


async def test_every_command_takes_the_first_digits_of_an_id(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    listed = await served.output_of("deliveries", "--visit", dead["visit"][: listings.SHORT_ID], "-o", "json")
    assert [row["id"] for row in json.loads(listed)["rows"]] == [dead["id"]]
    short_id = dead["id"][: listings.SHORT_ID].replace("-", "")
    for group in ("dead", "deliveries"):
        assert await served.output_of(group, "show", short_id, "--answer") == "no such field"
    assert "Redriven: 1 delivery." in await served.output_of("dead", "redrive", short_id, "--yes")
    (row,) = (await served.get("/api/quarantine"))["rows"]
    body = await served.output_of("quarantine", "show", row["id"][: listings.SHORT_ID], "--body")
    assert body.encode() == admin_port.BODY


async def test_tokens_with_the_scopes_that_help_names_are_enough(served: admin_port.Served) -> None:
    reader = served.create_token("reader", [tokens.Scope.VisitsRead, tokens.Scope.BodiesRead])
    auditor = served.create_token("auditor", [tokens.Scope.AuditRead])
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    answer = await served.command("dead", "show", dead["id"], "--answer", USHER_TOKEN=reader)
    assert (answer.code, answer.out) == (0, "no such field"), answer.err
    body = await served.command("visits", "show", dead["visit"], "--body", USHER_TOKEN=reader)
    assert (body.code, json.loads(body.out)) == (0, {"user": {"id": "b"}}), body.err
    entries = await served.command("audit", "--action", "show body", "-o", "csv", USHER_TOKEN=auditor)
    assert (entries.code, "show body,1," in entries.out) == (0, True), entries.err
    assert "or one with the scope audit:read" in " ".join((await served.output_of("audit", "--help")).split())
    for arguments in (("visits", "show", "--help"), ("dead", "show", "--help")):
        shown = " ".join((await served.output_of(*arguments)).split())
        assert "or one with the scopes visits:read and bodies:read" in shown


async def test_since_of_deliveries_is_about_their_creation(served: admin_port.Served) -> None:
    for group in ("dead", "deliveries"):
        for command in ("list", "redrive"):
            shown = " ".join((await served.output_of(group, command, "--help", COLUMNS="200")).split())
            assert "Created since this time: 2026-11-25T12:00 or 2026-11-25 (UTC)" in shown


async def test_first_digits_of_several_ids_or_of_none_change_nothing(served: admin_port.Served) -> None:
    run = await served.command("deliveries", "redrive", "01", "--yes")
    assert (run.code, run.out) == (2, "")
    assert "several have an id that begins with 01\n       give more of its digits: 01" in run.err
    run = await served.command("visits", "show", "02")
    assert (run.code, "none have an id that begins with 02" in run.err) == (1, True)


async def test_listeners_show_the_routes_that_hold_deliveries(served: admin_port.Served) -> None:
    wide = await served.output_of("listeners", COLUMNS="200")
    assert re.search(r"^agency/lobby .* crm held: DestinationPaused since 11-25 12:00:00, ", wide, re.MULTILINE)
    (row,) = csv.DictReader(io.StringIO(await served.output_of("listeners", "-o", "csv")))
    (held,) = json.loads(row["heldDeliveries"])
    assert (held["route"], held["reason"]) == ("crm", "DestinationPaused")


async def test_listeners_show_their_faults_in_every_format(served: admin_port.Served) -> None:
    faults = ["DeliveriesHeld", "Quarantining", "Unverified"]
    wide = await served.output_of("listeners", "--failing", COLUMNS="250")
    assert "crm held: DestinationPaused since 11-25 12:00:00, Quarantining 20%  " in wide
    (row,) = csv.DictReader(io.StringIO(await served.output_of("listeners", "-o", "csv")))
    assert row["faults"] == ", ".join(faults)
    (row,) = json.loads(await served.output_of("listeners", "-o", "json"))["rows"]
    assert row["faults"] == faults


async def test_command_shows_the_same_rows_for_both_spellings_of_times(served: admin_port.Served) -> None:
    listed = await served.output_of("visits", "list", "--since", "2000-01-01", "--until", "2100-01-01", "-o", "csv")
    assert await served.output_of("visits", "list", "--from", "2000-01-01", "--to", "2100-01-01", "-o", "csv") == listed
    used = await served.output_of("usage", "--from", "2025-11", "--to", "2100-01", "-o", "csv")
    assert await served.output_of("usage", "--since", "2025-11", "--until", "2100-01", "-o", "csv") == used


async def test_variable_left_over_in_a_shell_selects_no_rows(served: admin_port.Served) -> None:
    run = await served.command("dead", "redrive", USHER_ALL="1", USHER_REASON="Timeout", USHER_TENANT="acme")
    assert (run.code, "--all" in run.err) == (2, True)


async def test_listing_as_json_or_csv_is_machine_readable(served: admin_port.Served) -> None:
    rows = json.loads(await served.output_of("visits", "list", "-o", "json", "--reason", "Filter"))["rows"]
    assert [row["verdicts"][0]["skipped"] for row in rows] == ["Filter"]
    (row,) = csv.DictReader(io.StringIO(await served.output_of("dead", "list", "-o", "csv")))
    assert (row["state"], row["error"], row["status"], row["attempts"]) == ("dead", "Status", "400", "1")
    for row in csv.DictReader(io.StringIO(await served.output_of("listeners", "-o", "csv"))):
        assert "/" not in row["tenant"]
        assert " " not in row["tenant"]
        assert all(row[name].isdecimal() for name in ("todayVisits", "todayRepeats", "todayQuarantined"))


@pytest.mark.parametrize(
    "group", ["tenants", "listeners", "destinations", "visits", "deliveries", "dead", "quarantine"]
)
async def test_columns_of_csv_are_named_as_the_fields_of_json(served: admin_port.Served, group: str) -> None:
    row = json.loads(await served.output_of(group, "-o", "json"))["rows"][0]
    names = set(row)
    for name, value in row.items():
        inner = value if isinstance(value, dict) else {}
        names |= {f"{name}{key[:1].upper()}{key[1:]}" for key in inner}
    heads = (await served.output_of(group, "-o", "csv")).splitlines()[0].split(",")
    assert [head for head in heads if head not in names] == []


async def test_page_of_rows_ends_with_the_command_for_the_next_one(served: admin_port.Served) -> None:
    run = await served.command("visits", "--namespace", "agency", "--limit", "3", "-o", "json")
    shown, _, following = run.err.partition("\nnext: usher ")
    assert (shown, following.split()[:4]) == ("Showing 3.", ["visits", "list", "--namespace", "agency"])
    rows = json.loads(await served.output_of("visits", "-o", "json"))["rows"]
    last = await served.command(*following.split())
    assert json.loads(run.out)["rows"] + json.loads(last.out)["rows"] == rows
    assert last.err == ""


@pytest.mark.parametrize("group", ["visits", "deliveries", "tenants"])
async def test_csv_of_one_row_has_the_columns_of_the_list(served: admin_port.Served, group: str) -> None:
    (listed, *_) = csv.DictReader(io.StringIO(await served.output_of(group, "list", "-o", "csv")))
    name = listed["id"] if "id" in listed else listed["name"]
    (shown,) = csv.DictReader(io.StringIO(await served.output_of(group, "show", name, "-o", "csv")))
    assert shown | listed == shown
    assert "" not in {listed.get("late"), listed.get("timeTrusted")}, "truth values are false or true, as in JSON"


async def test_held_delivery_is_listed_with_its_reason(served: admin_port.Served) -> None:
    listed = await served.output_of("deliveries", "--state", "held")
    assert re.search(r"^12:00:00 +acme +crm +\S{21}  held DestinationPaused$", listed, re.MULTILINE)


async def test_name_that_all_rows_have_is_said_once(served: admin_port.Served) -> None:
    await served.bench.accept(*[samples.arrival(f"{number}") for number in range(3)])
    run = await served.command("deliveries", "--destination", "agency/crm", COLUMNS="80")
    assert "DESTINATION" not in run.out
    assert "All of tenant acme, destination crm, " in run.err


async def test_empty_listing_has_a_message(served: admin_port.Served) -> None:
    await served.output_of("dead", "redrive", "--all", "--yes")
    assert await served.output_of("dead") == "No dead deliveries.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dead", "--since", "2100-01-01"], "No dead deliveries (--since 2100-01-01).\n"),
        (["visits", "--tenant", "acme", "--reason", "Stale"], "No such visits (--tenant acme, --reason Stale).\n"),
        (["listeners", "--silent", "--tenant", "acme"], "No listener is silent (--tenant acme).\n"),
        (["listeners", "--silent"], "No listener is silent.\n"),
    ],
)
async def test_empty_listing_names_its_filters(served: admin_port.Served, arguments: list[str], said: str) -> None:
    assert await served.output_of(*arguments) == said


async def test_show_prints_a_row_and_its_content(served: admin_port.Served) -> None:
    (row,) = (await served.get("/api/quarantine"))["rows"]
    assert "NoUser" in await served.output_of("quarantine", "show", row["id"])
    assert (await served.output_of("visits", "show", row["id"], "--body")).encode() == admin_port.BODY
    shown = await served.output_of("visits", "show", row["id"])
    assert "Usher reads the body now as quarantined (NoUser, see docs/reasons.md):" in shown
    assert re.search(r"\(no field\) +/visitor/ref +number\n", shown)
    stored = json.loads(await served.output_of("visits", "show", row["id"], "-o", "json"))
    assert stored["rows"][0]["reading"]["outcome"] == "NoUser"
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    shown = await served.output_of("deliveries", "show", dead["id"])
    assert "agency/crm" in shown
    assert re.search(r"lastAttempts +\S+ \S+ UTC Status 400 after 12 ms\n", shown)
    shown = await served.output_of("visits", "show", dead["visit"])
    assert re.search(r"^2025-11-25 12:00:00  A visit arrived at agency/lobby \(\d+ bytes\)\.$", shown, re.MULTILINE)
    assert "Route crm: a delivery to agency/crm." in shown
    assert re.search(r"Route crm: agency/crm answered 400 after 12 ms\.\n", shown)
    assert f"\nNext:\ncrm {dead['id'][:21]}  It is dead: no attempt follows." in shown
    assert max(map(len, shown.partition("Usher reads")[0].splitlines())) <= 80
    told = json.loads(await served.output_of("visits", "show", dead["visit"], "-o", "json"))["rows"][0]
    assert told["next"][0]["delivery"] == dead["id"]
    assert await served.output_of("dead", "show", dead["id"], "--answer") == "no such field"


async def test_body_and_answer_command_no_terminal(served: admin_port.Served) -> None:
    hostile = b"<p>\r\n\tZo\xc3\xab\x1b]0;title\x07\x1b[31m\xe2\x80\xae\xff\n"
    said = (
        "<p>\r\n        Zoë\ufffd]0;title\ufffd\ufffd[31m\ufffd\ufffd\r\n"  # a terminal writes \r\n for each line break
    )
    _, accepted = await served.bench.accept(
        samples.quarantined("hostile", samples.NOW + 1, body=hostile), samples.arrival("answered", samples.NOW + 1)
    )
    settled: dict[str, Any] = {"status": 400, "error": "Status", "answer": hostile}
    served.bench.store.settle(samples.settlement(accepted.deliveries[0], model.SettledAs.Dead, **settled))
    await served.bench.store.flush()
    visit, _ = (await served.get("/api/quarantine"))["rows"]
    dead, _ = (await served.get("/api/deliveries?state=dead"))["rows"]
    for command in (("visits", "show", visit["id"], "--body"), ("dead", "show", dead["id"], "--answer")):
        async with terminal.running(served, *command) as window:
            assert await window.end() == (0, "")
            await window.wait("title")
            assert window.written == said
        assert "\tZoë\x1b]0;title\x07\x1b[31m" in await served.output_of(*command)


async def test_held_delivery_names_what_it_lacks_in_json(served: admin_port.Served) -> None:
    served.held = served.held._replace(missing="agency/crm-login")
    (held,) = (await served.get("/api/deliveries?state=held"))["rows"]
    assert held["missing"] == "agency/crm-login"
    others = (await served.get("/api/deliveries?state=dead"))["rows"]
    assert {row["missing"] for row in others} == {None}


async def test_held_delivery_says_where_the_end_of_the_hold_is_explained(served: admin_port.Served) -> None:
    (held,) = (await served.get("/api/deliveries?state=held"))["rows"]
    shown = await served.output_of("deliveries", "show", held["id"])
    said = " ".join(shown.split())
    assert (
        "because the destination is paused. `state: Active` of the Destination ends that; a retry does not. It is"
        in said
    )
    assert json.loads(await served.output_of("deliveries", "show", held["id"], "-o", "json"))


async def test_check_against_a_gateway_lists_the_urls_that_an_edit_moves(
    served: admin_port.Served, tmp_path: Path
) -> None:
    file = tmp_path / "lobby.yaml"
    file.write_text(LOBBY)
    key = base64.b64encode(bytes(32)).decode()
    run = await served.command("check", str(file), "--against", served.url, USHER_INSTALL_KEY=key)
    assert run.code == 0, run.out + run.err
    assert "agency/lobby: https://hooks.example.com/v1/abcd… is retired" in run.out
    assert "https://www.acme.example/hooks/purple.php?k=… is retired" not in run.out
    assert f"compared with {served.url}: 1 URL would go out of service" in run.out


async def test_url_without_files_asks_the_gateway(served: admin_port.Served) -> None:
    urls = "  https://hooks.example.com/v1/abcdefghijklmnopqrstuvwxyz\n  https://www.acme.example/hooks/purple.php?k=secret7"
    for names in (["--tenant", "agency/acme"], ["--listener", "lobby"], ["--namespace", "agency"]):
        assert await served.output_of("url", *names) == f"agency/lobby (tenant acme)\n{urls}\n"
    (row, _) = json.loads(await served.output_of("url", "--tenant", "acme", "-o", "json"))["rows"]
    assert row["url"] == "https://hooks.example.com/v1/abcdefghijklmnopqrstuvwxyz"
    looks = (await served.get("/api/audit?action=show%20urls"))["rows"]
    assert [look["selection"] for look in looks] == [{"listener": "agency/lobby", "tenant": "acme"}] * 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "give --tenant, --listener or --namespace to ask a running gateway, or name manifests"),
        (["--namespace", "agenzy"], "did you mean `agency`?"),
        (["--tenant", "acne"], "did you mean `acme`?"),
        (["--listener", "loby"], "did you mean `lobby`?"),
    ],
)
async def test_url_without_files_needs_a_name_that_exists(
    served: admin_port.Served, names: list[str], said: str
) -> None:
    run = await served.command("url", *names)
    assert (run.code, run.out) == (2, "")
    assert said in " ".join(run.err.split())


async def test_check_against_a_gateway_needs_its_install_key(served: admin_port.Served, tmp_path: Path) -> None:
    file = tmp_path / "lobby.yaml"
    file.write_text(LOBBY)
    run = await served.command("check", str(file), "--against", served.url)
    assert run.code == 2
    assert "install key" in run.err


async def test_unreachable_gateway_is_reported_with_exit_code_1(tmp_path: Path) -> None:
    tokens.load_or_create(tmp_path)
    run = await command_line.usher("visits", "list", "--admin", "127.0.0.1:1", "--data", str(tmp_path))
    assert run.code == 1
    assert "no gateway answers at http://127.0.0.1:1" in run.err
    assert "usher run" in run.err


async def test_missing_token_is_reported_with_exit_code_2(served: admin_port.Served, tmp_path: Path) -> None:
    run = await command_line.usher("visits", "list", "--admin", served.url, "--data", str(tmp_path / "elsewhere"))
    assert (run.code, "USHER_TOKEN" in run.err) == (2, True)


async def test_wrong_token_is_reported_with_exit_code_2(served: admin_port.Served) -> None:
    run = await served.command("visits", "list", USHER_TOKEN="x" * 20)
    assert (run.code, "does not know this token" in run.err) == (2, True)
    assert "usher tokens create" in run.err
    run = await served.command("dead", "redrive", "--all", USHER_TOKEN=served.tokens.observe)
    assert (run.code, "the token `observe` may not do this: it lacks the scope" in run.err) == (2, True)


async def test_invalid_flag_value_is_reported_with_exit_code_2(served: admin_port.Served) -> None:
    run = await served.command("deliveries", "list", "--state", "nope")
    assert (run.code, "state must be one of pending, delivered, dead, cancelled, held" in run.err) == (2, True)
    run = await served.command("visits", "list", "--since", "last week")
    assert (run.code, "2h (90m, 3d)" in run.err) == (2, True)
    run = await served.command("visits", "show", "lobby")
    assert (run.code, "UUID" in run.err) == (2, True)
    run = await served.command("visits", "show", "01920000-0000-7000-8000-000000000001")
    assert (run.code, "use an id from `usher visits list`" in run.err) == (1, True)


@pytest.mark.parametrize(
    ("command", "wrong", "meant"),
    [
        ("visits list", "Filtr", "Filter"),
        ("visits replay", "Pause", "Paused"),
        ("quarantine list", "NoUsr", "NoUser"),
        ("quarantine release", "NoUsr", "NoUser"),
        ("deliveries list", "timeout", "Timeout"),
        ("deliveries cancel --yes", "DestinationPause", "DestinationPaused"),
    ],
)
async def test_unknown_reason_is_an_error_with_the_one_meant(
    served: admin_port.Served, command: str, wrong: str, meant: str
) -> None:
    run = await served.command(*command.split(), "--reason", wrong)
    assert (run.code, run.out) == (2, "")
    assert f"there is no reason `{wrong}` here\n       did you mean `{meant}`?" in run.err


@pytest.mark.parametrize("namespace", [("--namespace", "agency"), ("--tenant", "agency/acme")])
async def test_destination_of_a_namespace_is_named_alone(served: admin_port.Served, namespace: tuple[str, str]) -> None:
    listed = await served.output_of("dead", "--destination", "crm", *namespace, "-o", "json")
    assert [row["destination"] for row in json.loads(listed)["rows"]] == ["agency/crm"]


async def test_destination_that_only_one_namespace_has_is_named_alone(served: admin_port.Served) -> None:
    listed = json.loads(await served.output_of("dead", "--destination", "crm", "-o", "json"))["rows"]
    assert {row["destination"] for row in listed} == {"agency/crm"}
    assert (await served.command("dead", "redrive", "--destination", "crm", "--yes")).code == 0
    (entry, *_) = json.loads(await served.output_of("audit", "-o", "json"))["rows"]
    assert entry["selection"]["destination"] == "agency/crm"
    destinations = served.state.snapshot.destinations
    others = {f"{name}/crm": destinations["agency/crm"] for name in ("other", "third")}
    served.state.apply(documents.Snapshot(served.state.snapshot.listeners, destinations | others), 0)
    run = await served.command("dead", "--destination", "crm")
    assert (run.code, run.said) == (
        2,
        "usher: 3 destinations have the name `crm` give one of agency/crm, other/crm, third/crm",
    )


async def test_name_far_from_every_destination_gets_no_guess(served: admin_port.Served) -> None:
    run = await served.command("deliveries", "--destination", "agency/harbour")
    assert (run.code, "did you mean" in run.err, "agency/crm" in run.err) == (2, False, True)


async def test_rows_are_listed_by_namespace_and_visit(served: admin_port.Served) -> None:
    run = await served.command("visits", "list", "--namespace", "agenzy")
    assert (run.code, "did you mean `agency`?" in run.err) == (2, True)
    quarantined = json.loads(await served.output_of("quarantine", "list", "--namespace", "agency", "-o", "json"))
    assert [row["countedAs"] for row in quarantined["rows"]] == ["Quarantined"]
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    listed = await served.output_of("deliveries", "list", "--visit", dead["visit"], "-o", "json")
    assert [row["id"] for row in json.loads(listed)["rows"]] == [dead["id"]]
    run = await served.command("deliveries", "list", "--visit", dead["id"])
    assert (run.code, "there is no such visit" in run.err) == (2, True)


async def test_environment_proxies_never_see_the_token(served: admin_port.Served) -> None:
    assert await served.output_of("listeners", http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")


async def test_arrivals_that_are_only_counted_are_not_listed(served: admin_port.Served) -> None:
    run = await served.command("visits", "--counted-as", "refused")
    assert run.code != 0
    assert "arrivals counted as refused are only counted: see `usher usage` and `usher listeners`" in run.said


@pytest.mark.parametrize("listed", [("visits",), ("visits", "--reason", "CompanyMismatch"), ("quarantine",)])
async def test_arrival_of_another_company_says_which_one(served: admin_port.Served, listed: tuple[str, ...]) -> None:
    served.mend()
    mismatch = model.QuarantineReason.CompanyMismatch
    body = b'{"user":{"id":"x","company":{"id":78}}}'
    await served.bench.accept(samples.arrival("accepted", body=body, other_company="78"))
    await served.bench.accept(samples.quarantined("set aside", body=body, quarantine=mismatch))
    rows = list(csv.DictReader(io.StringIO(await served.output_of(*listed, "-o", "csv"))))
    named = {(row["isOtherCompany"], row["otherCompany"]) for row in rows}
    assert ("true", "78") in named
    assert named <= {("true", "78"), ("false", "")}


async def test_shown_visit_names_the_company_that_came_and_the_expected_one(tmp_path: Path) -> None:
    manifests = gateways.MANIFESTS.replace("{displayName: Acme}", '{companyID: "7", companyCheck: Warn}')
    async with gateways.running(tmp_path, manifests) as gateway:
        await gateway.wait_configured()
        for company in (7, 8):
            await gateway.post(b'{"user":{"id":"%d","venue":{"company":{"id":%d}}}}' % (company, company))
        listed = json.loads((await gateway.command("visits", "-o", "json")).out)["rows"]
        other, own = [(await gateway.command("visits", "show", row["id"])).out for row in listed]
    assert "Usher reads the body now as a visit of company 7:" in own
    assert "The body names another company than the tenant: 8." in other
    assert "Usher reads the body now as a visit of company 8 instead of 7:" in other


async def test_path_to_personal_data_is_not_shown_as_a_company(served: admin_port.Served) -> None:
    served.mend(company=("/user/email",))
    body = b'{"user":{"id":"x","email":"ada@example.org"}}'
    await served.bench.accept(samples.arrival("accepted", body=body, other_company="another"))
    (row, *_) = json.loads(await served.output_of("visits", "--reason", "CompanyMismatch", "-o", "json"))["rows"]
    assert (row["isOtherCompany"], row["otherCompany"]) == (True, "another")


async def test_waiting_delivery_says_until_when_it_is_retried(served: admin_port.Served) -> None:
    await served.output_of("dead", "redrive", "--all", "--yes")
    rows = (await served.get("/api/deliveries"))["rows"]
    until = {row["state"]: row["retriedUntil"] for row in rows if not row["held"]}
    assert until == {"pending": "2025-12-02T12:00:00.000Z", "delivered": None}
    (held,) = (await served.get("/api/deliveries?state=held"))["rows"]
    assert held["retriedUntil"] is None
    (row,) = csv.DictReader(io.StringIO(await served.output_of("deliveries", "--state", "delivered", "-o", "csv")))
    assert row["retriedUntil"] == ""


@pytest.mark.parametrize(
    "command",
    [
        ["deliveries", "--destination", "crmm"],
        ["destinations", "test", "crmm"],
        ["dead", "redrive", "--destination", "crmm"],
    ],
)
async def test_unknown_destination_without_a_namespace_gets_a_suggestion(
    served: admin_port.Served, command: list[str]
) -> None:
    run = await served.command(*command)
    assert (run.code, "there is no destination `crmm`" in run.err) == (2, True)
    assert "did you mean `crm`?" in run.err


async def test_links_as_csv_have_the_names_of_json(served: admin_port.Served) -> None:
    await served.output_of("link", "create", "--tenant", "agency/acme")
    (row,) = json.loads(await served.output_of("link", "list", "-o", "json"))["rows"]
    (cells,) = csv.DictReader(io.StringIO(await served.output_of("link", "list", "-o", "csv")))
    assert list(cells) == list(row)
    assert (cells["expiresAt"], cells["lastUsedAt"]) == (row["expiresAt"], "")


async def test_delivery_in_a_lane_says_that_it_waits_there(served: admin_port.Served) -> None:
    (accepted,) = await served.bench.accept(samples.arrival("sent next"))
    (delivery,) = accepted.deliveries
    (row,) = (await served.get(f"/api/deliveries?id={model.format_id(delivery.id)}"))["rows"]
    assert (row["state"], row["dueAt"], row["nextAttemptAt"], row["waitsFor"]) == ("pending", None, None, "Lane")
    (held,) = (await served.get("/api/deliveries?state=held"))["rows"]
    assert held["waitsFor"] is None


async def test_end_of_a_listing_fits_80_columns_and_keeps_the_command_whole(served: admin_port.Served) -> None:
    run = await served.command("visits", "--namespace", "agency", "--since", "2025-11-25T00:00:00Z", "--limit", "2")
    *texts, command = run.err.splitlines()
    assert max(map(len, texts)) <= 80
    assert command.startswith("next: usher visits list --namespace agency --since 2025-11-25T00:00:00Z --limit 2 ")
    hint = await served.command("deliveries", "retry", "--all")
    assert max(map(len, hint.err.splitlines())) <= 80


async def test_word_asked_for_is_whole_in_a_narrow_list_of_several_tenants(served: admin_port.Served) -> None:
    for name in ("a-company-with-a-rather-long-name", "zoo"):
        listener = model.ListenerName("agency", name, name)
        await served.bench.accept(samples.arrival(name, listener=listener, other_company="78"))
    await served.bench.accept(samples.quarantined("q2", quarantine=model.QuarantineReason.CompanyMismatch))
    shown = await served.output_of("visits", "--reason", "CompanyMismatch")
    assert re.search(r" CompanyMismatch\b", shown)
    assert max(map(len, shown.splitlines())) <= 80


async def test_visit_of_another_company_names_it_and_leaves_room_for_verdicts(served: admin_port.Served) -> None:
    listener = model.ListenerName("agency", "a-company-with-a-rather-long-name", "zoo")
    body = b'{"user":{"id":"x","company":{"id":8}}}'
    await served.bench.accept(
        samples.arrival("zoo", listener=listener), samples.arrival("accepted", body=body, other_company="8")
    )
    shown = await served.output_of("visits", "--limit", "2")
    assert re.search(r"^UTC 11-25  TENANT +ID +COUNTED +VERDICTS$", shown, re.MULTILINE)
    assert re.search(r"^12:00:00   acme .*  Visit company 8 +pending \(crm\)$", shown, re.MULTILINE)


def test_delivery_that_waits_for_a_circuit_says_until_when() -> None:
    row = {
        "id": "01920000-0000-7000-8000-000000000002",
        "createdAt": "2025-11-25T11:59:41Z",
        "tenant": "airport-lounge-003",
        "destination": "airport-lounge-003-crm",
        "held": None,
        "waitsFor": "CircuitOpen",
        "nextAttemptAt": "2025-11-25T12:00:41Z",
    }
    listing = listings.DELIVERIES
    heads = [head for head, _ in listing.columns[: listing.essential]]
    cells = [cell(row) for _, cell in listing.columns[: listing.essential]]
    (_, (first, second, *_)), _ = tables.table_rows(heads, [cells], 80, listing.essential)
    assert (first.split()[-1], second.split()[-1]) == ("circuit", "12:00:41")


def test_retry_of_a_delivery_says_the_error_and_when_it_is_due() -> None:
    row = {"held": None, "state": "pending", "cancelled": None, "error": "Status", "status": 503}
    result = dict(listings.DELIVERIES.columns)["RESULT"]
    assert result({**row, "dueAt": "2999-11-25T12:00:41Z"}) == "Status 503, due 12:00:41"
    assert result({**row, "dueAt": "2025-11-25T12:00:41Z"}) == "Status 503, due"
    assert result({**row, "dueAt": "2025-11-25T12:00:41Z", "error": None, "status": None}) == "pending, due"


async def test_json_of_a_listing_has_the_cursor_of_the_next_page(served: admin_port.Served) -> None:
    for group in ("visits", "deliveries", "dead", "quarantine"):
        assert json.loads(await served.output_of(group, "-o", "json"))["nextCursor"] is None
    first = json.loads(await served.output_of("visits", "--limit", "2", "-o", "json"))
    following = json.loads(await served.output_of("visits", "--cursor", first["nextCursor"], "-o", "json"))
    assert first["rows"] + following["rows"] == (await served.get("/api/visits"))["rows"]


async def test_next_step_of_a_quarantined_arrival_has_no_indent(served: admin_port.Served) -> None:
    await served.bench.accept(samples.quarantined("list", body=b"[]", quarantine=model.QuarantineReason.NotObject))
    (row,) = json.loads(await served.output_of("quarantine", "--reason", "NotObject", "-o", "json"))["rows"]
    shown = await served.output_of("quarantine", "show", row["id"])
    assert "\nNext:\nIt cannot be released, because its body is not a visit. Find out who sends such\nbodies: " in shown


async def test_held_delivery_shows_its_filter_and_the_path_that_failed(served: admin_port.Served) -> None:
    served.mend()
    lobby = served.state.snapshot.listeners["agency/lobby"]
    route = msgspec.structs.replace(lobby.routes[0], when="body.user.tier == 'gold'")
    served.edit(routes=(route,))
    served.held = holds.HeldRoute("crm", "FilterError", "NoSuchField (body.user.tier)")
    plans = (samples.plan(hold=model.HoldReason.FilterError),)
    await served.bench.accept(samples.arrival("silver", if_visit=plans))
    (row,) = json.loads(await served.output_of("deliveries", "--reason", "FilterError", "-o", "json"))["rows"]
    told = " ".join((await served.output_of("visits", "show", row["visit"])).split())
    cause = "because the route's filter `when` failed"
    assert f"{cause} (NoSuchField (body.user.tier)): `body.user.tier == 'gold'`. A correction" in told
    assert f"Route crm: the delivery is held, {cause} (FilterError)." in told


async def test_verdicts_go_on_in_further_lines(served: admin_port.Served) -> None:
    await served.output_of("dead", "redrive", "--all", "--yes")
    wide = await served.output_of("visits", "--tenant", "acme", COLUMNS="200")
    narrow = await served.output_of("visits", "--tenant", "acme", COLUMNS="62")
    assert "…" not in narrow
    assert max(map(len, narrow.splitlines())) <= 62 < max(map(len, wide.splitlines()))
