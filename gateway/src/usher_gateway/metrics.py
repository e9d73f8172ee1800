"""Building blocks for Prometheus metrics: a cheap histogram for the hot path, and families built at each scrape.

The hot path only adds to plain numbers. A scrape turns them into families, and ``write`` turns these into text. The
process's metrics come from prometheus_client, whose writer is too slow for ours
(docs/decisions/0011-the-text-of-metrics-by-hand.md).
docs/metrics.md lists the metrics; only a few counters carry a tenant label.
"""

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import prometheus_client

import usher_gateway

LabelValues = TypeVar("LabelValues", bound=tuple[str, ...])

Metrics = Iterator["Family"]

# Histogram buckets for durations.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 30.0)

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)  # Histogram buckets for batch sizes
_SPECIAL = re.compile(r'[\\"\n]')  # The characters that a label value has to escape


class Histogram:
    """Counts values in buckets; one observation costs a bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds  # Upper bounds in ascending order; `counts` has one more bucket, without an upper bound
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value


class Series(NamedTuple):
    """One name's samples: label values -> value."""

    name: str
    labels: tuple[str, ...]
    values: Mapping[Any, float]


class Family(NamedTuple):
    """A metric with its type, its help text and all its samples.

    It holds plain values, because prometheus_client's objects for 34,000 samples cost six times as much. The writer
    may run in another thread, so a family must have copies of values that can change.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    series: tuple[Series, ...]


def counter(name: str, text: str, labels: Iterable[str], values: Mapping[LabelValues, float]) -> Family:
    """Return a counter with one value per tuple of label values. Its name in the text ends with ``_total``."""
    name = f"{name}_total"
    return Family(name, "counter", text, (Series(name, tuple(labels), values),))


def gauge(name: str, text: str, labels: Iterable[str], values: Mapping[LabelValues, float]) -> Family:
    """Return a gauge with one value per tuple of label values."""
    return Family(name, "gauge", text, (Series(name, tuple(labels), values),))


def plain_counter(name: str, text: str, value: float) -> Family:
    """Return a counter without labels."""
    return counter(name, text, (), {(): value})


def plain_gauge(name: str, text: str, value: float) -> Family:
    """Return a gauge without labels."""
    return gauge(name, text, (), {(): value})


def histogram(name: str, text: str, values: Histogram) -> Family:
    """Return a histogram without labels."""
    buckets, running = {}, 0
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        running += count
        buckets[(bound,)] = running
    series = (
        Series(f"{name}_bucket", ("le",), buckets),
        Series(f"{name}_count", (), {(): running}),
        Series(f"{name}_sum", (), {(): values.total}),
    )
    return Family(name, "histogram", text, series)


def build_info() -> Metrics:
    """Yield the version that runs."""
    yield gauge("usher_build_info", "The version that runs.", ["version"], {(usher_gateway.__version__,): 1})


def write(families: Iterable[Family]) -> str:
    """Return families in Prometheus's text format.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
    """
    lines = []
    for family in families:
        help_text = family.text.replace("\\", r"\\").replace("\n", r"\n")
        lines.append(f"# HELP {family.name} {help_text}\n# TYPE {family.name} {family.kind}\n")
        for series in family.series:
            pairs = ",".join(f'{label}="%s"' for label in series.labels)
            pattern = f"{series.name}{{{pairs}}} %r\n" if pairs else f"{series.name} %r\n"
            lines += [pattern % (*_escaped(key), float(value)) for key, value in series.values.items()]
    return "".join(lines)


def process_text() -> str:
    """Return a Python process's usual metrics as text."""
    return prometheus_client.generate_latest(_process).decode()


def _escaped(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return label values as the text format wants them. Hardly any value has a character to escape."""
    if _SPECIAL.search("".join(values)) is None:
        return values
    return tuple(value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in values)


def _process_registry() -> prometheus_client.CollectorRegistry:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    return registry


_process = _process_registry()
