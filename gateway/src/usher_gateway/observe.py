"""What can be measured of a gateway: its numbers as metrics."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from usher_gateway import metrics, model
from usher_gateway.delivery import circuit

if TYPE_CHECKING:
    from usher_gateway import app

_log = structlog.get_logger(__name__)


class ExpressionWatch:
    """Counts what filters do at the door."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self.too_slow: set[tuple[str, str]] = set()
        """(listener, route) held because an expression is too slow."""

    def expression_failed(self, listener: str, route: str, code: str) -> None:
        """See route.Watch. Said once per code in the log: a broken filter fails for every visit."""
        if code not in self.errors:
            _log.warning("filter_failed", listener=listener, route=route, error=code)
        self.errors[code] = self.errors.get(code, 0) + 1

    def expression_held(self, listener: str, route: str) -> None:
        """See route.Watch."""
        self.too_slow.add((listener, route))
        _log.error("route_held", listener=listener, route=route, reason="ExpressionTooSlow")


class GatewayMetrics:
    """The gateway's numbers as Prometheus metrics."""

    def __init__(self, gateway: "app.Gateway") -> None:
        self._gateway = gateway
        self.loop_lag_seconds = 0.0

    async def watch_loop(self) -> None:
        """Measure how late the event loop is. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.5)
            self.loop_lag_seconds = max(0.0, loop.time() - before - 0.5)

    def collect(self) -> metrics.Metrics:
        """Every metric of the gateway."""
        yield from self._arrivals()
        yield from self._deliveries()
        yield from self._store()
        yield from self._configuration()

    def _arrivals(self) -> metrics.Metrics:
        door, server = self._gateway.door, self._gateway.server
        yield metrics.counter(
            "usher_arrivals",
            "Arrivals at known addresses, by what they were counted as.",
            ["tenant_namespace", "tenant", "counted_as"],
            {key: float(count) for key, count in door.books.counted.items()},
        )
        yield metrics.counter(
            "usher_refused", "Arrivals refused, with and without a tenant.", ["reason"], _by_word(door.books.refused)
        )
        mismatches: dict[tuple[str, ...], float] = {}
        for live in door.listeners.values():
            key = (live.name.namespace, live.name.tenant)
            mismatches[key] = mismatches.get(key, 0.0) + live.company_mismatches
        yield metrics.counter(
            "usher_company_mismatches",
            "Arrivals of another company that were accepted, because companyCheck is Warn.",
            ["tenant_namespace", "tenant"],
            {key: count for key, count in mismatches.items() if count},
        )
        yield metrics.counter(
            "usher_quarantined", "Arrivals quarantined.", ["reason"], _by_word(door.books.quarantined)
        )
        yield metrics.counter(
            "usher_unexpected_sources",
            "Arrivals let in from outside of allowedSources, because the policy is Report.",
            ["tenant_namespace", "tenant"],
            {key: float(count) for key, count in door.books.unexpected_sources.items()},
        )
        yield metrics.counter(
            "usher_unacknowledged",
            "Arrivals that were committed, but whose answer could not be written.",
            [],
            {(): float(door.books.unacknowledged)},
        )
        yield metrics.histogram(
            "usher_answer_duration_seconds", "From a request's beginning to its answer.", server.durations
        )
        yield metrics.gauge(
            "usher_connections", "Open connections at the public port.", [], {(): float(len(server.connections))}
        )
        yield metrics.gauge(
            "usher_inflight", "Arrivals that wait for their commit.", [], {(): float(len(door.deadlines.waiting))}
        )
        yield metrics.gauge(
            "usher_event_loop_lag_seconds", "How late the event loop is.", [], {(): self.loop_lag_seconds}
        )

    def _deliveries(self) -> metrics.Metrics:
        dispatcher, desk = self._gateway.dispatcher, self._gateway.desk
        yield metrics.counter(
            "usher_deliveries",
            "Ends of attempts, by what became of the delivery.",
            ["tenant_namespace", "tenant", "outcome"],
            {key: float(count) for key, count in desk.books.outcomes.items()},
        )
        yield metrics.counter(
            "usher_attempt_errors", "Attempts that were not delivered.", ["error"], _by_word(desk.books.errors)
        )
        errors = dict(desk.books.expression_errors)
        for code, count in self._gateway.watch.errors.items():
            errors[code] = errors.get(code, 0) + count
        yield metrics.counter("usher_expression_errors", "Evaluations that failed.", ["error"], _by_word(errors))
        yield metrics.histogram(
            "usher_attempt_duration_seconds", "From the start of an attempt to its end.", dispatcher.attempt_seconds
        )
        yield metrics.gauge(
            "usher_delivery_lag_seconds",
            "From acceptance to the start of the first attempt, for the last delivery that started.",
            [],
            {(): dispatcher.lag / model.MICROSECONDS},
        )
        lanes = dispatcher.lanes
        yield metrics.gauge("usher_lane_deliveries", "Deliveries waiting in lanes.", [], {(): float(lanes.count)})
        yield metrics.gauge("usher_lane_bytes", "Bytes held by lanes and attempts.", [], {(): float(lanes.bytes)})
        yield metrics.gauge("usher_attempts_in_flight", "Attempts that run.", [], {(): float(lanes.in_flight)})
        states = [lanes.circuit_of(key).state for key in self._gateway.snapshot.destinations]
        opened = sum(state is circuit.State.Open for state in states)
        yield metrics.gauge("usher_circuits_open", "Destinations whose circuit is open.", [], {(): float(opened)})

    def _store(self) -> metrics.Metrics:
        store = self._gateway.store
        yield metrics.histogram("usher_commit_duration_seconds", "Commits of batches.", store.commit_seconds)
        yield metrics.histogram("usher_accept_batch_size", "Arrivals per commit.", store.batch_sizes)
        yield metrics.gauge("usher_store_available", "1 while commits succeed.", [], {(): float(store.available)})
        yield metrics.gauge(
            "usher_store_free_bytes", "Free space of the data's file system.", [], {(): float(store.disk.free_bytes)}
        )
        yield metrics.gauge(
            "usher_unsettled", "Results of attempts that wait for their commit.", [], {(): float(store.unsettled)}
        )

    def _configuration(self) -> metrics.Metrics:
        gateway = self._gateway
        count: dict[tuple[str, ...], float] = {
            ("listener",): float(len(gateway.snapshot.listeners)),
            ("destination",): float(len(gateway.snapshot.destinations)),
        }
        yield metrics.gauge("usher_config_documents", "Documents in force.", ["kind"], count)
        rejected = float(len(gateway.source.configuration.rejected))
        yield metrics.gauge("usher_config_rejected", "Problems that keep something from applying.", [], {(): rejected})
        yield metrics.gauge(
            "usher_config_last_applied_timestamp_seconds",
            "When a configuration was applied last.",
            [],
            {(): gateway.applied_at / model.MICROSECONDS},
        )


def _by_word(counts: dict[str, int]) -> dict[tuple[str, ...], float]:
    return {(word,): float(count) for word, count in counts.items()}
