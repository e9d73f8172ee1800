"""The operator's liveness, readiness and metrics, on its admin port. No endpoint shows a secret."""

import asyncio
import collections
import datetime
import os
import time
from collections.abc import Callable, Mapping
from typing import Self

import prometheus_client
from aiohttp import web

import usher_operator
from usher_gateway import model
from usher_operator.run.workqueue import PauseGate
from usher_operator.settings import AdminAddress, OperatorSettings
from usher_operator.state.cache import Cache
from usher_operator.state.values import CachedResource

_TICK_SECONDS = 0.5
_HISTOGRAM_BOUNDS_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Health:
    """Collects the reasons why the operator is not alive or not ready. Without a reason it is alive or ready."""

    def __init__(self, settings: OperatorSettings, *, gate: PauseGate, clock: Callable[[], float]) -> None:
        self._timing, self._gate, self._clock = settings.timing, gate, clock
        self._expected: dict[str, float] = {}  # Since when the watch of each kind should have reported an event
        self._listed_at: dict[str, float] = {}  # When each kind was last listed completely
        self._seen_at: dict[str, float] = {}  # When the watch of each kind last reported an event
        self._ticked_at = clock()
        self.loop_lag_seconds = 0.0  # How late the event loop was at its last tick
        self._not_ready: dict[str, str] = {"start": "the operator is starting"}

    def expect_event(self, kind: str) -> None:
        """Note that a kind's object was changed, so that its watch has to report an event."""
        self._expected.setdefault(kind, self._clock())

    def saw_event(self, kind: str) -> None:
        """Note that a kind's watch reported an event."""
        self._expected.pop(kind, None)
        self._seen_at[kind] = self._clock()

    def saw_list(self, kind: str) -> None:
        """Note that a list of a kind succeeded."""
        self._listed_at[kind] = self._clock()

    def forget_lists(self, kind: str) -> None:
        """Note that the cluster does not serve a kind any more."""
        self._listed_at.pop(kind, None)

    def set_ready(self, topic: str, reason: str = "") -> None:
        """Set a topic's reason not to be ready; ``""`` withdraws it."""
        if reason:
            self._not_ready[topic] = reason
        else:
            self._not_ready.pop(topic, None)

    def reasons_not_ready(self) -> list[str]:
        """Why the operator is not ready; empty if it is."""
        return [*self._not_ready.values(), *self._gate.reasons.values(), *self._unknown_kinds()]

    def _unknown_kinds(self) -> list[str]:
        """Kinds for which neither a watch nor the list each minute has reported anything for long."""
        now, reasons = self._clock(), []
        for kind, listed_at in self._listed_at.items():
            silent_seconds = now - max(listed_at, self._seen_at.get(kind, listed_at))
            if silent_seconds > self._timing.max_watch_silence_seconds:
                reasons.append(
                    f"the watch of {kind} has reported nothing for {silent_seconds:.0f} s, and lists have failed since:"
                    " see the log (watch_not_checked)"
                )
        return reasons

    def reasons_not_alive(self) -> list[str]:
        """Why the process should be restarted; empty if it is alive. A silent watch is fine if nothing changed."""
        now, reasons = self._clock(), []
        late = max(self.loop_lag_seconds, now - self._ticked_at - _TICK_SECONDS)
        if late > self._timing.max_loop_lag_seconds:
            reasons.append(f"the event loop is {late:.0f} s late")
        for kind, since in self._expected.items():
            if now - since > self._timing.max_watch_silence_seconds:
                reasons.append(f"the watch of {kind} has not reported a change for {now - since:.0f} s")
        return reasons

    async def measure_loop(self) -> None:
        """Measure how late the event loop runs, until cancelled."""
        while True:
            begun = self._clock()
            await asyncio.sleep(_TICK_SECONDS)
            self._ticked_at = self._clock()
            self.loop_lag_seconds = max(0.0, self._ticked_at - begun - _TICK_SECONDS)


class OperatorMetrics:
    """Every operator metric. docs/operator.md lists them; a single one has a series for each tenant."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self.reconciles = self._counter("reconcile_total", "Keys reconciled.", "kind", "result")
        self.reconcile_seconds = self._histogram("reconcile_duration_seconds", "Time to reconcile a key.", "kind")
        self.queue_depth = self._gauge("workqueue_depth", "Keys that wait for a worker.")
        self.queue_age = self._gauge("workqueue_oldest_age_seconds", "How long the first waiting key has waited.")
        self.queue_seconds = self._histogram("workqueue_wait_seconds", "Time from ready to taken.")
        self.queue_retries = self._counter("workqueue_retries_total", "Keys retried after a failure.")
        self.requests = self._counter("api_requests_total", "Requests to the API server; code 0: none.", "verb", "code")
        self.status_updates = self._counter("status_updates_total", "Status writes.", "kind", "result")
        self.watch_seen = self._gauge(
            "watch_last_event_timestamp_seconds", "When a watch last reported an event.", "kind"
        )
        self.listed = self._gauge(
            "list_last_success_timestamp_seconds", "When a kind was last listed completely.", "kind"
        )
        self.resyncs = self._counter("resync_total", "Complete lists of the cluster.", "result")
        self.divergence = self._counter(
            "resync_divergence_total", "Objects that a list found deleted without an event.", "kind"
        )
        self.leader = self._gauge("leader", "1 on the replica that works.")
        self.objects = self._gauge("objects", "Resources, by their Ready condition.", "kind", "ready")
        self.not_ready = self._gauge(
            "listeners_not_ready", "Listeners of a tenant that are not Ready.", "tenant_namespace", "tenant"
        )
        self.certificates = self._gauge(
            "certificate_expiry_timestamp_seconds",
            "When a hostname's certificate expires, as cert-manager reports it.",
            "hostname",
        )
        self.unreachable = self._gauge(
            "hostname_unreachable", "1 if requests to a hostname do not lead to a gateway, 0 if they do.", "hostname"
        )
        self.features = self._gauge("feature_available", "Optional APIs that the cluster has.", "feature")
        self.loop_lag = self._gauge("event_loop_lag_seconds", "How late the event loop runs.")
        self.published = self._gauge("config_last_published_timestamp_seconds", "When a document was last written.")
        self.documents = self._gauge("config_documents", "Documents in force, and tombstones.", "kind", "state")
        self.removals_halted = self._gauge("removals_halted", "Removals that wait for a confirmation.")
        self.gateways = self._gauge("gateways", "Gateways that the operator polls.", "state")
        info = self._gauge("build_info", "The version that runs.", "version")
        info.labels(usher_operator.__version__).set(1)

    def count_request(self, verb: str, code: int) -> None:
        """Count a request to the API server."""
        self.requests.labels(verb, str(code)).inc()

    def saw_watch(self, kind: str) -> None:
        """Note that a watch reported an event."""
        self.watch_seen.labels(kind).set(time.time())

    def saw_list(self, kind: str) -> None:
        """Note that a list of a kind succeeded."""
        self.listed.labels(kind).set(time.time())

    def set_objects(self, cache: Cache) -> None:
        """Set the gauges that count what the cache holds."""
        objects: collections.Counter[tuple[str, str]] = collections.Counter()
        not_ready: dict[tuple[str, str], int] = {}
        for key, record in cache.records.items():
            ready = next(
                (condition.status for condition in record.parsed.conditions if condition.type == "Ready"), "Unknown"
            )
            objects[key.kind, ready] += 1
            if key.kind == "Listener" and isinstance(record.parsed, CachedResource):
                tenant = key.namespace, record.parsed.resource.spec.tenant_ref.name
                not_ready[tenant] = not_ready.get(tenant, 0) + (ready != "True")
        documents: collections.Counter[tuple[str, str]] = collections.Counter()
        self.certificates.clear()
        for child in cache.child_index.by_ref.values():
            if child.is_config:
                documents[child.key.kind, "Tombstone" if child.tombstone else "InForce"] += 1
            expiry = child.state.status.get("notAfter") if child.state.ref.kind == "Certificate" else None
            if expiry and not child.unused_since:
                self.certificates.labels(child.key.name).set(datetime.datetime.fromisoformat(expiry).timestamp())
        self.unreachable.clear()
        for hostname, reachability in cache.reachabilities.items():
            if reachability.is_checked:
                self.unreachable.labels(hostname).set(bool(reachability.problem))
        _replace(self.objects, objects)
        _replace(self.not_ready, not_ready)
        _replace(self.documents, documents)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(f"usher_operator_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(f"usher_operator_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            f"usher_operator_{name}", text, labels, registry=self.registry, buckets=_HISTOGRAM_BOUNDS_SECONDS
        )


def _replace(gauge: prometheus_client.Gauge, values: Mapping[tuple[str, str], int]) -> None:
    """Set a gauge with two labels to these values only."""
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


class HealthServer:
    """Serves the admin port during an ``async with`` block.

    Args:
        address: where to listen; port 0 picks a free port.
        before_scrape: called before each answer to ``/metrics``; sets the gauges that are read on demand.
    """

    def __init__(
        self,
        address: AdminAddress,
        *,
        health: Health,
        metrics: OperatorMetrics,
        before_scrape: Callable[[], None] = lambda: None,
    ) -> None:
        self._address, self._health, self._metrics = address, health, metrics
        self._before_scrape = before_scrape
        self.port = address.port  # The port that is listened on, once the server has started
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._answer_metrics)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._address.host, self._address.port).start()
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error.strerror)
            raise model.ConfigurationError(
                f"cannot listen on {self._address.host}:{self._address.port}: {reason}",
                "Choose another --admin; is another operator running?",
            ) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        reasons = self._health.reasons_not_alive()
        return web.json_response({"alive": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._health.reasons_not_ready()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        self._before_scrape()
        body = prometheus_client.generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
