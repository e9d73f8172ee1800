"""The sender: behaves like Purple towards each listener, and counts what it sent and received."""

import array
import asyncio
import contextlib
import heapq
import os
import ssl
import time
import types
from collections.abc import Callable, Iterable
from typing import Self

import aiohttp
import msgspec
import yarl

import usher_gateway
from usher_gateway import documents, model
from usher_gateway.simulator import books, schedule
from usher_gateway.simulator.settings import SimulatorSettings, SimulatorTarget, tls_context
from usher_gateway.timing import Clock

_REPORT_SECONDS = 0.25
_GRACE_SECONDS = 2.0  # How long running requests may continue after an interruption

_AGENT = f"usher-simulate/{usher_gateway.__version__}"
_READ_BYTES = 65_536
# The client closes an idle connection this early, so that a listener that closes one first causes no error.
_IDLE_SECONDS = 2.0

# Called a few times a second with the present books, which change afterwards.
Progress = Callable[[books.SimulationBooks], None]


class Simulator:
    """Plays Purple for several listeners.

    If the gateway runs in the same process, pass its ``clock``, because the bodies carry this clock's times.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        progress: Progress | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Read the settings.

        Raises:
            ConfigurationError: a URL or the CA file cannot be used.
        """
        self._progress = progress
        clock = clock or Clock(settings.time_scale)
        self._lines = [_ListenerSender(target, settings, clock) for target in settings.targets]
        self._books = books.SimulationBooks(listeners=[line.books for line in self._lines])

    def stop(self) -> None:
        """Stop early: send nothing more, and give running requests 2 s. Call it from the event loop's thread."""
        self._books.interrupted = True
        for line in self._lines:
            line.stop()

    async def run(self) -> books.SimulationBooks:
        """Send everything, retry failures, and return the books."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        reporter = asyncio.create_task(self._report(), name="simulate-progress")
        try:
            async with asyncio.TaskGroup() as group:
                for number, line in enumerate(self._lines):
                    group.create_task(line.run(), name=f"simulate-listener-{number}")
        finally:
            reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporter
        self._books.real_seconds = loop.time() - start
        if self._progress is not None:
            self._progress(self._books)
        return self._books

    async def _report(self) -> None:
        while self._progress is not None:
            self._progress(self._books)
            await asyncio.sleep(_REPORT_SECONDS)


class _Sending(msgspec.Struct, gc=False):
    """A request to send: the first one of an authentication, a retry, or a redelivery."""

    position: int
    """In the plan."""
    event: schedule.Event
    is_retry: bool = False
    is_redelivery: bool = False


class _ListenerSender:
    """Sends to one listener: the plan, the retries, and whether Purple has disabled the hook."""

    def __init__(self, target: SimulatorTarget, settings: SimulatorSettings, clock: Clock) -> None:
        self._target = target
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._clock = clock
        self._client = PurpleClient(target, settings)
        self._hook = books.Hook(settings.disable_seconds)
        self._events = schedule.plan(target.pattern or settings.pattern, target.company.seed)
        self._next = 0
        self._later: list[tuple[float, int, _Sending]] = []
        self._sequence = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._bug: BaseException | None = None  # An exception that no listener can cause; the run ends with it
        self._base = 0
        self._start = 0.0
        self._progress = 0.0
        """When a first request or an acknowledgement last happened, in real seconds since the start."""
        self._open: set[int] = set()  # Positions of authentications that were sent and are not acknowledged
        self._uncertain: dict[str, None] = {}
        self._seconds = array.array("d")
        self.books = _planned(target.name or documents.shorten_url(target.url), self._events)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Validate, send the plan, and retry until everything is acknowledged or the patience is over."""
        try:
            async with self._client:
                if not self._settings.validate or await self._validated():
                    await self._send_all()
        finally:
            self._close_books()

    async def _validated(self) -> bool:
        """Make the portal's validation calls; return whether at least one passed and visits should follow."""
        sample = schedule.sample_body(self._target.company, self._clock.now())
        shapes: list[tuple[str, str, bytes | None]] = [
            ("GET", "GET", None),
            ("HEAD", "HEAD", None),
            ("POST empty", "POST", b""),
            ("POST {}", "POST", b"{}"),
            (books.SAMPLE_SHAPE, "POST", sample),
        ]
        for shape, method, body in shapes:
            if self._stopping:
                return False
            result = await self._client.request(method, body)
            self.books.validations.append(
                books.Validation(shape, result.outcome, result.status, result.seconds, result.cause)
            )
            self.books.header_name = result.header_name or self.books.header_name
        return any(validation.passed for validation in self.books.validations) and not self._settings.validate_only

    async def _send_all(self) -> None:
        self._base = self._clock.now()
        self._start = asyncio.get_running_loop().time()
        while not self._is_over():
            # Clear it before looking, so that no later change is missed.
            self._changed.clear()
            due = self._next_due()
            if due is None and not self._tasks:
                break
            now = self._now()
            if due is None or due > now:
                await self._wait_changed(None if due is None else due - now)
                continue
            await self._slots.acquire()
            # The hook may have been disabled during the wait; then the due request counts as never sent.
            if self._is_over():
                self._slots.release()
                break
            self.books.behind_seconds = max(self.books.behind_seconds, self._now() - due)
            self._spawn(self._take())
        await self._finish_tasks()
        if self._bug is not None:
            raise self._bug

    def _is_over(self) -> bool:
        return self._stopping or self._hook.disabled

    def _now(self) -> float:
        """Return the real seconds since the plan's start."""
        return asyncio.get_running_loop().time() - self._start

    def _real(self, simulated_seconds: float) -> float:
        return simulated_seconds / self._settings.time_scale

    def _next_due(self) -> float | None:
        """Return when the next request is due, in real seconds since the start; None if none is worth waiting for."""
        again = self._later[0][0] if self._later else None
        if self._next < len(self._events):
            first = self._real(self._events[self._next].send / model.MICROSECONDS)
            return first if again is None else min(first, again)
        if again is None or again - self._progress > self._settings.patience_seconds:
            return None
        return again

    async def _wait_changed(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _take(self) -> _Sending:
        """Return the request that is due first, from the plan or from the retries."""
        position = self._next
        if position < len(self._events):
            event = self._events[position]
            if not self._later or self._real(event.send / model.MICROSECONDS) <= self._later[0][0]:
                self._next += 1
                self._progress = self._now()
                self._open.add(position)
                return _Sending(position, event)
        return heapq.heappop(self._later)[2]

    def _spawn(self, sending: _Sending) -> None:
        task = asyncio.create_task(self._send(sending))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
            self.stop()
        if not self._tasks:
            self._changed.set()

    async def _send(self, sending: _Sending) -> None:
        event = sending.event
        body = schedule.body_of(event, self._target.company, self._base)
        goes_away = event.hang_up and not sending.is_retry
        try:
            result = await (self._client.hang_up(body) if goes_away else self._client.request("POST", body))
        except asyncio.CancelledError:
            self.books.cut_off += 1
            raise
        self._enter(sending, result, body)

    def _enter(self, sending: _Sending, result: books.RequestResult, body: bytes) -> None:
        """Count a result, and schedule what follows. It does not await, so that books and plan change together."""
        books.record_answer(self.books, result)
        self.books.retries += sending.is_retry
        if result.status:
            self._seconds.append(result.seconds)
        if result.outcome is books.RequestOutcome.Acknowledged:
            self._hook.succeeded()
            self._progress = self._now()
            self._acknowledged(sending)
            return
        if result.outcome in {books.RequestOutcome.TimedOut, books.RequestOutcome.HungUp}:
            self._uncertain[schedule.marker(body)] = None
        # A hang-up is the sender's own and not the listener's failure.
        if result.outcome is not books.RequestOutcome.HungUp and self._hook.failed(
            self._now() * self._settings.time_scale
        ):
            self.books.disabled = True
            self._changed.set()
        self._send_later(_Sending(sending.position, sending.event, True, sending.is_redelivery))

    def _acknowledged(self, sending: _Sending) -> None:
        if sending.is_redelivery:
            self.books.redelivered += 1
            return
        self._open.remove(sending.position)
        self.books.acknowledged += 1
        if sending.event.redeliver:
            self._send_later(_Sending(sending.position, sending.event, False, True))

    def _send_later(self, sending: _Sending) -> None:
        self._sequence += 1
        due = self._now() + self._real(self._settings.retry_seconds)
        heapq.heappush(self._later, (due, self._sequence, sending))
        if self._later[0][1] == self._sequence:
            self._changed.set()

    async def _finish_tasks(self) -> None:
        if not self._tasks:
            return
        grace = _GRACE_SECONDS if self._stopping else self._settings.limit_seconds + _GRACE_SECONDS
        tasks = set(self._tasks)
        try:
            await asyncio.wait(tasks, timeout=grace)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _close_books(self) -> None:
        unsent = self._events[self._next :]
        self.books.never_sent = len(unsent)
        self.books.unacknowledged = self.books.authentications - self.books.acknowledged
        self.books.latency = books.latency_of(self._seconds)
        self.books.timed_out_markers = list(self._uncertain)
        self.books.unacknowledged_markers = [
            schedule.marker(schedule.body_of(self._events[position], self._target.company, self._base))
            for position in sorted(self._open)
        ]


def _planned(name: str, events: list[schedule.Event]) -> books.SenderBooks:
    visits = sum(event.kind is schedule.AuthenticationKind.Visit for event in events)
    return books.SenderBooks(
        name=name,
        visits=visits,
        repeats=len(events) - visits,
        redeliveries=sum(event.redeliver for event in events),
        hang_ups=sum(event.hang_up for event in events),
    )


class PurpleClient:
    """Sends single requests to one listener, as Purple does.

    A request has one time limit from the connection's start, and follows no redirects.
    Use it as an async context manager.
    """

    def __init__(self, target: SimulatorTarget, settings: SimulatorSettings) -> None:
        url = _parse_url(target.url)
        # Host and SNI keep the URL's host.
        self._url = url.with_host(settings.connect[0]).with_port(settings.connect[1]) if settings.connect else url
        self._tls = tls_context(settings) if url.scheme == "https" else None
        self._server_name = url.host if self._tls else None
        self._limit = settings.limit_seconds
        self._headers = {"Host": url.raw_authority, "User-Agent": _AGENT, **dict(target.headers)}
        self._post_headers = {**self._headers, "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._tls or True, keepalive_timeout=_IDLE_SECONDS, force_close=False, ttl_dns_cache=30
            ),
            # By default aiohttp rounds limits above 5 s up to whole seconds, but Purple waits for 10 s.
            timeout=aiohttp.ClientTimeout(total=self._limit, ceil_threshold=3_600),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=_READ_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(self, method: str, body: bytes | None) -> books.RequestResult:
        """Send a request, and return the result. It raises nothing that the listener can cause."""
        assert self._session is not None
        # uvloop's clock has whole milliseconds only.
        start = time.monotonic()
        status, cause, header_name = 0, "", ""
        try:
            async with self._session.request(
                method,
                self._url,
                data=body,
                headers=self._headers if body is None else self._post_headers,
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as response:
                status = response.status
                header_name = _success_header_name(response.raw_headers)
                while await response.content.readany():
                    pass
                outcome = books.classify_answer(status, response.headers.get(books.SUCCESS_HEADER))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            outcome, cause = _outcome_of(error), _cause_of(error)
        return books.RequestResult(outcome, status, time.monotonic() - start, cause, header_name)

    async def hang_up(self, body: bytes) -> books.RequestResult:
        """Post a body and close the connection as soon as it is written, without waiting for the answer."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._post_headers.items())
        head = f"POST {self._url.raw_path_qs} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(self._limit):
                _, writer = await asyncio.open_connection(
                    self._url.raw_host, self._url.port, ssl=self._tls, server_hostname=self._server_name
                )
            writer.write(head.encode() + body)
            writer.close()
        except TimeoutError:
            return books.RequestResult(books.RequestOutcome.TimedOut)
        except ssl.SSLError:
            return books.RequestResult(books.RequestOutcome.TLSFailed)
        except (OSError, ValueError):
            return books.RequestResult(books.RequestOutcome.Unreachable)
        return books.RequestResult(books.RequestOutcome.HungUp)


def _parse_url(url: str) -> yarl.URL:
    """Return an absolute http or https URL without credentials, or raise a ConfigurationError."""
    try:
        parsed = yarl.URL(url, encoded=True)
        valid = parsed.scheme in {"http", "https"} and bool(parsed.host) and parsed.user is None
    except ValueError:
        valid = False
    if not valid:
        hint = "write it as https://HOST/PATH; credentials go into --basic or --header"
        raise model.ConfigurationError(f"not a URL to post to: {documents.shorten_url(url)}", hint)
    return parsed


def _success_header_name(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the success header's name as the listener or a proxy in front of it wrote it, or ``""``."""
    names = (name.decode(errors="replace") for name, _ in headers)
    return next((name for name in names if name.lower() == books.SUCCESS_HEADER.lower()), "")


def _cause_of(error: Exception) -> str:
    """Return why there was no connection, and to which address; ``""`` for other errors."""
    if not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        return ""
    address = f"{error.host}:{error.port}"
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"{address}: the name has no address"
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
            return f"{address}: the certificate is not trusted ({why}; --ca or --insecure)"
        case aiohttp.ClientConnectorSSLError():
            return f"{address}: it does not speak TLS, or not for this hostname"
    os_error = error.os_error
    why = os.strerror(os_error.errno).lower() if os_error.errno else "closed in the handshake"
    return f"{address}: {why}"


def _outcome_of(error: Exception) -> books.RequestOutcome:
    if isinstance(error, TimeoutError):
        return books.RequestOutcome.TimedOut
    if isinstance(error, aiohttp.ClientSSLError):
        return books.RequestOutcome.TLSFailed
    if isinstance(error, aiohttp.ClientConnectorError):
        return books.RequestOutcome.Unreachable
    return books.RequestOutcome.Broken
