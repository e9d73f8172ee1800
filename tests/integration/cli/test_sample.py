"""`usher destinations test` sends a marked sample, and leaves no trace in books, metrics or conditions."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import command_line, source, waiting
from support import gateway as gateways
from usher_gateway.delivery import activity, sample

SECRET = "sample-signing-key"
MANIFESTS = (
    gateways.MANIFESTS.replace(
        "routes: []",
        """routes:
  - {name: crm, destinationRef: {name: crm}, transform: "{'id': body.user.id}"}
  - {name: raw, destinationRef: {name: crm}}
  - {name: stopped, destinationRef: {name: crm}, state: Paused}
  - {name: silent, destinationRef: {name: crm}, state: Shadow}
  - {name: strict, destinationRef: {name: crm}, when: body.user.level > 3}""",
    )
    + """
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: agency}
stringData: {signing: sample-signing-key, token: Bearer sesame, agent: agent-with-a-secret}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm, namespace: agency}
spec:
  type: HTTP
  http:
    url: "URL"
    headers:
    - {name: authorization, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    - {name: user-agent, valueFrom: {secretKeyRef: {name: keys, key: agent}}}
    signing: {secretRefs: [{name: keys, key: signing}]}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: ruled, namespace: agency}
spec:
  type: HTTP
  http:
    url: "URL"
    answers:
    - {status: [500], effect: Dead}
    - {when: answer.body == "thank you", effect: Throttle}
    - {when: answer.body.errors > 0, effect: Dead}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: unused, namespace: agency}
spec: {type: HTTP, http: {url: "URL"}}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: private, namespace: agency}
spec: {type: HTTP, http: {url: "http://10.1.2.3/in"}}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: broken, namespace: agency}
spec: {type: HTTP, http: {url: "URL", signing: {secretRefs: [{name: absent, key: signing}]}}}
"""
)


class Receiver:
    """A destination that keeps what it receives, and answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.repeats_request = False
        self.text = "thank you"
        self.received: list[tuple[dict[str, str], bytes]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.received.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        text = f"{request.url} {dict(request.headers)}" if self.repeats_request else self.text
        return web.Response(status=self.status, text=text)


class Bench:
    def __init__(self, gateway: gateways.RunningGateway, receiver: Receiver) -> None:
        self.gateway, self.receiver = gateway, receiver

    async def test(self, *arguments: str) -> command_line.CommandRun:
        return await self.usher("test", *arguments)

    async def usher(self, command: str, *arguments: str) -> command_line.CommandRun:
        return await self.gateway.command("destinations", command, *arguments)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    receiver = Receiver()
    async with test_utils.RawTestServer(receiver.answer) as destination:
        manifests = MANIFESTS.replace("URL", str(destination.make_url("/in/a-very-secret-path?key=secret%2Bkey")))
        async with gateways.running(tmp_path, manifests) as gateway:
            await gateway.wait_configured()
            yield Bench(gateway, receiver)


async def test_sample_takes_the_way_of_a_visit_and_is_marked(bench: Bench) -> None:
    run = await bench.test("agency/crm")
    assert run.code == 0, run.err
    ((headers, body),) = bench.receiver.received
    assert json.loads(body) == {"id": 9999999}
    assert (headers["usher-test"], headers["usher-route"], headers["authorization"]) == ("true", "crm", "Bearer sesame")
    assert headers["webhook-signature"].startswith("v1,")
    assert "status 200 after" in run.out
    assert "a visit would be delivered" in run.out
    assert "thank you" in run.out
    assert headers["webhook-id"] in run.out


async def test_sample_shows_what_the_rules_made_of_the_answer(bench: Bench) -> None:
    run = await bench.test("agency/ruled")
    assert (run.code, "a visit would be tried again (ThrottledByRule)" in run.out) == (1, True)
    assert "Rule 2 of http.answers decided." in run.out
    bench.receiver.repeats_request = True
    run = await bench.test("agency/ruled")
    assert "a visit would be tried again (RuleFailed)" in run.out
    assert "Rule 3 of http.answers cannot be evaluated: " in run.out


async def test_sample_to_a_forbidden_address_names_flag_and_chart_value(bench: Bench) -> None:
    run = await bench.test("agency/private")
    assert "a visit would be tried again (AddressForbidden)" in run.out
    assert "--allow-destination (in the chart: gateway.allowDestinations)" in " ".join(run.out.split())


async def test_sample_shows_no_credential(bench: Bench) -> None:
    bench.receiver.repeats_request = True  # as some test systems do
    run = await bench.test("agency/crm", "-o", "json")
    assert json.loads(run.out)["request"]["url"].endswith("/in/a-ve…?key=…")
    for secret in ("sesame", SECRET, "a-very-secret-path", "agent-with-a-secret", "secret%2Bkey", "secret+key"):
        assert secret not in run.out + run.err
    assert "Bearer …" in json.loads(run.out)["answer"]


async def test_sample_shows_no_command_to_the_terminal(bench: Bench, tmp_path: Path) -> None:
    bench.receiver.text = "good\x1b]0;owned\x07\r\n\x1b[2Jbye\u202e"
    body = tmp_path / "body.json"
    body.write_text('{"user":{"id":"7"}} \x1b[2J')
    run = await bench.test("agency/crm", "--route", "raw", "--body", str(body))
    assert run.code == 0
    assert "good\ufffd]0;owned\ufffd\n\ufffd[2Jbye\ufffd\n" in run.out
    assert '{"user":{"id":"7"}} \ufffd[2J\n' in run.out


async def test_sample_is_stored_and_counted_nowhere(bench: Bench) -> None:
    bench.receiver.status = 410
    for destination in ("agency/crm", "agency/unused"):
        run = await bench.test(destination)
        assert run.code == 1
        assert "a visit would be dead at once (Gone)" in run.out
    gateway = bench.gateway.gateway
    assert await bench.gateway.meters() == {}
    assert (gateway.worker.counters.outcomes, gateway.worker.counters.errors) == ({}, {})
    assert not activity.is_tried(gateway.worker.activity.of(gateway.snapshot.destinations["agency/crm"]))
    assert await gateway.store.due() == {}
    rows = (await bench.usher("list", "-o", "json")).out
    assert {row["health"] for row in json.loads(rows)["rows"] if row["name"] == "crm"} == {"NotTried"}
    assert "Nothing is stored or counted." in (await bench.usher("test", "--help")).out
    page = (source.DOCS / "conditions.md").read_text("utf-8")
    (said,) = re.findall(r"^\| `Healthy` \| Unknown \| `NotTried` \|.*", page, re.MULTILINE)
    assert "`usher destinations test` sends a sample, which this condition does not count" in said


async def test_route_body_and_destination_can_be_chosen(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    file.write_text('{"user": {"id": 4}}')
    assert (await bench.test("agency/crm", "--route", "raw", "--listener", "wifi", "--body", str(file))).code == 0
    run = await bench.test("unused")
    assert "No route leads to this destination yet, so no transform of a route was tried." in run.out
    assert [body for _, body in bench.receiver.received] == [b'{"user": {"id": 4}}', sample.VISIT]


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ("stopped", "This route is paused: its visits are skipped."),
        ("silent", "This route is in shadow mode: its visits are skipped."),
        ("strict", "This route holds its deliveries now (FilterError); the filter was not asked."),
        ("raw", ""),
    ],
)
async def test_sample_says_why_its_route_sends_no_visits_now(bench: Bench, route: str, said: str) -> None:
    assert (await bench.gateway.post(b'{"user": {"id": 4}}')).acknowledges
    held_routes, listeners = bench.gateway.gateway.held_routes, bench.gateway.gateway.registry.listeners
    await waiting.wait_until(lambda: held_routes.of(listeners["agency/wifi"].name))
    run = await bench.test("agency/crm", "--route", route)
    assert (run.code, "a visit would be delivered" in run.out) == (0, True)
    shown = " ".join(run.out.split())
    assert (shown.count("This route "), said in shown) == (1 if said else 0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agency/crn"], "did you mean `agency/crm`?"),
        (["crn"], "there is no destination `crn`"),
        (["agency/crm", "--route", "rau"], "did you mean `raw`?"),
        (["agency/unused", "--route", "raw"], "no such route leads to the destination `agency/unused`"),
        (["agency/broken"], "lacks a secret: Secret `absent` must exist in the same namespace"),
    ],
)
async def test_wrong_question_says_what_to_do(bench: Bench, arguments: list[str], said: str) -> None:
    run = await bench.test(*arguments)
    assert run.code == 2
    assert said in run.said
    assert bench.receiver.received == []


async def test_transform_that_fails_is_named(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    file.write_text('{"user": {"name": "x"}}')
    run = await bench.test("agency/crm", "--body", str(file))
    assert run.code == 2
    assert "the transform or a variable of the URL failed for agency/wifi, route crm: " in run.said
