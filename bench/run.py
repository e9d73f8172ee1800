"""Measure the speed of the gateway as ratios within one run.

`make bench` runs every benchmark, `make bench ARGS="ingest forward"` some of them. Usher runs in its own process, with
SQLite in synchronous=FULL. Another process on the other core generates the load. A figure is the median of its rounds,
and the rounds of both sides alternate.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import manifests
import report

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


def load(port: int, *arguments: object, more_ports: Sequence[int] = (), core: str = "1") -> dict[str, float]:
    """Run the load generator and return its report."""
    ports = [str(port), *map(str, more_ports)]
    command = ["taskset", "-c", core, sys.executable, str(HERE / "load.py"), "--port", *ports, *map(str, arguments)]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if figures["bad"]:
        raise SystemExit(f"{figures['bad']:.0f} answers were not 200")
    return figures


@contextlib.contextmanager
def usher(
    cores: str,
    listeners: int = 1,
    *,
    tenants: int = 0,
    forward_to: int = 0,
    store: str = "",
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Process]:
    """Run a gateway on a fresh store: `usher run` if it forwards, otherwise one that makes no attempts.

    The store is SQLite, or the PostgreSQL database at the address ``store``.
    ``prepare`` fills the data folder before the gateway starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="usher-bench-"))
    try:
        file = manifests.write(folder, listeners, tenants=tenants, forward_to=forward_to)
        if prepare is not None:
            prepare(folder / "data")
        port, admin = free_port(), free_port()
        public, private, data = f"127.0.0.1:{port}", f"127.0.0.1:{admin}", str(folder / "data")
        command = [sys.executable, str(HERE / "serve.py"), str(file), public, private, data]
        if store:
            command.append(store)
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


BENCHMARKS = {
    "ingest": ingest,
    "latency": latency,
    "listeners": listeners,
    "start": start,
    "forward": forward,
    "memory": memory,
    "sizes": sizes,
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
