"""The operator asks hostnames whether they lead to a gateway, and says what is in the way."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from local_cluster import ports
from support import certificates, plan_reasons, plan_samples, waiting
from support import gateway as gateways
from usher_gateway import documents, settings
from usher_operator.report import route_check

HOSTNAME = "www.example.org"
PUBLIC = CERTIFICATE, KEY = certificates.make("public", HOSTNAME)
BALANCER = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}


class Names:
    """A name server's answers: the addresses of every hostname, or an error."""

    def __init__(self) -> None:
        self.addresses = ["127.0.0.1"]
        self.error = 0
        self.lookups = 0
        self.hanging: set[str] = set()  # Hostnames that get no answer until `released`
        self.released = threading.Event()
        self.answered: list[str] = []

    def look_up(self, hostname: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        self.lookups += 1
        if hostname in self.hanging:
            self.released.wait()
        self.answered.append(hostname)
        if self.error:
            raise socket.gaierror(self.error, "")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


class Site:
    """A listener with its own hostname, whose Ingress has the address 127.0.0.1."""

    def __init__(self) -> None:
        self.cluster = plan_samples.agency()
        plan_reasons.exposed(plan_samples.INGRESS, plan_reasons.EXTERNAL)(self.cluster)
        self.cluster.edit("Listener", plan_samples.LISTENER, **plan_reasons.address(HOSTNAME))
        self.cluster.settle()
        self.cluster.controllers_say("Ingress", BALANCER)
        self.cluster.settle()
        self.names, self.now, self.port = Names(), 0.0, ports.free()
        self.checker = route_check.RouteChecker(
            cache=self.cluster.cache,
            queue=self,  # type: ignore[arg-type]
            port=self.port,
            authority=CERTIFICATE.decode(),
            look_up=self.names.look_up,
            lookup_seconds=0.5,
            connect_seconds=1,
            answer_seconds=2,
            clock=lambda: self.now,
        )

    def add_all(self, keys: Iterable[Any]) -> None:
        """Queue keys, as the operator's queue."""
        self.cluster.queue.update(keys)

    async def check(self, seconds: float = 0) -> tuple[str, str]:
        """Check some seconds later; returns status and message of the condition, or nothing."""
        self.now += seconds
        await self.checker.check_due()
        self.cluster.settle()
        stored = self.cluster.raw("Listener", plan_samples.LISTENER)["status"]["conditions"]
        found = [(each["status"], each.get("message", "")) for each in stored if each["type"] == "Reachable"]
        return found[0] if found else ("", "")

    async def problem(self) -> str:
        """Return the message after the grace period."""
        assert await self.check() == ("", "")
        status, message = await self.check(route_check.GRACE_SECONDS)
        assert status == "False"
        return message


@pytest.fixture
def site() -> Site:
    return Site()


def server_context(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates.write(tmp_path, CERTIFICATE, KEY))
    return context


@contextlib.asynccontextmanager
async def serving(
    site: Site, tmp_path: Path, pair: tuple[bytes, bytes] = PUBLIC
) -> AsyncIterator[gateways.RunningGateway]:
    """Run a gateway where the hostname leads, with a certificate and its key."""
    cert, key = certificates.write(tmp_path, *pair)
    listen = settings.Endpoint("127.0.0.1", site.port)
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key, listen=listen) as gateway:
        yield gateway


@contextlib.asynccontextmanager
async def controller(site: Site, tmp_path: Path, status: int, *, seconds: float = 0) -> AsyncIterator[None]:
    """Serve the hostname as an Ingress controller without a gateway does."""

    async def answer(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(seconds)
        return web.Response(status=status, headers={"Location": "https://elsewhere.example/"})

    runner = web.ServerRunner(web.Server(answer, handler_cancellation=True))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", site.port, ssl_context=server_context(tmp_path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_hostname_that_leads_to_a_gateway_is_reachable(site: Site, tmp_path: Path) -> None:
    async with serving(site, tmp_path) as gateway:
        assert (await site.check())[0] == "True"
        assert gateway.counted() == {}, "the check is no arrival"
        assert await gateway.meters() == {}
    site.now += route_check._INTERVAL_SECONDS
    assert (await site.check())[0] == "True", "one failure is not reported"
    status, message = await site.check(route_check.GRACE_SECONDS)
    assert status == "False"
    assert "refuses connections: the controller of IngressClass `nginx`, or its proxy (Contour: Envoy)," in message
    async with serving(site, tmp_path):
        assert (await site.check(route_check._RETRY_SECONDS))[0] == "True"


CONTOUR = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "IngressClass",
    "metadata": {"name": "contour"},
    "spec": {"controller": "projectcontour.io/ingress-controller"},
}
SECONDS_BETWEEN_TICKS = 2


@pytest.mark.parametrize("closes_after_seconds", [0, 60])
async def test_changed_ingress_is_asked_at_once_and_often(
    site: Site, tmp_path: Path, closes_after_seconds: int
) -> None:
    """It keeps its old address, and the former controller may still serve it for a while."""
    async with serving(site, tmp_path):
        assert (await site.check())[0] == "True"
        site.cluster.put(CONTOUR)
        site.cluster.edit("ListenerClass", "public", exposure={"type": "Ingress", "ingress": {"className": "contour"}})
        site.cluster.settle()
        assert site.cluster.condition("ListenerClass", "public", "Exposed").status == "True"
        for _ in range(0, closes_after_seconds, SECONDS_BETWEEN_TICKS):
            assert (await site.check(SECONDS_BETWEEN_TICKS))[0] == "True"
    for _ in range(0, 50, SECONDS_BETWEEN_TICKS):
        status, message = await site.check(SECONDS_BETWEEN_TICKS)
    assert status == "False"
    assert "the controller of IngressClass `contour`" in message


async def test_hostname_that_lost_its_route_is_soon_not_called_reachable(site: Site, tmp_path: Path) -> None:
    async with serving(site, tmp_path):
        assert (await site.check())[0] == "True"
        plan_reasons.exposed({"type": "None"}, plan_reasons.EXTERNAL)(site.cluster)
        assert await site.check(SECONDS_BETWEEN_TICKS) == ("", "")


async def test_hostname_whose_route_settled_is_asked_every_ten_minutes(site: Site, tmp_path: Path) -> None:
    async with serving(site, tmp_path):
        await site.check()
        annotations = {"example.com/team": "hooks"}
        exposure = {"type": "Ingress", "ingress": {"className": "nginx", "annotations": annotations}}
        site.cluster.edit("ListenerClass", "public", exposure=exposure)
        site.cluster.settle()
        site.names.lookups = 0
        for _ in range(0, 600, SECONDS_BETWEEN_TICKS):
            await site.check(SECONDS_BETWEEN_TICKS)
    assert 5 <= site.names.lookups <= 10, "every 15 s for two minutes"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (404, "must lead to the Ingress controller"),
        (502, "gateway.networkPolicy.ingressFrom"),
        (504, "gateway.networkPolicy.ingressFrom"),
        (301, "redirects"),
        (200, "something in front answers"),
    ],
)
async def test_answer_of_something_else_names_the_likely_cause(
    site: Site, tmp_path: Path, status: int, cause: str
) -> None:
    async with controller(site, tmp_path, status):
        message = await site.problem()
    assert f"`{HOSTNAME}` answers {status}" in message
    assert cause in message


async def test_controller_that_waits_for_a_gateway_names_the_network_policy(site: Site, tmp_path: Path) -> None:
    async with controller(site, tmp_path, 504, seconds=60):
        assert "gateway.networkPolicy.ingressFrom" in await site.problem()


@pytest.mark.parametrize("status", [404, 503])
async def test_controller_without_a_ready_gateway_names_that_cause(site: Site, tmp_path: Path, status: int) -> None:
    site.cluster.set_gateways()
    async with controller(site, tmp_path, status):
        message = await site.problem()
    cause = "and no gateway is ready: at least one must run and be ready"
    assert message == f"`{HOSTNAME}` answers {status}, {cause}"


async def test_untrusted_certificate_is_named_if_the_route_works(site: Site, tmp_path: Path) -> None:
    async with serving(site, tmp_path, certificates.make("private", HOSTNAME)):
        message = await site.problem()
    assert "not trusted (self-signed certificate)" in message


async def test_port_without_tls_is_named(site: Site, tmp_path: Path) -> None:
    async with gateways.running(tmp_path, listen=settings.Endpoint("127.0.0.1", site.port)):
        assert "does not speak TLS" in await site.problem()


async def test_hostname_without_an_address_is_named(site: Site) -> None:
    site.names.error = socket.EAI_NONAME
    message = await site.problem()
    assert message.startswith(f"DNS has no address for `{HOSTNAME}`")
    assert "`127.0.0.1`" in message, "where it must lead"


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close a connection as Envoy does in the TLS handshake if it knows no such hostname."""
    writer.transport.abort()


async def test_controller_that_closes_connections_is_told_from_one_that_is_away(site: Site) -> None:
    async with await asyncio.start_server(reset, "127.0.0.1", site.port):
        message = await site.problem()
    assert "accepts connections and closes them" in message
    assert message.endswith("perhaps another controller has this address")


async def test_controller_that_closes_connections_may_reject_a_provided_certificate(site: Site) -> None:
    """Contour serves no hostname whose Secret has a key that does not belong to the certificate."""
    plan_reasons.provided(is_there=True)(site.cluster)
    site.cluster.controllers_say("Ingress", BALANCER)

    async with await asyncio.start_server(reset, "127.0.0.1", site.port):
        message = await site.problem()
    assert message.endswith(", or it rejects the certificate in Secret `wildcard`")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
    ids=["endless-interim-heads", "long-head", "not-http", "nothing"],
)
async def test_answer_without_a_final_head_is_none(site: Site, tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", site.port, ssl=server_context(tmp_path)):
        assert "ends the connection without an answer" in await site.problem()


async def test_name_server_that_never_answered_is_named(site: Site) -> None:
    site.names.error = socket.EAI_AGAIN
    assert (await site.problem()).startswith(f"DNS does not answer for `{HOSTNAME}`")


@contextlib.asynccontextmanager
async def running(site: Site) -> AsyncIterator[None]:
    """Run the checks; at the end the name server answers, because no thread can be cancelled."""
    checks = asyncio.create_task(site.checker.run())
    try:
        yield
    finally:
        checks.cancel()
        site.names.released.set()
        await asyncio.wait({checks})


async def test_name_server_that_hangs_delays_only_its_own_namespace(site: Site) -> None:
    """More hostnames of one namespace hang than there are threads for lookups."""
    hosts = [f"h{number}.example.org" for number in range(40)]
    site.cluster.add(plan_samples.tenant("evil", "attacker"))
    for host in hosts:
        raw = yaml.safe_load(plan_samples.listener(host.partition(".")[0], namespace="attacker", tenant="evil"))
        site.cluster.put({**raw, "spec": {**raw["spec"], **plan_reasons.address(host)}})
    site.cluster.settle()
    site.cluster.controllers_say("Ingress", BALANCER)
    site.cluster.settle()
    site.names.hanging = set(hosts)
    async with running(site):
        await waiting.wait_until(lambda: answers_later(site) >= 2, what="two answers for the neighbour")
        assert not site.names.hanging.intersection(site.names.answered)


def answers_later(site: Site) -> int:
    """Return how often the name server answered for the hostname, some time later."""
    site.now += route_check.GRACE_SECONDS
    return site.names.answered.count(HOSTNAME)


async def test_name_server_that_hangs_is_named(site: Site) -> None:
    site.names.hanging = {HOSTNAME}

    def problem_later() -> str:
        site.now += route_check.GRACE_SECONDS
        reachability = site.cluster.cache.reachability(HOSTNAME)
        return reachability.problem if reachability is not None else ""

    async with running(site):
        await waiting.wait_until(lambda: problem_later().startswith("DNS does not answer"), what="the problem")


async def test_silent_name_server_changes_nothing_that_was_known(site: Site, tmp_path: Path) -> None:
    async with serving(site, tmp_path):
        await site.check()
    site.names.error = socket.EAI_AGAIN
    for _ in range(3):
        assert (await site.check(route_check._INTERVAL_SECONDS))[0] == "True"


async def test_private_address_of_a_tenants_dns_is_not_asked(site: Site, tmp_path: Path) -> None:
    asked = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(reader)
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.2", site.port)
    async with server:
        site.names.addresses = ["127.0.0.2"]
        message = await site.problem()
    assert "private network" in message
    assert "only the cluster's name servers give this address" in message
    assert asked == []


async def test_other_order_of_addresses_keeps_the_message(site: Site) -> None:
    addresses = ["127.0.0.1", "127.0.0.2"]
    site.cluster.controllers_say("Ingress", {"loadBalancer": {"ingress": [{"ip": ip} for ip in addresses]}})
    site.names.addresses = addresses
    message = await site.problem()
    site.names.addresses = addresses[::-1]
    assert await site.check(route_check._RETRY_SECONDS) == ("False", message)


async def test_check_keeps_no_connection_open(site: Site, tmp_path: Path) -> None:
    is_closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n%s: 1\r\n\r\n" % documents.ROUTE_CHECK_HEADER.encode())
        with contextlib.suppress(OSError):
            await reader.read()
        is_closed.set()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", site.port, ssl=server_context(tmp_path)):
        running = asyncio.create_task(site.checker.run())
        async with asyncio.timeout(10):  # an idle connection would stay for 15 s
            await is_closed.wait()
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.parametrize("address", ["168.63.129.16", "224.0.0.1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fec0::1"])
async def test_address_that_is_forbidden_to_destinations_is_not_asked(site: Site, address: str) -> None:
    site.names.addresses = [address]
    assert f"to `{address}`, which only a private network can reach" in await site.problem()


async def test_hostname_without_a_route_is_not_checked(site: Site) -> None:
    site.names.error = socket.EAI_NONAME
    plan_reasons.exposed({"type": "None"}, plan_reasons.EXTERNAL)(site.cluster)
    assert await site.check() == ("", "")
    assert await site.check(route_check.GRACE_SECONDS) == ("", "")


@pytest.mark.parametrize("exposure", [{"type": "Ingress", "ingress": {"className": "typo"}}, plan_samples.HTTP_ROUTE])
async def test_ingress_that_stays_is_checked(site: Site, exposure: dict[str, Any]) -> None:
    """It serves until there is an IngressClass of the new name, or a Gateway accepts the route in its place."""
    site.names.error = socket.EAI_NONAME
    message = await site.problem()
    site.cluster.edit("ListenerClass", "public", exposure=exposure)
    site.cluster.settle()
    assert site.cluster.condition("ListenerClass", "public", "Exposed").status != "True"
    assert await site.check(route_check._RETRY_SECONDS) == ("False", message)


async def test_new_leader_keeps_the_condition_until_it_has_asked(site: Site) -> None:
    site.names.error = socket.EAI_NONAME
    message = await site.problem()
    restarted = site.cluster.restarted()
    restarted.settle()
    condition = restarted.condition("Listener", plan_samples.LISTENER, "Reachable")
    assert (condition.status, condition.message) == ("False", message)


async def test_class_has_the_condition_of_its_own_hostname(site: Site) -> None:
    site.cluster.edit("Listener", plan_samples.LISTENER, addresses=None)
    site.cluster.settle()
    site.cluster.controllers_say("Ingress", BALANCER)
    site.names.error = socket.EAI_NONAME
    await site.check()
    assert await site.check(route_check.GRACE_SECONDS) == ("", "")
    condition = site.cluster.condition("ListenerClass", "public", "Reachable")
    assert (condition.status, condition.reason) == ("False", "Unreachable")
    assert "hooks.example.com" in condition.message


def test_path_of_the_check_is_below_the_prefix_that_every_route_has() -> None:
    assert documents.ROUTE_CHECK_PATH.startswith(documents.TOKEN_PREFIX)
