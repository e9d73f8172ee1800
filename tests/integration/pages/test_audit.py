"""The page of the audit log."""

import html
import re

from support import admin_port, browsing
from usher_gateway.access import tokens
from usher_gateway.access.audit import ACTIONS
from usher_gateway.store.base import AuditEntry


def entry(at: int, **changes: object) -> AuditEntry:
    values: dict[str, object] = {"who": "desk", "action": "find person", "selection": {}, "count": 1, "peer": "::1"}
    return AuditEntry(at=at, **{**values, **changes})  # type: ignore[arg-type]


async def test_entries_are_filtered_by_caller_action_and_time(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    store = served.bench.store
    await store.add_audit_entry(entry(1_764_072_000_000_000, selection={"fields": ["email"], "tenant": None}))
    await store.add_audit_entry(entry(1_764_072_060_000_000, who="ops", action="redrive", count=1_200))
    page = await browser.get("/ui/audit")
    assert page.text.count('scope="row"') == 2
    assert ("fields email" in page.words, "1,200" in page.words) == (True, True)
    for query in ("who=desk", "action=find person", "until=2025-11-25T12:01"):
        page = await browser.get(f"/ui/audit?{query}")
        assert (page.text.count('scope="row"'), "ops" in page.words) == (1, False), query
    links = re.findall(
        r'class="name"><a href="(/ui/audit\?[^"]+)"', (await browser.get("/ui/audit?since=2025-11-25T12:01")).text
    )
    assert [html.unescape(link).partition("&")[2] for link in links] == ["who=ops", "action=redrive"]


async def test_actions_are_a_list_and_today_is_a_link(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/audit?action=redrive")
    (today,) = re.findall(r'<a href="([^"]+)">Today</a>', page.text)
    assert "<option selected>redrive</option>" in page.text
    assert page.text.count("<option") == len(ACTIONS) + 1
    assert "action=redrive&since=" in html.unescape(today)
    assert (await browser.get(html.unescape(today))).status == 200


async def test_selected_times_are_those_of_the_viewers_zone(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    await served.bench.store.add_audit_entry(entry(1, selection={"since": "2025-11-25T12:00:00.000Z", "until": None}))
    page = await browser.get("/ui/audit", ("Cookie", "usher_zone=Asia/Tokyo"))
    assert "since 2025-11-25 21:00:00 " in page.words
    assert "“Rows” is how many visits" in page.words


async def test_log_continues_on_the_next_page(served: admin_port.Served, browser: browsing.Browser) -> None:
    for number in range(60):
        await served.bench.store.add_audit_entry(entry(1_764_072_000_000_000 + number))
    page = await browser.get("/ui/audit?who=desk")
    (link,) = re.findall(r'rel="next" href="([^"]+)"', page.text)
    rest = await browser.get(html.unescape(link))
    assert (page.text.count('scope="row"'), rest.text.count('scope="row"')) == (50, 10)


async def test_hostile_names_are_escaped(served: admin_port.Served, browser: browsing.Browser) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e"
    await served.bench.store.add_audit_entry(entry(1, who=hostile, selection={"listener": hostile}))
    page = await browser.get("/ui/audit")
    assert page.words.count("<script>alert(1)</script>\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}") == 2
    assert ("<script>alert" in page.text, "\x1b" in page.text) == (False, False)


async def test_page_needs_the_scope_of_the_audit_log(served: admin_port.Served) -> None:
    async with browsing.opened(served, served.create_token("look", [tokens.Scope.StatusRead])) as browser:
        page = await browser.get("/ui/audit")
    assert (page.status, "lacks the scope audit:read" in page.words) == (403, True)
