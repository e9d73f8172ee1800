"""Measure the speed of the gateway as ratios within one run.

`make bench` runs every benchmark, `make bench ARGS="ingest forward"` some of them. Usher runs in its own process, with
SQLite in synchronous=FULL. Another process on the other core generates the load. A figure is the median of its rounds,
and the rounds of both sides alternate.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import find
import manifests
import report

from usher_gateway import model
from usher_gateway.config import install_key
from usher_gateway.store.sqlite.store import SqliteSettings, SqliteStore

HERE = Path(__file__).parent
USHER = Path(sys.executable).parent / "usher"


class Process:
    """A server under measurement."""

    def __init__(self, command: list[str], cores: str, port: int, admin: int = 0, data: Path = Path()) -> None:
        self.command, self.cores, self.port, self.admin, self.data = command, cores, port, admin, data
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        environment = {**os.environ, "USHER_LOG_LEVEL": "error"}
        self.process = subprocess.Popen(
            ["taskset", "-c", self.cores, *self.command], env=environment, stdout=subprocess.DEVNULL
        )
        wait_for_port(self.port)
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has used so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the resident memory of the process."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return int(free_socket.getsockname()[1])


def wait_for_port(port: int, seconds: float = 30) -> None:
    """Wait until a server listens on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}")


def load(
    port: int, *arguments: object, more_ports: Sequence[int] = (), core: str = "1", may_fail: bool = False
) -> dict[str, float]:
    """Run the load generator and return its report."""
    ports = [str(port), *map(str, more_ports)]
    command = ["taskset", "-c", core, sys.executable, str(HERE / "load.py"), "--port", *ports, *map(str, arguments)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if figures["bad"] and not may_fail:
        raise SystemExit(f"{figures['bad']:.0f} answers were not 200")
    return figures


@contextlib.contextmanager
def usher(
    cores: str,
    listeners: int = 1,
    *,
    tenants: int = 0,
    forward_to: int = 0,
    is_recipe: bool = False,
    neighbours: int = 0,
    store: str = "",
    has_default_rate: bool = False,
    tls: tuple[Path, Path] | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Process]:
    """Run a gateway on a fresh store: `usher run` if it forwards, otherwise one that makes no attempts.

    The store is SQLite, or the PostgreSQL database at the address ``store``.
    ``prepare`` fills the data folder before the gateway starts.
    With ``neighbours``, that many namespaces forward to one destination each, and not all listeners to the same one.
    """
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        if neighbours:
            file = manifests.write_neighbours(folder, neighbours, forward_to)
        else:
            file = manifests.write(
                folder,
                listeners,
                tenants=tenants,
                forward_to=forward_to,
                has_default_rate=has_default_rate,
                is_recipe=is_recipe,
            )
        if prepare is not None:
            prepare(folder / "data")
        port, admin = free_port(), free_port()
        public, private, data = f"127.0.0.1:{port}", f"127.0.0.1:{admin}", str(folder / "data")
        command = [sys.executable, str(HERE / "serve.py"), str(file), public, private, data]
        if store:
            command.append(store)
        if tls is not None:
            command = [str(USHER), "run", str(file), "--listen", public, "--admin", private, "--data", data]
            command += ["--tls-cert", str(tls[0]), "--tls-key", str(tls[1])]
        if forward_to:
            command = [str(USHER), "run", str(file), "--listen", public, "--admin", private, "--data", data]
            command += ["--store", store] if store else []
        with Process(command, cores, port, admin, folder / "data") as process:
            wait_until_ready(admin)
            yield process
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(admin: int, seconds: float = 60) -> None:
    """Wait until /readyz answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).close()
            return
        time.sleep(0.02)
    raise SystemExit("the gateway did not become ready")


def bare(cores: str = "0") -> Process:
    """Return the bare aiohttp handler as a process."""
    port = free_port()
    return Process([sys.executable, str(HERE / "bare.py"), str(port)], cores, port)


def ingest(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the rate of durable ingest relative to the bare handler."""
    figures: dict[str, list[float]] = {"bare": [], "free": [], "pinned": []}
    with bare() as plain, usher("0,1") as free, usher("0") as pinned:
        for process in (plain, free, pinned):
            load(process.port, "--seconds", 1)
        for number in range(rounds):
            for name, process in (("bare", plain), ("free", free), ("pinned", pinned)):
                first = 1_000_000 * (number + 1)
                figures[name].append(load(process.port, "--seconds", seconds, "--first", first)["rate"])
    base = statistics.median(figures["bare"])
    yield report.Result("bare aiohttp handler", f"{base:,.0f}/s", "")
    free_rate, pinned_rate = statistics.median(figures["free"]), statistics.median(figures["pinned"])
    yield report.Result("durable ingest, writer on another core", f"{free_rate:,.0f}/s = {free_rate / base:.0%}", "")
    yield report.Result(
        "durable ingest, all on one core",
        f"{pinned_rate:,.0f}/s = {pinned_rate / base:.0%}",
        ">= 30%",
        pinned_rate / base >= 0.3,
    )


SUPPRESSED = 100_000


def suppressions(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure what the look-up of suppressed persons costs: none are, or 100,000 others."""
    rates: dict[str, list[float]] = {"none": [], "many": []}
    with usher("0,1") as without, usher("0,1", prepare=_suppress) as with_many:
        for number in range(rounds):
            for name, process in (("none", without), ("many", with_many)):
                rates[name].append(
                    load(process.port, "--seconds", seconds, "--first", 1_000_000 * (number + 1))["rate"]
                )
    part = statistics.median(rates["many"]) / statistics.median(rates["none"])
    shown = f"{part:.0%} of {statistics.median(rates['none']):,.0f}/s"
    yield report.Result(f"ingest with {SUPPRESSED:,} suppressed persons against none", shown, ">= 95%", part >= 0.95)


def _suppress(data: Path) -> None:
    create_store(data)
    with contextlib.closing(sqlite3.connect(data / "usher.sqlite3")) as connection, connection:
        persons = [(os.urandom(8), "bench/t0", 0) for _ in range(SUPPRESSED)]
        connection.executemany("insert into suppressed values (?, ?, ?)", persons)


def create_store(data: Path) -> None:
    """Create a data folder with an empty SQLite store."""
    data.mkdir()
    keys = model.derive_keys(install_key.load_install_key(data, os.environ))
    asyncio.run(_open_once(SqliteSettings(data, model.key_fingerprint(keys.install), keys.name)))


async def _open_once(settings: SqliteSettings) -> None:
    opened = SqliteStore(settings, lambda: time.time_ns() // 1_000)
    await opened.open()
    await opened.close()


def latency(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the p99 of the answer time at half load."""
    del rounds
    with usher("0,1") as process:
        full = load(process.port, "--seconds", seconds)["rate"]
        half = load(process.port, "--seconds", seconds * 2, "--rate", full / 2, "--first", 5_000_000)
    yield report.Result("p99 of the answer at half load", f"{half['p99_ms']:.1f} ms", "<= 25 ms", half["p99_ms"] <= 25)


def listeners(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the rate with many listeners relative to one."""
    figures: dict[int, list[float]] = {1: [], 200: [], 10_000: []}
    with usher("0,1", 1) as single, usher("0,1", 200) as some, usher("0,1", 10_000) as many:
        for number in range(rounds):
            for count, process in ((1, single), (200, some), (10_000, many)):
                first = 1_000_000 * (number + 1)
                figures[count].append(
                    load(process.port, "--seconds", seconds, "--listeners", count, "--first", first)["rate"]
                )
    base = statistics.median(figures[1])
    for count, goal in ((200, 0.8), (10_000, 0.8)):
        part = statistics.median(figures[count]) / base
        yield report.Result(f"{count:,} listeners against one", f"{part:.0%}", f">= {goal:.0%}", part >= goal)


def start(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the time to start with 10,000 listeners."""
    del seconds
    times = []
    for _ in range(rounds):
        began = time.monotonic()
        with usher("0,1", 10_000):
            times.append(time.monotonic() - began)
    took = statistics.median(times)
    yield report.Result("start with 10,000 listeners", f"{took:.1f} s", "< 3 s", took < 3)


TEXT_KEPT_SECONDS = 1.0
"""After this time a request for /metrics gets a new text."""


def scrape(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure /metrics and the lists of the API with 2,000 tenants of five listeners each."""
    del seconds
    with usher("0,1", 10_000, tenants=2_000) as process:
        for path, limit_seconds in (
            ("/metrics", 0.2),
            ("/api/tenants", None),
            ("/api/listeners", None),
            ("/api/config", None),
        ):
            yield from ask(process, path, 5 * rounds, limit_seconds)


def ask(process: Process, path: str, times: int, limit_seconds: float | None) -> Iterator[report.Result]:
    """Measure the slowest of some requests, and how long other requests wait beside them."""
    token = (process.data / "observe.token").read_text("utf-8").strip()
    request = urllib.request.Request(f"http://127.0.0.1:{process.admin}{path}")
    request.add_header("Authorization", f"Bearer {token}")
    took, size = 0.0, 0
    command = [sys.executable, str(HERE / "beside.py"), str(process.admin)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as beside:
        assert beside.stdout is not None
        beside.stdout.readline()
        for _ in range(times):
            time.sleep(TEXT_KEPT_SECONDS)
            began = time.monotonic()
            with urllib.request.urlopen(request, timeout=30) as answer:
                size = len(answer.read())
            took = max(took, time.monotonic() - began)
        stall = float(beside.communicate()[0])
    goal, is_met = (f"< {limit_seconds * 1000:.0f} ms", took < limit_seconds) if limit_seconds else ("", None)
    yield report.Result(f"slowest {path}, 2,000 tenants", f"{took * 1000:.0f} ms, {size / 1e6:.1f} MB", goal, is_met)
    yield report.Result("the same, longest wait of others", f"{stall:.0f} ms", "< 50 ms", stall < 50)


def forward(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure accepting and forwarding: CPU per visit, and the rate relative to the sum of its parts."""
    figures: list[float] = []
    cpu: list[float] = []
    lag: list[float] = []
    alone: list[dict[str, float]] = []
    with bare("1") as receiver, bare("0") as plain, usher("0", forward_to=receiver.port) as process:
        load(process.port, "--seconds", 1)
        for number in range(rounds):
            alone.append(parts_microseconds(plain.port, receiver.port, seconds))
            cpu_before = process.cpu_seconds()
            figures_of_load = load(process.port, "--seconds", seconds, "--first", 1_000_000 * (number + 1))
            lag.append(settle(receiver))
            figures.append(figures_of_load["good"] / (figures_of_load["seconds"] + lag[-1]))
            cpu.append((process.cpu_seconds() - cpu_before) / figures_of_load["good"] * 1000)
    parts = {name: statistics.median([each[name] for each in alone]) for name in alone[0]}
    rate, expected = statistics.median(figures), 1e6 / sum(parts.values())
    shown = ", ".join(f"{name} {value:.0f}" for name, value in parts.items())
    yield report.Result("parts (us): " + shown, f"{expected:,.0f}/s", "")
    yield report.Result(
        "accept and forward", f"{rate:,.0f}/s = {rate / expected:.0%} of the parts", ">= 70%", rate / expected >= 0.7
    )
    seconds_per_thousand = statistics.median(cpu)
    goal = seconds_per_thousand <= 0.26
    yield report.Result("CPU per 1,000 visits delivered", f"{seconds_per_thousand:.3f} s", "<= 0.26 s", goal)
    yield report.Result("backlog after the load", f"{statistics.median(lag):.1f} s", "no growing backlog")


def recipes(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure what a destination like Mailchimp's costs more than a plain one: CPU per visit delivered."""
    cpu: dict[str, list[float]] = {"plain": [], "recipe": []}
    with (
        bare("1") as receiver,
        usher("0", forward_to=receiver.port) as plain,
        usher("0", forward_to=receiver.port, is_recipe=True) as recipe,
    ):
        sides = {"plain": plain, "recipe": recipe}
        for number in range(rounds + 1):  # the first is for warmth
            for side, process in sides.items():
                cpu_before, delivered_before = process.cpu_seconds(), delivered(process)
                figures = load(process.port, "--seconds", seconds, "--first", 1_000_000 * number)
                while delivered(process) - delivered_before < figures["good"]:
                    time.sleep(0.2)
                cpu[side].append((process.cpu_seconds() - cpu_before) / figures["good"] * 1e6)
    ratios = [recipe / plain for plain, recipe in zip(cpu["plain"][1:], cpu["recipe"][1:], strict=True)]
    more = statistics.median(ratios) - 1
    shown = ", ".join(f"{side} {statistics.median(values[1:]):.0f} us" for side, values in cpu.items())
    yield report.Result(f"CPU of a visit: {shown}", f"{more:+.0%}", "<= 15%", more <= 0.15)


def delivered(process: Process) -> float:
    """Return the visits that a gateway has delivered since its start."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("usher_deliveries_total{") and 'outcome="delivered"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def settle(receiver: Process) -> float:
    """Wait until the receiver has been idle for a second; return for how many seconds it was busy."""
    began = busy_until = time.monotonic()
    busy_at = receiver.cpu_seconds()
    while (now := time.monotonic()) < busy_until + 1:
        time.sleep(0.05)
        if receiver.cpu_seconds() - busy_at >= 0.02:
            busy_at, busy_until = receiver.cpu_seconds(), now
    return busy_until - began


def parts_microseconds(plain: int, receiver: int, seconds: float) -> dict[str, float]:
    """Return the microseconds that serving, committing and posting take alone, each on one core."""
    serve = 1e6 / load(plain, "--seconds", seconds / 2)["rate"]
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "parts.py"), str(receiver)]
    alone = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {"serve": serve, "commit": alone["commit"], "post": alone["post"]}


def memory(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the resident memory over a million visits, while the destination answers and while it is dead."""
    del rounds, seconds
    with bare("1") as receiver:
        for destination, port in (("answers", receiver.port), ("is dead", free_port())):
            with usher("0", forward_to=port) as process:
                sizes = []
                for number in range(10):
                    load(process.port, "--seconds", 600, "--requests", 100_000, "--first", 100_000 * number)
                    sizes.append(process.resident_bytes() / 1e6)
            shown, growth = " ".join(f"{size:.0f}" for size in sizes), sizes[-1] / sizes[4]
            what = f"memory over 1 M visits (MB), the destination {destination}"
            yield report.Result(what, shown, "flat", growth < 1.1)


SIZED_VISITS = 50_000


def sizes(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure what docs/sizing.md calculates with: memory by listeners, and what a visit of 1.2 KB costs on SQLite."""
    del rounds, seconds
    for count, tenants in ((1, 1), (1_000, 200), (10_000, 2_000)):
        with usher("0,1", count, tenants=tenants) as process:
            shown = f"{process.resident_bytes() / 1e6:.0f} MB"
        yield report.Result(f"resident memory with {count:,} listeners of {tenants:,} tenants", shown, "")
    with bare("1") as receiver, usher("0", forward_to=receiver.port) as process:
        milliseconds = deliver(process, SIZED_VISITS) / SIZED_VISITS * 1000
        size = (process.data / "usher.sqlite3").stat().st_size  # without the log of at most 24 MB
    yield report.Result("CPU of a visit that is accepted and delivered, on SQLite", f"{milliseconds:.2f} ms", "")
    yield report.Result("disk of such a visit", f"{size / SIZED_VISITS:,.0f} bytes", "")


def deliver(process: Process, visits: int) -> float:
    """Post visits at 500/s and wait until they are delivered; return the CPU seconds of the gateway."""
    cpu_before, delivered_before = process.cpu_seconds(), delivered(process)
    load(process.port, "--seconds", 600, "--requests", visits, "--rate", 500)
    while delivered(process) - delivered_before < visits:
        time.sleep(0.2)
    return process.cpu_seconds() - cpu_before


SLOW, FAST = 100, 50
SLOW_SECONDS = 9
FILL_SECONDS = 8
"""After this time the slow destinations would use 800 attempts, if they got them."""


def neighbours(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the delay of deliveries to 50 destinations while 100 other ones answer after 9 s instead of at once."""
    del rounds
    port, count = free_port(), SLOW + FAST
    command = [sys.executable, str(HERE / "slow_receiver.py"), str(port), str(SLOW)]
    with Process(command, "1", port), usher("0", forward_to=port, neighbours=count) as process:

        def post(seconds: float, first: int) -> None:
            load(process.port, "--listeners", count, "--rate", count, "--seconds", seconds, "--first", first)

        post(3, 0)
        measure(port, 0)
        post(seconds * 3, 1_000_000)
        without = measure(port, SLOW_SECONDS)
        post(FILL_SECONDS, 2_000_000)
        measure(port, SLOW_SECONDS)
        post(seconds * 3, 3_000_000)
        beside = measure(port, 0)
    shown = f"{beside['p99_ms']:.1f} ms against {without['p99_ms']:.1f} ms"
    yield report.Result(
        "p99 of deliveries beside 100 slow destinations", shown, "<= 2x", beside["p99_ms"] <= 2 * without["p99_ms"]
    )
    yield report.Result("the same, p50", f"{beside['p50_ms']:.1f} ms against {without['p50_ms']:.1f} ms", "")


def measure(port: int, seconds: float) -> dict[str, float]:
    """Return what the receiver measured since the last call. From now on it delays its late answers by ``seconds``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/measure?seconds={seconds}", data=b"", timeout=5) as answer:
        measured: dict[str, float] = json.load(answer)
    return measured


FLOOD_CONNECTIONS = 2_000
UNFINISHED_CONNECTIONS = 12_000


def floods(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure a tenant's answers while bodies that are expensive or never end come to another tenant's listener."""
    del rounds
    with usher("0", 2) as process:
        alone = load(process.port, "--seconds", seconds * 2, "--rate", 50, "--connections", 16, "--grace", 10)
    yield report.Result("p99 without a flood", f"{alone['p99_ms']:.0f} ms", "")
    for kind, connections in (
        ("integers", FLOOD_CONNECTIONS),
        ("keys", FLOOD_CONNECTIONS),
        ("inflating", FLOOD_CONNECTIONS),
        ("unfinished", UNFINISHED_CONNECTIONS),
    ):
        with usher("0", 2, has_default_rate=kind != "unfinished") as process:
            answers, beside = flood(process, kind, connections, seconds)
        failed = beside["sent"] - beside["good"]
        times = f"{beside['p99_ms']:.0f} ms (p50 {beside['p50_ms']:.0f} ms)"
        shown = f"{times}, {failed:.0f} of {beside['sent']:.0f} failed; flood: {answers}"
        is_met = beside["p99_ms"] < 1_000 and not failed
        yield report.Result(f"neighbour's p99, {connections:,} connections: {kind}", shown, "< 1 s", is_met)


HANDSHAKES = 10_000


def handshakes(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure the memory of a gateway while TLS handshakes come that never end, and whether visits get through."""
    del rounds
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        cert, key = folder / "cert.pem", folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-subj", "/CN=h0.example.com", "-days", "2", "-keyout", str(key), "-out", str(cert)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with usher("0", 2, tls=(cert, key)) as process:
            megabytes_before = process.resident_bytes() / 1e6
            command = ["taskset", "-c", "1", sys.executable, str(HERE / "flood.py"), "handshakes"]
            command += ["--port", str(process.port), "--connections", str(HANDSHAKES)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
                assert running.stdout is not None
                running.stdout.readline()
                end, most = time.monotonic() + seconds * 2, 0.0
                while time.monotonic() < end:
                    most = max(most, process.resident_bytes() / 1e6)
                    time.sleep(0.05)
                running.communicate()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shown = f"{most:.0f} MB, {megabytes_before:.0f} MB before"
    yield report.Result(f"memory with {HANDSHAKES:,} handshakes that never end", shown, "< 300 MB", most < 300)


def flood(process: Process, kind: str, connections: int, seconds: float) -> tuple[str, dict[str, float]]:
    """Flood listener 1. Returns what the flood was answered, and the report of ordinary visits to listener 0."""
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "flood.py"), kind]
    command += ["--port", str(process.port), "--connections", str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        beside = load(
            process.port, "--seconds", seconds * 2, "--rate", 50, "--connections", 16, "--grace", 10, may_fail=True
        )
        answers = running.communicate()[0].decode()
    return answers, beside


BENCHMARKS = {
    "ingest": ingest,
    "latency": latency,
    "suppressions": suppressions,
    "listeners": listeners,
    "start": start,
    "scrape": scrape,
    "forward": forward,
    "recipes": recipes,
    "memory": memory,
    "sizes": sizes,
    "neighbours": neighbours,
    "floods": floods,
    "handshakes": handshakes,
    "find": find.find,
}


def main(description: str | None, benchmarks: Mapping[str, Callable[[int, float], Iterator[report.Result]]]) -> int:
    """Run the requested benchmarks; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(benchmarks))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="per round")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(benchmarks)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results: list[report.Result] = []
    for name in arguments.names or benchmarks:
        report.progress(name)
        results += benchmarks[name](arguments.rounds, arguments.seconds)
    return report.show(f"{os.cpu_count()} cores, {arguments.rounds} rounds of {arguments.seconds:g} s", results)


if __name__ == "__main__":
    sys.exit(main(__doc__, BENCHMARKS))
