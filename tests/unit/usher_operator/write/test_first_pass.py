"""Gateways learn that everything was published once, and never wait for it without end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support import waiting
from usher_gateway.kube.client import ApiError
from usher_operator.settings import OperatorSettings
from usher_operator.state.values import Key
from usher_operator.write import first_pass as first_pass_module
from usher_operator.write.first_pass import FirstPass

KEYS = [Key("Listener", "agency", "lobby"), Key("Destination", "agency", "crm"), Key("Tenant", "agency", "acme")]


class Server:
    def __init__(self) -> None:
        self.written: list[str] = []
        self.listeners: list[str] = []
        self.failures = 0

    async def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            raise ApiError(500, "InternalError", f"apply {path}")
        self.written.append(path)
        self.listeners.append(manifest["metadata"]["annotations"]["usher.dev/listeners"])
        return {}


def first_pass(
    server: Any,
    patience_seconds: float = 600.0,
    may_publish: Callable[[], bool] = lambda: True,
    is_idle: Callable[[], bool] = lambda: True,
    listeners: Callable[[], int] = lambda: 1,
) -> FirstPass:
    return FirstPass(
        api=server,
        settings=OperatorSettings(),
        may_publish=may_publish,
        is_idle=is_idle,
        listeners=listeners,
        patience_seconds=patience_seconds,
    )


async def test_mark_is_written_after_every_document() -> None:
    server = Server()
    started = first_pass(server)
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
    started = first_pass(server, patience_seconds=0.01)
    started.begin(KEYS)
    running = asyncio.create_task(started.run())
    await waiting.wait_until(lambda: server.written)
    running.cancel()


async def test_mark_waits_while_nothing_is_published() -> None:
    server, published = Server(), asyncio.Event()
    started = first_pass(server, 0.001, published.is_set)
    started.begin(KEYS)
    running = asyncio.create_task(started.run())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert server.written == []
    published.set()
    await waiting.wait_until(lambda: server.written)
    running.cancel()


async def test_deleted_mark_is_written_again_after_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REPEAT_SECONDS", "_RETRY_SECONDS"):
        monkeypatch.setattr(first_pass_module, name, 0.001)
    server, idle = Server(), asyncio.Event()
    started = first_pass(server, is_idle=idle.is_set, listeners=lambda: 3 if idle.is_set() else 2)
    running = asyncio.create_task(started.run())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert len(server.written) == 1
    idle.set()
    await waiting.wait_until(lambda: len(server.written) > 1)
    running.cancel()
    assert server.listeners[:2] == ["2", "3"]
