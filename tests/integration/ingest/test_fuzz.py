"""Random and mutated bodies and requests: none gets a 5xx, only 200 has Purple's header, and each is counted once."""

import asyncio
import random
from pathlib import Path

import pytest

from support import fuzz, wire
from support import gateway as gateways

pytestmark = pytest.mark.usefixtures("no_body_budgets")

LISTENER = gateways.LISTENER.replace(
    "  routes: []",
    """  fields: {occurredAtZone: Europe/London}
  dedupe: {per: [User, Venue, Device], windowSeconds: 600}
  routes:
  - name: plain
    destinationRef: {name: missing}
  - name: filtered
    destinationRef: {name: missing}
    when: visit.email != "" && (visit.visitCount == 1 || visit.firstName.startsWith("W"))
    oncePer: {per: [User], every: Day}
    deliverWithinSeconds: 86400
    repeats: Forward
  - name: shadow
    destinationRef: {name: missing}
    state: Shadow
    transform: '{"to": visit.email, "at": visit.occurredAt, "count": visit.visitCount, "body": body}'
""",
)
MANIFESTS = (
    gateways.CLASS
    + gateways.TENANT.replace("displayName: Acme", "companyID: '77', timeZone: America/New_York")
    + LISTENER
)
CONNECTIONS = 32
PIPELINED = 40


async def _send_bodies(gateway: gateways.RunningGateway, seed: int, count: int) -> None:
    rng = random.Random(seed)
    target = gateway.target()
    async with wire.connect(gateway.port) as connection:
        for start in range(0, count, PIPELINED):
            bodies = [fuzz.body(rng) for _ in range(min(PIPELINED, count - start))]
            connection.writer.write(b"".join(_request(target, *body) for body in bodies))
            for body in bodies:
                head = await connection.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK\r\nwifiWebhookListener: 1\r\nContent-Length: 0\r\n"), (
                    head,
                    body,
                )


def _request(target: str, body: bytes, content_type: str, encoding: str) -> bytes:
    named = f"Content-Type: {content_type}\r\n" if content_type else ""
    named += f"Content-Encoding: {encoding}\r\n" if encoding else ""
    head = f"POST {target} HTTP/1.1\r\nHost: hooks.test\r\n{named}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


async def _fuzz_bodies(folder: Path, seed: int, count: int) -> None:
    async with gateways.running(folder, MANIFESTS) as gateway:
        each = count // CONNECTIONS
        async with asyncio.TaskGroup() as tasks:
            for number in range(CONNECTIONS):
                tasks.create_task(_send_bodies(gateway, seed * 1000 + number, each))
        counted = {word: number for word, number in gateway.counted().items() if ":" not in word}
        assert sum(counted.values()) == each * CONNECTIONS
        meters = await gateway.meters()
        words = {"visits", "repeats", "redeliveries", "probes", "quarantined"}
        assert sum(count for word, count in meters.items() if word in words) == each * CONNECTIONS
        assert "refused" not in meters
        assert all(counted[word] > count // 1000 for word in ("visit", "repeat", "quarantined"))


@pytest.mark.timeout(600)
async def test_odd_bodies_are_answered_and_counted(tmp_path: Path) -> None:
    await _fuzz_bodies(tmp_path, seed=1, count=20_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_1_000_000_odd_bodies_are_answered_and_counted(tmp_path: Path, seed: int) -> None:
    await _fuzz_bodies(tmp_path, seed, count=100_000)


MEANT = {200, 400, 404, 405, 408, 413}


async def _send_requests(gateway: gateways.RunningGateway, seed: int, count: int) -> int:
    """Return the number of answers."""
    rng = random.Random(seed)
    answers = 0
    for number in range(count):
        data = b"".join(_plain_request(gateway.target(), rng) for _ in range(rng.randrange(1, 4)))
        answers += await _exchange(gateway.port, fuzz.garbled(data, rng), f"127.0.{seed % 50 + 1}.{number % 250 + 1}")
    return answers


def _plain_request(target: str, rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return wire.request(target, method=rng.choice(("GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT")))
    body, content_type, encoding = fuzz.body(rng)
    if kind == 1:
        return wire.chunked(target, [body[:7], body[7:]] if len(body) > 7 else [b"{}"])
    return _request(target, body, content_type, encoding)


async def _exchange(port: int, data: bytes, source: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(60):
            received = await reader.read(-1)
    finally:
        writer.transport.abort()
    heads = received.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").split(b"\r\n\r\n")
    assert heads.pop() == b""
    for head in heads:
        status = int(head.split(b" ")[1])
        assert status in MEANT, (data, head)
        assert (b"wifiWebhookListener: 1" in head) == (status == 200), (data, head)
    return len(heads)


async def _fuzz_requests(folder: Path, seed: int, count: int) -> None:
    async with gateways.running(folder, MANIFESTS) as gateway:
        async with asyncio.TaskGroup() as tasks:
            senders = [
                tasks.create_task(_send_requests(gateway, seed * 100 + number, count // CONNECTIONS))
                for number in range(CONNECTIONS)
            ]
        answers = sum(sender.result() for sender in senders)
        counted = gateway.counted()
        words = {"visit", "repeat", "redelivery", "probe", "quarantined"}
        total = sum(count for word, count in counted.items() if word in words or word.startswith("refused:"))
        assert total == answers
        assert counted["refused:BadRequest"] > count // 20
        assert "refused:InternalError" not in counted


@pytest.mark.timeout(600)
async def test_garbled_requests_are_answered_and_counted(tmp_path: Path) -> None:
    await _fuzz_requests(tmp_path, seed=1, count=2_500)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_200_000_garbled_requests_are_answered_and_counted(tmp_path: Path) -> None:
    await _fuzz_requests(tmp_path, seed=2, count=200_000)
