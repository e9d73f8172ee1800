import asyncio
import datetime
import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib import parse

import aiohttp
import msgspec
import pytest
import structlog.testing

from support import admin_port, engines, leaks, samples, waiting
from usher_gateway import documents, model
from usher_gateway.access import tokens
from usher_gateway.admin import name_check, routes, server
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.routes import ROUTES
from usher_gateway.store.base import Filter

DAY = samples.DAY


# roles


@pytest.mark.parametrize(("method", "path", "scope"), [route[:3] for route in ROUTES], ids=str)
async def test_every_route_requires_its_scope(
    served: admin_port.Served, method: str, path: str, scope: tokens.Scope | None
) -> None:
    path = path.replace("{id}", "01920000-0000-7000-8000-000000000001").replace("{namespace}/{name}", "agency/lobby")
    selection = {"json": {"ids": ["01920000-0000-7000-8000-000000000001"]}} if method == "POST" else {}
    others = [each for each in tokens.Scope if each is not scope]
    served.create_token("with", [scope] if scope else [tokens.Scope.AuditRead])
    served.create_token("without", others)
    statuses = []
    for token in ("", "x" * 20, "usher_without", "usher_with", served.tokens.operate):
        status, _ = await served.ask(method, path, token=token, **selection)
        statuses.append(status)
    expected = [200] * 5 if scope is None else [401, 401, 403, 200, 200]
    # nothing has this id, and some requests name something else
    assert [200 if status in {400, 404} else status for status in statuses] == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:9090", 200),
        ("10.1.2.3", 200),
        ("[::1]:9090", 200),
        ("localhost:9090", 200),
        ("Usher.internal:9090", 200),
        ("rebound.example:9090", 421),
        ("127.0.0.1:80@rebound.example", 421),
        ("rebound.example", 421),
        ("localhost.rebound.example", 421),
    ],
)
async def test_only_known_hosts_are_answered(served: admin_port.Served, host: str, expected: int) -> None:
    status, _ = await served.ask("GET", "/healthz", token="", headers={"Host": host})
    assert status == expected


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/api/visits", 405),
        ("GET", "/api/visits?limit=0", 400),
        ("GET", "/api/visits/7/body", 400),
        ("GET", "/api/visits/01920000-0000-7000-8000-000000000001/body", 404),
        ("GET", "/api/usage?together=yes", 400),
        ("POST", "/api/deliveries/redrive", 400),
    ],
)
async def test_invalid_request_is_answered_with_a_problem(
    served: admin_port.Served, method: str, path: str, status: int
) -> None:
    answered, problem = await served.ask(method, path)
    assert (answered, problem["status"], problem["type"]) == (status, status, "about:blank")
    assert problem["title"] == HTTPStatus(status).phrase
    assert problem["detail"]


async def test_wrong_method_names_the_right_ones(served: admin_port.Served) -> None:
    async with aiohttp.ClientSession() as session, session.delete(f"{served.url}/healthz") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_request_that_cannot_be_parsed_is_answered_with_a_problem(
    served: admin_port.Served, caplog: pytest.LogCaptureFixture
) -> None:
    address = parse.urlsplit(served.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"GET /secret HTTP/1.1\r\nno header\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.partition(b" ")[2].startswith(b"400 Bad Request")
    assert b"application/problem+json" in head
    assert msgspec.json.decode(body)["code"] == "BadRequest"
    assert "secret" not in caplog.text


async def test_host_that_is_not_utf_8_is_refused(served: admin_port.Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: \xff.example\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 421 ")
    writer.close()


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/visits", "/nowhere"])
async def test_answer_names_no_versions_of_software(served: admin_port.Served, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(served.url + path) as answer:
        assert "Server" not in answer.headers


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate", "gzip"), ("deflate;q=1, gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("identity", None)],
)
@pytest.mark.parametrize("path", ["/metrics", "/api/visits"])
async def test_long_answers_are_compressed_for_callers_that_take_it(
    served: admin_port.Served, path: str, accepted: str, encoding: str | None
) -> None:
    await served.bench.accept(*[samples.arrival(f"visit {number}") for number in range(30)])
    headers = {"Accept-Encoding": accepted, "Authorization": f"Bearer {served.tokens.operate}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(served.url + path) as answer:
        assert answer.headers.get("Content-Encoding") == encoding
        content = await answer.read()  # decompressed
    assert (
        content.endswith(b"usher_test 7.0\n") if path == "/metrics" else len(msgspec.json.decode(content)["rows"]) > 30
    )


@pytest.mark.parametrize("route", [route for route in ROUTES if route.scope], ids=lambda route: route.path)
async def test_request_refuses_parameters_that_it_does_not_take(
    served: admin_port.Served, route: server.AdminRoute[routes.PartsHandler]
) -> None:
    assert route.parameters is not None
    query = "&".join([f"{name}=1" for name in [*route.parameters, "nonsense"]])
    path = route.path.replace("{id}", "1").replace("{namespace}/{name}", "agency/lobby")
    status, problem = await served.ask(route.method, f"{path}?{query}")
    parameters = ", ".join(sorted(route.parameters))
    there_are = f"there are {parameters}" if parameters else "this request takes none"
    assert (status, problem["code"]) == (400, "BadRequest")
    assert problem["detail"] == f"unknown parameter 'nonsense': {there_are}"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("usage?since=2026-10&until=2026-11", "unknown parameter 'since': there are by, from, "),
        (
            "usage?route=crm",
            "unknown parameter 'route': there are by, from, listener, namespace, tenant, to, together, zone",
        ),
        ("usage/check?tenant=acme", "unknown parameter 'tenant': there are from, to"),
        ("quarantine?countedAs=visit", "unknown parameter 'countedAs': there are cursor, id, "),
        ("deliveries?countedAs=visit", "unknown parameter 'countedAs': there are cursor, destination, id, "),
        ("visits?visit=01920000-0000-7000-8000-000000000001", "unknown parameter 'visit': there are countedAs, "),
        ("listeners?id=01920000", "unknown parameter 'id': there are listener, namespace, tenant"),
        ("usage?from=2026-10&from=2026-11", "the parameter 'from' may be given only once"),
    ],
)
async def test_parameter_that_would_be_ignored_is_refused(served: admin_port.Served, query: str, detail: str) -> None:
    status, problem = await served.ask("GET", f"/api/{query}")
    assert (status, problem["detail"][: len(detail)]) == (400, detail)


def errors_in(logs: list[Any], caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Return the error lines of the gateway and of its libraries."""
    libraries = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    return [line for line in logs if line["log_level"] == "error"] + libraries


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("path", ["/api/deliveries/redrive", "/api/try"])
async def test_body_that_does_not_inflate_is_refused(
    served: admin_port.Served, path: str, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as logs:
        status, problem = await served.ask("POST", path, data=b"{}", headers={"Content-Encoding": encoding})
    assert (status, problem["code"]) == (400, "BadRequest")
    assert errors_in(logs, caplog) == []


@pytest.mark.parametrize("path", ["/api/deliveries/redrive", "/api/try"])
async def test_caller_that_hangs_up_is_no_error_in_the_log(
    served: admin_port.Served, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {served.tokens.operate}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with structlog.testing.capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request.encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        # The gateway handles connections in their order, so it has noticed the end of the first one by then.
        await served.get("/healthz")
    assert errors_in(logs, caplog) == []


async def test_too_large_request_body_is_rejected(served: admin_port.Served) -> None:
    status, problem = await served.ask("POST", "/api/replays", data=b" " * 70_000)
    assert (status, problem["code"]) == (413, "RequestEntityTooLarge")


async def test_closed_store_is_a_problem_but_health_is_fine(served: admin_port.Served) -> None:
    await served.bench.store.close()
    status, problem = await served.ask("GET", "/api/visits")
    assert status in {500, 503}
    assert problem["detail"]
    assert await served.get("/healthz") == b"ok\n"


# without a token


async def test_readiness_names_its_reasons(served: admin_port.Served) -> None:
    assert await served.get("/readyz") == {"ready": True, "reasons": [], "warnings": []}
    served.state.start_draining()
    status, answer = await served.ask("GET", "/readyz", token="")
    assert (status, answer) == (503, {"ready": False, "reasons": ["draining"], "warnings": []})


# listings


async def test_visits_are_listed_in_pages(served: admin_port.Served) -> None:
    first = await served.get("/api/visits?limit=3&tenant=agency/acme")
    second = await served.get(f"/api/visits?limit=3&tenant=agency/acme&cursor={first['nextCursor']}")
    assert (len(first["rows"]), len(second["rows"]), second["nextCursor"]) == (3, 2, None)
    assert (await served.get("/api/visits?countedAs=visit&reason=Filter"))["rows"][0]["verdicts"][0]["route"] == "crm"


async def test_body_is_returned_as_bytes_and_audited(served: admin_port.Served) -> None:
    (row,) = (await served.get("/api/quarantine"))["rows"]
    with structlog.testing.capture_logs() as logs:
        assert await served.get(f"/api/visits/{row['id']}/body") == admin_port.BODY
    (line,) = [line for line in logs if line["event"] == "audit"]
    assert (line["who"], line["action"], line["count"]) == ("operate", "show body", 1)


async def test_reading_of_a_visit_whose_listener_is_gone_says_why(served: admin_port.Served) -> None:
    (row,) = (await served.get("/api/quarantine"))["rows"]
    served.registry.apply(documents.Snapshot({}, {}), now=0.0)
    answer = await served.get(f"/api/visits/{row['id']}/reading")
    assert answer == {"reading": None, "reason": "the listener is not in force any more"}
    missing = "/api/visits/01920000-0000-7000-8000-000000000001/reading"
    assert (await served.ask("GET", missing))[0] == 404


@pytest.mark.parametrize("path", [route.path for route in ROUTES if route.method == "GET"])
async def test_lone_surrogates_in_bodies_disturb_no_answer(empty: admin_port.Served, path: str) -> None:
    lone = "\udc00"
    venue = {"id": lone, "name": lone, "company": {"id": lone}}
    user = {"id": lone, "email": lone, "firstName": lone, "visitCountsForVenue": lone, "venue": venue, lone: lone}
    body = json.dumps({"user": user}).encode()
    await empty.bench.accept(samples.arrival("a", body=body), samples.quarantined("q", body=body))
    for row in (await empty.get("/api/visits"))["rows"]:
        named = path.replace("{id}", row["id"]).replace("{namespace}/{name}", "agency/lobby")
        assert (await empty.ask("GET", named))[0] in {200, 404}


async def test_body_with_lone_surrogates_is_exported_as_text(empty: admin_port.Served) -> None:
    body = b'{"user":{"firstName":"\\udc00"}}'
    await empty.bench.accept(samples.arrival("a", body=body, person_keys=(admin_port.person_of(samples.LOBBY),)))
    (row,) = (await empty.post("/api/persons/export", value=admin_port.EMAIL, field="email"))["rows"]
    assert row["body"] == body.decode()


async def test_listeners_are_listed_without_their_secrets(served: admin_port.Served) -> None:
    (row,) = (await served.get("/api/listeners"))["rows"]
    assert row["addresses"] == ["hooks.example.com/v1/abcd…", "www.acme.example/hooks/purple.php?k=…"]
    assert (row["applied"], row["today"]["visits"], row["today"]["quarantined"]) == ("aa", 4, 1)


async def test_destinations_are_listed_with_backlog_and_holds(served: admin_port.Served) -> None:
    lost = samples.plan(samples.route("x", destination="agency/lost"), hold=model.HoldReason.DestinationNotFound)
    await served.bench.accept(samples.arrival("e", if_visit=(lost,)))
    await served.post("/api/deliveries/redrive", all=True)
    crm, gone = (await served.get("/api/destinations"))["rows"]
    assert (crm["state"], crm["host"], crm["backlog"], crm["held"]) == (
        "Active",
        "crm.example",
        1,
        {"DestinationPaused": 1},
    )
    assert (crm["tenants"], crm["dead"]) == (["acme"], 0)
    assert (gone["name"], gone["state"], gone["held"]) == ("lost", "NotFound", {"DestinationNotFound": 1})


async def test_destination_that_is_gone_is_listed_while_it_has_dead_deliveries(served: admin_port.Served) -> None:
    served.state.apply(documents.Snapshot({}, {}), 0)
    (row,) = (await served.get("/api/destinations"))["rows"]
    assert (row["name"], row["state"], row["tenants"], row["dead"]) == ("crm", "NotFound", [], 1)


async def test_tenants_are_listed_with_their_deliveries_and_failing_destinations(served: admin_port.Served) -> None:
    (row,) = (await served.get("/api/tenants"))["rows"]
    assert (row["namespace"], row["name"], row["state"], row["listeners"]) == ("agency", "acme", "Active", 1)
    assert (row["held"], row["dead"], row["backlog"], row["oldestInBacklog"]) == ({"DestinationPaused": 1}, 1, 0, None)
    assert row["failingDestinations"] == ["agency/crm"]
    assert (row["today"]["visits"], row["today"]["quarantined"]) == (4, 1)
    await served.post("/api/deliveries/redrive", all=True)
    (row,) = (await served.get("/api/tenants"))["rows"]
    assert (row["dead"], row["backlog"], row["oldestInBacklog"]) == (0, 1, model.format_time(samples.NOW))


async def test_tenants_by_urgency_begin_with_what_needs_a_person(served: admin_port.Served) -> None:
    in_force = served.state.snapshot
    (lobby,) = in_force.listeners.values()
    others = {
        f"agency/{name}": msgspec.structs.replace(lobby, name=name, tenant=documents.TenantDocument(name), routes=())
        for name in ("beta", "able")
    }
    served.state.apply(documents.Snapshot({**in_force.listeners, **others}, in_force.destinations), 0)

    async def page(**query: str) -> tuple[list[str], dict[str, int]]:
        answer = await served.get(f"/api/tenants?order=urgency&{parse.urlencode(query)}")
        return [row["name"] for row in answer["rows"]], answer["totals"]

    totals = {"tenants": 3, "troubled": 1, "selected": 3, "backlog": 0, "dead": 1}
    assert await page() == (["acme", "able", "beta"], totals)
    assert await page(limit="1", offset="1") == (["able"], totals)
    assert await page(troubled="true") == (["acme"], {**totals, "selected": 1})
    assert await page(contains="Y/BE") == (["beta"], {**totals, "selected": 1})


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("order=size", "order must be name or urgency"),
        ("limit=5", "limit needs order=urgency"),
        ("order=urgency&limit=0", "limit must be a number from 1 on"),
        ("order=urgency&offset=-1", "offset must be a number from 0 on"),
        ("order=urgency&troubled=yes", "troubled must be true or false"),
    ],
)
async def test_wrong_page_of_tenants_is_refused(served: admin_port.Served, query: str, detail: str) -> None:
    status, answer = await served.ask("GET", f"/api/tenants?{query}")
    assert (status, answer["detail"]) == (400, detail)


async def test_tenant_that_is_gone_is_listed_while_deliveries_wait(served: admin_port.Served) -> None:
    served.state.apply(documents.Snapshot({}, {}), 0)
    (row,) = (await served.get("/api/tenants"))["rows"]
    assert (row["name"], row["state"], row["listeners"], row["dead"]) == ("acme", "NotFound", 0, 1)


@pytest.mark.parametrize(
    ("query", "detail", "hint"),
    [
        ("tenant=acmee", "there is no tenant `acmee`", "did you mean `acme`?"),
        ("tenant=agencie/acme", "there is no namespace `agencie`", "did you mean `agency`?"),
        ("listener=loby", "there is no listener `loby`", "did you mean `lobby`?"),
        ("route=crn", "there is no route `crn`", "did you mean `crm`?"),
        ("destination=agency/crn", "there is no destination `agency/crn`", "did you mean `agency/crm`?"),
    ],
)
async def test_unknown_name_is_a_problem_with_the_nearest_one(
    served: admin_port.Served, query: str, detail: str, hint: str
) -> None:
    for path in ("visits", "deliveries"):
        status, problem = await served.ask("GET", f"/api/{path}?{query}")
        assert (status, problem["code"], problem["detail"], problem["hint"]) == (404, "UnknownName", detail, hint)
    name, _, value = query.partition("=")
    status, problem = await served.ask("POST", "/api/deliveries/redrive", json={name: value})
    assert (status, problem["detail"]) == (404, detail)


async def test_name_of_what_is_gone_can_be_asked_for_while_rows_are_stored(served: admin_port.Served) -> None:
    served.state.apply(documents.Snapshot({}, {}), 0)
    assert (await served.get("/api/usage?tenant=agency/acme&listener=lobby"))["total"]["visits"] == 4
    assert len((await served.get("/api/deliveries?destination=agency/crm&route=crm"))["rows"]) == 3


# usage


async def test_usage_has_counts_and_open_deliveries_before_and_after(served: admin_port.Served) -> None:
    served.bench.clock.now += DAY
    await served.bench.accept(samples.arrival("next", samples.NOW + DAY))
    answer = await served.get("/api/usage?tenant=acme")
    first, second = answer["rows"]
    assert (first["period"], first["arrivals"], first["visits"], first["quarantined"]) == ("2025-11-25", 5, 4, 1)
    assert (first["created"], first["skipped"]["Filter"], first["delivered"], first["died"]) == (3, 1, 1, 1)
    assert [(row["openBefore"], row["openAfter"]) for row in (first, second)] == [(0, 1), (1, 2)]
    assert answer["total"]["arrivals"] == 6


async def test_usage_counts_days_in_the_time_zone_of_each_tenant(served: admin_port.Served) -> None:
    """Acme is in Auckland, where the visit at 12:30 UTC is on the next day; the tenant globex is gone: UTC."""
    at = int(datetime.datetime(2026, 11, 30, 12, 30, tzinfo=datetime.UTC).timestamp()) * model.MICROSECONDS
    served.bench.clock.now = at
    await served.bench.accept(samples.arrival("a", at), samples.arrival("b", at, listener=samples.BAR))
    (listener,) = served.state.snapshot.listeners.values()
    acme = msgspec.structs.replace(listener, tenant=documents.TenantDocument("acme", time_zone="Pacific/Auckland"))
    served.state.apply(documents.Snapshot({acme.key: acme}, {}), 0)
    rows = (await served.get("/api/usage?zone=tenant&from=2026-11&to=2027-01&by=month"))["rows"]
    assert [(row["period"], row["tenant"], row["visits"]) for row in rows] == [
        ("2026-11", "globex", 1),
        ("2026-12", "acme", 1),
    ]
    november = await served.get("/api/usage?zone=Pacific/Auckland&from=2026-11&to=2026-12")
    assert (november["rows"], november["total"]["visits"], november["zone"]) == ([], 0, "Pacific/Auckland")
    status, problem = await served.ask("GET", "/api/usage?zone=Europe/Lundun")
    assert (status, problem["detail"]) == (
        400,
        "there is no time zone 'Europe/Lundun': write it like Europe/London, or UTC",
    )


async def test_usage_by_venue_reads_the_stored_bodies(empty: admin_port.Served) -> None:
    bodies = {"a": 4021, "b": 4021, "c": "7", "d": None, "e": "7\udc00"}
    for content, venue in bodies.items():
        body = {"user": {"id": content} | ({"venue": {"id": venue}} if venue is not None else {})}
        await empty.bench.accept(samples.arrival(content, body=json.dumps(body).encode()))
    await empty.bench.accept(samples.quarantined("q"))
    answer = await empty.get("/api/usage?by=venue&tenant=acme&from=2025-11&to=2025-12")
    assert [(row["tenant"], row["venue"], row["visits"], row["repeats"]) for row in answer["rows"]] == [
        ("acme", "", 1, 0),
        ("acme", "4021", 2, 0),
        ("acme", "7", 1, 0),
        ("acme", "7?", 1, 0),
    ]
    assert (answer["withoutBody"], answer["total"]) == (0, {"visits": 5, "repeats": 0})
    assert {row["period"] for row in answer["rows"]} == {"2025-11-01/2025-12-01"}


async def test_usage_by_venue_shows_no_value_of_a_path_that_a_listener_chose(empty: admin_port.Served) -> None:
    """Such a path may lead to personal data."""
    empty.mend(venue=("/user/email",))
    body = {"user": {"id": 7, "email": leaks.PERSON, "venue": {"id": 1}}}
    await empty.bench.accept(samples.arrival("a", body=msgspec.json.encode(body)))
    answer = await empty.get("/api/usage?by=venue&from=2025-11&to=2025-12")
    assert [(row["venue"], row["visits"]) for row in answer["rows"]] == [("", 1)]


async def test_usage_by_venue_counts_visits_whose_body_is_gone(empty: admin_port.Served) -> None:
    await empty.bench.accept(
        samples.arrival("a", body_days=1, if_visit=()), samples.arrival("b", body_days=90, if_visit=())
    )
    empty.bench.clock.now += 40 * DAY
    await empty.bench.prune_all()
    answer = await empty.get("/api/usage?by=venue&from=2025-11&to=2025-12")
    assert answer["withoutBody"] == 1


# changes


async def test_redrive_of_dead_deliveries_is_audited(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    with structlog.testing.capture_logs() as logs:
        assert await served.post("/api/deliveries/redrive", tenant="acme", route="crm") == {"redriven": 1}
    (line,) = [line for line in logs if line["event"] == "audit"]
    selection = {"tenant": "acme", "route": "crm", "deliveries": [dead["id"]]}
    assert (line["action"], line["selection"], line["count"]) == ("redrive", selection, 1)


async def test_dry_run_of_each_change_counts_by_reason_and_changes_nothing(served: admin_port.Served) -> None:
    served.mend(user=("/visitor/ref",))
    unchanged = await served.get("/api/deliveries"), await served.get("/api/visits")
    places = {"destinations": {"agency/crm": 1}, "tenants": {"agency/acme": 1}}
    one: dict[str, object] = {**places, "selected": 1, "leftOut": 0, "warnings": [], "whyNone": None}
    cancelled = {**one, "cancelled": 0, "reasons": {"DestinationPaused": 1}}
    assert await served.post("/api/deliveries/cancel", state="held", dryRun=True) == cancelled
    redriven = {**one, "redriven": 0, "reasons": {"Status": 1}}
    assert await served.post("/api/deliveries/redrive", tenant="acme", dryRun=True) == redriven
    retried = await served.post("/api/deliveries/retry", all=True, dryRun=True)
    assert (retried["selected"], retried["leftOut"]) == (0, 1)
    assert retried["whyNone"].startswith("they are held, are due already,")
    released = {"released": 0, "deliveries": 0, "unfit": {}, "selected": 1, "reasons": {"NoUser": 1}, "whyNone": None}
    assert await served.post("/api/quarantine/release", all=True, dryRun=True) == released
    replay = await served.post("/api/replays", all=True, dryRun=True)
    assert (replay["selected"], replay["reasons"]) == (3, {"Filter": 1, "delivered": 1, "dead": 1})
    assert replay["destinations"] == {"agency/crm": 3}
    assert (await served.get("/api/deliveries"), await served.get("/api/visits")) == unchanged


@pytest.mark.parametrize(
    ("selection", "detail"),
    [
        ({"tenant": "acme"}, "name what to replay"),
        ({"reason": "Paused,Filt"}, "Filt"),
        ({"state": "delivered"}, 'send {"all": true}'),
        ({"tenant": "acme", "state": "pending"}, "state must be of delivered, dead, cancelled, not 'pending'"),
        ({"tenant": "acme", "state": "dead", "perSecond": 0}, "perSecond must be a number from 1 to 1000"),
        ({"tenant": "acme", "state": "dead", "visit": "01920000-0000-7000-8000-000000000001"}, "visit and replay"),
    ],
)
async def test_replay_of_a_wrong_selection_is_refused(
    served: admin_port.Served, selection: dict[str, Any], detail: str
) -> None:
    status, problem = await served.ask("POST", "/api/replays", json=selection)
    assert (status, detail in problem["detail"]) == (400, True), problem
    assert (await served.get("/api/replays"))["rows"] == []


async def test_replay_runs_in_the_gateway_and_shows_what_it_did(served: admin_port.Served) -> None:
    with structlog.testing.capture_logs() as logs:
        status, started = await served.ask(
            "POST", "/api/replays", json={"tenant": "acme", "reason": "Filter", "state": "delivered,dead"}
        )
    assert (status, started["state"], started["startedBy"]) == (201, "running", "operate")
    path = f"/api/replays/{started['id']}"
    done = await waiting.until(lambda: served.get(path), lambda row: row["state"] == "done")
    assert (done["created"], done["reasons"]) == (3, {"Filter": 1, "delivered": 1, "dead": 1})
    assert (done["deliveries"], done["selection"]["tenant"]) == ({"pending": 3}, "acme")
    rows = (await served.get(f"/api/deliveries?replay={started['id']}"))["rows"]
    assert {row["replay"] for row in rows} == {started["id"]}
    assert (await served.ask("POST", f"{path}/resume"))[0] == 409
    cancelled = await served.post(f"{path}/cancel")
    assert (cancelled["state"], cancelled["deliveries"]) == ("done", {"cancelled": 3})
    audited = [line for line in logs if line["event"] == "audit"]
    assert [(line["action"], line["selection"]["tenant"]) for line in audited] == [("replay", "acme")]


async def test_release_delivers_what_the_corrected_listener_accepts(served: admin_port.Served) -> None:
    unfit = {"released": 0, "deliveries": 0, "unfit": {"NoUser": 1}}
    assert await served.post("/api/quarantine/release", tenant="acme") == unfit
    served.mend(user=("/visitor/ref",))
    fit = {"released": 1, "deliveries": 1, "unfit": {}}
    assert await served.post("/api/quarantine/release", tenant="acme") == fit
    (claimed,) = await served.bench.claim()
    assert claimed.body == admin_port.BODY
    assert await served.post("/api/quarantine/release", all=True) == fit | {"released": 0, "deliveries": 0}


async def test_concurrent_releases_count_each_arrival_once(served: admin_port.Served) -> None:
    await served.bench.accept(*[samples.quarantined(f"{number}") for number in range(45)])
    asked = [served.post("/api/quarantine/release", all=True) for _ in range(3)]
    assert sum([answer["released"] for answer in await asyncio.gather(*asked)]) == 45


async def test_releases_take_turns(served: admin_port.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await served.bench.accept(*[samples.quarantined(f"{number}") for number in range(200)])
    read, check, slices = served.bench.store.quarantined, name_check.check_names, list[str | None]()
    second_came = asyncio.Event()

    async def note(where: Filter, limit: int, after: int) -> Sequence[model.Arrival]:
        slices.append(where.tenant)
        await second_came.wait()
        return await read(where, limit, after)

    async def note_second(parts: Parts, where: Filter) -> Filter:
        if where.tenant:
            second_came.set()
        return await check(parts, where)

    monkeypatch.setattr(served.bench.store, "quarantined", note)
    monkeypatch.setattr(name_check, "check_names", note_second)
    path = "/api/quarantine/release"
    await asyncio.gather(served.post(path, all=True, dryRun=True), served.post(path, tenant="acme", dryRun=True))
    assert set(slices[:6]) == {None, "acme"}, "neither waits for all slices of the other one"


async def test_release_without_its_listener_gives_the_reason(served: admin_port.Served) -> None:
    served.registry.apply(documents.Snapshot({}, {}), now=0.0)
    answer = await served.post("/api/quarantine/release", all=True)
    assert answer["unfit"] == {"ListenerNotFound": 1}


async def test_release_counts_a_suppressed_person_as_unfit(empty: admin_port.Served) -> None:
    await empty.bench.accept(*[samples.quarantined(f"{n}", body=b'{"user": {"id": %d}}' % n) for n in (901, 902)])
    await empty.post("/api/persons/suppress", value="901", field="user")
    preview = await empty.post("/api/quarantine/release", all=True, dryRun=True)
    assert (preview["selected"], preview["unfit"]) == (1, {"Suppressed": 1})
    answer = await empty.post("/api/quarantine/release", all=True)
    assert (answer["released"], answer["unfit"]) == (1, {"Suppressed": 1})


async def test_release_leaves_out_a_person_whom_the_first_reading_found(empty: admin_port.Served) -> None:
    await empty.bench.accept(samples.quarantined(person_keys=(admin_port.person_of(samples.LOBBY),)))
    await empty.post("/api/persons/suppress", value=admin_port.EMAIL, field="email")
    answer = await empty.post("/api/quarantine/release", all=True)
    assert answer == {"released": 0, "deliveries": 0, "unfit": {"Suppressed": 1}}


async def test_release_reads_each_quarantined_arrival_once(empty: admin_port.Served) -> None:
    await empty.bench.accept(*[samples.quarantined(f"{number}") for number in range(50)])
    answer = await empty.post("/api/quarantine/release", all=True)
    assert answer["released"] == 50  # as samples are: {"user": {"id": …}} is a visit
    await empty.bench.accept(*[samples.quarantined(f"x{number}", body=b"[1]") for number in range(45)])
    answer = await empty.post("/api/quarantine/release", all=True)
    assert answer["unfit"] == {"NotObject": 45}


async def test_nul_in_a_path_or_query_is_no_fault_of_postgresql(tmp_path: Path) -> None:
    """PostgreSQL has no text with a NUL."""
    statuses = {}
    async with admin_port.served(tmp_path, engine=engines.Postgresql()) as served:
        for route in ROUTES:
            path = re.sub(r"{\w+}", "a%00b", route.path)
            for odd in [path] * ("%00" in path) + [f"{path}?{name}=a%00b" for name in route.parameters or ()]:
                statuses[odd], _ = await served.ask(route.method, odd)
    assert {odd for odd, status in statuses.items() if status >= 500} == set()
    assert statuses["/api/links/a%00b/revoke"] == 404
