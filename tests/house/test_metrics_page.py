"""docs/metrics.md lists exactly the metrics that a running gateway exposes."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from local_cluster import ports
from support import source
from usher_gateway import app
from usher_gateway import settings as all_settings

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
    """``/metrics`` of a gateway after a visit, a bad body and a request for an unknown path."""
    return asyncio.run(scrape(tmp_path_factory.mktemp("metrics")))


async def scrape(folder: Path) -> str:
    manifest = folder / "quickstart.yaml"  # a free port, because a receiver may run at the example's port
    manifest.write_text(MANIFEST.read_text("utf-8").replace("127.0.0.1:9000", f"127.0.0.1:{ports.free()}"), "utf-8")
    settings = all_settings.Settings(
        files=(manifest,),
        data=folder / "data",
        listen=all_settings.Endpoint("127.0.0.1", 0),
        admin=all_settings.Endpoint("127.0.0.1", ports.free()),
        accept_min_free_bytes=0,
        accept_min_free_ratio=0.0,
        attempts_min_free_bytes=0,
        drain_seconds=0.1,
    )
    gateway = app.Gateway(settings, {})
    running = asyncio.create_task(gateway.run())
    try:
        async with asyncio.timeout(20):
            await gateway.started.wait()
            path = gateway.snapshot.listeners["default/lobby"].addresses[0].path
            for target, body in ((path, BODY), (path, b"[]"), ("/stray", BODY)):
                await exchange(gateway.port, f"POST {target} HTTP/1.1", body)
            while True:
                text = await exchange(settings.admin.port, "GET /metrics HTTP/1.1")
                if "usher_attempt_errors_total{" in text:
                    return text
                await asyncio.sleep(0.05)
    finally:
        gateway.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def exchange(port: int, line: str, body: bytes = b"") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{line}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer.decode()


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
