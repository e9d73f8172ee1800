"""The pages about a person: find, export, suppress, erase, and the receipt. The person's value stays in forms."""

import html
import json
import re
from pathlib import Path

import pytest
import structlog.testing

from support import admin_port, browsing, samples, waiting
from support.admin_port import EMAIL, person_of
from usher_gateway.access import tokens
from usher_gateway.admin import receipts
from usher_gateway.pages import receipt_page


async def found(browser: browsing.Browser, value: str = EMAIL, kind: str = "", tenant: str = "") -> browsing.Page:
    return await browser.send("/ui/find", await browser.get("/ui/find"), value=value, kind=kind, tenant=tenant)


@pytest.fixture
def served(with_ada: admin_port.Served) -> admin_port.Served:
    return with_ada


async def follow(browser: browsing.Browser, page: browsing.Page, action: str, **fields: str) -> browsing.Page:
    """Send a form that follows a search."""
    (person, *_) = re.findall(r'name="person" value="([^"]+)"', page.text)
    return await browser.send(f"/ui/find/{action}", page, person=person, **fields)


async def completed_erasure(served: admin_port.Served) -> str:
    """Wait until the only erasure is completed; return its id."""

    async def look() -> dict[str, str]:
        (row,) = (await served.get("/api/persons/erasures"))["rows"]
        return dict(row)

    return (await waiting.until(look, lambda row: row["status"] == "completed"))["id"]


async def test_person_is_found_at_all_tenants_or_at_one(browser: browsing.Browser) -> None:
    everywhere = await found(browser)
    assert "Searched by e-mail address at 2 tenants" in everywhere.words
    assert everywhere.text.count('href="/ui/visits/') == 3
    assert everywhere.headers["Cache-Control"] == "no-store"
    assert (await found(browser, tenant="agency/globex")).text.count('href="/ui/visits/') == 1
    nobody = await found(browser, "nobody@example.com")
    assert (nobody.status, "No readable visit has this value." in nobody.words) == (200, True)


async def test_listener_that_refuses_a_person_who_is_not_found_has_a_link(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    served.is_refusing = True
    page = await found(browser, "nobody@example.com")
    assert "1 listener refuses every visit at present: agency/lobby." in page.words
    assert '<a href="/ui/listeners/agency/lobby">agency/lobby</a>' in page.text


async def test_value_of_a_person_is_in_no_answer_log_or_audit_entry(served: admin_port.Served) -> None:
    with structlog.testing.capture_logs() as logs:
        async with browsing.opened(served) as browser:
            page = await found(browser)
            pages = [
                page,
                await follow(browser, page, "suppress"),
                await follow(browser, page, "suppress", confirm="1"),
                await follow(browser, page, "erase"),
                await follow(browser, page, "erase", confirm="1", word="erase"),
                await browser.get("/ui/audit"),
            ]
    assert [answer.status for answer in pages] == [200] * 6
    everything = f"{logs} {[answer.text for answer in pages]} {await served.get('/api/audit')}".lower()
    assert re.findall("ada(?:@|%40)", everything) == []  # “ada” alone may be in a sealed field by chance


async def test_longer_result_continues_without_the_value(served: admin_port.Served, browser: browsing.Browser) -> None:
    at_lobby = (person_of(samples.LOBBY),)
    await served.bench.accept(*[samples.arrival(f"more {number}", person_keys=at_lobby) for number in range(60)])
    page = await found(browser)
    assert (page.text.count('href="/ui/visits/'), "50 arrivals, more follow." in page.words) == (50, True)
    (cursor,) = re.findall(r'name="cursor" value="([^"]+)"', page.text)
    (person, *_) = re.findall(r'name="person" value="([^"]+)"', page.text)
    rest = await browser.send("/ui/find", page, person=person, cursor=html.unescape(cursor))
    assert (rest.text.count('href="/ui/visits/'), "more follow" in rest.words) == (13, False)


async def test_id_of_a_visit_or_delivery_leads_to_the_visit(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    (delivery, *_) = (await served.get("/api/deliveries?state=delivered"))["rows"]
    for identifier in (delivery["visit"], delivery["id"][:21]):
        page = await found(browser, identifier)
        assert (page.status, delivery["visit"] in page.words, "What happened" in page.words) == (200, True, True)
    unknown = await found(browser, "01920000-0000-7000-8000-000000000009")
    assert (unknown.status, "No visit or delivery has this id" in unknown.words) == (404, True)


async def test_value_of_several_kinds_can_only_be_found(browser: browsing.Browser) -> None:
    page = await found(browser, "491701234567")
    assert "Searched by Purple user id or mobile number" in page.words
    assert ("search again and say what the value is" in page.words, "Erase…" in page.words) == (True, False)
    assert "Erase…" in (await found(browser, "491701234567", kind="mobile")).words


async def test_export_is_the_archive_of_the_command(
    served: admin_port.Served, browser: browsing.Browser, tmp_path: Path
) -> None:
    file = tmp_path / "ada.json"
    run = await served.command("person", "export", "--to", str(file), "--reference", "DSR-7", piped=EMAIL)
    assert run.code == 0, run.err
    download = await follow(browser, await found(browser), "export", reference="DSR-7")
    archive, of_command = json.loads(download.text), json.loads(file.read_text())
    assert re.fullmatch(r'attachment; filename="person-\d{4}-\d\d-\d\d.json"', download.headers["Content-Disposition"])
    assert download.headers["Cache-Control"] == "no-store"
    assert sorted(visit["body"]["user"]["id"] for visit in archive["visits"]) == ["a", "b", "c"]
    for each in (archive, of_command):
        del each["request"]["exportedAt"]
    assert archive == of_command


async def test_person_is_suppressed_and_unsuppressed_after_a_question(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    page = await found(browser)
    asked = await follow(browser, page, "suppress", reference="DSR-8")
    assert "1 pending delivery is cancelled" in asked.words
    assert 'name="reference" value="DSR-8"' in asked.text
    assert (await served.get("/api/persons/suppressions"))["rows"] == []
    done = await follow(browser, asked, "suppress", reference="DSR-8", confirm="1")
    assert "Suppressed now at 2 tenants." in done.words
    assert "Suppressed at all 2 tenants: visits there are only counted." in done.words
    assert ("Suppress…" in page.words, "Suppress…" in done.words) == (True, False)
    assert "agency/globex" in (await browser.get("/ui/suppressions")).words
    asked = await follow(browser, done, "unsuppress")
    assert "stored and sent again" in asked.words
    done = await follow(browser, asked, "unsuppress", confirm="1")
    assert "Unsuppressed at 2 tenants." in done.words
    assert (await served.get("/api/persons/suppressions"))["rows"] == []


async def test_person_is_erased_after_the_typed_word_with_a_receipt(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    page = await found(browser)
    asked = await follow(browser, page, "erase")
    assert "3 visits of the person are stored" in asked.words
    assert "agency/acme 2" in asked.words
    wrong = await follow(browser, asked, "erase", word="yes", confirm="1")
    assert "Nothing was erased: type the word erase." in wrong.words
    assert (await served.get("/api/persons/erasures"))["rows"] == []
    started = await follow(browser, wrong, "erase", word="erase", reference="DSR-7", confirm="1")
    assert started.status == 200
    path = f"/ui/erasures/{await completed_erasure(served)}"
    page = await browser.get(path)
    assert ("Erasure, completed" in page.words, "3 visits erased" in page.words) == (True, True)
    assert "http-equiv" not in page.text
    assert "Cancel this erasure" not in page.words
    signed = json.loads((await browser.get(f"{path}/receipt.json")).text)
    assert (receipts.is_intact(signed), signed["reference"]) == (True, "DSR-7")
    receipt = await browser.get(f"{path}/receipt.html")
    assert receipts.is_intact(receipts.parse(receipt_page.signed_text(receipt.text)))
    assert receipt.headers["Content-Disposition"] == f'attachment; filename="receipt-{signed["id"]}.html"'
    listed = await browser.get("/ui/erasures")
    assert ("DSR-7" in listed.words, path in listed.text) == (True, True)
    ended = await browser.send(f"{path}/cancel", page, confirm="1")
    assert (ended.status, "The erasure has ended" in ended.words) == (409, True)
    assert len((await served.get("/api/visits"))["rows"]) == 1


@pytest.mark.parametrize("action", ["suppress", "unsuppress", "erase", "export"])
async def test_person_of_another_session_is_refused(served: admin_port.Served, action: str) -> None:
    async with browsing.opened(served) as first, browsing.opened(served) as second:
        (person, *_) = re.findall(r'name="person" value="([^"]+)"', (await found(first)).text)
        page = await second.get("/ui/find")
        stolen = await second.send(f"/ui/find/{action}", page, person=person, confirm="1", word="erase")
        foreign = await first.post(f"/ui/find/{action}", person=person, confirm="1", word="erase", csrf=page.csrf)
    assert (stolen.status, "Search again" in stolen.words) == (400, True)
    assert foreign.status == 403
    assert (await served.get("/api/persons/erasures"))["rows"] == []
    assert (await served.get("/api/persons/suppressions"))["rows"] == []


@pytest.mark.parametrize(
    ("granted", "lacked", "actions"),
    [
        (tokens.Scope.PersonsExport, tokens.Scope.PersonsErase, ("erase", "suppress")),
        (tokens.Scope.PersonsErase, tokens.Scope.PersonsExport, ("export",)),
    ],
)
async def test_token_finds_a_person_and_does_only_what_its_scopes_permit(
    served: admin_port.Served, granted: tokens.Scope, lacked: tokens.Scope, actions: tuple[str, ...]
) -> None:
    scopes = [tokens.Scope.StatusRead, tokens.Scope.VisitsRead, tokens.Scope.PersonsFind, granted]
    async with browsing.opened(served, served.create_token("desk", scopes)) as browser:
        page = await found(browser)
        for action in actions:
            answer = await follow(browser, page, action, confirm="1", word="erase")
            assert (answer.status, f"lacks the scope {lacked}" in answer.words) == (403, True)


async def test_limited_token_finds_exports_and_erases_at_its_tenant_alone(served: admin_port.Served) -> None:
    scopes = [
        tokens.Scope.StatusRead,
        tokens.Scope.PersonsFind,
        tokens.Scope.PersonsExport,
        tokens.Scope.PersonsErase,
    ]
    token = served.create_token("globex", scopes, tenants=("agency/globex",))
    async with browsing.opened(served, token) as browser:
        page = await found(browser)
        assert (page.text.count('href="/ui/visits/'), "acme" in page.words) == (1, False)
        assert len(json.loads((await follow(browser, page, "export")).text)["visits"]) == 1
        assert (await found(browser, tenant="agency/acme")).status == 404
        await follow(browser, page, "erase", word="erase")
        await completed_erasure(served)
        assert (await browser.get("/ui/audit")).status == 403
    assert {row["tenant"] for row in (await served.get("/api/visits"))["rows"]} == {"acme"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": " "}, "There is no value to look for"),
        ({"value": "a@b.example", "tenant": "agency/acne<b>"}, "acne<b>"),
        ({"value": "---", "kind": "mobile"}, "has no digit"),
        ({"person": "x"}, "Search again"),
    ],
)
async def test_wrong_search_gets_a_page_that_says_why(
    browser: browsing.Browser, fields: dict[str, str], words: str
) -> None:
    page = await browser.send("/ui/find", await browser.get("/ui/find"), **fields)
    assert (page.status in {400, 404}, words in page.words, "<b>" in page.text) == (True, True, False)
