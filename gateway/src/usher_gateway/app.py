"""The gateway's composition root: which parts it has, and in which order they start and stop.

Start: the store (which proves that no other process owns the data; while its database is away, the admin port answers
only the probes), the admin port, the background tasks with configuration and deliveries, and then the public port. The
public port waits up to 2 s for a first configuration, so that a normal start refuses no visit; without one it answers
503.

Stop, in reverse: readiness ends, the public port closes, open connections are drained, running attempts end, waiting
deliveries go back to the store, the store closes, and the admin port closes last.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
import structlog

from usher_gateway import documents, expressions, logs, model, process
from usher_gateway.access import kubernetes_tokens, tokens
from usher_gateway.access.audit import AuditLog
from usher_gateway.access.link_sessions import LinkSessions
from usher_gateway.access.seal import Seals
from usher_gateway.admin import api, routes, server
from usher_gateway.admin.metrics_page import MetricsPage
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.try_limits import TryTurns
from usher_gateway.config import Source, file_reading, files, install_key
from usher_gateway.delivery import dispatcher, payload
from usher_gateway.delivery.activity import ActivityRecorder
from usher_gateway.delivery.erasure_forwarding import ErasureForwarder
from usher_gateway.delivery.holds import HeldRoutes, HoldReviewer, QuotaCounter
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.sample import SampleSender
from usher_gateway.delivery.stepping import ErasureSteps, ReplaySteps, StepRunner
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import address_guard
from usher_gateway.destinations.http import MAX_IDLE, DestinationClient
from usher_gateway.gateway_metrics import GatewayMetrics
from usher_gateway.ingest import acceptor, certificates
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.cpu_limits import BodyBudgets, TenantBudgets
from usher_gateway.ingest.pipeline import ArrivalPipeline
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.ingest.server import PublicServer
from usher_gateway.insight import fault_log, health, run_state
from usher_gateway.insight.tenants import TenantTracker
from usher_gateway.kube import access, client
from usher_gateway.pages import brand, proxies
from usher_gateway.pages.customer import CustomerPages
from usher_gateway.pages.server import PageServer
from usher_gateway.pages.sessions import Sessions
from usher_gateway.settings import Settings, cannot_listen, check_settings, read_store_password
from usher_gateway.store.base import KeptTimes, OpenReport
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.store import SqliteSettings, SqliteStore
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)


# How often holds are reviewed without a configuration change, because quotas depend on the date.
_HOLD_REVIEW_SECONDS = 30.0

_HOLD_REVIEW_RETRY_SECONDS = 1.0  # How long to wait after a review that failed because the store was unavailable

# How long the public port waits for a first configuration before it opens without one. A file that may be unfinished
# needs 2.1 s of it.
_FIRST_CONFIGURATION_SECONDS = 3.0

_GUARANTEES = {
    "Local": "acknowledged visits survive a crash, but not the loss of the disk or the database server",
    "Replicated": "acknowledged visits survive a crash, and the loss of the database server",
}

_STORE_PAUSE_FIRST_SECONDS = 0.5
_STORE_PAUSE_LONGEST_SECONDS = 5.0  # How long a start waits for the next try to reach the database
_ACTIVITY_SECONDS = 5.0  # How often listeners' and destinations' activity is saved
_PRUNE_SECONDS = 10.0  # How often the store is pruned
_PRUNE_AGAIN_SECONDS = 0.05  # How long to wait after a prune that left rows to delete
_FREEZE_LISTENERS = 500  # After this many new listeners, exempt them from garbage collection

# At a stop, running attempts get at least this long, even if draining connections took all the time.
_MIN_ATTEMPT_SECONDS = 1.0


class Gateway(Parts):
    """A gateway in one process. Create it in a running event loop; ``run`` lasts until ``stop``."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Build every part, and start none.

        Raises:
            UsherError: the settings cannot work, or a key, token or certificate cannot be used.
        """
        check_settings(settings)
        file_reading.require_paths(settings.files)
        install_key.check_dependents(settings.data, environ, from_cluster=settings.from_cluster)
        self.settings, self._environ = settings, environ
        self.keys = model.derive_keys(install_key.load_install_key(settings.data, environ))
        self.clock = Clock(settings.time_scale)
        self.state = run_state.RunState()
        self.started = asyncio.Event()  # Set when the public port is open
        self.port = settings.listen.port  # The configured public port; after the start, the port it listens on
        self._new_listeners = _FREEZE_LISTENERS
        self._drain_until = 0.0
        self._stopped = asyncio.Event()
        self._store_reason = ""  # Why the database could not be reached at the last try; empty when the store is open
        self._configuration_changed = asyncio.Event()
        self.certificates = self._make_certificates()
        self.tokens = tokens.load_book(settings.data, settings.admin_tokens, Seals(self.keys.page))
        self.kubernetes_tokens = self._make_kubernetes_tokens()
        self.store = self._make_store()
        self.source = self._make_source()
        self._make_delivery()
        self._make_ingest()
        self._make_steps()
        self._make_admin()

    def _make_delivery(self) -> None:
        settings, store, clock = self.settings, self.store, self.clock
        attempts = settings.max_attempts
        if attempts is None:
            attempts = process.attempts_for_memory(process.memory_bytes())
        self._descriptors = process.reserve_descriptors(settings.limits.connections, MAX_IDLE, attempts)
        allowed = settings.allow_destination + ((address_guard.LOOPBACK,) * settings.has_loopback_exception)
        self.destination_client = DestinationClient(
            guard=address_guard.AddressGuard(allow=allowed), max_idle=self._descriptors.idle
        )
        self.expressions = ExpressionCounters()
        self.route_documents = route_documents = RouteDocuments(keys=self.keys)
        self.worker = DeliveryWorker(
            store=store,
            client=self.destination_client,
            clock=clock,
            route_documents=route_documents,
            activity=ActivityRecorder(key=self.keys.document),
            expressions=self.expressions,
        )
        self.held_routes = HeldRoutes(store=store, route_documents=route_documents, expressions=self.expressions)
        self.dispatcher = dispatcher.Dispatcher(
            store=store,
            worker=self.worker,
            route_documents=route_documents,
            clock=clock,
            limits=dispatcher.DispatcherLimits(settings.lane_bytes, self._descriptors.attempts),
            note_holds=self.held_routes.note,
        )
        self.quotas = QuotaCounter(store=store, clock=clock)
        self.hold_reviewer = HoldReviewer(
            store=store,
            route_documents=route_documents,
            clock=clock,
            has_slow_expression=self.worker.is_too_slow,
            held_routes=self.held_routes,
            quotas=self.quotas,
        )
        self.sample_sender = SampleSender(route_documents=route_documents, client=self.destination_client, clock=clock)
        self.erasure_forwarder = ErasureForwarder(
            route_documents=route_documents, client=self.destination_client, clock=clock
        )

    def _make_ingest(self) -> None:
        self.counters = ArrivalCounters()
        self.registry = ListenerRegistry(
            keys=self.keys, expressions=self.expressions, counters=self.counters, budgets=TenantBudgets()
        )
        self.pipeline = ArrivalPipeline(
            registry=self.registry,
            store=self.store,
            clock=self.clock,
            keys=self.keys,
            counters=self.counters,
            budgets=BodyBudgets(),
            deliver=self.dispatcher.offer,
            note_holds=self.held_routes.note,
        )
        self.server = PublicServer(
            handler=self.pipeline.accept,
            count_refused=self.pipeline.count_refused,
            limits=msgspec.structs.replace(self.settings.limits, connections=self._descriptors.connections),
        )

    def _make_steps(self) -> None:
        replay_steps = ReplaySteps(
            store=self.store,
            now=self.clock.now,
            holds_of=self.hold_reviewer.current_holds,
            mark_of_route=self.pipeline.mark_of_route,
            is_paused=self.route_documents.is_paused,
            ask_store=self.dispatcher.ask_store,
        )
        self.replays = StepRunner("replay", replay_steps.take_all)
        erasure_steps = ErasureSteps(
            store=self.store,
            now=self.clock.now,
            forget_cancelled=self.dispatcher.forget_cancelled,
            mark_of_route=self.pipeline.mark_of_route,
        )
        self.erasures = StepRunner("erasure", erasure_steps.take_all)

    def _make_admin(self) -> None:
        settings, seals = self.settings, Seals(self.keys.page)
        self.health = health.HealthTracker(
            state=self.state,
            clock=self.clock,
            source=self.source,
            registry=self.registry,
            counters=self.counters,
            dispatcher=self.dispatcher,
            worker=self.worker,
            held_routes=self.held_routes.of,
            take_changed_holds=self.held_routes.take_changed,
        )
        self.tenants = TenantTracker(
            state=self.state,
            arrivals=self.counters,
            is_failing=self.health.is_failing,
            is_rejecting=self.health.is_rejecting,
            store=self.store,
            clock=self.clock,
            quota_used=self.quotas.used,
        )
        self.audit = AuditLog(store=self.store, now=self.clock.now)
        self.links = LinkSessions(
            store=self.store,
            seals=seals,
            audit=self.audit,
            snapshot=lambda: self.state.snapshot,
            now=self.clock.now,
        )
        self.try_turns, self.releasing = TryTurns(), asyncio.Lock()
        self.metrics = GatewayMetrics(self)
        self.metrics_page = MetricsPage(self.metrics.collect)
        page_proxies = proxies.Proxies(
            seals=seals,
            networks=settings.page_proxies,
            user_header=settings.page_user_header,
            groups_header=settings.page_groups_header,
            roles=settings.page_role,
        )
        self.pages = PageServer(
            sessions=Sessions(seals, time.monotonic),
            proxies=page_proxies,
            customers=CustomerPages(links=self.links, proxies=page_proxies, brand=brand.load_brand(settings.brand)),
            base_url=lambda: self.admin.url,
        )
        self.admin = self._make_admin_server(*routes.make_routes(self), *self.pages.routes())

    def _make_admin_server(self, *answered: server.AdminRoute[api.Handler]) -> server.AdminServer:
        return server.AdminServer(
            routes=answered,
            tokens=self.tokens,
            endpoint=self.settings.admin,
            hosts=self.settings.admin_host,
            kubernetes_tokens=self.kubernetes_tokens,
        )

    def _make_certificates(self) -> certificates.Certificates | None:
        """Return the public port's certificates; None if it serves plain HTTP."""
        settings, default = self.settings, None
        if settings.tls_cert is not None and settings.tls_key is not None:
            default = certificates.CertificateFiles(settings.tls_cert, settings.tls_key)
        if default is None and settings.tls_dir is None:
            return None
        return certificates.Certificates(default, settings.tls_dir)

    def _make_kubernetes_tokens(self) -> kubernetes_tokens.KubernetesTokens | None:
        if not self.settings.admin_kubernetes_tokens:
            return None
        return kubernetes_tokens.KubernetesTokens(
            client=self._kubernetes_client(kubernetes_tokens.CLIENT_LIMITS),
            namespaces=self._namespaces,
            audience=self.settings.admin_token_audience,
        )

    def _kubernetes_client(self, limits: client.ClientLimits) -> client.Client:
        return client.Client(access.find_access(self.settings.kubeconfig, self._environ), limits=limits)

    def _make_store(self) -> Store:
        settings, key_fingerprint = self.settings, model.key_fingerprint(self.keys.install)
        if settings.store is None:
            bounds = database.DiskBounds(settings.accept_min_free_bytes, settings.attempts_min_free_bytes)
            return SqliteStore(
                SqliteSettings(settings.data, key_fingerprint, self.keys.name, disk_bounds=bounds), self.clock.now
            )
        from usher_gateway.store.postgresql.opening import PostgresSettings  # needs asyncpg, which SQLite does not
        from usher_gateway.store.postgresql.store import PostgresStore

        return PostgresStore(
            PostgresSettings(
                dsn=settings.store,
                key_fingerprint=key_fingerprint,
                names_key=self.keys.name,
                password=read_store_password(settings.store_password_file),
                durability=settings.store_durability,
                may_migrate=settings.migrate,
            ),
            self.clock.now,
        )

    def _make_source(self) -> Source:
        settings = self.settings
        if not settings.from_cluster:
            options = files.FileOptions(
                keys=self.keys, trusted_proxies=settings.trusted_proxies, removal_limit=settings.removal_limit
            )
            return files.FileSource(
                settings.files, options, now=self.clock.since_start, arrivals=self._retired_arrivals_since_start
            )
        from usher_gateway.config import cluster  # imports cryptography, which files do not need

        return cluster.ClusterSource(
            cluster.ClusterOptions(
                keys=self.keys,
                namespace=settings.config_namespace,
                data=settings.data,
                trusted_proxies=settings.trusted_proxies,
            ),
            client=self._kubernetes_client(cluster.CLIENT_LIMITS),
            check=self._check_document,
            now=self.clock.now,
        )

    def _retired_arrivals_since_start(self) -> dict[str, int]:
        """Return the last arrivals at retired addresses by `Clock.since_start`.

        A wall clock that was set back makes none earlier.
        """
        ahead = max(0, self.clock.since_start() - self.clock.now())
        return {address: at + ahead for address, at in self.counters.retired_arrivals.items()}

    async def _namespaces(self) -> set[str]:
        """Return the namespaces with listeners in force, and those about which something is stored.

        Raises:
            StoreUnavailableError: the store does not answer, or is not open yet.
        """
        if self._store_reason:
            raise model.StoreUnavailableError(f"the gateway waits for its store: {self._store_reason}")
        stored = {listener.namespace for listener in await self.store.listener_names()}
        return stored | {listener.namespace for listener in self.snapshot.listeners.values()}

    def _check_document(
        self, document: documents.ListenerDocument | documents.DestinationDocument
    ) -> tuple[expressions.Program, ...]:
        """Build what would run a document, before it comes into force; returns the filters that it compiled.

        Raises an error if that is not possible.
        """
        if isinstance(document, documents.ListenerDocument):
            return self.registry.prepare(document, {}, now=0.0).planner.programs
        payload.prepare(document)
        return ()

    async def _run_replays(self) -> None:
        await self.state.configured.wait()  # until then no route has a rule or a state
        await self.replays.run()

    @property
    def snapshot(self) -> documents.Snapshot:
        """The configuration in force."""
        return self.state.snapshot

    def stop(self) -> None:
        """Ask the gateway to stop. Idempotent."""
        self._stopped.set()

    async def run(self) -> None:
        """Start, serve until ``stop``, and drain. The exit stack stops the parts in reverse order.

        Raises:
            UsherError: the gateway cannot start; the hint says what to do.
        """
        asyncio.get_running_loop().set_exception_handler(logs.log_loop_exception)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.destination_client.close)  # closes it if the store does not open
            if self.kubernetes_tokens is not None:
                await stack.enter_async_context(self.kubernetes_tokens)
            stack.push_async_callback(self.store.close)  # closes the store if a later start step fails
            recovery = await self._open_store()
            if recovery is None:
                return
            _log.info(
                "store_opened",
                recovered=recovery.recovered,
                durability=recovery.durability,
                guarantee=_GUARANTEES[recovery.durability],
            )
            await stack.enter_async_context(self.admin)
            await stack.enter_async_context(self.pages)
            stack.push_async_callback(self.store.close)  # closes it before the admin port
            stack.push_async_callback(self.destination_client.close)  # closes it before the store
            stack.push_async_callback(self._save_activity)
            tasks = self._start_tasks()
            stack.push_async_callback(self._stop_tasks, tasks)
            await _wait_for(self.state.configured, tasks, _FIRST_CONFIGURATION_SECONDS)
            accepting = await self._open_public_port()
            stack.push_async_callback(self._close_public_port, accepting)
            self._log_started()
            self.started.set()
            await _wait_for(self._stopped, tasks)
        _log.info("gateway_stopped")

    async def _open_store(self) -> OpenReport | None:
        """Open and read the store; while its database is away, answer the probes and try again.

        Returns:
            None if the gateway was stopped meanwhile.
        """
        pause = _STORE_PAUSE_FIRST_SECONDS
        report: OpenReport | None = None
        async with contextlib.AsyncExitStack() as waiting:
            while not self._stopped.is_set():
                try:
                    if report is None:
                        report = await self.store.open()
                        self.clock.start_from(report.confirmed_at, accept=self.settings.accept_clock)
                    await self._restore_activity()
                except model.StoreUnavailableError as error:
                    if self.settings.store is None:
                        raise
                    is_first_try, self._store_reason = not self._store_reason, str(error)
                    if is_first_try:
                        answers = routes.make_waiting_routes(lambda: self._store_reason)
                        await waiting.enter_async_context(self._make_admin_server(*answers))
                    _log.warning("store_not_opened", reason=str(error), hint=error.hint, next_try_seconds=pause)
                else:
                    self._store_reason = ""
                    return report
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), pause)
                pause = min(2 * pause, _STORE_PAUSE_LONGEST_SECONDS)
        return None

    async def _restore_activity(self) -> None:
        """Continue with what earlier gateways saved about listeners and destinations."""
        listeners, destinations = await self.store.listener_activity(), await self.store.destination_activity()
        await self.store.hasten_forbidden(self.clock.now())  # this start may allow other addresses
        self.counters.restore_activity(listeners)
        self.worker.activity.merge(destinations)

    def _start_tasks(self) -> list[asyncio.Task[None]]:
        jobs: dict[str, Coroutine[Any, Any, None]] = {
            "ownership": self.store.watch_ownership(),
            "deadlines": self.pipeline.watch_deadlines(),
            "connections": self.server.watch(),
            "configuration": self._follow_configuration(),
            "dispatcher": self.dispatcher.run(),
            "holds": self._review_holds(),
            "replays": self._run_replays(),
            "erasures": self.erasures.run(),
            "retention": self._prune(),
            "event loop lag": self.metrics.measure_loop_lag(),
            "tenants": self.tenants.watch(),
            "health": self.health.run(),
            "faults": fault_log.FaultLog(
                state=self.state, tracker=self.health, counters=self.counters, clock=self.clock
            ).run(),
            "activity": self._save_activity_regularly(),
        }
        if self.certificates is not None:
            jobs["certificates"] = self.certificates.follow()
        return [asyncio.create_task(job, name=name) for name, job in jobs.items()]

    async def _stop_tasks(self, tasks: list[asyncio.Task[None]]) -> None:
        """End the running attempts, and then every task."""
        seconds_left = self._drain_until - asyncio.get_running_loop().time()
        await self.dispatcher.stop(max(_MIN_ATTEMPT_SECONDS, seconds_left))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _open_public_port(self) -> acceptor.Acceptor:
        settings = self.settings
        try:
            sockets = acceptor.bind(settings.listen.host, settings.listen.port)
        except OSError as error:
            raise cannot_listen("--listen", settings.listen, error) from error
        self.port = sockets[0].getsockname()[1]
        accepting = acceptor.Acceptor(self.server, sockets, self.certificates.context if self.certificates else None)
        self.state.open_public_port()
        return accepting

    async def _close_public_port(self, accepting: acceptor.Acceptor) -> None:
        """Stop accepting connections and drain the open ones; the tasks still enforce their deadlines meanwhile."""
        self.state.start_draining()
        self._drain_until = asyncio.get_running_loop().time() + self.settings.drain_seconds
        accepting.close()
        await self.server.drain(self.settings.drain_seconds)

    async def _follow_configuration(self) -> None:
        async for snapshot in self.source.snapshots():
            await self.apply(snapshot)

    async def apply(self, snapshot: documents.Snapshot) -> None:
        """Put a configuration into force, from the next request and the next attempt on.

        Only the preparation has awaits: all parts get the configuration at once.
        """
        now = asyncio.get_running_loop().time()
        prepared = await self.registry.prepare_changed(snapshot, now)
        self._new_listeners += self.registry.apply(snapshot, now, prepared)
        self.dispatcher.apply(snapshot)
        self.state.apply(snapshot, self.clock.now())
        self._configuration_changed.set()
        if self._new_listeners >= _FREEZE_LISTENERS:
            # Documents live long, so the collector need not visit them. Not after every small change, because frozen
            # objects are never collected.
            self._new_listeners = 0
            process.exempt_live_objects_from_collection()

    async def _save_activity_regularly(self) -> None:
        while True:
            await asyncio.sleep(_ACTIVITY_SECONDS)
            await self._save_activity()
            if self.health.is_asked:
                with contextlib.suppress(model.StoreUnavailableError):  # the commits log an outage
                    await self.health.merge_activity(self.store)

    async def _save_activity(self) -> None:
        """Save the activity of listeners and destinations, because their conditions depend on it after a restart."""
        listeners, destinations = self.counters.take_activity(), self.worker.activity.take_unsaved()
        if not listeners and not destinations:
            return
        try:
            await self.store.save_activity(listeners, destinations)
        except model.UsherError as error:
            _log.warning("activity_not_saved", error=str(error))
            self.counters.save_again(listeners)
            self.worker.activity.save_again(destinations)

    async def _review_holds(self) -> None:
        """Review holds after each configuration change, and every 30 s by the gateway's clock."""
        await self._configuration_changed.wait()  # until then every destination is missing
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.clock.real_seconds(int(_HOLD_REVIEW_SECONDS * 1e6)) + 0.2):
                    await self._configuration_changed.wait()
            self._configuration_changed.clear()  # before the review, so that a change during it causes another one
            try:
                await self.hold_reviewer.review()
                self.dispatcher.ask_store()
            except model.StoreUnavailableError as error:
                _log.warning("holds_not_reviewed", reason=str(error))
                await asyncio.sleep(_HOLD_REVIEW_RETRY_SECONDS)
                self._configuration_changed.set()

    async def _prune(self) -> None:
        await self.state.configured.wait()  # until then the tenants' retention times are unknown
        while True:
            try:
                rows_touched = await self.store.prune(self.clock.confirmed(), self._kept_times())
            except model.StoreUnavailableError as error:
                _log.warning("store_not_pruned", reason=str(error))
                rows_touched = 0
            await asyncio.sleep(_PRUNE_AGAIN_SECONDS if rows_touched else _PRUNE_SECONDS)

    def _kept_times(self) -> KeptTimes:
        tenants = [(listener.namespace, listener.tenant) for listener in self.snapshot.listeners.values()]
        meter_months = {f"{namespace}/{tenant.name}": tenant.meter_months for namespace, tenant in tenants}
        return KeptTimes(meter_months=meter_months, receipt_days=self.settings.receipt_days)

    def _log_started(self) -> None:
        scheme = "https" if self.certificates else "http"
        _log.info(
            "gateway_started",
            public=f"{scheme}://{self.settings.listen.host}:{self.port}",
            admin=f"http://{self.settings.admin.host}:{self.admin.port}",
        )
        if self.settings.time_scale != 1.0:
            _log.warning("clock_scaled", time_scale=self.settings.time_scale, hint="for development only")
        if self.settings.has_loopback_exception:
            _log.info(
                "loopback_destinations_allowed",
                reason="the public port is on loopback and no proxy is trusted",
                hint="if a proxy passes requests to it, give --trusted-proxies",
            )


async def _wait_for(event: asyncio.Event, tasks: list[asyncio.Task[None]], seconds: float | None = None) -> None:
    """Wait until the event is set, a task ends or the time is over. Raises a failed task's exception."""
    waiting = asyncio.create_task(event.wait(), name="wait for an event")
    done, _ = await asyncio.wait({*tasks, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for task in done - {waiting}:
        task.result()


def handle_signals(gateway: Gateway) -> None:
    """Stop the gateway cleanly on SIGTERM, SIGINT and SIGHUP (a closed terminal)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        loop.add_signal_handler(signal.SIGHUP, gateway.stop)
