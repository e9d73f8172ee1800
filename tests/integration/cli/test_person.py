"""`usher person` exports, suppresses and erases a person, and shows the person's value nowhere."""

import base64
import json
from pathlib import Path

import pytest
import structlog.testing

from support import admin_port, samples
from support.admin_port import EMAIL, person_of
from usher_gateway.access import tokens
from usher_gateway.admin import receipts


async def test_preview_counts_what_would_go_and_erases_nothing(served: admin_port.Served) -> None:
    run = await served.command("person", "erase", "--as", "email", piped=EMAIL, COLUMNS="120")
    assert (run.code, run.out.splitlines()) == (
        2,
        [
            "agency/acme: 2 visits",
            "agency/globex: 1 visit",
            "deliveries: 1 delivered, 1 pending",
            "agency/crm has got 1 visit, perhaps 1 more, the last at 2025-11-25 12:00:00 UTC: erase them there too.",
        ],
    )
    assert "this would erase 3 visits\n       give --yes to do it; it cannot be taken back" in run.err
    assert len((await served.get("/api/visits"))["rows"]) == 4
    assert (await served.get("/api/persons/erasures"))["rows"] == []


@pytest.fixture
def served(with_ada: admin_port.Served) -> admin_port.Served:
    return with_ada


async def test_person_is_erased_with_a_receipt_without_personal_data(served: admin_port.Served) -> None:
    with structlog.testing.capture_logs() as logs:
        run = await served.command("person", "erase", "--reference", "DSR-7", "--yes", "-o", "json", piped=EMAIL)
    receipt = json.loads(run.out)
    assert (run.code, receipt["status"], receipt["arrivals"], receipt["reference"]) == (0, "completed", 3, "DSR-7")
    assert receipt["arrivalsByTenant"] == {"agency/acme": 2, "agency/globex": 1}
    assert receipt["sentTo"]["agency/crm"]["delivered"] == 1
    assert len((await served.get("/api/visits"))["rows"]) == 1
    found = await served.command("find", piped=EMAIL)
    assert (found.code, found.out.startswith("No readable visit")) == (1, True)
    (entry, *_) = [row for row in (await served.get("/api/audit"))["rows"] if row["action"] == "erase person"]
    assert (entry["selection"]["fields"], entry["selection"]["id"]) == (["email"], receipt["id"])
    assert "ada@" not in f"{logs} {run.out} {run.err} {entry}".lower()
    table = await served.output_of("person", "requests")
    assert max(map(len, table.splitlines())) <= 80
    assert "completed" in table
    shown = await served.output_of("person", "receipt", receipt["id"][:21])
    assert "agency/acme: 2 visits" in shown
    assert "Searched by                e-mail address; Usher does not keep it\n" in shown
    assert "Oldest visit in the store  2025-11-25 12:00:00 UTC; nothing older is stored\n" in shown
    ended = await served.command("person", "cancel", receipt["id"])
    assert (ended.code, "the erasure has ended" in ended.err) == (2, True)


async def test_beginning_of_an_id_selects_one_request_to_erase(served: admin_port.Served) -> None:
    for _ in range(2):
        await served.output_of("person", "erase", "--as", "email", "--yes", piped=EMAIL)
    several = await served.command("person", "receipt", "01")
    assert (several.code, "of the requests, several have an id that begins with 01" in several.err) == (2, True)
    nothing = await served.command("person", "cancel", "02")
    assert (nothing.code, "use an id from `usher person requests`" in nothing.err) == (1, True)


async def test_one_tenant_only_is_erased_if_it_is_named(served: admin_port.Served) -> None:
    await served.output_of("person", "erase", "--tenant", "agency/acme", "--yes", piped=EMAIL)
    assert [row["tenant"] for row in (await served.get("/api/visits"))["rows"]] == ["acme", "globex"]


async def test_nothing_stored_says_so(served: admin_port.Served) -> None:
    run = await served.command("person", "erase", piped="nobody@example.com", COLUMNS="200")
    assert (run.code, "No readable visit has this value. Bodies that could not be read are" in run.err) == (2, True)
    assert "--yes writes a signed receipt that says so" in " ".join(run.err.split())


async def test_nothing_stored_of_a_mobile_number_names_other_spellings(served: admin_port.Served) -> None:
    run = await served.command("person", "erase", "--as", "mobile", piped="0170 999999", COLUMNS="200")
    assert (run.code, "try +49…, 0170…, +49 (0)170…" in run.err) == (2, True)


async def test_erasure_of_nobody_has_a_signed_receipt_that_says_so(served: admin_port.Served, tmp_path: Path) -> None:
    run = await served.command("person", "erase", "--yes", "--reference", "DSR-0", piped="nobody@example.com")
    nothing = "No readable visit has this value. None of the visits that this request found had gone to a destination;"
    assert (run.code, nothing in " ".join(run.out.split())) == (0, True), run.out
    identifier = run.out.split()[1]
    receipt = json.loads(await served.output_of("person", "receipt", identifier, "-o", "json"))
    assert (receipt["arrivals"], receipt["reference"], bool(receipt["signature"])) == (0, "DSR-0", True)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt))
    verified = await served.command("person", "verify", str(file), "--public-key", receipt["publicKey"])
    assert (verified.code, nothing in " ".join(verified.out.split())) == (0, True), verified.err


async def test_receipts_in_the_terminal_say_what_was_not_reached(served: admin_port.Served, tmp_path: Path) -> None:
    erased = await served.command("person", "erase", "--as", "email", "--yes", piped=EMAIL)
    identifier = erased.out.split()[1]
    shown = await served.command("person", "receipt", identifier)
    file = tmp_path / "receipt.json"
    file.write_text(await served.output_of("person", "receipt", identifier, "-o", "json"))
    public_key = json.loads(file.read_text())["publicKey"]
    verified = await served.command("person", "verify", str(file), "--public-key", public_key)
    for run in (erased, shown, verified):
        not_reached = " ".join(run.out.partition("Not reached:")[2].split())
        assert not_reached == " ".join(f"- {sentence}" for sentence in receipts.NOT_REACHED)


async def test_erasure_says_that_the_digest_of_a_suppressed_person_stays(served: admin_port.Served) -> None:
    at_acme = ("--as", "email", "--tenant", "agency/acme")
    await served.output_of("person", "suppress", *at_acme, "--yes", piped=EMAIL)
    run = await served.command("person", "erase", "--as", "email", "--yes", "-o", "json", piped=EMAIL)
    assert "keyed digest by which Usher recognises the person" in json.loads(run.out)["notReached"][-1]
    preview = await served.command("person", "erase", "--as", "email", piped=EMAIL, COLUMNS="200")
    said = "Usher keeps a keyed digest, because the person is suppressed at 1 of 2 tenants: agency/acme."
    assert said in preview.err
    in_json = json.loads((await served.command("person", "erase", "-o", "json", piped=EMAIL)).out)
    assert (in_json["tenants"], in_json["suppressedAt"]) == (2, ["agency/acme"])


@pytest.mark.parametrize(
    ("arguments", "value", "message"),
    [
        ([], "0170 123456", "say which: `--as user` or `--as mobile`"),
        ([], "00 11 22 33 44 55", "`--as mobile`"),
        (["--as", "mobile"], EMAIL, "has no digit"),
        (["--reference", "for Ada"], EMAIL, "a reference has up to 64 letters"),
        (["--tenant", "nobody"], EMAIL, "there is no tenant `nobody`"),
        ([], " ", "there is no value"),
    ],
)
async def test_unclear_request_is_refused_without_its_value(
    served: admin_port.Served, arguments: list[str], value: str, message: str
) -> None:
    run = await served.command("person", "erase", *arguments, "--yes", piped=value)
    assert (run.code, message in run.err, "ada@" in run.err) == (2, True, False), run.err
    assert len((await served.get("/api/visits"))["rows"]) == 4


async def test_limited_token_erases_at_its_tenant_only(served: admin_port.Served) -> None:
    token = served.create_token("desk", [tokens.Scope.PersonsErase], tenants=("agency/acme",))
    finder = served.create_token("finder", [tokens.Scope.PersonsFind])
    refused = await served.command("person", "erase", "--yes", piped=EMAIL, USHER_TOKEN=finder)
    assert (refused.code, "it lacks the scope persons:erase" in refused.err) == (2, True)
    await served.command("person", "erase", "--tenant", "agency/globex", "--yes", piped=EMAIL)
    assert (await served.ask("GET", "/api/persons/erasures", token=token))[1]["rows"] == []
    run = await served.command("person", "erase", "--yes", "-o", "json", piped=EMAIL, USHER_TOKEN=token)
    assert json.loads(run.out)["arrivalsByTenant"] == {"agency/acme": 2}
    assert len((await served.ask("GET", "/api/persons/erasures", token=token))[1]["rows"]) == 1


# Suppress


async def test_suppressed_person_is_counted_until_unsuppressed(served: admin_port.Served) -> None:
    with structlog.testing.capture_logs() as logs:
        run = await served.command("person", "suppress", "--as", "email", "--reference", "DSR-8", "--yes", piped=EMAIL)
    counts = (
        "1 pending delivery cancelled, 3 stored visits stay until retention or `usher person erase`. A destination may"
        " have got a pending delivery that was attempted."
    )
    assert (run.code, " ".join(run.out.split())) == (0, f"Suppressed now at 2 tenants. {counts}")
    arrival = samples.arrival("new", person_keys=(person_of(samples.LOBBY),))
    assert await served.bench.words(arrival) == ["Suppressed"]
    found = await served.command("find", piped=EMAIL)
    assert "Suppressed at all 2 tenants: visits there are only counted." in found.said
    cancelled = await served.output_of("deliveries", "--state", "cancelled", "-o", "json")
    assert [row["cancelled"] for row in json.loads(cancelled)["rows"]] == ["Suppressed"]
    run = await served.command("person", "suppress", "--as", "email", "--yes", piped=EMAIL)
    assert run.out.startswith("Suppressed before at 2 tenants.\n0 pending deliveries cancelled, 3 stored visits stay")
    run = await served.command("person", "suppress", "--as", "email", piped=EMAIL)
    assert (run.code, "at 0 tenants the person is suppressed at every tenant" in run.said) == (2, True)
    table = (await served.output_of("person", "suppressions")).splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["agency/acme", "1"], ["agency/globex", "1"]]
    run = await served.command("person", "unsuppress", "--as", "email", "--tenant", "agency/acme", piped=EMAIL)
    assert run.out == "Unsuppressed at 1 tenant.\n"
    assert await served.bench.words(arrival) == ["Visit"]
    entries = [row for row in (await served.get("/api/audit"))["rows"] if "suppress person" in row["action"]]
    assert [(row["action"], row["count"]) for row in entries] == [
        ("unsuppress person", 1),
        ("suppress person", 0),
        ("suppress person", 2),
    ]
    assert (entries[2]["selection"]["fields"], entries[2]["selection"]["reference"]) == (["email"], "DSR-8")
    assert "ada@" not in f"{logs} {entries}".lower()


async def test_suppression_without_yes_counts_and_changes_nothing(served: admin_port.Served) -> None:
    run = await served.command("person", "suppress", "--as", "email", piped=EMAIL)
    words = (
        "agency/acme: 2 visits agency/globex: 1 visit 1 pending delivery would be cancelled, 3 stored visits stay until"
        " retention or `usher person erase`. A destination may have got a pending delivery that was attempted."
    )
    assert (run.code, " ".join(run.out.split())) == (2, words)
    assert "this would suppress the person at 2 tenants give --yes to do it" in run.said
    counts = await served.command("person", "suppress", "--as", "email", "-o", "json", piped=EMAIL)
    assert json.loads(counts.out) == {
        "searchedAs": ["email"],
        "tenants": 2,
        "suppressed": 2,
        "cancelled": 1,
        "stored": 3,
        "arrivalsByTenant": {"agency/acme": 2, "agency/globex": 1},
    }
    assert (await served.get("/api/persons/suppressions"))["rows"] == []
    assert (await served.get("/api/deliveries?state=cancelled"))["rows"] == []


async def test_suppression_of_an_unknown_person_says_that_nothing_is_stored(served: admin_port.Served) -> None:
    run = await served.command("person", "suppress", "--yes", piped="nobody@example.com")
    words = (
        "Suppressed now at 2 tenants. No readable visit has this value. Bodies that could not be read are not"
        " searched: `usher quarantine` lists them."
    )
    assert (run.code, " ".join(run.out.split())) == (0, words)


@pytest.mark.parametrize("command", ["suppress", "erase", "export"])
async def test_value_that_nobody_named_is_said_to_be_read_as_a_user_id(
    served: admin_port.Served, tmp_path: Path, command: str
) -> None:
    target = ["--to", str(tmp_path / "person.json")] if command == "export" else []
    run = await served.command("person", command, *target, piped="hello")
    guessed = " ".join(f"{run.out} {run.err}".split())
    assert "Read as Purple's user id, which no stored visit has; --as says otherwise." in guessed
    assert "hello" not in guessed
    run = await served.command("person", command, *target, "--as", "user", piped="hello")
    named = " ".join(f"{run.out} {run.err}".split())
    assert ("Read as" in named, "No readable visit has this value." in named) == (False, True)


async def test_unsuppressing_again_says_where_it_had_no_effect(served: admin_port.Served) -> None:
    await served.output_of("person", "suppress", "--tenant", "agency/acme", "--yes", piped=EMAIL)
    run = await served.command("person", "unsuppress", piped=EMAIL)
    assert run.out == "Unsuppressed at 1 tenant; not suppressed at 1 tenant.\n"
    run = await served.command("person", "unsuppress", piped=EMAIL)
    assert run.out == "Not suppressed at 2 tenants.\n"


async def test_limited_token_suppresses_at_its_own_tenant_alone(served: admin_port.Served) -> None:
    token = served.create_token("globex", [tokens.Scope.PersonsErase], tenants=("agency/globex",))
    run = await served.command("person", "suppress", "--as", "email", "--yes", piped=EMAIL, USHER_TOKEN=token)
    assert run.out.startswith("Suppressed now at 1 tenant.\n")
    assert await served.bench.store.tenants_suppressing([person_of(samples.LOBBY), person_of(samples.BAR)]) == {
        "agency/globex"
    }
    listed = await served.command("person", "suppressions", "-o", "json", USHER_TOKEN=token)
    assert [row["tenant"] for row in json.loads(listed.out)["rows"]] == ["globex"]


# Export


async def test_export_has_bodies_and_deliveries_in_a_private_file(served: admin_port.Served, tmp_path: Path) -> None:
    bodies = [b'{"user": {"id": 7}}', b"not \xff JSON"]
    persons = (person_of(samples.LOBBY, "email", "bob@example.com"),)
    await served.bench.accept(
        samples.arrival("json", person_keys=persons, body=bodies[0]),
        samples.quarantined("odd", person_keys=persons, body=bodies[1]),
    )
    file = tmp_path / "bob.json"
    run = await served.command("person", "export", "--to", str(file), piped="bob@example.com")
    assert (run.code, " ".join(run.out.split())) == (0, f"2 visits written to {file}.")
    assert file.stat().st_mode & 0o777 == 0o600
    archive = json.loads(file.read_bytes())
    odd, visit = archive["visits"]
    assert (visit["body"], visit["tenant"]) == ({"user": {"id": 7}}, "acme")
    assert [(row["destination"], row["state"]) for row in visit["deliveries"]] == [("agency/crm", "pending")]
    assert (base64.b64decode(odd["body"]["base64"]), odd["deliveries"]) == (bodies[1], [])
    assert archive["tenants"] == ["agency/acme"], "not all that were searched"
    assert archive["suppressedAt"] == []
    entries = [row for row in (await served.get("/api/audit"))["rows"] if row["action"] == "export person"]
    assert [row["count"] for row in entries] == [2]
    again = await served.command("person", "export", "--to", str(file), piped="bob@example.com")
    assert (again.code, "exists" in again.err) == (2, True)


async def test_export_has_a_deeply_nested_body_as_text(served: admin_port.Served, tmp_path: Path) -> None:
    body = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    persons = (person_of(samples.LOBBY, "email", "bob@example.com"),)
    await served.bench.accept(samples.quarantined("deep", person_keys=persons, body=body))
    file = tmp_path / "bob.json"
    run = await served.command("person", "export", "--to", str(file), piped="bob@example.com")
    assert run.code == 0, run.err
    (visit,) = json.loads(file.read_bytes())["visits"]
    assert visit["body"] == body.decode()


async def test_export_asks_for_all_parts(served: admin_port.Served, tmp_path: Path) -> None:
    persons = (person_of(samples.LOBBY, "email", "bob@example.com"),)
    await served.bench.accept(*[samples.arrival(f"bob {number}", person_keys=persons) for number in range(45)])
    await served.output_of("person", "export", "--to", str(tmp_path / "bob.json"), piped="bob@example.com")
    archive = json.loads((tmp_path / "bob.json").read_bytes())
    assert len({visit["id"] for visit in archive["visits"]}) == 45


async def test_export_of_nobody_writes_no_file(served: admin_port.Served, tmp_path: Path) -> None:
    file = ("--to", str(tmp_path / "none.json"), "--reference", "DSR-0")
    run = await served.command("person", "export", *file, piped="nobody@example.com")
    assert (run.code, "No readable visit has this value." in run.err) == (1, True)
    assert "`usher quarantine` lists them" in run.err
    assert not (tmp_path / "none.json").exists()
    (entry,) = (await served.get("/api/audit?reference=DSR-0"))["rows"]
    assert (entry["action"], entry["count"]) == ("export person", 0)


async def test_export_says_where_the_person_is_suppressed(served: admin_port.Served, tmp_path: Path) -> None:
    await served.output_of("person", "suppress", "--tenant", "agency/acme", "--yes", piped=EMAIL)
    await served.output_of("person", "export", "--to", str(tmp_path / "ada.json"), piped=EMAIL)
    assert json.loads((tmp_path / "ada.json").read_bytes())["suppressedAt"] == ["agency/acme"]
    nobody = "nobody@example.com"
    await served.output_of("person", "suppress", "--tenant", "agency/globex", "--yes", piped=nobody)
    file = str(tmp_path / "none.json")
    run = await served.command("person", "export", "--to", file, piped=nobody, COLUMNS="200")
    said = "Usher keeps a keyed digest, because the person is suppressed at 1 of 2 tenants: agency/globex."
    assert (run.code, said in run.err) == (1, True), run.err
