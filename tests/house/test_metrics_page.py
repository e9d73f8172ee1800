"""docs/metrics.md lists exactly the metrics that a running gateway exposes."""

import asyncio
import re
from pathlib import Path

import pytest

from local_cluster import ports
from support import gateway, source, waiting, wire

PAGE = source.DOCS / "metrics.md"
MANIFEST = source.ROOT / "examples" / "quickstart.yaml"
BODY = b'{"user": {"id": 1, "venue": {"id": 3}}}'


def listed() -> dict[str, tuple[str, str]]:
    """Metric -> (type, labels), as the page lists them."""
    rows = [row for row in source.table_rows(PAGE.read_text("utf-8")) if row[0].startswith("`usher_")]
    assert len({row[0] for row in rows}) == len(rows), "a metric is listed twice"
    return {row[0].strip("`"): (row[1], row[2].replace("`", "")) for row in rows}


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a gateway after a visit, a bad body and a request for an unknown path."""
    return asyncio.run(scrape(tmp_path_factory.mktemp("metrics")))


async def scrape(folder: Path) -> str:
    # a free port, because a receiver may run at the example's port
    manifests = MANIFEST.read_text("utf-8").replace("127.0.0.1:9000", f"127.0.0.1:{ports.free()}")
    async with gateway.running(folder, manifests, drain_seconds=0.1) as running:
        for body in (BODY, b"[]"):
            await running.post(body, "default/lobby")
        await wire.exchange(running.port, wire.request("/stray", BODY))
        await waiting.wait_until(lambda: "usher_attempt_errors_total{" in running.exposition())
        return running.exposition()


def types_in(text: str) -> dict[str, str]:
    types = dict(re.findall(r"^# TYPE (usher_\w+) (\w+)", text, re.MULTILINE))
    assert len(types) > 10
    return types


def test_metrics_page_lists_every_metric_with_its_type(exposed: str) -> None:
    assert {name: kind for name, (kind, _) in listed().items()} == types_in(exposed)


def test_metrics_page_lists_the_labels_of_every_metric(exposed: str) -> None:
    page = listed()
    labels_by_metric: dict[str, str] = {}
    for name, labels in re.findall(r"^(usher_\w+?)(?:\{(.*)\})? ", exposed, re.MULTILINE):
        family = name if name in page else re.sub(r"_(bucket|count|sum)$", "", name)
        labels_by_metric[family] = ", ".join(sorted(set(re.findall(r"(\w+)=\"", labels)) - {"le"}))
    assert "tenant" in labels_by_metric["usher_arrivals_total"]
    assert {name: ", ".join(sorted(page[name][1].split(", "))) for name in labels_by_metric} == labels_by_metric


def test_no_metric_has_a_label_for_personal_data(exposed: str) -> None:
    """Such a label could only carry a value from a body."""
    assert not re.search(r"(user|email|mac|mobile|name|venue)=\"", exposed)
