"""Generate load: a number of connections, each with one request in flight, and distinct bodies of about 1.2 KB."""

import argparse
import asyncio
import json
import sys
import time
from typing import cast

import uvloop

_PADDING = [{"a": number, "b": "c" * 10} for number in range(12)]
_TEMPLATE = json.dumps(
    {
        "user": {
            "id": "@@@@@@@@",
            "firstName": "Load",
            "lastName": "Test",
            "email": "load.@@@@@@@@@example.com",
            "mobile": "+4477@@@@@@@@",
            "gender": "female",
            "dateOfBirth": "1990-01-01",
            "source": "form",
            "visitCountsForVenue": 3,
            "device": {"mac": "06:@@@@@@@@"},
            "venue": {"id": 127, "name": "Lobby", "company": {"id": 77}},
        },
        "timestamp": "2026-01-01T12:00:00Z",
        "text": "y" * 560,
        "list": _PADDING,
    }
)


class Load:
    """The shared state of all connections."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.path = arguments.path
        self.hosts = [f"h{number}.example.com" for number in range(arguments.listeners)]
        self.seconds, self.rate, self.limit = arguments.seconds, arguments.rate, arguments.requests
        self.sent = self.good = self.bad = 0
        self.first = arguments.first
        self.latencies: list[float] = []
        self.begin = self.end = 0.0

    def request(self) -> bytes:
        """Return the next request. Every body has another visitor."""
        number = self.first + self.sent
        self.sent += 1
        body = _TEMPLATE.replace("@@@@@@@@", f"{number:08d}").encode()
        host = self.hosts[number % len(self.hosts)]
        head = f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def may_send(self, now: float) -> bool:
        """Return whether the run continues."""
        return now < self.end and (not self.limit or self.sent < self.limit)


class Connection(asyncio.Protocol):
    """One connection. With a rate, it waits for its turn before each request."""

    def __init__(self, load: Load, offset: float, interval: float) -> None:
        self._load, self._interval = load, interval
        self._turn = load.begin + offset
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not inherit from asyncio's
        self._next()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._load.latencies.append(now - self._sent_at)
        if data.startswith(b"HTTP/1.1 200"):
            self._load.good += 1
        else:
            self._load.bad += 1
        self._next()

    def _next(self) -> None:
        if not self._interval:
            self._send()
            return
        self._turn += self._interval
        self._loop.call_later(max(0.0, self._turn - time.perf_counter()), self._send)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        if not self._load.may_send(self._sent_at):
            return
        if not self._transport.is_closing():
            self._transport.write(self._load.request())
        elif self._interval:
            self._load.sent += 1
            self._load.bad += 1
            self._next()


async def _run(arguments: argparse.Namespace) -> None:
    load = Load(arguments)
    loop = asyncio.get_running_loop()
    load.begin = time.perf_counter()
    load.end = load.begin + load.seconds
    interval = arguments.connections / load.rate if load.rate else 0.0
    for number in range(arguments.connections):
        offset = interval * number / arguments.connections
        port = arguments.port[number % len(arguments.port)]
        await loop.create_connection(lambda at=offset: Connection(load, at, interval), "127.0.0.1", port)  # type: ignore[misc]
    while time.perf_counter() < load.end and (not load.limit or load.good + load.bad < load.limit):
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - load.begin
    patience = time.perf_counter() + arguments.grace
    while time.perf_counter() < patience and load.good + load.bad < load.sent:
        await asyncio.sleep(0.01)
    ordered = sorted(load.latencies) or [0.0]
    json.dump(
        {
            "good": load.good,
            "bad": load.bad,
            "sent": load.sent,
            "seconds": seconds,
            "rate": load.good / seconds,
            "p50_ms": ordered[len(ordered) // 2] * 1000,
            "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, nargs="+", required=True, help="one port per gateway")
    parser.add_argument("--path", default="/hooks/k7f3m9q2x8w4v6t1b5n0")
    parser.add_argument("--listeners", type=int, default=1, help="number of listeners to spread the requests over")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--requests", type=int, default=0, help="stop after this number of requests; 0: no limit")
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: as fast as they are answered")
    parser.add_argument("--grace", type=float, default=0.3, help="how long to wait for the last answers")
    parser.add_argument("--first", type=int, default=0, help="number of the first visitor")
    uvloop.run(_run(parser.parse_args()))
