"""The text of metrics is what a reader of Prometheus's format understands."""

import math

from prometheus_client import parser

from usher_gateway import metrics


def read(*families: metrics.Family) -> dict[str, tuple[str, str, dict[tuple[str, ...], float]]]:
    """Return (type, help, label values with the name's suffix -> value) of each metric."""
    return {
        family.name: (
            family.type,
            family.documentation,
            {
                (sample.name.removeprefix(family.name), *sample.labels.values()): sample.value
                for sample in family.samples
            },
        )
        for family in parser.text_string_to_metric_families(metrics.write(families))
    }


def test_counters_and_gauges_are_read_back_with_their_values() -> None:
    visits = metrics.counter("visits", "How many.", ["tenant", "kind"], {("acme", "new"): 3, ("acme", "old"): 0})
    ratio = metrics.gauge("ratio", "A share.", [], {(): 0.1})
    assert read(visits, ratio) == {
        "visits": ("counter", "How many.", {("_total", "acme", "new"): 3.0, ("_total", "acme", "old"): 0.0}),
        "ratio": ("gauge", "A share.", {("",): 0.1}),
    }


def test_large_and_infinite_values_are_read_back() -> None:
    values = {("time",): 1764194955.123456, ("bytes",): 2**60, ("never",): math.inf}
    parsed_values = read(metrics.gauge("values", "Some.", ["of"], values))["values"][2]
    assert parsed_values == {("", key): float(value) for (key,), value in values.items()}


def test_special_characters_of_labels_and_help_are_escaped() -> None:
    file = 'a "quoted" \\ name\nin 100 %s lines'
    parsed = read(metrics.gauge("expiry", "A \\ and\na line.", ["file"], {(file,): 1}))
    assert parsed == {"expiry": ("gauge", "A \\ and\na line.", {("", file): 1.0})}


def test_buckets_of_a_histogram_add_up() -> None:
    counts = metrics.Histogram((0.5, 1.0))
    for value in (0.25, 0.5, 0.75, 4.0):
        counts.observe(value)
    assert read(metrics.histogram("wait", "Seconds.", counts)) == {
        "wait": (
            "histogram",
            "Seconds.",
            {
                ("_bucket", "0.5"): 2.0,
                ("_bucket", "1.0"): 3.0,
                ("_bucket", "+Inf"): 4.0,
                ("_count",): 4.0,
                ("_sum",): 5.5,
            },
        )
    }


def test_a_metric_without_samples_keeps_its_help_and_type() -> None:
    assert metrics.write([metrics.counter("lost", "None yet.", ["reason"], {})]) == (
        "# HELP lost_total None yet.\n# TYPE lost_total counter\n"
    )


def test_metrics_of_the_process_are_included() -> None:
    text = metrics.process_text()
    assert "process_resident_memory_bytes " in text
    assert "python_gc_collections_total{" in text
