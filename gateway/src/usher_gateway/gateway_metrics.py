"""The gateway's own Prometheus metrics, collected from its parts at every scrape. docs/metrics.md lists them."""

import asyncio
from collections.abc import Collection, Mapping

from usher_gateway import logs, metrics, model
from usher_gateway.admin.parts import Parts
from usher_gateway.delivery import circuit
from usher_gateway.delivery.worker import OUTCOME_LABELS
from usher_gateway.destinations import SendError
from usher_gateway.insight.tenants import ListenerSummary, TenantKey

# With more listeners the metrics per listener are left out; the API and the meters still have these numbers.
_MAX_LISTENERS = 2_000

_COUNTED_AS_NAMES = tuple(counted_as.name.lower() for counted_as in model.CountedAs)
_NOTHING_COUNTED = [0] * (len(model.CountedAs) + 1)


class GatewayMetrics:
    """Reads the metrics from a gateway's parts.

    Each configured tenant has its metrics from the start, because ``increase()`` does not see a series' first
    event if the series begins with it. Times and counts of open deliveries come from the ledger and survive a restart.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._loop_lag_seconds = 0.0

    async def measure_loop_lag(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(0.5)
            self._loop_lag_seconds = max(0.0, loop.time() - started - 0.5)

    def collect(self) -> metrics.Metrics:
        """Yield the metrics."""
        yield from self._collect_arrivals()
        yield from self._collect_listeners()
        tenants = self._parts.tenants.summaries()
        yield from self._collect_gauges(tenants)
        yield from self._collect_counters(dict.fromkeys([*tenants, *self._parts.tenants.deliveries]))
        yield from self._collect_attempts()
        yield from self._collect_errors()
        yield from self._collect_open_deliveries()
        yield from self._collect_store()
        yield from self._collect_configuration()
        yield from metrics.build_info()

    def _collect_arrivals(self) -> metrics.Metrics:
        counters, server = self._parts.counters, self._parts.server
        yield metrics.counter(
            "usher_refused",
            "Arrivals refused, with and without a tenant.",
            ["reason"],
            _by_word(dict.fromkeys(model.RefusedReason, 0) | counters.refused),
        )
        yield metrics.counter(
            "usher_quarantined",
            "Arrivals quarantined.",
            ["reason"],
            _by_word(dict.fromkeys(model.QuarantineReason.__members__, 0) | counters.quarantined),
        )
        yield metrics.plain_counter(
            "usher_unacknowledged",
            "Arrivals that were committed, but whose answer could not be written.",
            counters.unacknowledged,
        )
        yield metrics.histogram(
            "usher_answer_duration_seconds", "From a request's beginning to its answer.", server.durations
        )
        yield metrics.plain_gauge("usher_connections", "Open connections at the public port.", len(server.connections))
        yield metrics.plain_counter(
            "usher_connections_displaced",
            "Waiting connections that were closed because a new one needed the room.",
            server.displaced,
        )
        yield metrics.plain_counter(
            "usher_handshakes_displaced",
            "Unfinished TLS handshakes that were closed because there were too many.",
            server.displaced_handshakes,
        )
        yield metrics.gauge(
            "usher_certificate_expiry_timestamp_seconds",
            "When a certificate that the public port serves expires.",
            ["file"],
            {(file,): at for file, at in self._parts.certificates.expiry_times.items()}
            if self._parts.certificates
            else {},
        )
        yield metrics.plain_gauge(
            "usher_inflight", "Arrivals that wait for their commit.", self._parts.pipeline.uncommitted
        )
        yield metrics.plain_gauge("usher_event_loop_lag_seconds", "How late the event loop is.", self._loop_lag_seconds)
        yield metrics.plain_counter(
            "usher_log_lines_lost", "Lines of the log that could not be written.", logs.lines_lost()
        )

    def _collect_listeners(self) -> metrics.Metrics:
        """Metrics per listener, as long as there are at most 2,000 listeners."""
        listeners = self._parts.registry.listeners
        last: dict[tuple[str, ...], float] = {}
        refused: dict[tuple[str, ...], float] = {}
        displaced: dict[tuple[str, ...], float] = {}
        if len(listeners) <= _MAX_LISTENERS:
            for live in listeners.values():
                key = (live.name.namespace, live.name.tenant, live.name.listener)
                last[key] = live.counters.last_accepted / model.MICROSECONDS
                refused[key] = float(live.counters.refused_in_a_row)
                displaced[key] = float(self._parts.server.displaced_bodies.get(live.name.key, 0))
        labels = ["tenant_namespace", "tenant", "listener"]
        yield metrics.gauge(
            "usher_listener_last_arrival_timestamp_seconds",
            "When something was accepted last, from the ledger; 0: never. Up to 2,000 listeners.",
            labels,
            last,
        )
        yield metrics.gauge(
            "usher_listener_consecutive_refusals",
            "Refusals since something was accepted last. Up to 2,000 listeners.",
            labels,
            refused,
        )
        yield metrics.counter(
            "usher_listener_bodies_displaced",
            "Unfinished bodies that were refused because there were too many. Up to 2,000 listeners.",
            labels,
            displaced,
        )

    def _collect_counters(self, tenants: Collection[TenantKey]) -> metrics.Metrics:
        """Yield counters for the tenants in force, and for removed ones with deliveries that wait or are dead."""
        arrivals, outcomes, labels = (
            self._parts.counters,
            self._parts.worker.counters.outcomes,
            ["tenant_namespace", "tenant"],
        )
        counted = arrivals.counted
        yield metrics.counter(
            "usher_arrivals",
            "Arrivals at known addresses, by what they were counted as.",
            [*labels, "counted_as"],
            {
                (*tenant, word): count
                for tenant in tenants
                for word, count in zip(_COUNTED_AS_NAMES, counted.get(tenant, _NOTHING_COUNTED)[1:], strict=True)
            },
        )
        yield metrics.counter(
            "usher_deliveries",
            "Ends of attempts, by what became of the delivery.",
            [*labels, "destination", "outcome"],
            {
                (*destination, outcome): outcomes.get((*destination, outcome), 0)
                for destination in self._parts.tenants.destinations()
                for outcome in OUTCOME_LABELS.values()
            },
        )
        yield metrics.counter(
            "usher_skipped",
            "Routes that made no delivery.",
            [*labels, "reason"],
            {key: count for key, count in arrivals.skipped.items() if key[:2] in tenants},
        )
        yield metrics.counter(
            "usher_tenant_refused",
            "Arrivals refused at the addresses of a tenant.",
            [*labels, "reason"],
            {key: count for key, count in arrivals.refused_by_tenant.items() if key[:2] in tenants},
        )
        yield metrics.counter(
            "usher_company_mismatches",
            "Arrivals of another company that were accepted, because companyCheck is Warn.",
            labels,
            _of(tenants, arrivals.company_mismatches),
        )
        yield metrics.counter(
            "usher_unexpected_sources",
            "Arrivals let in from outside of allowedSources, because the policy is Report.",
            labels,
            _of(tenants, arrivals.unexpected_sources),
        )
        yield metrics.counter(
            "usher_retired_address_arrivals",
            "Arrivals at addresses that an edit took out of service.",
            labels,
            _of(tenants, arrivals.retired),
        )

    def _collect_gauges(self, tenants: Mapping[TenantKey, ListenerSummary]) -> metrics.Metrics:
        labels, deliveries = ["tenant_namespace", "tenant"], self._parts.tenants.deliveries
        held_counts = {(*key, reason): n for key, counts in deliveries.items() for reason, n in counts.held.items()}
        yield metrics.gauge(
            "usher_tenant_listeners",
            "Listeners in force.",
            labels,
            {key: tenant.listeners for key, tenant in tenants.items()},
        )
        yield metrics.gauge(
            "usher_tenant_silent_listeners",
            "Listeners that accepted nothing for longer than silence.afterSeconds.",
            labels,
            {key: tenant.silent for key, tenant in tenants.items()},
        )
        yield metrics.gauge(
            "usher_tenant_refusing_listeners",
            "Listeners whose last arrivals were all refused.",
            labels,
            {key: tenant.refusing for key, tenant in tenants.items()},
        )
        yield metrics.gauge(
            "usher_tenant_last_arrival_timestamp_seconds",
            "When something was accepted last, from the ledger; 0: never.",
            labels,
            {key: tenant.last_arrival / model.MICROSECONDS for key, tenant in tenants.items()},
        )
        yield metrics.gauge(
            "usher_held_deliveries", "Deliveries that wait for a person or a date.", [*labels, "reason"], held_counts
        )
        yield metrics.gauge(
            "usher_dead_deliveries",
            "Deliveries that failed for good and can be redriven.",
            labels,
            dict.fromkeys(tenants, 0) | {key: counts.dead for key, counts in deliveries.items()},
        )
        yield metrics.gauge(
            "usher_quota_used_ratio",
            "Visits of the tenant's present month as a share of its quota.",
            labels,
            self._parts.tenants.quota_used,
        )

    def _collect_attempts(self) -> metrics.Metrics:
        dispatcher, worker = self._parts.dispatcher, self._parts.worker
        yield metrics.counter(
            "usher_attempt_errors",
            "Attempts that were not delivered.",
            ["error"],
            _by_word(dict.fromkeys(SendError, 0) | worker.counters.errors),
        )
        yield metrics.counter(
            "usher_expression_errors", "Evaluations that failed.", ["error"], _by_word(self._parts.expressions.errors)
        )
        yield metrics.histogram(
            "usher_attempt_duration_seconds", "From the start of an attempt to its end.", dispatcher.attempt_seconds
        )
        lanes = dispatcher.scheduler
        yield metrics.plain_gauge("usher_lane_bytes", "Bytes held by lanes and attempts.", lanes.bytes)
        yield metrics.plain_gauge("usher_attempts_in_flight", "Attempts that run.", lanes.in_flight)
        in_force = self._parts.state.snapshot.destinations
        are_open = {key for key in in_force if lanes.circuit_of(key).state is circuit.CircuitState.Open}
        yield metrics.plain_gauge("usher_circuits_open", "Destinations whose circuit is open.", len(are_open))
        yield metrics.gauge(
            "usher_destination_circuit_open",
            "1 while the circuit of a tenant's destination is open, 0 otherwise.",
            ["tenant_namespace", "tenant", "destination"],
            {
                (namespace, tenant, name): f"{namespace}/{name}" in are_open
                for namespace, tenant, name in self._parts.tenants.destinations()
            },
        )

    def _collect_errors(self) -> metrics.Metrics:
        """Yield each destination's last error. A restart keeps it."""
        in_a_row: dict[tuple[str, ...], float] = {}
        last: dict[tuple[str, ...], float] = {}
        for key, document in self._parts.state.snapshot.destinations.items():
            tried, name = self._parts.worker.activity.of(document), key.split("/")
            in_a_row[*name] = 0.0 if tried.recovered_at else float(tried.failures)
            if tried.failures:
                last[*name, tried.error] = tried.failed_at / model.MICROSECONDS
        yield metrics.gauge(
            "usher_destination_consecutive_failures",
            "Failed attempts since a destination was last delivered to.",
            ["destination_namespace", "destination"],
            in_a_row,
        )
        yield metrics.gauge(
            "usher_destination_last_error_timestamp_seconds",
            "When an attempt at a destination failed last, and why.",
            ["destination_namespace", "destination", "error"],
            last,
        )

    def _collect_open_deliveries(self) -> metrics.Metrics:
        lanes, in_store = self._parts.dispatcher.scheduler, self._parts.tenants.deliveries
        waiting = sum(counts.backlog + sum(counts.held.values()) for counts in in_store.values())
        total = waiting + lanes.count + lanes.in_flight
        yield metrics.plain_gauge(
            "usher_open_deliveries", "Pending deliveries: backlog, held, in lanes, in attempts.", total
        )
        now, labels = self._parts.clock.now(), ["tenant_namespace", "tenant", "destination"]
        backlogs, in_lanes, oldest_at, fresh_at = {}, {}, {}, {}
        for tenant, counts in in_store.items():
            for destination, backlog in counts.backlogs.items():
                key = (*tenant, destination)
                backlogs[key], oldest_at[key] = backlog.count, backlog.oldest_at
        for queue in lanes.queues():
            namespace, destination = queue.destination.split("/")
            key = (namespace, queue.tenant.rpartition("/")[2], destination)
            in_lanes[key] = queue.count
            oldest_at[key] = min(oldest_at.get(key, now), queue.oldest_at)
            if queue.oldest_fresh_at:
                fresh_at[key] = queue.oldest_fresh_at
        yield metrics.gauge("usher_backlog_deliveries", "Deliveries in the backlog of a destination.", labels, backlogs)
        yield metrics.gauge(
            "usher_lane_deliveries", "Deliveries that wait for a slot in the lane of a destination.", labels, in_lanes
        )
        yield metrics.gauge(
            "usher_oldest_open_delivery_age_seconds",
            "Since the oldest delivery in the backlog or the lane of a destination was made.",
            labels,
            {key: max(0, now - at) / model.MICROSECONDS for key, at in oldest_at.items()},
        )
        yield metrics.gauge(
            "usher_delivery_lag_seconds",
            "Since the oldest delivery that waits in a lane for its first attempt was accepted.",
            labels,
            {key: max(0, now - at) / model.MICROSECONDS for key, at in fresh_at.items()},
        )

    def _collect_store(self) -> metrics.Metrics:
        store = self._parts.store.statistics()
        yield metrics.histogram("usher_commit_duration_seconds", "Commits of batches.", store.commit_seconds)
        yield metrics.histogram("usher_accept_batch_size", "Arrivals per commit.", store.batch_sizes)
        yield metrics.plain_gauge("usher_store_available", "1 while commits succeed.", store.is_available)
        if store.free_bytes is not None:
            yield metrics.plain_gauge(
                "usher_store_free_bytes", "Free space of the data's file system.", store.free_bytes
            )
        yield metrics.plain_gauge(
            "usher_clock_jump_seconds",
            "By how much the clock jumped ahead, while retention and expiry wait for a confirmation; 0: not at all.",
            self._parts.clock.jump() / model.MICROSECONDS,
        )
        yield metrics.plain_gauge("usher_unsettled", "Results of attempts that wait for their commit.", store.unsettled)

    def _collect_configuration(self) -> metrics.Metrics:
        snapshot = self._parts.state.snapshot
        count: dict[tuple[str, ...], float] = {
            ("listener",): float(len(snapshot.listeners)),
            ("destination",): float(len(snapshot.destinations)),
        }
        yield metrics.gauge("usher_config_documents", "Documents in force.", ["kind"], count)
        status = self._parts.source.status()
        yield metrics.plain_gauge(
            "usher_config_rejected", "Problems that keep something from applying.", len(status.rejected)
        )
        yield metrics.plain_gauge(
            "usher_config_vanished", "Documents that are served on without a Secret.", len(status.vanished)
        )
        yield metrics.gauge(
            "usher_config_source",
            "Where the configuration in force came from: 1 for files, cluster or cache.",
            ["source"],
            {(status.origin,): 1.0} if status.origin else {},
        )
        yield metrics.plain_gauge(
            "usher_config_last_heard_timestamp_seconds",
            "When the API server told something last; 0: never, or configuration comes from files.",
            status.heard_at / model.MICROSECONDS,
        )
        yield metrics.plain_gauge(
            "usher_config_last_applied_timestamp_seconds",
            "When a configuration was applied last.",
            self._parts.state.applied_at / model.MICROSECONDS,
        )


def _of(tenants: Collection[TenantKey], counts: Mapping[TenantKey, int]) -> dict[TenantKey, int]:
    """Return these tenants' counts."""
    return {key: count for key, count in counts.items() if key in tenants}


def _by_word(counts: dict[str, int]) -> dict[tuple[str, ...], float]:
    return {(word,): float(count) for word, count in counts.items()}
