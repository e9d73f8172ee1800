"""The only composition root of the gateway: what is built, in which order it starts and stops.

Start: the store (it proves that nobody else owns the data), admin port, configuration and deliveries, public port (once
there is a configuration, so that a start refuses no visit; where there is none soon, it answers 503 until then). Stop,
the other way round: not ready, public port closed, connections drained, attempts ended, what is left given back to the
store, store closed, admin port closed.
"""

import asyncio
import contextlib
import gc
import signal
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from usher_gateway import clock as clocks
from usher_gateway import descriptors, documents, expose, logs, model, observe, report, visit_path
from usher_gateway import settings as all_settings
from usher_gateway.config import cluster_access, from_files, install_key, read_files, source
from usher_gateway.delivery import desk as desks
from usher_gateway.delivery import dispatcher as dispatchers
from usher_gateway.delivery import holds, render
from usher_gateway.destinations import address_guard
from usher_gateway.destinations import http as http_sender
from usher_gateway.ingest import door as doors
from usher_gateway.ingest import find, receive
from usher_gateway.store.sqlite import database, disk, store
from usher_gateway.store.sqlite import engine as sqlite_engine

_log = structlog.get_logger(__name__)

_LOOPBACK = ("127.0.0.0/8", "::1/128", "localhost")

_REVIEW_SECONDS = 30.0
"""How often holds are looked at although nothing was reported: months begin, clocks run."""

_CONFIGURATION_SECONDS = 2.0
"""The public port is opened without a configuration after so long."""

_CERTIFICATE_SECONDS = 5.0

_FREEZE_LISTENERS = 500

_LEAST_ATTEMPT_SECONDS = 1.0
"""Attempts may end for so long at a stop, also when draining connections has taken all the time there was."""

_AGAIN_SECONDS = 1.0
"""From a review that the store could not do to the next."""


class Gateway:
    """A gateway in one process. ``run`` lives until it is told to stop."""

    def __init__(self, settings: all_settings.Settings, environ: dict[str, str]) -> None:
        all_settings.check(settings)
        read_files.require(settings.files)
        _check_key(settings, environ)
        self.settings = settings
        self.clock = clocks.Clock(settings.time_scale)
        key = install_key.load_install_key(settings.data, environ)
        self.keys = model.derive_keys(key)
        bounds = disk.Bounds(
            settings.accept_min_free_bytes, settings.accept_min_free_ratio, settings.attempts_min_free_bytes
        )
        self.store = store.SqliteStore(
            sqlite_engine.Settings(settings.data, model.key_fingerprint(key), disk_bounds=bounds), self.clock.now
        )
        self.source = self._make_source(environ)
        self.snapshot = documents.Snapshot({}, {})
        self._unfrozen = _FREEZE_LISTENERS
        """Listeners made since the collector was told to leave them alone."""
        self.applied_at = 0
        self._drain_until = 0.0
        self.started = asyncio.Event()
        self.configured = asyncio.Event()
        """Set once a first configuration runs."""
        self.is_draining = False
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()

    def _make_source(self, environ: dict[str, str]) -> source.Source:
        settings = self.settings
        if not settings.from_cluster:
            options = from_files.FileOptions(keys=self.keys, trusted_proxies=settings.trusted_proxies)
            return from_files.FileSource(settings.files, options)
        from usher_gateway.config import from_cluster  # brings cryptography, which files do not need

        return from_cluster.ClusterSource(
            from_cluster.ClusterOptions(
                keys=self.keys,
                access=cluster_access.find_access(settings.kubeconfig, environ),
                namespace=settings.config_namespace,
                data=settings.data,
                trusted_proxies=settings.trusted_proxies,
            ),
            self._check_document,
            self.clock.now,
        )

    def _check_document(self, document: documents.Listener | documents.Destination) -> None:
        """Try a document before it comes into force. Raises where it cannot be run."""
        if isinstance(document, documents.Listener):
            find.LiveListener(document, {}, self.keys, self.watch, 0.0)
        else:
            render.prepare(document)

    def stop(self) -> None:
        """Ask the gateway to end. Idempotent."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stop(), then drain.

        Raises:
            UsherError: the gateway cannot start; its hint says what to do.
        """
        asyncio.get_running_loop().set_exception_handler(logs.log_loop_exception)
        report = await self.store.open()
        _log.info("store_open", recovered=report.recovered, durability=report.durability)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.store.close)
            self._build()
            self.admin = expose.admin_server(self)
            await stack.enter_async_context(self.admin)
            stack.push_async_callback(self.store.close)  # before the admin port; the first one is for failed starts
            stack.push_async_callback(self.sender.close)
            tasks = self._start_tasks(stack)
            await self._first(tasks, self.configured, _CONFIGURATION_SECONDS)
            await self._open_public_port(stack)
            self._tell()
            self.started.set()
            await self._first(tasks, self._stop)
        _log.info("stopped")

    async def _first(self, tasks: list[asyncio.Task[None]], event: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for an event, a task's end or a time, whichever comes first. Raises what has ended a task."""
        waiting = asyncio.create_task(event.wait())
        done, _ = await asyncio.wait({*tasks, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()

    def _build(self) -> None:
        settings, limits = self.settings, dispatchers.Limits(self.settings.lane_bytes, self.settings.max_attempts)
        allowed = settings.allow_destination + (_LOOPBACK if settings.listen.is_loopback else ())
        self._context = _tls_context(settings.tls_cert, settings.tls_key)
        planned = descriptors.reserve(settings.limits.connections, http_sender.MAX_IDLE)
        self.sender = http_sender.HTTPSender(address_guard.AddressGuard(allow=allowed), max_idle=planned.idle)
        self.desk = desks.Desk(self.sender, self.clock, self.keys)
        self.dispatcher = dispatchers.Dispatcher(
            dispatchers.Parts(self.store, self.desk, self.clock, visit_path.deliver), limits
        )
        self.holds = holds.Holds(
            self.store, self.desk, self.clock, lambda found: self.dispatcher.offer(found, fresh=False)
        )
        self.watch = observe.ExpressionWatch()
        self.metrics = observe.GatewayMetrics(self)
        self.report = report.Report(self)
        self.door = doors.Door(self.store, self.clock, self.keys, self.watch, self.dispatcher.offer)
        self.server = receive.PublicServer(
            lambda request: visit_path.accept_arrival(self.door, request),
            lambda reason: self.door.count_refused(None, reason),
            msgspec.structs.replace(settings.limits, connections=planned.connections),
        )

    async def _open_public_port(self, stack: contextlib.AsyncExitStack) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        context = self._context
        try:
            listening = await loop.create_server(
                self.server,
                settings.listen.host,
                settings.listen.port,
                ssl=context,
                ssl_handshake_timeout=settings.limits.header_seconds if context else None,
                backlog=1024,
            )
        except OSError as error:
            raise all_settings.cannot_listen("--listen", settings.listen, error) from error
        self.port = listening.sockets[0].getsockname()[1]
        stack.push_async_callback(self._close_public_port, listening)

    async def _close_public_port(self, listening: asyncio.Server) -> None:
        """The first thing to stop: deadlines and connections are still watched while what has begun is answered."""
        self.is_draining = True
        self._drain_until = asyncio.get_running_loop().time() + self.settings.drain_seconds
        listening.close()
        await self.server.drain(self.settings.drain_seconds)

    def _start_tasks(self, stack: contextlib.AsyncExitStack) -> list[asyncio.Task[None]]:
        jobs: dict[str, Callable[[], Awaitable[None]]] = {
            "deadlines": self.door.deadlines.watch,
            "connections": self.server.watch,
            "configuration": self._follow_configuration,
            "dispatcher": self.dispatcher.run,
            "holds": self._review_holds,
            "retention": self._prune,
            "certificate": self._follow_certificate,
            "loop lag": self.metrics.watch_loop,
            "open deliveries": self.metrics.watch_store,
            "report": self.report.run,
        }
        tasks = [asyncio.create_task(_named(job), name=name) for name, job in jobs.items()]

        async def end() -> None:
            left = self._drain_until - asyncio.get_running_loop().time()
            await self.dispatcher.stop(max(_LEAST_ATTEMPT_SECONDS, left))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(end)
        return tasks

    async def _follow_configuration(self) -> None:
        async for snapshot in self.source.snapshots():
            self.apply(snapshot)

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Run a new configuration, from the next request and the next attempt on."""
        self._unfrozen += self.door.apply(snapshot)
        self.dispatcher.apply(snapshot)
        self.snapshot, self.applied_at = snapshot, self.clock.now()
        self._changed.set()
        self.configured.set()
        if self._unfrozen >= _FREEZE_LISTENERS:
            # Documents live long: the collector need not walk them again and again. Not for every small change: what
            # is frozen is never collected, so that little else should be.
            self._unfrozen = 0
            gc.collect()
            gc.freeze()

    async def _review_holds(self) -> None:
        await self._changed.wait()  # before the first configuration nothing is known to be missing
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.clock.real_seconds(int(_REVIEW_SECONDS * 1e6)) + 0.2):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.holds.review()
                self.dispatcher.ask_store()
            except model.StoreUnavailableError as error:
                _log.warning("holds_not_reviewed", reason=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)
                self._changed.set()

    async def _prune(self) -> None:
        await self.configured.wait()  # before that nobody has said how long a tenant keeps its meters
        while True:
            try:
                left = await self.store.prune(self.clock.now(), self._meter_months())
            except model.StoreUnavailableError as error:
                _log.warning("retention_waits", reason=str(error))
                left = 0
            await asyncio.sleep(0.05 if left else 10)

    def _meter_months(self) -> dict[str, int]:
        tenants = [(one.namespace, one.tenant) for one in self.snapshot.listeners.values()]
        return {f"{namespace}/{tenant.name}": tenant.meter_months for namespace, tenant in tenants}

    async def _follow_certificate(self) -> None:
        """Load a renewed certificate without a restart: new connections get it."""
        settings = self.settings
        seen = _stamp(settings.tls_cert, settings.tls_key)
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            now = _stamp(settings.tls_cert, settings.tls_key)
            if self._context is None or now == seen or settings.tls_cert is None:
                continue
            try:
                # Tried elsewhere first: one that does not fit its key would leave the live context without a key.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
                self._context.load_cert_chain(settings.tls_cert, settings.tls_key)
                seen = now
                _log.info("certificate_loaded")
            except (OSError, ssl.SSLError) as error:
                _log.error("certificate_not_loaded", error=type(error).__name__)

    def _tell(self) -> None:
        scheme = "https" if self.settings.tls_cert else "http"
        _log.info(
            "serving",
            public=f"{scheme}://{self.settings.listen.host}:{self.port}",
            admin=f"http://{self.settings.admin.host}:{self.admin.port}",
        )
        if self.settings.time_scale != 1.0:
            _log.warning("time_is_scaled", time_scale=self.settings.time_scale, hint="for development only")
        if self.settings.listen.is_loopback:
            _log.info("loopback_destinations_allowed", reason="the public port is on loopback only")


def _check_key(settings: all_settings.Settings, environ: dict[str, str]) -> None:
    """Make no new key beside a store or an operator: it would be the wrong one.

    Raises:
        InstallKeyError: the store's own key is missing.
        ConfigurationError: the operator's is.
    """
    data = settings.data
    file = data / install_key.FILE_NAME
    if settings.from_cluster and not environ.get(install_key.VARIABLE) and not file.exists():
        raise model.ConfigurationError(
            "there is no install key, and the one of the operator is needed",
            f"Set {install_key.VARIABLE} from the entry {install_key.FILE_NAME} of the Secret usher-install-key.",
        )
    if not environ.get(install_key.VARIABLE) and not file.exists() and (data / database.FILE_NAME).exists():
        raise model.InstallKeyError(
            f"there is a store in {data}, but not its install key {file}",
            f"Put {install_key.FILE_NAME} back, or set {install_key.VARIABLE}: URLs and keyed hashes depend on it.",
        )


def handle_signals(gateway: Gateway) -> None:
    """Let SIGTERM, SIGINT and SIGHUP (a terminal that closes) stop the gateway cleanly."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        loop.add_signal_handler(signal.SIGHUP, gateway.stop)


async def _named(job: Callable[[], Awaitable[None]]) -> None:
    await job()


def _tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise model.ConfigurationError(
            f"the certificate in {certificate} with the key in {key} cannot be used: {reason}",
            "Give a PEM chain and its key, readable by Usher.",
        ) from error
    return context


def _stamp(*files: Path | None) -> tuple[int, ...]:
    stamps = []
    for file in files:
        with contextlib.suppress(OSError):
            if file is not None:
                stamps.append(file.stat().st_mtime_ns)
    return tuple(stamps)
