"""A gateway that reports ready accepts visits, and its admin port has all parts that it needs."""

import dataclasses
from pathlib import Path

import aiohttp
import pytest

from support import gateway as gateways
from usher_gateway import app
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest.acceptor import Acceptor


async def readiness(gateway: app.Gateway) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{gateway.admin.port}/readyz") as got:
        return got.status, await got.text()


async def test_gateway_is_not_ready_before_its_public_port_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early_answers: list[tuple[int, str]] = []
    open_public_port = app.Gateway._open_public_port

    async def ask_first(self: app.Gateway) -> Acceptor:
        await self.state.configured.wait()
        early_answers.append(await readiness(self))
        return await open_public_port(self)

    monkeypatch.setattr(app.Gateway, "_open_public_port", ask_first)
    async with gateways.running(tmp_path) as running:
        later_answer = await readiness(running.gateway)
    assert [status for status, _ in (*early_answers, later_answer)] == [503, 200]
    assert "public port" in early_answers[0][1]


async def test_gateway_has_every_part_that_handlers_take(tmp_path: Path) -> None:
    async with gateways.running(tmp_path) as running:
        assert [field.name for field in dataclasses.fields(Parts) if not hasattr(running.gateway, field.name)] == []
