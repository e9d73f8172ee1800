"""`usher try` says what changed manifests would do with stored visits, and changes nothing."""

import asyncio
import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from support import admin_port, command_line, gateways, samples
from usher_gateway import documents, model
from usher_gateway.access import tokens
from usher_gateway.ingest.cpu_limits import SLOW_SECONDS
from usher_gateway.store.base import Filter

ADA = b'{"user":{"id":1,"email":"ada@example.org","firstName":"Ada","venue":{"id":7}}}'
BOB = b'{"user":{"id":2,"email":"","firstName":"Bob","venue":{"id":7}}}'
EVE = b'{"user":{"id":3,"email":"eve@example.org","firstName":"Eve","venue":{"id":8}}}'

HAS_EMAIL = "visit.email != ''"
SINCE = "2025-11-01"


def in_agency(manifest: gateways.Manifest) -> gateways.Manifest:
    return manifest | {"metadata": {**manifest["metadata"], "namespace": "agency"}}


def lobby(*routes: gateways.Manifest, name: str = "lobby", **spec: Any) -> gateways.Manifest:
    return in_agency(gateways.listener(name, routes, **spec))


def crm(transform: str) -> gateways.Manifest:
    return in_agency(gateways.destination("crm", "https://crm.example", transform=transform))


class Tried:
    """An admin port with three visits of the listener lobby, whose route crm sends every visit."""

    def __init__(self, served: admin_port.Served, file: Path) -> None:
        self.served, self.file = served, file

    async def run(self, manifest: gateways.Manifest, *arguments: str, **environment: str) -> command_line.CommandRun:
        gateways.write_manifests(self.file, [manifest])
        return await self.served.command("try", str(self.file), "--since", SINCE, *arguments, **environment)

    async def route(self, manifest: gateways.Manifest, *arguments: str) -> Any:
        """Try a manifest that changes one route of one listener; return what it does to the route."""
        run = await self.run(manifest, *arguments, "-o", "json")
        assert run.code == 0, run.err
        (listener,) = json.loads(run.out)["listeners"]
        (route,) = listener["routes"]
        return route

    async def ask(self, token: str, *manifests: gateways.Manifest, **question: Any) -> tuple[int, Any]:
        asked = {"manifests": list(manifests), "since": SINCE, **question}
        return await self.served.ask("POST", "/api/try", token=token, json=asked)


@pytest.fixture
async def tried(empty: admin_port.Served, tmp_path: Path) -> Tried:
    for number, body in enumerate((ADA, BOB, EVE)):
        await empty.bench.accept(samples.arrival(str(number), samples.NOW + number, body=body))
    return Tried(empty, tmp_path / "changed.yaml")


async def test_table_fits_80_columns_and_explains_its_numbers(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm", when=HAS_EMAIL), gateways.route("new", "crm")))
    lines = run.out.splitlines()
    assert run.code == 0, run.err
    assert lines[0] == "agency/lobby (tenant acme): 3 visits and repeats since 2025-11-01 00:00 UTC"
    assert lines[1].split() == [
        "ROUTE",
        "BEFORE",
        "NOW",
        "+SENT",
        "-SENT",
        "CHANGED",
        "ERRORS",
        *["MEAN", "MS"],
        "MAX",
        "MS",
    ]
    assert lines[2].split()[:7] == ["crm", "3", "2", "0", "1", "0", "0"]
    assert lines[3].split()[:7] == ["new", "-", "3", "3", "0", "0", "0"]
    assert "crm: 1 visit newly skipped (Filter 1), such as " in run.out
    assert "new: this route is new\nnew: 3 visits newly sent, such as " in run.out
    assert max(map(len, lines)) <= 80


async def test_try_writes_an_audit_entry_and_nothing_else(tried: Tried) -> None:
    deliveries = await tried.served.get("/api/deliveries")
    visits = await tried.served.get("/api/visits")
    await tried.route(lobby(gateways.route("crm", "crm", when=HAS_EMAIL)))
    assert await tried.served.get("/api/deliveries") == deliveries
    assert await tried.served.get("/api/visits") == visits
    (entry,) = (await tried.served.get("/api/audit"))["rows"]
    assert (entry["action"], entry["count"], entry["selection"]["listeners"]) == ("try", 3, ["agency/lobby"])


async def test_changed_destination_is_tried_with_every_listener_that_leads_there(tried: Tried) -> None:
    route = await tried.route(crm("{'name': visit.firstName}"))
    assert (route["before"]["sent"], route["now"]["sent"], route["changed"]) == (3, 3, 3)
    assert len(route["examples"]["changed"]) == 3


async def test_changed_variable_of_a_url_is_a_changed_request(tried: Tried) -> None:
    variables = {"urlVariables": [{"name": "person", "value": "visit.email"}]}
    changed = in_agency(gateways.destination("crm", "https://crm.example/{person}", variables))
    run = await tried.run(changed, "--diff")
    assert run.out.splitlines()[2].split()[:7] == ["crm", "3", "2", "0", "0", "2", "1"]
    assert "crm: errors: UrlVariableNotUsable 1, such as " in run.out
    assert '"person": "••• text' in run.out
    assert "@example.org" not in run.out


async def test_change_of_dedupe_is_said_not_to_be_tried(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm"), dedupe={"windowSeconds": 60}))
    assert "the change of dedupe is not tried; arrivals stay the visits" in run.out.replace("\n", " ")
    assert run.out.splitlines()[-1].split()[:6] == ["crm", "3", "3", "0", "0", "0"]


async def test_diff_shows_fields_and_hides_values(tried: Tried) -> None:
    run = await tried.run(crm("{'name': visit.firstName, visit.email: body.user.firstName}"), "--diff")
    assert run.code == 0, run.err
    assert '"name": "••• text' in run.out
    assert '"firstName": "••• text' in run.out
    assert [value for value in ("Ada", "Eve", "ada@", "eve@") if value in run.out] == []


async def test_visit_with_lone_surrogates_is_tried(empty: admin_port.Served) -> None:
    body = b'{"user":{"id":"\\udc00","firstName":"\\udc00"},"\\udc00":1}'
    await empty.bench.accept(samples.arrival("a", body=body))
    changed = [in_agency(gateways.destination("crm", "https://crm.example", format="CloudEvents"))]
    question = {"manifests": changed, "since": SINCE, "diffs": 1, "showValues": True}
    status, answer = await empty.ask("POST", "/api/try", json=question)
    assert (status, answer["listeners"][0]["routes"][0]["changed"]) == (200, 1)
    changed = [crm("{'name': visit.firstName}")]
    status, answer = await empty.ask("POST", "/api/try", json=question | {"manifests": changed})
    assert (status, answer["listeners"][0]["routes"][0]["now"]["errors"]) == (200, {"BadValue": 1})


async def test_equal_values_of_a_diff_have_the_same_number(tried: Tried) -> None:
    transform = "{'user': {'id': body.user.id, 'mail': visit.email}}"
    route = await tried.route(crm(transform), "--diff", "--limit", "1")
    (shown,) = route["diffs"]
    (before,) = [line for line in shown["lines"] if '"email"' in line]
    (now,) = [line for line in shown["lines"] if '"mail"' in line]
    assert before.partition(": ")[2].rstrip(",") == now.partition(": ")[2].rstrip(",")


async def test_differences_of_all_routes_together_are_limited(tried: Tried) -> None:
    tried.served.edit(routes=tuple([documents.Route(f"crm-{number}", "agency/crm") for number in range(60)]))
    status, answer = await tried.ask(tried.served.tokens.operate, crm("{'name': visit.firstName}"), diffs=20)
    assert status == 200, answer
    (tried_listener,) = answer["listeners"]
    assert [route["changed"] for route in tried_listener["routes"]] == [3] * 60
    assert sum(len(route["diffs"]) for route in tried_listener["routes"]) == 100


async def test_values_are_shown_with_the_scope_for_bodies_alone(tried: Tried) -> None:
    manifest = lobby(gateways.route("crm", "crm", transform="{'name': visit.firstName}"))
    token = tried.served.create_token("pipeline", [tokens.Scope.VisitsTry])
    refused = await tried.run(manifest, "--show-values", USHER_TOKEN=token)
    assert (refused.code, "lacks the scope bodies:read" in refused.err) == (2, True)
    hidden = await tried.run(manifest, "--diff", USHER_TOKEN=token)
    assert (hidden.code, "Ada" in hidden.out) == (0, False)
    shown = await tried.run(manifest, "--show-values")
    assert (shown.code, '"name": "Ada"' in shown.out) == (0, True)
    newest, *_ = (await tried.served.get("/api/audit"))["rows"]
    assert newest["selection"]["showValues"] is True


async def test_token_for_reading_may_not_try(tried: Tried) -> None:
    status, problem = await tried.ask(tried.served.tokens.observe, crm("{'name': visit.firstName}"))
    assert (status, "it lacks the scope visits:try" in problem["detail"]) == (403, True)


async def test_exceeded_limit_ends_with_3_and_names_the_route(tried: Tried) -> None:
    manifest = lobby(gateways.route("crm", "crm", when=HAS_EMAIL))
    allowed = await tried.run(manifest, "--fail-on", "newly-skipped=1", "--fail-on", "newly-skipped=33.4%")
    assert allowed.code == 0, allowed.err
    share = await tried.run(manifest, "--fail-on", "errors=0", "--fail-on", "newly-skipped=33%")
    assert (share.code, share.err) == (3, "usher: agency/lobby, route crm: 1 of 3 (33.3%) exceed newly-skipped=33%\n")
    number = await tried.run(manifest, "--fail-on", "newly-skipped=0", "-o", "json")
    assert (number.code, json.loads(number.out)["exceeded"]) == (
        3,
        [{"listener": "agency/lobby", "route": "crm", "limit": "newly-skipped=0", "count": 1, "tried": 3}],
    )


async def test_limit_fails_if_no_visit_was_tried_in_time(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usher_gateway.admin.tries._TRY_SECONDS", 0.0)
    manifest = lobby(gateways.route("crm", "crm", when=HAS_EMAIL))
    limited = await tried.run(manifest, "--fail-on", "errors=0")
    assert (limited.code, "agency/lobby: the time of a try was over" in limited.err) == (1, True)
    assert (await tried.run(manifest)).code == 0


@pytest.mark.parametrize("limit", ["skipped=1", "errors", "errors=-1", "errors=1%%", "=1"])
async def test_wrong_limit_is_refused(tried: Tried, limit: str) -> None:
    run = await tried.run(crm("{'name': visit.firstName}"), "--fail-on", limit)
    assert (run.code, "is not a limit" in run.err) == (2, True)


async def test_failing_expressions_are_counted_by_their_code(tried: Tried) -> None:
    routes = (
        gateways.route("crm", "crm", when="body.user.tier == 'gold'"),
        gateways.route("sheet", "crm", transform="{'tier': body.tier}"),
    )
    run = await tried.run(lobby(*routes), "-o", "json")
    filtered, transformed = json.loads(run.out)["listeners"][0]["routes"]
    assert filtered["now"] == {"sent": 0, "held": {}, "skipped": {}, "errors": {"NoSuchField (body.user.tier)": 3}}
    assert transformed["now"]["errors"] == {"NoSuchField (body.tier)": 3}
    assert (filtered["newlySkipped"], len(transformed["examples"]["errors"])) == ({}, 3)


async def test_time_to_make_the_request_counts_as_time_of_the_transform(tried: Tried) -> None:
    """The value is made in less than a millisecond, and percent-encoded in tens of milliseconds."""
    text = json.dumps("\N{GRINNING FACE}" * 10_000, ensure_ascii=False).encode()
    await tried.served.bench.accept(samples.arrival("4", samples.NOW + 4, body=ADA[:-1] + b',"text":' + text + b"}"))
    fields = ", ".join(f"'{number}': body.text" for number in range(20))
    form = in_agency(gateways.destination("crm", "https://crm.example", format="Form", transform=f"{{{fields}}}"))
    assert (await tried.route(form))["longestMilliseconds"] >= SLOW_SECONDS * 1000


async def test_repaired_errors_are_counted_before_and_now(tried: Tried) -> None:
    tried.served.edit(routes=(documents.Route("crm", "agency/crm", when="body.user.tier == 'gold'"),))
    run = await tried.run(lobby(gateways.route("crm", "crm", when="has(body.user.tier)")))
    assert run.out.splitlines()[2].split()[:7] == ["crm", "0", "0", "0", "0", "0", "3→0"]
    assert "crm: errors before: NoSuchField (body.user.tier) 3; now: none\ncrm: skipped now: Filter 3\n" in run.out


async def test_diff_without_a_changed_request_says_so(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm", when=HAS_EMAIL)), "--diff")
    assert run.out.endswith("No visit is sent with another request, so there is no difference to show.\n")


async def test_mistake_of_the_manifests_is_printed_with_its_line(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm", when="visit.email !=")))
    assert run.code == 2
    assert f"{tried.file}:1: error: Listener agency/lobby: spec.routes[0].when: cannot be parsed" in run.out
    assert "1 problem" in run.err


async def test_mistake_is_refused_by_the_api_too(tried: Tried) -> None:
    wrong = lobby(gateways.route("crm", "crm", when="visit.email !="))
    status, problem = await tried.ask(tried.served.tokens.operate, wrong)
    assert (status, problem["code"]) == (400, "ManifestsRejected")
    assert "Listener agency/lobby: spec.routes[0].when: cannot be parsed" in problem["detail"]


async def test_new_listener_does_nothing_before_the_change(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm"), name="garden"))
    assert run.code == 0, run.err
    assert "agency/garden (tenant acme) is not in force, so it does nothing before this" in run.out
    assert "no visit or repeat is stored since 2025-11-01 00:00 UTC" in run.out.replace("\n", " ")


async def test_listener_of_an_unknown_tenant_is_refused(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm"), name="garden", tenantRef={"name": "umbrella"}))
    assert (run.code, "Tenant `umbrella` is neither in force nor among the manifests" in run.said) == (2, True)


async def test_manifests_that_change_nothing_are_not_tried(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm")))
    assert (run.code, run.out) == (0, "1 listener of the manifests not tried: as in force, or not selected.\n")


async def test_mistyped_tenant_is_an_error(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm", when=HAS_EMAIL)), "--tenant", "acne")
    assert (run.code, "did you mean `acme`?" in run.err) == (2, True)


async def test_newest_visits_are_tried_if_there_are_too_many(tried: Tried) -> None:
    run = await tried.run(lobby(gateways.route("crm", "crm", when=HAS_EMAIL)), "--limit", "2")
    assert "the newest 2 of about 3 visits and repeats since 2025-11-01 00:00 UTC," in run.out.replace("\n", " ")
    assert run.out.splitlines()[3].split()[:5] == ["crm", "2", "1", "0", "1"]


async def test_visits_without_a_body_are_counted_and_not_tried(tried: Tried) -> None:
    bench = tried.served.bench
    await bench.accept(samples.arrival("old", body_days=1, if_visit=(samples.REPEAT,)))
    bench.clock.now = samples.NOW + 3 * samples.DAY
    await bench.prune_all()
    run = await tried.run(lobby(gateways.route("crm", "crm", when=HAS_EMAIL)))
    assert "Not tried: 1, because bodies were deleted at the end of their retention." in run.out
    assert run.out.startswith("agency/lobby (tenant acme): 3 visits and repeats")


def add_listener_of_globex(served: admin_port.Served) -> None:
    """Put the listener bar of another tenant, with the same destination, into force."""
    globex = documents.ListenerDocument(
        "agency",
        "bar",
        documents.TenantDocument("globex"),
        addresses=(),
        routes=(documents.Route("crm", "agency/crm"),),
    )
    in_force = served.state.snapshot
    served.state.apply(documents.Snapshot({**in_force.listeners, globex.key: globex}, in_force.destinations), 0)


async def test_limited_token_tries_the_visits_of_its_tenant_alone(tried: Tried) -> None:
    served = tried.served
    add_listener_of_globex(served)
    token = served.create_token("desk", [tokens.Scope.VisitsTry], tenants=("agency/acme",))
    status, answer = await tried.ask(token, crm("{'name': visit.firstName}"))
    assert (status, [each["listener"] for each in answer["listeners"]]) == (200, ["lobby"])
    _, everything = await tried.ask(served.tokens.operate, crm("{'name': visit.firstName}"))
    assert [each["listener"] for each in everything["listeners"]] == ["bar", "lobby"]
    theirs = lobby(gateways.route("crm", "crm"), name="bar", tenantRef={"name": "globex"})
    assert (await tried.ask(token, theirs))[0] == 403
    tenant = in_agency(gateways.TENANT | {"metadata": {"name": "globex"}})
    assert (await tried.ask(token, tenant))[0] == 403


async def test_limited_token_does_not_learn_of_the_destinations_of_others(tried: Tried) -> None:
    served = tried.served
    in_force = served.state.snapshot
    theirs = documents.DestinationDocument("agency", "globexcrm", "https://globex.example")
    served.state.apply(documents.Snapshot(in_force.listeners, {**in_force.destinations, theirs.key: theirs}), 0)
    token = served.create_token("desk", [tokens.Scope.VisitsTry], tenants=("agency/acme",))
    answers = [await tried.ask(token, lobby(gateways.route("crm", name))) for name in ("globexcrm", "nobody")]
    errors = [answer["listeners"][0]["routes"][0]["now"]["errors"] for _, answer in answers]
    assert errors == [{"DestinationNotFound": 3}] * 2


async def test_tries_of_tenants_take_turns_and_a_fifth_one_is_refused(tried: Tried) -> None:
    add_listener_of_globex(tried.served)
    store, may_end, tried_listeners = tried.served.bench.store, asyncio.Event(), []
    read_visits = store.visits

    async def wait_and_read(where: Filter, *arguments: Any) -> Any:
        tried_listeners.append(where.listener)
        await may_end.wait()
        return await read_visits(where, *arguments)

    acme, globex = [
        tried.served.create_token(name, [tokens.Scope.VisitsTry], tenants=(f"agency/{name}",))
        for name in ("acme", "globex")
    ]

    async def ask_until_one_is_refused(token: str) -> set[asyncio.Task[Any]]:
        tries = [asyncio.create_task(tried.ask(token, change)) for _ in range(5)]
        refused, waiting = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
        assert [(status, problem["code"]) for status, problem in [task.result() for task in refused]] == [
            (409, "TryRuns")
        ]
        return waiting

    change = crm("{'name': visit.firstName}")
    with mock.patch.object(store, "visits", wait_and_read):
        waiting = await ask_until_one_is_refused(acme) | await ask_until_one_is_refused(globex)
        may_end.set()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 8
    assert [listener for listener, _ in itertools.groupby(tried_listeners)] == ["lobby", "bar"] * 4


async def test_too_large_manifests_are_refused_before_they_are_sent(tried: Tried) -> None:
    routes = [gateways.route(f"r{number}", "crm", when=f"visit.email != '{'x' * 900}'") for number in range(30)]
    many = [lobby(*routes, name=f"lobby-{number}") for number in range(150)]
    gateways.write_manifests(tried.file, many)
    run = await tried.served.command("try", str(tried.file))
    assert (run.code, "the manifests are too large for one try" in run.err) == (2, True)


async def test_large_bodies_are_not_read_together(tried: Tried) -> None:
    store, read_bytes = tried.served.bench.store, list[int]()
    read_arrivals = store.stored_arrivals

    async def note_and_read(keys: Collection[int]) -> list[model.Arrival]:
        arrivals = await read_arrivals(keys)
        read_bytes.append(sum(len(arrival.body or b"") for arrival in arrivals))
        return arrivals

    for number in range(3, 6):
        large = ADA[:-1] + b',"text":"' + b"x" * 3_000_000 + b'"}'
        await tried.served.bench.accept(samples.arrival(str(number), samples.NOW + number, body=large))
    with mock.patch.object(store, "stored_arrivals", note_and_read):
        route = await tried.route(crm("{'name': visit.firstName}"))
    assert (route["now"]["sent"], route["now"]["skipped"]) == (3, {"Quarantined": 3})
    assert len(read_bytes) == 3
    assert max(read_bytes) < 5 * 1024 * 1024


async def test_suspended_tenant_holds_what_would_be_sent(tried: Tried) -> None:
    tenant = in_agency(gateways.TENANT | {"spec": {"state": "Suspended"}})
    route = await tried.route(tenant)
    assert (route["now"]["sent"], route["now"]["held"]) == (3, {"TenantSuspended": 3})
    assert (route["newlySkipped"], route["changed"]) == ({}, 0)


async def test_body_that_is_no_visit_any_more_is_skipped(tried: Tried) -> None:
    route = await tried.route(lobby(gateways.route("crm", "crm"), fields={"user": "/member/id"}))
    assert (route["now"]["sent"], route["newlySkipped"]) == (0, {"Quarantined": 3})


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"limit": 0}, "limit must be a number from 1 to 10000"),
        ({"diffs": 21}, "diffs must be a number from 0 to 20"),
        ({"since": "soon"}, "a time must look like"),
        ({"manifest": []}, "unknown field"),
    ],
)
async def test_wrong_question_is_refused(tried: Tried, question: dict[str, Any], message: str) -> None:
    status, problem = await tried.ask(tried.served.tokens.operate, **question)
    assert (status, message in problem["detail"]) == (400, True), problem


async def test_file_without_anything_to_try_is_refused(tried: Tried) -> None:
    run = await tried.run(gateways.secret("token", value="x"))
    assert (run.code, "there is no Listener, Tenant or Destination" in run.err) == (2, True)


async def test_missing_gateway_is_named(tried: Tried) -> None:
    run = await tried.run(crm("{'name': visit.firstName}"), "--admin", "http://127.0.0.1:1")
    assert (run.code, "no gateway answers at http://127.0.0.1:1" in run.err) == (1, True)


async def test_check_names_the_try_of_valid_listeners(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    gateways.write_manifests(file, gateways.one_route("https://crm.example"))
    run = await command_line.usher("check", str(file))
    assert (run.code, run.said) == (
        0,
        f"`usher try {file}` tries this on the visits that a running gateway has stored.",
    )
