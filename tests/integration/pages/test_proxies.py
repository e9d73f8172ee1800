"""People whom a trusted proxy has logged in see the pages; headers of anybody else do not count."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import admin_port, browsing
from usher_gateway.access.tokens import seal_caller

ROLES = ("desk=look", "ops=operate", "dpo=privacy")
ANNA: Any = {"X_Forwarded_User": "anna@agency.example"}


@contextlib.asynccontextmanager
async def behind_proxy(folder: Path, network: str = "127.0.0.0/8", **headers: Any) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(folder, networks=[network], roles=ROLES, **headers) as served:
        yield served


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with behind_proxy(tmp_path) as served:
        yield served


async def test_user_of_a_group_with_a_role_sees_the_pages(served: admin_port.Served) -> None:
    async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="guests, desk") as browser:
        page = await browser.get("/ui/")
    assert (page.status, "Leave" in page.words) == (200, False)


async def test_headers_of_another_proxy_may_be_named(tmp_path: Path) -> None:
    names: Any = {"user_header": "X-Auth-Request-User", "groups_header": "X-Auth-Request-Groups"}
    async with behind_proxy(tmp_path, **names) as served:
        async with browsing.visitor(served, X_Auth_Request_User="anna", X_Auth_Request_Groups="desk") as browser:
            assert (await browser.get("/ui/")).status == 200
        async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="desk") as browser:
            assert (await browser.get("/ui/")).status == 401


@pytest.mark.parametrize("groups", [{}, {"X_Forwarded_Groups": ""}, {"X_Forwarded_Groups": "guests,DESK,desk=look,*"}])
async def test_user_without_a_role_is_refused(served: admin_port.Served, groups: Any) -> None:
    async with browsing.visitor(served, **ANNA, **groups) as browser:
        page = await browser.get("/ui/")
    assert (page.status, "None of your groups may see these pages" in page.words) == (403, True)


@pytest.mark.parametrize(
    "user", [{}, {"X_Forwarded_User": ""}, {"X_Forwarded_User": "a" * 201}, {"X_Forwarded_User": "a\u202eb"}]
)
async def test_request_without_a_user_is_refused(served: admin_port.Served, user: Any) -> None:
    async with browsing.visitor(served, **user, X_Forwarded_Groups="ops") as browser:
        assert (await browser.get("/ui/")).status == 401


async def test_delivery_of_a_gateway_is_no_user(served: admin_port.Served) -> None:
    """A Destination may lead to the admin port and name any header; each delivery has `webhook-id`."""
    async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="ops", Webhook_Id="01a2") as browser:
        page = await browser.get("/ui/")
    assert (page.status, "SentByGateway" in page.text) == (403, True)


async def test_refused_form_does_not_show_the_right_token(served: admin_port.Served) -> None:
    async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="ops") as browser:
        shown = await browser.get("/ui/links")
        refused = await browser.post("/ui/links", csrf="wrong")
    assert (refused.status, shown.csrf in refused.text) == (403, False)


async def test_headers_of_another_peer_do_not_count(tmp_path: Path) -> None:
    async with behind_proxy(tmp_path, network="10.0.0.0/8") as served:
        spoofed: Any = {"X_Forwarded_For": "10.0.0.1", "Forwarded": "for=10.0.0.1", "X_Real_IP": "10.0.0.1"}
        async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="dpo", **spoofed) as browser:
            assert (await browser.get("/ui/")).status == 401


async def test_headers_do_not_count_without_a_trusted_proxy(tmp_path: Path) -> None:
    async with (
        admin_port.served(tmp_path) as served,
        browsing.visitor(served, **ANNA, X_Forwarded_Groups="dpo") as browser,
    ):
        assert (await browser.get("/ui/")).status == 401


@pytest.mark.parametrize("doubled", ["X-Forwarded-User", "X-Forwarded-Groups"])
async def test_header_that_the_browser_sent_beside_that_of_the_proxy_is_refused(
    served: admin_port.Served, doubled: str
) -> None:
    headers = [("X-Forwarded-User", "anna"), ("X-Forwarded-Groups", "desk"), (doubled, "ops")]
    async with browsing.visitor(served) as browser:
        assert (await browser.get("/ui/", *headers)).status in {401, 403}


async def test_headers_are_no_token_of_the_api(served: admin_port.Served) -> None:
    async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="dpo") as browser:
        assert (await browser.get("/api/tenants")).status == 401
        assert (await browser.post("/api/pages/tickets")).status == 401


async def test_headers_open_no_page_of_a_customer(served: admin_port.Served) -> None:
    async with browsing.visitor(served, **ANNA, X_Forwarded_Groups="dpo") as browser:
        assert (await browser.get("/my/")).status == 403


async def test_form_of_another_user_is_refused(served: admin_port.Served) -> None:
    async with (
        browsing.visitor(served, **ANNA, X_Forwarded_Groups="desk") as anna,
        browsing.visitor(served, X_Forwarded_User="bob", X_Forwarded_Groups="desk") as bob,
        browsing.opened(served) as session,
    ):
        page = await anna.get("/ui/")
        assert (await anna.send("/ui/zone", page, zone="Asia/Tokyo")).status == 200
        assert (await anna.post("/ui/zone", zone="Asia/Tokyo")).status == 403
        for other in (bob, session):
            assert (await other.send("/ui/zone", page, zone="Asia/Tokyo")).status == 403
            assert (await anna.send("/ui/zone", await other.get("/ui/"), zone="Asia/Tokyo")).status == 403


async def test_user_may_do_what_the_role_permits_and_no_more(served: admin_port.Served) -> None:
    for groups, statuses in (("desk", (200, 403)), ("dpo", (200, 200))):
        caller = served.proxies.caller_of("anna", groups)
        token = seal_caller(served.seals, caller)
        visits, audit = [await served.ask("GET", f"/api/{name}", token=token) for name in ("visits", "audit")]
        assert (visits[0], audit[0]) == statuses
        assert (await served.ask("POST", "/api/deliveries/redrive", token=token, json={"all": True}))[0] == 403


async def test_audit_log_has_the_name_of_the_user(served: admin_port.Served) -> None:
    token = seal_caller(served.seals, served.proxies.caller_of("anna@agency.example", "ops"))
    assert (await served.ask("POST", "/api/deliveries/redrive", token=token, json={"all": True}))[0] == 200
    (row,) = (await served.get("/api/audit"))["rows"]
    assert (row["who"], row["action"]) == ("user anna@agency.example", "redrive")
