"""Callers of the admin port share a limited part of a gateway fairly."""

import asyncio
import collections
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from support import waiting
from usher_gateway import settings
from usher_gateway.access import tokens
from usher_gateway.admin import api, server

CALLERS = {
    "Bearer acme": tokens.Caller("acme", frozenset(tokens.Scope), frozenset({"agency/acme"})),
    "Bearer acme-too": tokens.Caller("acme-too", frozenset(tokens.Scope), frozenset({"agency/acme"})),
    "Bearer globex": tokens.Caller("globex", frozenset(tokens.Scope), frozenset({"other/globex"})),
}


class Book:
    """The tokens of three callers, two of which are permitted the same tenant."""

    def caller_of(self, authorization: str) -> tokens.Caller | None:
        return CALLERS.get(authorization)


class Port:
    """An admin port with one route, whose answers wait until they may go."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.answer = b"x"
        self.at_work: collections.Counter[str] = collections.Counter()
        """Name of a caller -> its requests at work."""
        self.server = server.AdminServer(
            routes=(server.AdminRoute("GET", "/", tokens.Scope.VisitsRead, self.show, is_confined=True),),
            tokens=cast("Any", Book()),
            endpoint=settings.Endpoint("127.0.0.1", 0),
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        self.at_work[request[api.CALLER].name] += 1
        await self.may_answer.wait()
        return web.Response(body=self.answer)

    async def ask(self, token: str) -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.server.url, headers={"Authorization": f"Bearer {token}"}) as answer,
        ):
            await answer.read()
            return answer.status


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    new_port = Port()
    async with new_port.server:
        yield new_port
        new_port.may_answer.set()


async def test_callers_of_a_tenant_take_turns_and_leave_room_for_others(port: Port) -> None:
    asking = [asyncio.create_task(port.ask(token)) for token in ("acme", "acme-too") * 20]
    await waiting.wait_until(lambda: port.at_work["acme"] and port.at_work["acme-too"])
    others = [asyncio.create_task(port.ask("globex")) for _ in range(2)]
    await waiting.wait_until(lambda: port.at_work["globex"] == 2)
    assert port.at_work["acme"] + port.at_work["acme-too"] <= 8, "half of the memory"
    port.may_answer.set()
    assert set(await asyncio.gather(*asking, *others)) == {200}


async def test_request_that_gets_no_turn_is_refused(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_TURN_SECONDS", 0.1)
    asking = [asyncio.create_task(port.ask("acme")) for _ in range(40)]
    await waiting.wait_until(lambda: sum(task.done() for task in asking) >= 32)
    assert {task.result() for task in asking if task.done()} == {429}
    port.may_answer.set()
    assert sorted(set(await asyncio.gather(*asking))) == [200, 429]


async def test_reader_that_takes_nothing_is_disconnected(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_WRITE_SECONDS", 0.2)
    port.may_answer.set()
    port.answer = b"x" * 64 * 1024 * 1024  # more than the system's buffers hold
    with socket.create_connection(("127.0.0.1", port.server.port)) as reader:
        reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer acme\r\n\r\n")
        await waiting.wait_until(lambda: port.at_work["acme"])
        await waiting.wait_until(lambda: not port.server._limit._sources, what="the end of the connection")
    port.answer = b"x"
    assert await port.ask("acme") == 200


async def test_new_connection_displaces_the_one_that_has_waited_longest(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port.server._limit, "_connections", 3)
    port.may_answer.set()
    waiting_ones = [await asyncio.open_connection("127.0.0.1", port.server.port) for _ in range(3)]
    assert await port.ask("acme") == 200
    assert await waiting_ones[0][0].read() == b""
    for _, writer in waiting_ones:
        writer.close()
