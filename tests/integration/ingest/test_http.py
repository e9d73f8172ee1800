"""Valid and invalid HTTP, byte by byte: answered, counted once, and closed if necessary."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from support import gateway as gateways
from support import leaks, waiting, wire
from usher_gateway.ingest import server

HOST = "Host: hooks.test\r\n"


def visit(user: int = 1) -> bytes:
    return json.dumps({"user": {"id": user, "firstName": leaks.PERSON, "venue": {"id": 9}}}).encode()


async def test_pipelined_requests_are_answered_in_order(gateway: gateways.RunningGateway) -> None:
    targets = [gateway.target() if number % 3 else "/nowhere" for number in range(200)]
    async with wire.connect(gateway.port) as connection:
        await connection.send(b"".join(wire.request(target, visit(n)) for n, target in enumerate(targets)))
        statuses = [(await connection.answer()).status for _ in targets]
    assert statuses == [200 if number % 3 else 404 for number in range(200)]
    assert gateway.counted() == {"visit": 133, "refused:NotFound": 67}


async def test_pipelined_requests_are_parsed_byte_by_byte(gateway: gateways.RunningGateway) -> None:
    data = wire.request(gateway.target(), visit(1)) + wire.chunked(gateway.target(), [visit(2)[:9], visit(2)[9:]])
    async with wire.connect(gateway.port) as connection:
        sending = asyncio.create_task(connection.send_slowly(data))
        assert (await connection.answer()).acknowledges
        assert (await connection.answer()).acknowledges
        await sending
    assert gateway.counted() == {"visit": 2}


async def test_http_1_0_is_answered_and_closed(gateway: gateways.RunningGateway) -> None:
    data = f"POST {gateway.target()} HTTP/1.0\r\n{HOST}Content-Length: {len(visit())}\r\n\r\n".encode() + visit()
    async with wire.connect(gateway.port) as connection:
        await connection.send(data)
        answer = await connection.answer()
        assert answer.acknowledges
        assert answer.headers["connection"] == "close"
        assert await connection.is_closed()


async def test_connection_close_header_closes_the_connection(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit(), headers={"Connection": "close"}))
        assert (await connection.answer()).headers["connection"] == "close"
        assert await connection.is_closed()


async def test_expected_100_continue_is_sent(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        data = wire.request(gateway.target(), visit(), headers={"Expect": "100-continue"})
        head, body = data[: -len(visit())], visit()
        await connection.send(head)
        assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await connection.send(body)
        assert (await connection.answer()).acknowledges
    assert gateway.counted() == {"visit": 1}


async def test_http_1_0_request_gets_no_100_continue(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        data = wire.request(gateway.target(), visit(), headers={"Expect": "100-continue"}).replace(b"/1.1", b"/1.0", 1)
        await connection.send(data[: -len(visit())])
        server = gateway.gateway.server
        await waiting.wait_until(
            lambda: not server.connections or any(open_connection.request for open_connection in server.connections)
        )
        await connection.send(visit())
        assert (await connection.answer()).acknowledges


async def test_refused_request_gets_no_100_continue(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        data = wire.request("/nowhere", visit(), headers={"Expect": "100-continue"})
        await connection.send(data[: -len(visit())])
        assert (await connection.answer()).status == 404
        assert await connection.is_closed()


async def test_host_is_found_in_every_valid_form(gateway: gateways.RunningGateway) -> None:
    for host in ("HOOKS.test", "hooks.test:8443", "hooks.test.", "hooks.test.:443", "hooks.test  ", "hooks.test:"):
        assert (await wire.exchange(gateway.port, wire.request(gateway.target(), visit(), host=host))).acknowledges, (
            host
        )
    for form in ("http://hooks.test{}", "https://HOOKS.test.:443{}"):
        data = wire.request(form.format(gateway.target()), visit(), host="elsewhere.test")
        assert (await wire.exchange(gateway.port, data)).acknowledges, form


BAD = {
    "two hosts": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nHost: other.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "the same host twice": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nHost: hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "no host": "POST {t} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}",
    "two lengths": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} ",
    "the same length twice": "POST {t} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}",
    "lengths in a list": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2, 2\r\n\r\n{{}}",
    "negative length": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: -2\r\n\r\n{{}}",
    "signed length": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: +2\r\n\r\n{{}}",
    "hexadecimal length": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 0x2\r\n\r\n{{}}",
    "endless length": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: " + "9" * 5000 + "\r\n\r\n{{}}",
    "length and chunks": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: hooks.test\r\n\r\n"
    ),
    "chunks and length": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
        "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: hooks.test\r\n\r\n"
    ),
    "hidden chunks": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "unknown coding": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding below chunks": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    ),
    "chunks in a string": (
        'POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: a;b=", chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n'
    ),
    "chunks in http 1.0": (
        "POST {t} HTTP/1.0\r\nHost: hooks.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
        "2\r\n{{}}\r\n0\r\n\r\n"
    ),
    "two codings": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\n"
    ),
    "folded header": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{{}}",
    "bare line feeds": "POST {t} HTTP/1.1\nHost: hooks.test\nContent-Length: 2\n\n{{}}",
    "space before the colon": "POST {t} HTTP/1.1\r\nHost : hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "no colon": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nnonsense\r\n\r\n",
    "null in a header": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{{}}",
    "null in a name": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nX\0A: b\r\nContent-Length: 2\r\n\r\n{{}}",
    "null in the target": "POST {t}\0 HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "endless headers": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\n" + "X-A: b\r\n" * 100_000,
    "a line of 65 KiB": "POST {t}" + "a" * 66_560 + " HTTP/1.1\r\nHost: hooks.test\r\n\r\n",
    "a header of 65 KiB": "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nX-A: " + "a" * 66_560 + "\r\n\r\n",
    "http/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    "tls": "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + "\0" * 100,
    "no version": "GET {t}\r\n\r\n",
    "unknown version": "GET {t} HTTP/3.7\r\nHost: hooks.test\r\n\r\n",
    "http 2 in words": "GET {t} HTTP/2.0\r\nHost: hooks.test\r\n\r\n",
    "unknown method": "PURPLE {t} HTTP/1.1\r\nHost: hooks.test\r\n\r\n",
    "method in lower case": "post {t} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "spaces in the target": "POST {t} x HTTP/1.1\r\nHost: hooks.test\r\n\r\n",
    "bytes in the target": "POST {t}\xff\xfe HTTP/1.1\r\nHost: hooks.test\r\n\r\n",
    "relative target": "POST nowhere HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "no authority": "POST http:///x HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 2\r\n\r\n{{}}",
    "bad chunk size": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        '5\r\n{{"a":\r\nxyz\r\n1}}\r\n0\r\n\r\n'
    ),
    "chunk longer than said": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}more\r\n0\r\n\r\n"
    ),
    "chunk size too large": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        "fffffffffffffffffff\r\n{{}}\r\n0\r\n\r\n"
    ),
    "endless trailers": (
        "POST {t} HTTP/1.1\r\nHost: hooks.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"
        + "X-A: b\r\n" * 100_000
    ),
    **{
        f"host {host}": f"POST {{t}} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{{{}}}}"
        for host in ("hooks .test", "hooks.test/a", "hooks.test?x", "user@hooks.test", "hooks.test:80a", "a]")
    },
}


async def test_invalid_http_gets_400_and_is_closed(gateway: gateways.RunningGateway) -> None:
    for name, form in BAD.items():
        async with wire.connect(gateway.port) as connection:
            await connection.send(form.format(t=gateway.target()).encode("latin-1"))
            answer = await connection.answer()
            assert (answer.status, answer.has_header) == (400, False), name
            assert answer.headers["connection"] == "close"
            assert await connection.is_closed(), name
    counted = gateway.counted()
    assert all(key.startswith("refused:") for key in counted)
    assert sum(counted.values()) == len(BAD)


async def test_bad_http_after_an_answered_request_gets_400(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit()))
        assert (await connection.answer()).acknowledges
        await connection.send(b"\0\0\0\r\n\r\n")
        assert (await connection.answer()).status == 400
        assert await connection.is_closed()
    assert gateway.counted() == {"visit": 1, "refused:BadRequest": 1}


async def test_requests_in_one_segment_with_bad_http_are_not_acknowledged(gateway: gateways.RunningGateway) -> None:
    """aiohttp drops the requests that it has parsed from such a segment."""
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit()) + b"\0\0\0\r\n\r\n")
        assert (await connection.answer()).status == 400
        assert await connection.is_closed()
    assert gateway.counted() == {"refused:BadRequest": 1}


@pytest.mark.parametrize(
    "extra",
    [
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: \r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    ],
)
async def test_upgrade_is_ignored_and_closes_the_connection(gateway: gateways.RunningGateway, extra: str) -> None:
    data = f"POST {gateway.target()} HTTP/1.1\r\n{HOST}{extra}Content-Length: {len(visit())}\r\n\r\n".encode() + visit()
    async with wire.connect(gateway.port) as connection:
        await connection.send(data)
        answer = await connection.answer()
        assert answer.acknowledges
        assert answer.headers["connection"] == "close"
        assert await connection.is_closed()
    assert gateway.counted() == {"visit": 1}


async def test_connect_is_refused_and_closed(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(b"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.has_header) == (404, False)
        assert await connection.is_closed()
    assert gateway.counted() == {"refused:NotFound": 1}


async def test_sender_that_half_closes_is_answered(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit(1)) + wire.request(gateway.target(), visit(2)))
        connection.send_eof()
        assert (await connection.answer()).acknowledges
        assert (await connection.answer()).acknowledges
        assert await connection.is_closed()
    # Most senders that close have given up, and these two look alike: what comes again is known as a redelivery.
    assert gateway.counted() == {"visit": 2, "unacknowledged": 2}


@pytest.mark.parametrize("cut", [10, 60])
async def test_header_cut_off_by_the_sender_is_no_arrival(gateway: gateways.RunningGateway, cut: int) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit())[:cut])
        connection.send_eof()
        assert await connection.is_closed()
    assert gateway.counted() == {}


async def test_body_cut_off_by_the_sender_is_refused_at_once(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit())[:-5])
        connection.send_eof()
        answer = await connection.answer()
        assert (answer.status, answer.has_header) == (400, False)
        assert await connection.is_closed()
    assert gateway.counted() == {"refused:Disconnected": 1}


@pytest.mark.parametrize("broken", [b"xyz\r\n", b"2\r\n{}more\r\n", b"0\r\n" + b"X-A: b\r\n" * 1000])
async def test_body_with_broken_chunks_is_refused_at_the_deadline(tmp_path: Path, broken: bytes) -> None:
    """aiohttp does not tell the handler that the rest of a body cannot be parsed."""
    limits = server.ServerLimits(answer_seconds=1.0)
    async with gateways.running(tmp_path, limits=limits) as gateway, wire.connect(gateway.port) as connection:
        await connection.send(wire.chunked(gateway.target(), [b'{"a"'])[:-5])
        await waiting.wait_until(
            lambda: any(open_connection.request for open_connection in gateway.gateway.server.connections)
        )
        await connection.send(broken)
        answer = await connection.answer()
        assert (answer.status, answer.has_header) == (408, False)
        assert await connection.is_closed()
        assert gateway.counted() == {"refused:BodyTimeout": 1}
        assert await gateway.meters() == {"refused": 1}


async def test_connection_without_a_request_is_not_an_arrival(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        connection.send_eof()
        assert await connection.is_closed()
    async with wire.connect(gateway.port) as connection:
        connection.abort()
    await waiting.wait_until(lambda: not gateway.gateway.server.connections)
    assert gateway.counted() == {}


async def test_body_cut_off_by_a_reset_is_refused(gateway: gateways.RunningGateway) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), visit())[:-5])
        await waiting.wait_until(
            lambda: any(open_connection.request for open_connection in gateway.gateway.server.connections)
        )
        connection.abort()
        await waiting.wait_until(lambda: gateway.counted() != {})
    assert gateway.counted() == {"refused:Disconnected": 1}


LARGE = 8 * 1024 * 1024


async def test_body_over_8_mib_gets_413(gateway: gateways.RunningGateway) -> None:
    for data in (
        wire.request(gateway.target(), b"x" * (LARGE + 1)),
        wire.chunked(gateway.target(), [b"x" * LARGE, b"x"]),
    ):
        async with wire.connect(gateway.port) as connection:
            sending = asyncio.create_task(connection.send(data))
            answer = await connection.answer()
            assert (answer.status, answer.has_header) == (413, False)
            assert answer.headers["connection"] == "close"
            await asyncio.gather(sending, return_exceptions=True)
    assert gateway.counted() == {"refused:TooLarge": 2}


async def test_inflated_body_over_the_limit_is_quarantined(gateway: gateways.RunningGateway) -> None:
    for size in (LARGE, LARGE + 1):
        assert (await gateway.post(gzip.compress(b"x" * size), Content_Encoding="gzip")).acknowledges
    assert gateway.counted() == {"quarantined": 2, "quarantined:Truncated": 2}


@pytest.mark.parametrize("target", ["/nowhere", ""])
async def test_refusal_reaches_a_sender_that_still_sends(gateway: gateways.RunningGateway, target: str) -> None:
    """Closing at once would reset the connection, and the reset would take the answer with it."""
    size = 1_000_000 if target else LARGE * 2
    data = wire.request(target or gateway.target(), b"x" * size)
    async with wire.connect(gateway.port) as connection:
        for start in range(0, len(data), 50_000):
            await connection.send(data[start : start + 50_000])
            await asyncio.sleep(0)
        answer = await connection.answer()
        assert answer.status == (404 if target else 413)
        assert answer.headers["connection"] == "close"
    assert sum(gateway.counted().values()) == 1


def test_limits_have_the_defaults_of_the_design() -> None:
    limits = server.ServerLimits()
    assert (limits.answer_seconds, limits.header_seconds) == (7.5, 5.0)
    assert server.HARD_LIMIT_BYTES == LARGE
