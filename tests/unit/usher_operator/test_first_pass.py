"""Gateways learn that everything was published once, and never wait for it without end."""

import asyncio
from typing import Any

from support import waiting
from usher_gateway.kube.client import ApiError
from usher_operator.first_pass import FirstPass
from usher_operator.view import Install, Key
from usher_operator.workqueue import PauseGate

KEYS = [Key("Listener", "agency", "lobby"), Key("Destination", "agency", "crm"), Key("Tenant", "agency", "acme")]


class Server:
    def __init__(self) -> None:
        self.written: list[str] = []
        self.failures = 0

    async def apply(self, path: str, _: dict[str, Any]) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            raise ApiError(500, "InternalError", f"apply {path}")
        self.written.append(path)
        return {}


def first_pass(server: Any, gate: PauseGate, patience_seconds: float = 600.0) -> FirstPass:
    return FirstPass(api=server, install=Install(), gate=gate, patience_seconds=patience_seconds)


async def test_mark_is_written_after_every_document() -> None:
    server = Server()
    started = first_pass(server, PauseGate())
    started.begin(KEYS)
    running = asyncio.create_task(started.run())
    started.done(KEYS[0])
    for _ in range(10):
        await asyncio.sleep(0)
    assert server.written == []
    started.done(KEYS[1])
    await waiting.wait_until(lambda: server.written)
    running.cancel()
    assert server.written[0].startswith("/api/v1/namespaces/usher-config/secrets/published-")


async def test_document_that_cannot_be_written_delays_the_mark_for_a_while() -> None:
    server = Server()
    started = first_pass(server, PauseGate(), patience_seconds=0.01)
    started.begin(KEYS)
    running = asyncio.create_task(started.run())
    await waiting.wait_until(lambda: server.written)
    running.cancel()


async def test_mark_waits_while_the_operator_is_paused() -> None:
    server, gate = Server(), PauseGate()
    gate.pause("key", "there is no install key")
    started = first_pass(server, gate, patience_seconds=0.001)
    started.begin(KEYS)
    running = asyncio.create_task(started.run())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert server.written == []
    gate.resume("key")
    await waiting.wait_until(lambda: server.written)
    running.cancel()
