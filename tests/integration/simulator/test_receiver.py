"""The receiver counts, verifies, and misbehaves as configured; all on loopback."""

import asyncio
import base64
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from support import waiting
from usher_gateway import model, simulator

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
USHER = Path(sys.executable).with_name("usher")


@pytest.fixture
async def receiving() -> AsyncIterator[simulator.Receiver]:
    async with simulator.Receiver(simulator.ReceiverSettings(keep=True)) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as opened:
        yield opened


async def _post(session: aiohttp.ClientSession, url: str, body: bytes = b"{}", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(url, data=body, headers=named, allow_redirects=False) as response:
        await response.read()
        return response.status


async def _raw(port: int, seconds: float = 60) -> bytes:
    """Return the bytes that a request gets within a time limit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
    got = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while part := await reader.read(65_536):
                got += part
    except TimeoutError:
        got += b"<still open>"
    finally:
        writer.close()
    return bytes(got)


async def _wait_received(receiving: simulator.Receiver, count: int) -> None:
    """Wait until the path /x has received this many requests."""

    async def received() -> int:
        return receiving.counts("/x").received

    await waiting.until(received, lambda so_far: so_far >= count, every_seconds=0.005)


async def test_success_header_is_sent_with_2xx_only(session: aiohttp.ClientSession) -> None:
    settings = simulator.ReceiverSettings(usual=simulator.Behaviour(success_header=True))
    async with simulator.Receiver(settings) as receiving:
        async with session.post(f"{receiving.url}/x") as response:
            assert response.headers["wifiWebhookListener"] == "1"
        receiving.set_behaviour("/x", simulator.Behaviour(status=500, success_header=True))
        async with session.post(f"{receiving.url}/x") as response:
            assert "wifiWebhookListener" not in response.headers


@pytest.mark.parametrize(
    ("behaviour", "name", "value"),
    [
        (simulator.Behaviour(status=429, retry_after="30"), "Retry-After", "30"),
        (simulator.Behaviour(status=307, location="https://h.example/"), "Location", "https://h.example/"),
        (simulator.Behaviour(status=410), "Content-Length", "0"),
    ],
)
async def test_answer_has_the_configured_status_and_headers(
    receiving: simulator.Receiver, session: aiohttp.ClientSession, behaviour: simulator.Behaviour, name: str, value: str
) -> None:
    receiving.set_behaviour("/x", behaviour)
    async with session.post(f"{receiving.url}/x", allow_redirects=False) as response:
        assert (response.status, response.headers[name]) == (behaviour.status, value)


async def test_request_of_a_peer_that_left_is_not_taken(
    receiving: simulator.Receiver, session: aiohttp.ClientSession
) -> None:
    receiving.set_behaviour("/x", simulator.Behaviour(delay_seconds=1))
    start = asyncio.get_running_loop().time()
    assert await _post(session, f"{receiving.url}/x") == 200
    assert asyncio.get_running_loop().time() - start >= 1
    leaving = asyncio.create_task(_post(session, f"{receiving.url}/x"))
    await _wait_received(receiving, 2)
    leaving.cancel()
    assert await _post(session, f"{receiving.url}/x") == 200
    assert (receiving.counts("/x").received, receiving.counts("/x").taken) == (3, 2)


async def test_stop_does_not_wait_for_a_hanging_answer(receiving: simulator.Receiver) -> None:
    receiving.set_behaviour("/x", simulator.Behaviour(kind="Hang"))
    assert await _raw(receiving.port, 0.2) == b"<still open>"
    hanging = asyncio.create_task(_raw(receiving.port))
    await _wait_received(receiving, 2)
    async with asyncio.timeout(30):
        await receiving.stop()
        assert await hanging == b""


async def test_too_large_body_is_rejected_and_not_kept(
    receiving: simulator.Receiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usher_gateway.simulator.receiver.MAX_BODY_BYTES", 200_000)
    assert await _post(session, f"{receiving.url}/x", b"x" * 200_000) == 200
    assert await _post(session, f"{receiving.url}/x", b"x" * 200_001) == 413
    assert [len(each.body) for each in receiving.kept("/x")] == [200_000]


async def test_control_endpoint_changes_the_behaviour(
    receiving: simulator.Receiver, session: aiohttp.ClientSession
) -> None:
    control = f"{receiving.url}/_control"
    async with session.post(control, json={"path": "/x", "status": 500, "retry_after": "3"}) as response:
        assert (response.status, (await response.json())["status"]) == (200, 500)
    assert await _post(session, f"{receiving.url}/x") == 500
    assert await _post(session, f"{receiving.url}/y") == 200
    async with session.get(f"{receiving.url}/_counts") as response:
        counts = await response.json()
    assert list(counts) == ["/x", "/y"]
    assert (counts["/x"]["received"], counts["/x"]["taken"]) == (1, 0)


async def test_invalid_control_command_is_answered_with_the_reason(
    receiving: simulator.Receiver, session: aiohttp.ClientSession
) -> None:
    for body in (b"", b'{"status": 1000}', b"\xff"):
        async with session.post(f"{receiving.url}/_control", data=body) as response:
            assert response.status == 400
            assert (await response.json())["detail"]
    assert await _post(session, f"{receiving.url}/x") == 200


async def test_port_in_use_is_reported_with_a_hint(receiving: simulator.Receiver) -> None:
    with pytest.raises(model.ConfigurationError, match=f"port {receiving.port}") as caught:
        await simulator.Receiver(simulator.ReceiverSettings(port=receiving.port)).start()
    assert caught.value.hint


def test_unusable_secret_is_rejected_without_printing_it() -> None:
    with pytest.raises(model.ConfigurationError) as caught:
        simulator.Receiver(simulator.ReceiverSettings(secrets=("whsec_hunter2***",)))
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


class _Command:
    """Run ``usher receive`` as a process and wait until it listens."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self.url = ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            USHER, "receive", "--listen", "127.0.0.1:0", "--output", "json", *self._flags,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "RECEIVE_SECRET": SECRET},
        )  # fmt: skip
        assert self._process.stderr is not None
        line = (await asyncio.wait_for(self._process.stderr.readline(), 60)).decode()
        url = re.search(r"http://\S+?:\d+", line)
        assert url, line
        self.url = url[0]
        return self

    async def end(self) -> tuple[int, str]:
        self._process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(self._process.communicate(), 60)
        assert self._process.returncode is not None
        return self._process.returncode, out.decode()

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def test_command_ends_with_the_total_of_all_paths(session: aiohttp.ClientSession) -> None:
    async with _Command("--output", "text") as command:
        for path in ("/x", "/y"):
            assert await _post(session, f"{command.url}{path}", webhook_id=path) == 200
        _, out = await command.end()
    assert out.endswith("\n2 received, 2 taken, 0 duplicates, on 2 paths\n")


async def test_command_counts_and_stops_cleanly(session: aiohttp.ClientSession) -> None:
    async with _Command("--path", "/down", "--fail", "503") as command:
        assert await _post(session, f"{command.url}/x", b'{"email":"secret"}', webhook_id="a") == 200
        assert await _post(session, f"{command.url}/down") == 503
        status, out = await command.end()
    counts: dict[str, Any] = json.loads(out)
    assert status == 0
    assert (counts["/x"]["taken"], counts["/down"]["taken"]) == (1, 0)
    assert "secret" not in out


async def test_wrong_signature_ends_with_1_and_bodies_are_printed_escaped(session: aiohttp.ClientSession) -> None:
    async with _Command("--secret", "env:RECEIVE_SECRET", "--show-bodies") as command:
        await _post(session, f"{command.url}/x", '{"name":"Zoë\x1b[2J"}'.encode(), webhook_id="a")
        status, out = await command.end()
    body, _, counts = out.partition("\n")
    assert body == 'POST /x {"name":"Zoë\\x1b[2J"}'
    assert (status, json.loads(counts)["/x"]["signatures_missing"]) == (1, 1)
