"""The overview of 2,000 tenants with 10 million visits, beside arrivals at half load: `make bench-pages`."""

import asyncio
import contextlib
import http.cookiejar
import json
import os
import sqlite3
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import report
import run

from usher_gateway import model
from usher_gateway.config import install_key
from usher_gateway.store.sqlite.store import SqliteSettings, SqliteStore

TENANTS = 2_000
VISITS = 10_000_000
DAYS = 30
SECONDS = 30.0
PAUSES = (1.0, 5.0)  # Seconds between two views: of 10 people, and of 2, whose pages load themselves again every 10 s

_FILL = f"""
    insert into arrivals (key, id, listener, received_at, visit_time, counted_as, flags, reason, hops, body_size,
        fingerprint, visitor, persons, verdicts)
    with recursive numbers (number) as (select 1 union all select number + 1 from numbers where number < {VISITS})
    select number, randomblob(16), abs(random()) % {TENANTS} + 1,
        ?1 + number * {DAYS * 86_400 * 1_000_000 // VISITS}, ?1, 1, 1, 0, 0, 1200, randomblob(16), randomblob(16), x'',
        x'90'
    from numbers
"""
_COUNT = """
    insert into meters (listener, slot, counter, count)
    select listener, received_at / 1000000 / 900 * 900 as slot, counters.value, count(*)
    from arrivals cross join json_each(?1) counters group by slot, listener, counters.value
"""


def overview(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure views of the overview, and the answer time of arrivals without and beside them."""
    del rounds, seconds
    with run.usher("0,1", TENANTS, prepare=_fill) as process:
        full = run.load(process.port, "--seconds", SECONDS / 6, "--listeners", TENANTS)["rate"]
        half = ("--listeners", TENANTS, "--rate", full / 2, "--seconds", SECONDS, "--grace", 5)
        calm = run.load(process.port, "--first", 20_000_000, *half)["p99_ms"]
        for number, pause in enumerate(PAUSES):
            viewer = Viewer(process, pause)
            with viewer:
                beside = run.load(process.port, "--first", (number + 2) * 20_000_000, *half)["p99_ms"]
            slowest, middle = max(viewer.times) * 1000, statistics.median(viewer.times) * 1000
            shown = f"median {middle:.0f} ms, slowest {slowest:.0f} ms ({len(viewer.times)})"
            title = f"the overview of {TENANTS:,} tenants and {VISITS:,} visits each {pause:.0f} s, beside half load"
            yield report.Result(title, shown, "< 300 ms", slowest < 300)
            shown = f"{beside:.1f} ms against {calm:.1f} ms"
            title = f"p99 of the answer at half load beside a view each {pause:.0f} s"
            yield report.Result(title, shown, "<= 2x", beside <= 2 * calm)


class Viewer:
    """Looks at the overview again and again, in a thread."""

    def __init__(self, process: run.Process, pause: float) -> None:
        self._pause = pause
        self._base = f"http://127.0.0.1:{process.admin}"
        self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        token = (Path(process.data) / "operate.token").read_text(encoding="ascii").strip()
        asked = urllib.request.Request(f"{self._base}/api/pages/tickets", b"{}", {"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            self._look(json.load(answer)["path"])
        self.times: list[float] = []  # Seconds of each view
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_regularly)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look_regularly(self) -> None:
        while not self._is_over.wait(self._pause):
            began = time.monotonic()
            self._look("/")
            self.times.append(time.monotonic() - began)

    def _look(self, path: str) -> None:
        with self._browser.open(self._base + path, timeout=30) as page:
            assert b"Overview" in page.read()


async def _create(settings: SqliteSettings) -> None:
    store = SqliteStore(settings, lambda: time.time_ns() // 1_000)
    await store.open()
    await store.close()


def _fill(data: Path) -> None:
    """Write a store with the visits of the last days, and their counts."""
    data.mkdir()
    keys = model.derive_keys(install_key.load_install_key(data, os.environ))
    asyncio.run(_create(SqliteSettings(data, model.key_fingerprint(keys.install), keys.name)))
    with contextlib.closing(sqlite3.connect(data / "usher.sqlite3", isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        connection.executemany(
            "insert into listeners (number, namespace, tenant, listener) values (?, 'bench', ?, ?)",
            [(number + 1, f"t{number}", f"l{number}") for number in range(TENANTS)],
        )
        connection.execute(_FILL, (time.time_ns() // 1_000 - DAYS * model.DAY,))
        connection.executemany(
            "insert or replace into meta values (?, ?)", [(name, str(VISITS)) for name in ("folded_to", "persons_to")]
        )
        counters = (model.Counter.visits, model.Counter.routed, model.Counter.created, model.Counter.delivered)
        connection.execute(_COUNT, (json.dumps(counters),))


if __name__ == "__main__":
    sys.exit(run.main(__doc__, {"overview": overview}))
