"""`usher find`: a person's visits at every tenant, from a value that is piped in."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from support import admin_port, samples
from support import gateway as gateways
from support.admin_port import EMAIL, person_of
from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.insight import health
from usher_gateway.words import person_words

MOBILE = "+49 170 123456"


@pytest.fixture
async def served(empty: admin_port.Served) -> admin_port.Served:
    """Serve Ada's visits at two tenants, by e-mail at the first and by both at the second, and another guest's."""
    at_lobby = (person_of(samples.LOBBY, "email", EMAIL),)
    at_bar = (person_of(samples.BAR, "email", EMAIL), person_of(samples.BAR, "mobile", MOBILE))
    await empty.bench.accept(
        samples.arrival("a", person_keys=at_lobby),
        samples.arrival("b", samples.NOW + 1, listener=samples.BAR, person_keys=at_bar, if_visit=()),
        samples.arrival("c", samples.NOW + 2),
    )
    return empty


async def found(served: admin_port.Served, value: str, *arguments: str) -> list[dict[str, Any]]:
    run = await served.command("find", "-o", "json", *arguments, piped=value)
    assert run.code == (0 if json.loads(run.out)["rows"] else 1), run.err
    rows: list[dict[str, Any]] = json.loads(run.out)["rows"]
    return rows


async def test_person_is_found_at_every_tenant_or_at_one(served: admin_port.Served) -> None:
    assert [row["tenant"] for row in await found(served, " ADA@example.COM\n")] == ["globex", "acme"]
    assert [row["tenant"] for row in await found(served, EMAIL, "--tenant", "agency/acme")] == ["acme"]
    assert [row["tenant"] for row in await found(served, "(0049) 170-123456".replace("00", "", 1))] == ["globex"]
    assert await found(served, "nobody@example.com") == []


async def test_shortened_json_has_the_cursor_of_the_next_page(served: admin_port.Served) -> None:
    first = json.loads((await served.command("find", "--limit", "1", "-o", "json", piped=EMAIL)).out)
    assert [row["tenant"] for row in first["rows"]] == ["globex"]
    assert [row["tenant"] for row in await found(served, EMAIL, "--cursor", first["nextCursor"])] == ["acme"]


async def test_international_spellings_of_a_mobile_number_are_one_value(
    served: admin_port.Served,
) -> None:
    for same in ("+49 170 123456", "0049 170 123456", "49170123456"):
        assert [row["tenant"] for row in await found(served, same, "--as", "mobile")] == ["globex"]
    for other in ("0170 123456", "+49 (0)170 123456"):
        assert await found(served, other, "--as", "mobile") == []


async def test_visit_is_found_by_its_id_and_by_that_of_its_delivery(served: admin_port.Served) -> None:
    (row,) = await found(served, EMAIL, "--tenant", "acme")
    assert await found(served, row["id"]) == [row]
    assert await found(served, row["verdicts"][0]["delivery"]) == [row]
    assert await found(served, "01920000-0000-7000-8000-000000000009") == []
    short = await served.command("find", row["id"][:21], "-o", "json")
    assert json.loads(short.out)["rows"] == [row]


async def test_table_names_tenant_and_result_and_says_how_to_go_on(served: admin_port.Served) -> None:
    run = await served.command("find", piped=EMAIL)
    head, globex, acme = run.out.splitlines()
    assert head.split() == ["UTC", "11-25", "TENANT", "ID", "VERDICTS", "LISTENER"]
    assert "globex" in globex
    assert "acme" in acme
    assert "All counted as Visit.\n" in run.err
    assert "pending (crm)" in acme
    assert max(map(len, run.out.splitlines())) <= 80
    assert "usher visits show ID" in run.err
    assert "a token needs visits:read" in " ".join(run.err.split())
    (first, _) = csv.DictReader(io.StringIO((await served.command("find", "-o", "csv", piped=EMAIL)).out))
    assert first["tenant"] == "globex"


async def test_next_page_has_the_older_visits(served: admin_port.Served) -> None:
    run = await served.command("find", "--limit", "1", "-o", "csv", piped=EMAIL)
    cursor = run.err.split()[-1]
    assert run.err.startswith("Showing 1.\nnext: usher find --limit 1 --output csv --cursor ")
    older = await served.command("find", "-o", "csv", "--cursor", cursor, piped=EMAIL)
    assert [row["tenant"] for row in csv.DictReader(io.StringIO(older.out))] == ["acme"]


async def test_nothing_found_says_where_and_since_when(served: admin_port.Served) -> None:
    run = await served.command("find", piped="0170 999999", COLUMNS="100")
    nothing = "No readable visit has this Purple user id or mobile number at 2 tenants since 2025-11-25 12:00:00 UTC."
    assert (run.code, run.out) == (
        1,
        f"{nothing}\n{person_words.NOT_SEARCHED}\n{person_words.OTHER_SPELLINGS}\n",
    )
    assert "Another spelling" not in (await served.command("find", piped="nobody@example.com")).out
    as_csv = await served.command("find", "-o", "csv", piped="0170 999999")
    assert as_csv.out == ""
    assert " ".join(as_csv.err.split()) == f"{person_words.NOT_SEARCHED} {person_words.OTHER_SPELLINGS}"


async def test_reference_of_a_search_is_in_the_audit_log(served: admin_port.Served) -> None:
    await found(served, EMAIL, "--reference", "DSR-9")
    (entry,) = (await served.get("/api/audit?reference=DSR-9"))["rows"]
    assert (entry["action"], entry["count"], entry["selection"]["reference"]) == ("find person", 2, "DSR-9")
    wrong = await served.command("find", "--reference", "for Ada", piped=EMAIL)
    assert (wrong.code, "a reference has up to 64 letters" in wrong.err) == (2, True)


async def test_nothing_found_by_a_limited_token_says_since_when_at_its_tenants(served: admin_port.Served) -> None:
    later = samples.NOW + model.HOUR
    zoo = model.ListenerName("agency", "zoo", "zoo")
    await served.bench.accept(samples.arrival("d", later, listener=zoo, if_visit=()))
    token = served.create_token("desk", [tokens.Scope.PersonsFind], tenants=("agency/zoo",))
    run = await served.command("find", "--as", "email", piped="no@example.com", USHER_TOKEN=token)
    assert run.out.startswith("No readable visit has this e-mail address at 1 tenant since 2025-11-25 13:00:00 UTC.\n")


async def test_nothing_found_names_listeners_that_refuse_every_visit(tmp_path: Path) -> None:
    authentication = "authentication: {type: Basic, basic: {secretRef: {name: absent}}}"
    manifests = gateways.MANIFESTS.replace("routes: []", f"{authentication}\n  routes: []")
    async with gateways.running(tmp_path, manifests) as gateway:
        await gateway.wait_configured()
        for _ in range(health.REFUSING_FROM):
            assert (await gateway.post(b'{"user": {"email": "ada@example.com"}}')).status == 503
        run = await gateway.command("find", piped=EMAIL)
    assert run.code == 1
    assert " ".join(run.out.split()) == (
        "No readable visit has this e-mail address at 1 tenant. Bodies that could not be read are not searched: "
        "`usher quarantine` lists them. A refused visit is not stored, and 1 listener refuses every visit at present: "
        "agency/wifi. `usher listeners --failing` says why."
    )


async def test_narrow_table_has_the_verdicts_of_long_names(served: admin_port.Served) -> None:
    listener = model.ListenerName(
        "agency", "the-very-long-name-of-a-company-119", "the-very-long-name-of-a-company-119"
    )
    person = person_of(listener, "email", "bob@example.com")
    await served.bench.accept(samples.arrival("long", listener=listener, person_keys=(person,)))
    run = await served.command("find", piped="bob@example.com", COLUMNS="80")
    head, row, *_ = lines = run.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert head.split()[3:5] == ["ID", "VERDICTS"]
    assert "  pending (crm)  " in row


async def test_suppressed_person_is_said_to_be_so_at_all_tenants_or_some(served: admin_port.Served) -> None:
    await served.command("person", "suppress", "--as", "email", "--tenant", "acme", "--yes", piped=EMAIL)
    run = await served.command("find", piped=EMAIL)
    assert "Suppressed at 1 of 2 tenants: agency/acme: visits there are only counted." in run.said
    await served.command("person", "suppress", "--as", "email", "--yes", piped=EMAIL)
    run = await served.command("find", piped=EMAIL)
    assert "Suppressed at all 2 tenants: visits there are only counted." in run.said
    run = await served.command("find", "--tenant", "acme", piped=EMAIL)
    assert "Suppressed at agency/acme: visits there are only counted." in run.said


async def test_value_reaches_no_log_and_no_error(served: admin_port.Served) -> None:
    with structlog.testing.capture_logs() as logs:
        await found(served, EMAIL)
        refused = await served.command("find", "--as", "mobile", piped=EMAIL)
        unknown = await served.ask("POST", "/api/persons/find", json={"value": EMAIL, EMAIL: 1})
    assert (refused.code, "has no digit; a mobile number needs one" in refused.err) == (2, True)
    assert unknown[0] == 400
    assert "ada@" not in f"{logs} {refused.out} {refused.err} {unknown}".lower()
    (line,) = [line for line in logs if line["event"] == "audit"]
    assert (line["action"], line["count"], line["selection"]["fields"]) == ("find person", 2, ["email"])


async def test_observe_token_may_not_look_for_a_person(served: admin_port.Served) -> None:
    run = await served.command("find", piped=EMAIL, USHER_TOKEN=served.tokens.observe)
    assert (run.code, "the token `observe` may not do this: it lacks the scope" in run.err) == (2, True)


async def test_value_of_a_person_is_refused_as_an_argument(served: admin_port.Served) -> None:
    run = await served.command("find", EMAIL)
    assert (run.code, EMAIL in run.err) == (2, False)
    assert "type other values when `usher find` asks, or pipe them in" in run.said
    (row,) = await found(served, EMAIL, "--tenant", "acme")
    assert row["id"] in (await served.command("find", row["id"], "-o", "json")).out


async def test_beginning_of_an_id_is_enough_but_digits_alone_are_not(served: admin_port.Served) -> None:
    (row,) = await found(served, EMAIL, "--tenant", "acme")
    short = await served.command("find", row["id"][:13], "-o", "json")
    assert row in json.loads(short.out)["rows"]
    run = await served.command("find", "01922111-4567")
    assert (run.code, "give of an id at least its first 15 characters" in run.said) == (2, True)


async def test_empty_input_is_an_error(served: admin_port.Served) -> None:
    run = await served.command("find", piped=" \n")
    assert (run.code, "there is no value to look for" in run.err) == (2, True)


async def test_user_id_that_looks_like_an_id_is_found_as_a_user_id(served: admin_port.Served) -> None:
    user = "01920000-0000-7000-8000-00000000beef"
    key = person_of(samples.LOBBY, "user", user)
    await served.bench.accept(samples.arrival("d", samples.NOW + 3, person_keys=(key,)))
    assert len(await found(served, user, "--as", "user")) == 1


async def test_value_that_is_not_utf_8_is_an_error_without_the_value(served: admin_port.Served) -> None:
    status, problem = await served.ask("POST", "/api/persons/find", data=b'{"value":"jane\xffx"}')
    assert (status, problem["detail"].startswith("the body must have a `value`")) == (400, True)


async def test_audit_filter_with_a_null_character_is_an_error(served: admin_port.Served) -> None:
    status, problem = await served.ask("GET", "/api/audit?who=%00")
    assert (status, problem["detail"]) == (400, "who has characters that no name has")
