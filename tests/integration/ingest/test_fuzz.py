"""Random and mutated bodies and requests: none gets a 5xx, only 200 has Purple's header, and each is counted once."""

import asyncio
import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from support import gateway as gateways
from support import leaks, wire

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
TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-16",
    "application/json; charset=iso-8859-1",
    "application/json; charset=punycode",
    "application/json; charset=zlib",
    "application/json; charset=\xe9",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
)
ENCODINGS = ("", "", "", "", "", "gzip", "deflate", "br", "identity", "gzip, deflate", "zstd")
ATOMS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18), 0.1, 1e308, 1.5e9, 1_764_000_000),
    *("", " ", "127", "007", "1e5", "²", "٣", "\0", "\ud800", "\U0001f600", "é", "e\u0301", "a" * 300, "0" * 25),
    *("2026-11-25T10:00:00Z", "2026-11-25T10:00:00", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59"),
    *("2026-11-25T10:00:00.5+01:00", "20261125", "1764000000", "1764000000000", "-0", "NaN", leaks.PERSON),
    *([], {}, [[]], [{}], {"": ""}, [1] * 50),
)


def sample(rng: random.Random) -> dict[str, Any]:
    """Build a body that Purple could send."""
    number = rng.randrange(100_000)
    return {
        "user": {
            "id": number if number % 2 else str(number),
            "firstName": leaks.PERSON,
            "email": f"{leaks.PERSON}{number}@example.test",
            "mobile": f"+99955{number}",
            "visitCountsForVenue": number % 5,
            "device": {"mac": f"06:5e:ed:00:00:{number % 256:02x}"},
            "venue": {"id": number % 7, "name": "Bar", "company": {"id": 77}},
            "loginDatetime": f"2026-11-{number % 28 + 1:02d}T10:00:00+01:00",
        },
        "extra": [{"key": "room", "value": number}],
    }


def mutated(value: Any, rng: random.Random, chance: float) -> Any:
    """Replace, drop, double or wrap some parts of a value."""
    if rng.random() < chance:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(ATOMS)
        if kind == 1:
            return [value] * rng.randrange(3)
        if kind == 2:
            return {"x": value}
        return str(value)
    if isinstance(value, dict):
        kept = {key: mutated(inner, rng, chance) for key, inner in value.items() if rng.random() > chance / 3}
        if rng.random() < chance:
            kept[rng.choice(("timestamp", "loginDatetime", "companyId", "", "\ud800", "user"))] = rng.choice(ATOMS)
        return kept
    if isinstance(value, list):
        return [mutated(inner, rng, chance) for inner in value]
    return value


def garbled(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, double or insert a few bytes."""
    result = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del result[at : at + rng.randrange(1, 40)]
        elif kind == 2:
            result[at:at] = rng.choice(SPLICES)
        elif kind == 3:
            result[at:at] = result[at : at + rng.randrange(1, 60)]
        elif kind == 4:
            del result[at:]
        else:
            result[at:at] = rng.randbytes(rng.randrange(1, 12))
    return bytes(result)


SPLICES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b"\t",
        b"%",
        b"[" * 70,
        b"{" * 3,
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"1e999",
    ),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"X: " + b"y" * 9000 + b"\r\n", b" HTTP/1.0", b"0\r\n\r\n", b"http://hooks.test"),
    *(b"9" * 30, b"-1", b"\xff\xfe", b"\xef\xbb\xbf", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
)


def odd_body(rng: random.Random) -> tuple[bytes, str, str]:
    """Build a body; return it with its Content-Type and Content-Encoding."""
    kind, content_type, encoding = rng.randrange(8), rng.choice(TYPES), rng.choice(ENCODINGS)
    if kind == 0:
        data = rng.randbytes(rng.randrange(200))
    else:
        charset = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"))
        document = mutated(sample(rng), rng, 0.08 if kind > 2 else 0.3)
        text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
        data = text.encode(charset, "surrogatepass")
        if kind == 1:
            data = garbled(data, rng)
    if encoding == "gzip" and rng.random() < 0.9:
        data = gzip.compress(data, 1, mtime=0)
    elif encoding == "deflate" and rng.random() < 0.9:
        data = zlib.compress(data, 1)
    if encoding and rng.random() < 0.2:
        data = garbled(data, rng)
    return data, content_type, encoding


async def _send_bodies(gateway: gateways.RunningGateway, seed: int, count: int) -> None:
    rng = random.Random(seed)
    target = gateway.target()
    async with wire.connect(gateway.port) as connection:
        for start in range(0, count, PIPELINED):
            bodies = [odd_body(rng) for _ in range(min(PIPELINED, count - start))]
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
        answers += await _exchange(gateway.port, garbled(data, rng), f"127.0.{seed % 50 + 1}.{number % 250 + 1}")
    return answers


def _plain_request(target: str, rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return wire.request(target, method=rng.choice(("GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT")))
    body, content_type, encoding = odd_body(rng)
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
