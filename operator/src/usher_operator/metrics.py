"""Metrics of the operator for Prometheus. docs/operator.md lists them; no label names a tenant."""

import time

import prometheus_client

import usher_operator

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class OperatorMetrics:
    """Every metric of the operator."""

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
        self.resyncs = self._counter("resync_total", "Complete lists of the cluster.", "result")
        self.divergence = self._counter(
            "resync_divergence_total", "Objects that a list found deleted without an event.", "kind"
        )
        self.leader = self._gauge("leader", "1 on the replica that works.")
        self.objects = self._gauge("objects", "Resources, by their Ready condition.", "kind", "ready")
        self.features = self._gauge("feature_available", "Optional APIs that the cluster has.", "feature")
        self.loop_lag = self._gauge("event_loop_lag_seconds", "How late the event loop runs.")
        self.published = self._gauge("config_last_published_timestamp_seconds", "When a document was last written.")
        self.documents = self._gauge("config_documents", "Documents in force, and tombstones.", "kind", "state")
        self.removals_halted = self._gauge("removals_halted", "Listeners whose removal waits for a confirmation.")
        self.gateways = self._gauge("gateways", "Gateways that the operator polls.", "state")
        info = self._gauge("build_info", "The version that runs.", "version")
        info.labels(usher_operator.__version__).set(1)

    def count_request(self, verb: str, code: int) -> None:
        """Count a request to the API server."""
        self.requests.labels(verb, str(code)).inc()

    def saw_watch(self, kind: str) -> None:
        """Note that a watch reported an event."""
        self.watch_seen.labels(kind).set(time.time())

    def _counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(f"usher_operator_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(f"usher_operator_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            f"usher_operator_{name}", text, labels, registry=self.registry, buckets=_SECONDS
        )
