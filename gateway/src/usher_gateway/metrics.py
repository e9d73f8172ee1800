"""Building blocks of Prometheus metrics: a cheap histogram for the hot path, and families built at each scrape.

The hot path only adds to plain numbers. A scrape turns them into metrics, so that counting costs next to nothing.
docs/metrics.md lists the metrics; only a few counters carry a tenant label.
"""

import bisect
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import prometheus_client
from prometheus_client import core, registry

import usher_gateway

Metrics = Iterator[core.Metric]

LabelValues = TypeVar("LabelValues", bound=tuple[str, ...])

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 30.0)
"""Histogram buckets for durations."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Histogram buckets for batch sizes."""


class Histogram:
    """Counts values in buckets; one observation costs a bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        """Upper bounds in ascending order; ``counts`` has one more bucket, without an upper bound."""
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


class ScrapeCollector(registry.Collector):
    """Asks each source for its metrics at every scrape."""

    def __init__(self, sources: list[Callable[[], Metrics]]) -> None:
        self._sources = sources

    def collect(self) -> Metrics:
        """Return the metrics of every source."""
        for source in self._sources:
            yield from source()


class CollectedMetrics(registry.Collector):
    """Metrics that were collected before, so that another thread can write them as text."""

    def __init__(self, families: list[core.Metric]) -> None:
        self._families = families

    def collect(self) -> list[core.Metric]:
        """Return the families."""
        return self._families


def make_registry(sources: list[Callable[[], Metrics]]) -> prometheus_client.CollectorRegistry:
    """Return a registry with metrics of the process, the build and the sources."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    found = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=found)
    prometheus_client.GCCollector(registry=found)
    found.register(ScrapeCollector([*sources, _build_info]))
    return found


def counter(name: str, text: str, labels: list[str], values: Mapping[LabelValues, float]) -> core.Metric:
    """Return a counter with one value per tuple of label values."""
    family = core.CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, labels: list[str], values: Mapping[LabelValues, float]) -> core.Metric:
    """Return a gauge with one value per tuple of label values."""
    family = core.GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def histogram(name: str, text: str, values: Histogram) -> core.Metric:
    """Return a histogram without labels."""
    buckets, running = [], 0
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    family = core.HistogramMetricFamily(name, text)
    family.add_metric([], buckets, values.total)
    return family


def _build_info() -> Metrics:
    labels = {("version",): usher_gateway.__version__}
    yield gauge("usher_build_info", "The version that runs.", ["version"], {(labels["version",],): 1.0})
