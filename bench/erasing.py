"""Erasing 10,000 persons beside arrivals at half load, on both engines: `make bench-erasing` (ARGS="sqlite")."""

import contextlib
import itertools
import json
import os
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import report
import run

from postgresql.server import PostgresServer

PERSONS = 10_000
_FIRST_ERASED = 20_000_000
_SLICE_SECONDS = 20.0
_CALM_SLICES = 6


class Eraser:
    """Sends requests to erase the first visitors, one by one, in a thread."""

    def __init__(self, process: run.Process, token: str) -> None:
        self._base, self._token = f"http://127.0.0.1:{process.admin}/api/persons", token
        self.seconds = 0.0  # How long it took from the first request until the last erasure was completed
        self.thread = threading.Thread(target=self._erase)

    def _erase(self) -> None:
        began = time.monotonic()
        for number in range(PERSONS):
            value = f"load.{_FIRST_ERASED + number:08d}@example.com"
            erasure = self._ask("/erase", {"value": value, "field": "email"})
        while self._ask(f"/erasures/{erasure['id']}")["status"] != "completed":
            time.sleep(0.5)
        self.seconds = time.monotonic() - began

    def _ask(self, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, content, {"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answered: dict[str, Any] = json.load(answer)
        return answered


def sqlite(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the answer time at half load on SQLite, without erasures and beside 10,000 of them."""
    del rounds
    yield from _measure("SQLite", "", seconds)


def postgresql(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the same on PostgreSQL."""
    del rounds
    with PostgresServer(is_durable=True) as server:
        server.execute("create database erasing")
        yield from _measure("PostgreSQL", server.dsn("erasing"), seconds)


def _measure(name: str, store: str, seconds: float) -> Iterator[report.Result]:
    os.environ["USHER_INSTALL_KEY"] = "k" * 64
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(run.usher("0,1", store=store))
        full = run.load(process.port, "--seconds", seconds)["rate"]
        run.load(process.port, "--requests", PERSONS, "--seconds", 600, "--first", _FIRST_ERASED)
        half = ("--rate", full / 2, "--grace", 5, "--seconds", _SLICE_SECONDS)
        firsts = itertools.count(40_000_000, 1_000_000)
        calm = [run.load(process.port, "--first", next(firsts), *half)["p99_ms"] for _ in range(_CALM_SLICES)]
        assert process.data is not None
        eraser = Eraser(process, (Path(process.data) / "operate.token").read_text(encoding="ascii").strip())
        eraser.thread.start()
        busy = []
        while eraser.thread.is_alive():
            busy.append(run.load(process.port, "--first", next(firsts), *half)["p99_ms"])
        eraser.thread.join()
    usual, usual_beside = statistics.median(calm), statistics.median(busy)
    shown = f"{usual_beside:.1f} ms against {usual:.1f} ms; slowest {max(busy):.1f} ms against {max(calm):.1f} ms"
    title = f"{name}: p99 of the answer at half load beside {PERSONS:,} erasures, in slices of {_SLICE_SECONDS:.0f} s"
    yield report.Result(title, shown, "<= 2x", usual_beside <= 2 * usual)
    yield report.Result(f"{name}: until the last of them is completed", f"{eraser.seconds:.0f} s", "")


if __name__ == "__main__":
    sys.exit(run.main(__doc__, {"sqlite": sqlite, "postgresql": postgresql}))
