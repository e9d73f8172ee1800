"""A proxy in front of the API server that fails on command: refusals, silence, cut and expired watches, outages.

It serves HTTPS with its own certificate authority and passes tokens on. It does not pass client certificates on.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import yarl
from aiohttp import web

from local_cluster import authority, kubeconfigs
from support import api

HOST = "127.0.0.1"
# Headers of one connection, which the proxy does not pass on.
PER_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length", "upgrade"})
TOO_OLD = {
    "apiVersion": "v1",
    "kind": "Status",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version",
    "reason": "Expired",
    "code": 410,
}
EXPIRED_EVENT = json.dumps({"type": "ERROR", "object": TOO_OLD}).encode() + b"\n"


@dataclass(frozen=True)
class Asked:
    """A request that the proxy received."""

    number: int
    method: str
    path: str
    query: str

    @property
    def watches(self) -> bool:
        return "watch=true" in self.query.lower() or "watch=1" in self.query

    @property
    def writes(self) -> bool:
        return self.method not in {"GET", "HEAD", "OPTIONS"}


Where = Callable[[Asked], bool]
Action = Callable[["Fault", web.Request], Awaitable[web.StreamResponse | None]]


def everything(_: Asked) -> bool:
    return True


def watches(asked: Asked) -> bool:
    return asked.watches


def writes(asked: Asked) -> bool:
    return asked.writes


def lists(asked: Asked) -> bool:
    """Return whether a request reads a list or a single object, without a watch."""
    return not asked.watches and not asked.writes


@dataclass(eq=False)
class Fault:
    """A fault that the proxy applies to some requests, until it is lifted or its count is used up."""

    where: Where
    action: Action
    left: int | None = None
    """Number of further requests that get the fault; None: all."""
    met: int = 0
    """Number of requests that got the fault."""
    lifted: asyncio.Event = field(default_factory=asyncio.Event)

    def lift(self) -> None:
        """Let requests pass again, including those that hang."""
        self.lifted.set()

    def meets(self, asked: Asked) -> bool:
        """Return whether the fault applies to a request, and count it."""
        if self.lifted.is_set() or self.left == 0 or not self.where(asked):
            return False
        self.met += 1
        if self.left is not None:
            self.left -= 1
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()


@dataclass(eq=False)
class Stream:
    """An open watch. Resolve ``end`` with the last bytes to send, or with None to cut the connection."""

    asked: Asked
    end: "asyncio.Future[bytes | None]"


class Proxy:
    """The running proxy. It applies faults in the order in which they were added."""

    def __init__(self, upstream: kubeconfigs.Endpoint, session: aiohttp.ClientSession) -> None:
        self._upstream, self._session = upstream, session
        self._numbers = itertools.count(1)
        self._faults: list[Fault] = []
        self._silences: list[Fault] = []
        self._streams: set[Stream] = set()
        self.asked: list[Asked] = []  # Every request, in order of arrival
        self.page = 0  # Maximum number of objects per page of a list, whatever the client requests; 0: no maximum
        self.endpoint = upstream  # The endpoint of the API server through this proxy
        self._site: web.TCPSite | None = None
        self._runner = self._make_runner()
        self._context: ssl.SSLContext | None = None
        self._port = 0

    # Faults for requests.

    def refuse(
        self, status: int, where: Where = everything, times: int | None = None, retry_after_seconds: int | None = None
    ) -> Fault:
        """Answer requests with a status, such as 429 or 500, without passing them on."""

        async def answer(_: Fault, __: web.Request) -> web.Response:
            headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
            body = TOO_OLD | {"code": status, "reason": "", "message": "refused by the tests' proxy"}
            return web.json_response(TOO_OLD if status == 410 else body, status=status, headers=headers)

        return self._add(Fault(where, answer, times))

    def hang(self, where: Where = everything, times: int | None = None) -> Fault:
        """Give requests no answer until the fault is lifted; then pass them on."""

        async def wait(fault: Fault, _: web.Request) -> None:
            await fault.lifted.wait()

        return self._add(Fault(where, wait, times))

    def slow(self, seconds: float, where: Where = everything) -> Fault:
        """Delay requests before passing them on."""

        async def wait(_: Fault, __: web.Request) -> None:
            await asyncio.sleep(seconds)

        return self._add(Fault(where, wait))

    def expire(self, where: Where = watches, times: int | None = None) -> Fault:
        """Answer watches with "resource version too old" (410), so that the client has to list again."""

        async def answer(_: Fault, request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(EXPIRED_EVENT)
            return response

        return self._add(Fault(where, answer, times))

    def silence(self, where: Where = watches) -> Fault:
        """Hold back the events of watches, as a load balancer does that dropped them; no event is lost."""

        async def nothing(_: Fault, __: web.Request) -> None:
            return None

        fault = Fault(where, nothing)
        self._silences.append(fault)
        return fault

    def lift(self) -> None:
        for fault in [*self._faults, *self._silences]:
            fault.lift()

    # Faults for open watches and for the whole proxy.

    @property
    def open_watches(self) -> list[Asked]:
        return [stream.asked for stream in self._streams]

    def cut(self, where: Where = watches) -> int:
        """Cut open watches without a final event; return their number."""
        return self._end(where, None)

    def expire_open(self, where: Where = watches) -> int:
        """End open watches with "resource version too old"; return their number."""
        return self._end(where, EXPIRED_EVENT)

    async def disappear(self) -> None:
        """Close every connection and refuse new ones, as if the API server were down."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        assert self._runner.server is not None
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def appear(self) -> None:
        """Accept connections again, at the same port."""
        self._site = web.TCPSite(self._runner, HOST, self._port, ssl_context=self._context)
        await self._site.start()
        self._port = int(self._runner.addresses[0][1])

    async def start(self, folder: Path) -> None:
        """Open the port, with certificates in an existing folder."""
        own = authority.Authority(folder, "proxy-ca")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*own.issue("proxy", authority.Subject("proxy"), ("localhost", HOST)))
        await self._runner.setup()
        await self.appear()
        self.endpoint = kubeconfigs.Endpoint(f"https://{HOST}:{self._port}", own.certificate.read_bytes())

    async def stop(self) -> None:
        """Close every connection and the port."""
        self.lift()
        await self.disappear()
        await self._runner.cleanup()

    def _make_runner(self) -> web.AppRunner:
        application = web.Application(client_max_size=16 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def _end(self, where: Where, last: bytes | None) -> int:
        ending = [stream for stream in self._streams if where(stream.asked) and not stream.end.done()]
        for stream in ending:
            stream.end.set_result(last)
        return len(ending)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(next(self._numbers), request.method, request.rel_url.path, request.rel_url.query_string)
        self.asked.append(asked)
        for fault in list(self._faults):
            if fault.meets(asked):
                answer = await fault.action(fault, request)
                if answer is not None:
                    return answer
        return await self._forward(asked, request)

    async def _forward(self, asked: Asked, request: web.Request) -> web.StreamResponse:
        url = yarl.URL(self._upstream.server + request.raw_path, encoded=True)
        if self.page and "limit" in url.query:
            url = url.update_query(limit=self.page)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in PER_HOP}
        sent = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=sent or None, allow_redirects=False
        ) as answer:
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in PER_HOP}
            try:
                if asked.watches and answer.status == 200:
                    return await self._stream(asked, request, answer, web.StreamResponse(headers=passed))
                return web.Response(status=answer.status, headers=passed, body=await answer.read())
            finally:
                _abandon(answer)

    async def _stream(
        self, asked: Asked, request: web.Request, answer: aiohttp.ClientResponse, response: web.StreamResponse
    ) -> web.StreamResponse:
        await response.prepare(request)
        stream = Stream(asked, asyncio.get_running_loop().create_future())
        self._streams.add(stream)
        pump = asyncio.create_task(self._pump(asked, answer, response), name=f"watch {asked.number}")
        try:
            either: set[asyncio.Future[Any]] = {pump, stream.end}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(stream)
            pump.cancel()
            await asyncio.wait({pump})
        last = stream.end.result() if stream.end.done() else b""
        if last:
            await response.write(last)
        elif last is None and request.transport is not None:
            request.transport.abort()
        return response

    async def _pump(self, asked: Asked, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):  # either side may disconnect at any time
            async for chunk in answer.content.iter_any():
                for silence in self._silences:
                    if silence.where(asked):
                        await silence.lifted.wait()
                await response.write(chunk)


def _abandon(answer: aiohttp.ClientResponse) -> None:
    """Abort the connection of an answer that was not read to its end, because a TLS shutdown may outlive the loop."""
    connection = answer.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


@contextlib.asynccontextmanager
async def running(upstream: kubeconfigs.Endpoint, folder: Path) -> AsyncIterator[Proxy]:
    """Run a proxy for the duration of a ``with`` block."""
    connector = aiohttp.TCPConnector(ssl=api.trusting(upstream), limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        proxy = Proxy(upstream, session)
        await proxy.start(folder)
        try:
            yield proxy
        finally:
            await proxy.stop()
