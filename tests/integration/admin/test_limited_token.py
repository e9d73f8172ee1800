"""A token that is limited to one tenant learns nothing of others and changes nothing of theirs, in any request."""

import json
from typing import Any

import pytest

from support import admin_port, samples, waiting
from support.admin_port import EMAIL, person_of
from usher_gateway import model
from usher_gateway.access import audit, tokens
from usher_gateway.delivery import stepping
from usher_gateway.store.base import ErasureRequest, Filter, Link
from usher_gateway.store.jobs import links, replays

# Names that only the other tenant has: tenant, listener, route, destination.
THEIRS = ("globex", "bar", "welcome", "mailer")


class Limited:
    """An admin port with visits of two tenants, and a token that permits everything for one of them."""

    def __init__(self, served: admin_port.Served) -> None:
        self.served = served
        self.token = served.create_token("desk", list(tokens.Scope), tenants=("agency/acme",))

    async def ask(self, method: str, path: str, selection: Any = None) -> tuple[int, Any]:
        return await self.served.ask(method, path, token=self.token, json=selection)

    async def get(self, path: str) -> Any:
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        return answer


@pytest.fixture
async def limited(empty: admin_port.Served) -> Limited:
    bench = empty.bench
    bar: dict[str, Any] = {"listener": samples.BAR, "person_keys": (person_of(samples.BAR),)}
    mailer = samples.route("welcome", samples.BAR, "agency/mailer")
    accepted = await bench.accept(
        samples.arrival("ours", person_keys=(person_of(samples.LOBBY),)),
        samples.arrival("theirs", if_visit=(samples.plan(mailer),), **bar),
        samples.arrival("theirs too", if_visit=(samples.skip(model.SkipReason.Paused, mailer),), **bar),
        samples.quarantined("odd", listener=samples.BAR),
    )
    for each in accepted[:2]:
        bench.store.settle(
            samples.settlement(each.deliveries[0], model.SettledAs.Dead, status=400, error="Rejected", answer=b"no")
        )
    await bench.store.flush()
    return Limited(empty)


@pytest.mark.parametrize(
    "path",
    [
        *("/api/visits", "/api/deliveries", "/api/quarantine", "/api/replays", "/api/tenants", "/api/listeners"),
        *(
            "/api/destinations",
            "/api/usage",
            "/api/usage?by=tenant",
            "/api/usage?by=venue",
            "/api/usage?together=true&by=tenant",
        ),
    ],
)
async def test_lists_name_nothing_of_another_tenant(limited: Limited, path: str) -> None:
    everything = json.dumps(await limited.served.get(path), default=str)
    ours = json.dumps((await limited.ask("GET", path))[1], default=str)
    assert [name for name in THEIRS if name in ours] == []
    if path.startswith(("/api/visits", "/api/deliveries", "/api/usage")):
        assert "globex" in everything
        assert "acme" in ours


BY_ID = [
    *("/api/visits/{visit}/body", "/api/visits/{visit}/story", "/api/visits/{visit}/reading"),
    *("/api/deliveries/{delivery}/attempts", "/api/deliveries/{delivery}/answer"),
    "/api/deliveries?visit={visit}",
]


@pytest.mark.parametrize("path", BY_ID)
async def test_id_of_another_tenant_is_answered_like_one_that_does_not_exist(limited: Limited, path: str) -> None:
    (delivery,) = (await limited.served.get("/api/deliveries?tenant=globex"))["rows"]
    theirs = {"visit": delivery["visit"], "delivery": delivery["id"]}
    unknown = dict.fromkeys(theirs, "01920000-0000-7000-8000-000000000001")
    assert (await limited.served.ask("GET", path.format(**theirs)))[0] == 200
    refused = await limited.ask("GET", path.format(**theirs))
    assert refused[0] == 404
    assert refused == await limited.ask("GET", path.format(**unknown))
    (own,) = (await limited.get("/api/deliveries"))["rows"]
    assert (await limited.ask("GET", path.format(visit=own["visit"], delivery=own["id"])))[0] == 200
    audited = (await limited.served.get("/api/audit"))["rows"]
    assert delivery["id"] not in json.dumps([row for row in audited if row["who"] == "desk"])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("tenant", "globex"), ("listener", "bar"), ("route", "welcome"), ("destination", "agency/mailer")],
)
async def test_name_of_another_tenant_is_answered_like_one_that_does_not_exist(
    limited: Limited, name: str, theirs: str
) -> None:
    assert (await limited.served.ask("GET", f"/api/visits?{name}={theirs}"))[0] == 200
    for asked in (theirs, theirs[:-1] + "q"):
        status, problem = await limited.ask("GET", f"/api/visits?{name}={asked}")
        assert (status, problem["code"]) == (404, "UnknownName")
        assert theirs not in problem.get("hint", "")


async def test_person_is_found_at_the_own_tenant_only(limited: Limited) -> None:
    everywhere = await limited.served.post("/api/persons/find", value=EMAIL)
    status, own = await limited.ask("POST", "/api/persons/find", {"value": EMAIL})
    assert (status, [row["tenant"] for row in own["rows"]], own["tenants"]) == (200, ["acme"], 1)
    assert {row["tenant"] for row in everywhere["rows"]} == {"acme", "globex"}
    assert own["since"] == own["rows"][0]["receivedAt"], "not the oldest arrival of another tenant"
    assert (await limited.ask("POST", "/api/persons/find", {"value": EMAIL, "tenant": "globex"}))[0] == 404


@pytest.mark.parametrize(
    "change", ["deliveries/redrive", "deliveries/cancel", "deliveries/retry", "quarantine/release"]
)
async def test_change_of_everything_changes_nothing_of_another_tenant(limited: Limited, change: str) -> None:
    unchanged = (await limited.served.get("/api/deliveries?tenant=globex"))["rows"]
    assert (await limited.ask("POST", f"/api/{change}", {"all": True}))[0] == 200
    ids = [unchanged[0]["visit" if change.startswith("quarantine") else "id"]]
    status, answer = await limited.ask("POST", f"/api/{change}", {"ids": ids})
    assert (status, sum(count for count in answer.values() if isinstance(count, int))) == (200, 0)
    assert (await limited.served.get("/api/deliveries?tenant=globex"))["rows"] == unchanged


async def test_replay_stays_within_the_limit_and_is_seen_within_it(limited: Limited) -> None:
    asked = {"all": True, "state": "dead", "reason": "Paused"}
    status, preview = await limited.ask("POST", "/api/replays", {**asked, "dryRun": True})
    assert (status, preview["selected"], {row["tenant"] for row in preview["sample"]}) == (200, 1, {"acme"})
    status, started = await limited.ask("POST", "/api/replays", asked)
    path = f"/api/replays/{started['id']}"
    done = await waiting.until(lambda: limited.get(path), lambda row: row["state"] == "done")
    assert (status, done["created"]) == (201, 1)
    _, theirs = await limited.served.ask("POST", "/api/replays", json={"tenant": "globex", "state": "dead"})
    assert [row["id"] for row in (await limited.get("/api/replays"))["rows"]] == [started["id"]]
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/resume")):
        assert (await limited.ask(method, f"/api/replays/{theirs['id']}{path}"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/config"),
        ("GET", "/api/audit"),
        ("GET", "/api/usage/check"),
        ("POST", "/api/destinations/test"),
    ],
)
async def test_request_about_all_tenants_is_refused(limited: Limited, method: str, path: str) -> None:
    status, problem = await limited.ask(method, path, {} if method == "POST" else None)
    assert (status, "is limited to some tenants" in problem["detail"]) == (403, True)


async def test_replay_is_seen_with_its_limit_or_a_wider_one(limited: Limited) -> None:
    served = limited.served
    wider = served.create_token("lead", list(tokens.Scope), namespaces=("agency",))
    _, narrow = await limited.ask("POST", "/api/replays", {"all": True, "state": "dead"})
    _, wide = await served.ask("POST", "/api/replays", token=wider, json={"all": True, "state": "dead"})
    _, all_seen = await served.ask("GET", "/api/replays", token=wider)
    assert {row["id"] for row in all_seen["rows"]} == {narrow["id"], wide["id"]}
    assert [row["id"] for row in (await limited.get("/api/replays"))["rows"]] == [narrow["id"]]


async def test_tenants_of_a_token_have_a_limited_number_of_unfinished_replays(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_no_step(*_: object) -> float:
        return 5.0

    monkeypatch.setattr(stepping.ReplaySteps, "_take", take_no_step)
    served, asked = limited.served, {"all": True, "state": "dead"}
    store, now = served.bench.store, served.bench.clock.now
    where = Filter(permitted=frozenset({"agency/acme"}))
    requests = [served.bench.replay_request(where=where)] * replays.MOST_RUNNING
    first, *_ = [await store.start_replay(request, now) for request in requests]
    status, problem = await limited.ask("POST", "/api/replays", asked)
    assert (status, problem["code"]) == (429, "TooManyReplays")
    assert (await served.ask("POST", "/api/replays", json=asked | {"tenant": "globex"}))[0] == 201
    path = f"/api/replays/{model.format_id(first.id)}"
    assert (await limited.ask("POST", f"{path}/cancel"))[0] == 200
    assert (await limited.ask("POST", "/api/replays", asked))[0] == 201
    await store.start_replay(requests[0], now)
    status, problem = await limited.ask("POST", f"{path}/resume")
    assert (status, problem["code"]) == (429, "TooManyReplays")


async def test_tenant_has_a_limited_number_of_links(limited: Limited) -> None:
    served = limited.served
    now = served.bench.clock.now
    for number in range(links.MOST_OF_TENANT - 1):
        link = Link(id=f"{number}", tenant="agency/acme", created_at=now, expires_at=now + 1, shows_visits=False)
        await served.bench.store.add_link(link, samples.digest(link.id))
    answers = [await limited.ask("POST", "/api/links", {"tenant": "agency/acme"}) for _ in range(2)]
    assert [(status, answer.get("code")) for status, answer in answers] == [(201, None), (429, "TooManyLinks")]


async def test_tenants_of_a_token_cause_a_limited_number_of_audit_entries(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_ENTRIES_AT_ONCE", 3)
    monkeypatch.setattr(audit, "_ENTRIES_PER_SECOND", 0.001)
    too = limited.served.create_token("too", list(tokens.Scope), tenants=("agency/acme",))
    cancel = ("POST", "/api/deliveries/cancel", {"all": True})
    assert [(await limited.ask(*cancel))[0] for _ in range(3)] == [200] * 3
    status, problem = await limited.served.ask(*cancel[:2], token=too, json=cancel[2])
    assert (status, problem["code"]) == (429, "TooManyChanges")
    path = f"/api/visits/{(await limited.get('/api/visits'))['rows'][0]['id']}/body"
    assert (await limited.ask("GET", path))[0] == 429
    assert (await limited.served.ask(*cancel[:2], json=cancel[2]))[0] == 200


async def test_customers_with_a_link_cause_no_limit_for_others(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_ENTRIES_AT_ONCE", 1)
    monkeypatch.setattr(audit, "_ENTRIES_PER_SECOND", 0.001)
    scopes = frozenset({tokens.Scope.VisitsInitials})
    customer = tokens.Caller("link a", scopes, frozenset({"agency/acme"}), is_link=True)
    token = tokens.seal_caller(limited.served.seals, customer)
    answers = [await limited.served.ask("GET", "/api/visits/initials", token=token) for _ in range(3)]
    assert [status for status, _ in answers] == [200] * 3
    assert (await limited.ask("POST", "/api/deliveries/cancel", {"all": True}))[0] == 200


async def test_preview_of_a_replay_shows_visits_only_with_that_scope(limited: Limited) -> None:
    writer = limited.served.create_token("writer", [tokens.Scope.DeliveriesWrite])
    for token, shows in ((writer, False), (None, True)):
        status, preview = await limited.served.ask(
            "POST", "/api/replays", **({"token": token} if token else {}), json={"all": True, "dryRun": True}
        )
        assert (status, preview["selected"] > 0, bool(preview["sample"])) == (200, True, shows)


async def test_initials_are_those_of_the_own_tenants(limited: Limited) -> None:
    own, everywhere = await limited.get("/api/visits/initials"), await limited.served.get("/api/visits/initials")
    assert {row["tenant"] for row in own["rows"]} == {"acme"}
    assert {row["tenant"] for row in everywhere["rows"]} == {"acme", "globex"}
    assert (await limited.ask("GET", "/api/visits/initials?tenant=globex"))[0] == 404


async def test_erasure_at_no_tenant_is_seen_by_who_requested_it(limited: Limited) -> None:
    store = limited.served.bench.store
    theirs, own = [
        await store.start_erasure(
            ErasureRequest(persons=(bytes(8),), tenants=(), fields=("email",), requested_by=name), samples.NOW
        )
        for name in ("other desk", "desk")
    ]
    rows = (await limited.get("/api/persons/erasures"))["rows"]
    assert [row["id"] for row in rows] == [model.format_id(own.id)]
    path = f"/api/persons/erasures/{model.format_id(theirs.id)}"
    assert (await limited.ask("GET", path))[0] == 404
    assert (await limited.ask("POST", f"{path}/cancel"))[0] == 404
    assert (await limited.served.ask("GET", path))[0] == 200
