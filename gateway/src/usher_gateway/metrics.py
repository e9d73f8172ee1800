"""Metrics for Prometheus. Names and meanings are listed in docs/metrics.md; tenants only on a few counters."""

from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client import core, registry

import usher_gateway
from usher_gateway import measure

Metrics = Iterator[core.Metric]


class Collector(registry.Collector):
    """Asks each part for its numbers at the moment of a scrape: counting costs the hot path next to nothing."""

    def __init__(self, sources: list[Callable[[], Metrics]]) -> None:
        self._sources = sources

    def collect(self) -> Metrics:
        """Every metric of every part."""
        for source in self._sources:
            yield from source()


def make_registry(sources: list[Callable[[], Metrics]]) -> prometheus_client.CollectorRegistry:
    """A registry with the process's metrics, the build's, and those of the parts."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    found = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=found)
    prometheus_client.GCCollector(registry=found)
    found.register(Collector([*sources, _build_info]))
    return found


def counter(name: str, text: str, labels: list[str], values: dict[tuple[str, ...], float]) -> core.Metric:
    """A counter with one value per tuple of label values."""
    family = core.CounterMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, labels: list[str], values: dict[tuple[str, ...], float]) -> core.Metric:
    """A gauge with one value per tuple of label values."""
    family = core.GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def histogram(name: str, text: str, values: measure.Histogram) -> core.Metric:
    """A histogram without labels."""
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
