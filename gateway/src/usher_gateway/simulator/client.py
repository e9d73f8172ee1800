"""Sends single requests as Purple does: one time limit from the start of the connection, and no redirects."""

import asyncio
import ssl
import time
import types
from typing import Self

import aiohttp
import yarl

import usher_gateway
from usher_gateway import documents, model
from usher_gateway.simulator import books
from usher_gateway.simulator.settings import SimulatorSettings, SimulatorTarget, tls_context

_AGENT = f"usher-simulate/{usher_gateway.__version__}"
_READ_BYTES = 65_536
_IDLE_SECONDS = 2.0
"""The client closes an idle connection this early, so that a listener that closes one first causes no error."""


class TargetAddress:
    """The address of a listener. ``connect`` changes only where to connect; Host and SNI keep the host of the URL."""

    def __init__(self, url: str, connect: tuple[str, int] | None) -> None:
        """Parse a URL.

        Raises:
            ConfigurationError: it is not an absolute http or https URL.
        """
        try:
            parsed = yarl.URL(url, encoded=True)
            host = parsed.host
            valid = parsed.scheme in {"http", "https"} and bool(host) and parsed.user is None
        except ValueError:
            valid = False
        if not valid:
            hint = "write it as https://HOST/PATH; credentials go into --basic or --header"
            raise model.ConfigurationError(f"not a URL to post to: {documents.shorten_url(url)}", hint)
        self.is_tls = parsed.scheme == "https"
        self.server_name = host if self.is_tls else None
        self.host_header = parsed.raw_authority
        self.url = parsed
        if connect is not None:
            name = f"[{connect[0]}]" if ":" in connect[0] else connect[0]
            self.url = yarl.URL(f"{parsed.scheme}://{name}:{connect[1]}{parsed.raw_path_qs}", encoded=True)


class PurpleClient:
    """A client of one listener. Use it as an async context manager."""

    def __init__(self, target: SimulatorTarget, settings: SimulatorSettings) -> None:
        self._address = TargetAddress(target.url, settings.connect)
        self._limit = settings.limit_seconds
        self._headers = {"Host": self._address.host_header, "User-Agent": _AGENT, **dict(target.headers)}
        self._post_headers = {**self._headers, "Content-Type": "application/json"}
        self._tls: ssl.SSLContext | bool = tls_context(settings) if self._address.is_tls else True
        self._session: aiohttp.ClientSession | None = None
        self._hanging: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._open([])
        written = aiohttp.TraceConfig()
        written.on_request_chunk_sent.append(_note_written)
        self._hanging = self._open([written])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        for session in (self._session, self._hanging):
            if session is not None:
                await session.close()

    async def post(self, body: bytes) -> books.RequestResult:
        """Post a body, and return the result."""
        return await self.request("POST", body)

    async def request(self, method: str, body: bytes | None) -> books.RequestResult:
        """Send a request, and return the result. It raises nothing that the listener can cause."""
        assert self._session is not None
        # uvloop's clock has whole milliseconds only.
        start = time.monotonic()
        status = 0
        try:
            async with self._session.request(
                method,
                self._address.url,
                data=body,
                headers=self._headers if body is None else self._post_headers,
                allow_redirects=False,
                server_hostname=self._address.server_name,
            ) as response:
                status = response.status
                while await response.content.readany():
                    pass
                outcome = books.classify_answer(status, response.headers.get(books.SUCCESS_HEADER))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            outcome = _outcome_of(error)
        return books.RequestResult(outcome, status, time.monotonic() - start)

    async def hang_up(self, body: bytes) -> books.RequestResult:
        """Post a body and close the connection as soon as it is written, without waiting for the answer."""
        assert self._hanging is not None
        written = asyncio.Event()
        posting = asyncio.create_task(self._post_until_cancelled(self._hanging, body, written), name="hang-up")
        noticing = asyncio.create_task(written.wait(), name="hang-up-written")
        await asyncio.wait({posting, noticing}, timeout=self._limit, return_when=asyncio.FIRST_COMPLETED)
        posting.cancel()
        noticing.cancel()
        (failure, _) = await asyncio.gather(posting, noticing, return_exceptions=True)
        if isinstance(failure, books.RequestOutcome):
            return books.RequestResult(failure)
        return books.RequestResult(books.RequestOutcome.HungUp if written.is_set() else books.RequestOutcome.TimedOut)

    async def _post_until_cancelled(
        self, session: aiohttp.ClientSession, body: bytes, written: asyncio.Event
    ) -> books.RequestOutcome | None:
        try:
            async with session.post(
                self._address.url,
                data=body,
                headers=self._post_headers,
                allow_redirects=False,
                server_hostname=self._address.server_name,
                trace_request_ctx=written,
            ):
                await asyncio.sleep(0)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            return _outcome_of(error)
        return None

    def _open(self, traces: list[aiohttp.TraceConfig]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._tls, keepalive_timeout=_IDLE_SECONDS, force_close=False, ttl_dns_cache=30
            ),
            # By default aiohttp rounds limits above 5 s up to whole seconds, but Purple waits for 10 s.
            timeout=aiohttp.ClientTimeout(total=self._limit, ceil_threshold=3_600),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=traces,
            read_bufsize=_READ_BYTES,
        )


async def _note_written(
    _session: aiohttp.ClientSession, context: types.SimpleNamespace, _sent: aiohttp.TraceRequestChunkSentParams
) -> None:
    context.trace_request_ctx.set()


def _outcome_of(error: Exception) -> books.RequestOutcome:
    if isinstance(error, TimeoutError):
        return books.RequestOutcome.TimedOut
    if isinstance(error, aiohttp.ClientSSLError):
        return books.RequestOutcome.TLSFailed
    if isinstance(error, aiohttp.ClientConnectorError):
        return books.RequestOutcome.Unreachable
    return books.RequestOutcome.Broken
