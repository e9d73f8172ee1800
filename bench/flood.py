"""Flood one listener over many connections until stdin ends, and print what the gateway answered as JSON.

Each connection opens again when it ends. An empty line says that all connections were tried once.
"""

import argparse
import asyncio
import collections
import gzip
import json
import resource
import ssl
import sys
from typing import cast

import uvloop

HOST = "h1.example.com"
PATH = "/hooks/k7f3m9q2x8w4v6t1b5n0"
SOURCES = 4
"""Loopback addresses that the connections come from."""

REOPEN_SECONDS = 0.1


def _post(body: bytes, encoding: str = "", length: int = 0) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {length or len(body)}"]
    lines += [f"Content-Encoding: {encoding}"] * bool(encoding)
    return "\r\n".join([*lines, "", ""]).encode() + body


def _client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake cannot end without an answer")


def _message(kind: str) -> bytes:
    """Return what each connection sends."""
    if kind == "integers":
        numbers = b",".join([b"9" * 4_200] * 62)
        return _post(gzip.compress(b'{"user":{"id":1},"n":[' + numbers + b"]}"), "gzip")
    if kind == "keys":
        members = ",".join(f'"{"a" * 115}{number:04d}":1' for number in range(1_980))
        return _post(gzip.compress(f'{{"user":{{"id":1}},{members}}}'.encode()), "gzip")
    if kind == "inflating":
        text = b'{"user":{"id":1},"text":"' + b"y" * (8 * 1024 * 1024 - 100) + b'"}'
        return _post(gzip.compress(gzip.compress(text)), "gzip, gzip")
    if kind == "unfinished":
        return _post(b"{", length=1_000)
    return _client_hello()


class Flood:
    """The shared state of all connections."""

    def __init__(self, kind: str, port: int) -> None:
        self.message, self.port = _message(kind), port
        self.answers: collections.Counter[str] = collections.Counter()
        self.is_over = False

    async def keep_open(self, number: int) -> None:
        """Keep one connection open."""
        source = f"127.0.0.{2 + number % SOURCES}"
        loop = asyncio.get_running_loop()
        while not self.is_over:
            ended = loop.create_future()
            try:
                await loop.create_connection(
                    lambda: Connection(self, ended),  # noqa: B023 - called before the next round
                    "127.0.0.1",
                    self.port,
                    local_addr=(source, 0),
                )
                await ended
            except OSError:
                self.answers["failed"] += 1
            await asyncio.sleep(REOPEN_SECONDS)


class Connection(asyncio.Protocol):
    """Sends the message, and sends it again after each answer."""

    def __init__(self, flood: Flood, ended: "asyncio.Future[None]") -> None:
        self._flood, self._ended = flood, ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._flood.message)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self._flood.answers[data[9:12].decode()] += 1
            if not self._transport.is_closing():
                self._transport.write(self._flood.message)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._flood.answers["closed"] += 1
        if not self._ended.done():
            self._ended.set_result(None)


async def _run(kind: str, port: int, connections: int) -> None:
    flood, loop = Flood(kind, port), asyncio.get_running_loop()
    tasks = []
    for number in range(connections):
        tasks.append(asyncio.create_task(flood.keep_open(number)))
        if not number % 50:
            await asyncio.sleep(0.01)
    print(flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    json.dump(flood.answers, sys.stdout)
    sys.stdout.flush()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["integers", "keys", "inflating", "unfinished", "handshakes"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_run(arguments.kind, arguments.port, arguments.connections))
