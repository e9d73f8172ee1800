"""Measure the gateway on PostgreSQL, as ratios within one run: `make bench-postgresql ARGS="claims retention"`.

The server is a durable one: it flushes every commit to the disk. The rounds of all variants alternate, and a figure is
the median of its rounds.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator

import asyncpg
import report
import run

from postgresql.server import PostgresServer
from usher_gateway import logs, model
from usher_gateway.store.names import NameNumbers, UsedNames, add_names
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import PostgresSession
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore

SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB"}  # Settings that a server for this load has anyway


LISTENERS = 16  # Listeners of as many tenants: a gateway commits arrivals of different tenants in parallel


MANY_CONNECTIONS = 256

GOALS = {"one core": 0.14, "two cores": 0.25}  # Durable ingest relative to the bare handler


@contextlib.contextmanager
def gateways(server: PostgresServer, name: str, count: int, cores: str) -> Iterator[list[run.Process]]:
    """Run gateways that make no attempts, on one new database."""
    os.environ["USHER_INSTALL_KEY"] = "k" * 64
    server.execute(f"create database {name}")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(run.usher(cores, LISTENERS, store=server.dsn(name))) for _ in range(count)]


def ingest(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure durable ingest relative to the bare handler, with the database on the same core and on the other one.

    The bare handler has 64 requests in flight, with which it is fastest. The gateway is measured with as many, and with
    enough for two full batches.
    """
    plain: list[float] = []
    rates: dict[tuple[str, int], list[float]] = {
        (name, count): [] for name in GOALS for count in (64, MANY_CONNECTIONS)
    }
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(run.bare()).port
        near = stack.enter_context(PostgresServer(is_durable=True, settings=SERVER, cores="0"))
        far = stack.enter_context(PostgresServer(is_durable=True, settings=SERVER, cores="1"))
        ports = {
            name: stack.enter_context(gateways(server, "ingest", 1, "0"))[0].port
            for name, server in (("one core", near), ("two cores", far))
        }
        for port in (bare, *ports.values()):
            run.load(port, "--seconds", 1, "--listeners", LISTENERS)
        for number in range(rounds):
            plain.append(run.load(bare, "--seconds", seconds)["rate"])
            for place, ((name, count), measured_rates) in enumerate(rates.items()):
                first = 1_000_000 * (number + 1) + 200_000 * place
                arguments = ("--seconds", seconds, "--first", first, "--listeners", LISTENERS, "--connections", count)
                measured_rates.append(run.load(ports[name], *arguments)["rate"])
    base = statistics.median(plain)
    yield report.Result("bare aiohttp handler", f"{base:,.0f}/s", "")
    for (name, count), measured_rates in rates.items():
        rate, goal = statistics.median(measured_rates), GOALS[name]
        measured = f"{rate:,.0f}/s = {rate / base:.0%}"
        title = f"durable ingest, gateway and database on {name}, {count} requests in flight"
        yield report.Result(title, measured, f">= {goal:.0%}", rate / base >= goal)


REPLICAS = 4


def replicas(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure four gateways that share one database and two cores, relative to one gateway."""
    rates: dict[int, list[float]] = {1: [], REPLICAS: []}
    p99: dict[int, list[float]] = {1: [], REPLICAS: []}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer(is_durable=True, settings=SERVER, cores="0,1"))
        ports = {
            count: [
                gateway.port for gateway in stack.enter_context(gateways(server, f"replicas_{count}", count, "0,1"))
            ]
            for count in rates
        }
        for number in range(rounds + 1):
            for count, (port, *more) in ports.items():
                first = 1_000_000 * (number + 1)
                arguments = ("--seconds", seconds, "--first", first, "--listeners", LISTENERS)
                load = run.load(port, *arguments, more_ports=more, core="0,1")
                if number:  # the first round warms up
                    rates[count].append(load["rate"])
                    p99[count].append(load["p99_ms"])
    of_one, of_several = statistics.median(rates[1]), statistics.median(rates[REPLICAS])
    yield report.Result(
        f"{REPLICAS} replicas on two cores, against one",
        f"{of_several:,.0f}/s against {of_one:,.0f}/s = {of_several / of_one:.0%}",
        ">= 90%",
        of_several >= 0.9 * of_one,
    )
    slow, fast = statistics.median(p99[REPLICAS]), statistics.median(p99[1])
    measured = f"{slow:.0f} ms against {fast:.0f} ms = {slow / fast:.1f}x"
    yield report.Result("the same, p99 of the answer", measured, "<= 2x", slow <= 2 * fast)


PENDING = 10_000_000
DESTINATIONS = 50
DUE = 2_000  # Deliveries that wait for each of these destinations. The rest waits for one that is dead.

BATCH = 64


def claims(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure claims of due deliveries while 10 million others wait for a destination that is dead."""
    del rounds, seconds
    with PostgresServer(is_durable=True, settings=SERVER) as server:
        server.execute("create database claims")
        took, committed, looked = asyncio.run(_claim_all(server, "claims"))
    for what, times in ((f"claims of {BATCH} beside {PENDING:,} pending deliveries", took), ("a commit", committed)):
        p99 = sorted(times)[len(times) * 99 // 100] * 1000
        measured = f"p50 {statistics.median(times) * 1000:.1f} ms, p99 {p99:.1f} ms ({len(times)})"
        is_claim = times is took
        yield report.Result(what, measured, "p99 <= 20 ms" if is_claim else "", p99 <= 20 if is_claim else None)
    yield report.Result("finding the destinations that have due work", f"{looked * 1000:.1f} ms", "")


async def _claim_all(server: PostgresServer, database: str) -> tuple[list[float], list[float], float]:
    """Fill a database and claim what is due.

    Returns:
        The seconds of each claim, those of a commit of one row after each claim, and those of finding the destinations.
    """
    async with _store(server, database):
        connection = await asyncpg.connect(server.dsn(database), server_settings={"synchronous_commit": "off"})
        listener = model.ListenerName("bench", "t0", "l0")
        routes = [model.RouteDefinition(listener, "all", _destination(number)) for number in range(DESTINATIONS + 1)]
        names, used = NameNumbers(), UsedNames()
        used.routes = {number: names.route(route) for number, route in enumerate(routes)}
        await add_names(PostgresSession(connection), used)
        await connection.close()
        await _fill(server, database, "pending.sql", DESTINATIONS=DESTINATIONS, DUE=DUE, PENDING=PENDING)
    async with _store(server, database) as store:
        began = time.perf_counter()
        due = await store.due()
        looked = time.perf_counter() - began
        assert len(due) == DESTINATIONS + 1
        took: list[float] = []
        committed: list[float] = []
        for _ in range(DUE // BATCH):
            for number in range(1, DESTINATIONS + 1):
                began = time.perf_counter()
                claimed = await store.claim(_destination(number), BATCH, 1 << 24, PENDING + 1)
                took.append(time.perf_counter() - began)
                assert len(claimed) == BATCH
                began = time.perf_counter()
                await store.flush()
                committed.append(time.perf_counter() - began)
    return took, committed, looked


VISITS = 1_000_000  # Expired visits, each with ten rows
DAYS = 40  # Their age; visits are kept for 30 days
LOAD = 0.4  # Part of what the gateway can accept that it gets while retention deletes


def retention(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure accepting while retention deletes 10 million rows, relative to accepting without it."""
    p50: dict[bool, list[float]] = {False: [], True: []}
    p99: dict[bool, list[float]] = {False: [], True: []}
    accepted: list[float] = []
    deleted: list[float] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer(is_durable=True, settings=SERVER, cores="0,1"))
        (gateway,) = stack.enter_context(gateways(server, "retention", 1, "0,1"))
        numbers = itertools.count(1_000_000, 1_000_000)

        def post(seconds: float, rate: float = 0) -> dict[str, float]:
            arguments = ("--seconds", seconds, "--rate", rate, "--first", next(numbers), "--listeners", LISTENERS)
            return run.load(gateway.port, *arguments, core="0,1")

        def delete(is_on: bool) -> None:
            """Let retention run, or prevent it by taking its lock."""
            name = "pg_advisory_unlock" if is_on else "pg_advisory_lock"
            server.execute(f"select {name}({schema.PRUNE_LOCK})", "retention")

        delete(is_on=False)
        post(1)
        possible = post(seconds)["rate"]
        asyncio.run(_fill(server, "retention", "expired.sql", VISITS=VISITS, DAYS=DAYS, LISTENERS=LISTENERS))
        sizes_before = _sizes(server, "retention")
        for _ in range(rounds):
            for is_on in (False, True):
                if is_on:
                    delete(is_on=True)
                    first = _wait_for_deletes(server, "retention")
                    began = time.perf_counter()
                load = post(seconds, possible * LOAD)
                p50[is_on].append(load["p50_ms"])
                p99[is_on].append(load["p99_ms"])
                if is_on:
                    passed = time.perf_counter() - began
                    deleted.append((_deleted(server, "retention") - first) / passed)
                    accepted.append(load["rate"])
                    delete(is_on=False)
        delete(is_on=True)
        first = _wait_for_deletes(server, "retention")
        began = time.perf_counter()
        time.sleep(seconds)
        alone = (_deleted(server, "retention") - first) / (time.perf_counter() - began)
        sizes_after = _sizes(server, "retention")
    rate = statistics.median(accepted)
    yield report.Result("accepted while retention deletes", f"{rate:,.0f}/s of {possible:,.0f}/s", "")
    slow, fast = statistics.median(p50[True]), statistics.median(p50[False])
    yield report.Result("p50 of the answer, against no deletion", f"{slow:.1f} ms against {fast:.1f} ms", "")
    slow, fast = statistics.median(p99[True]), statistics.median(p99[False])
    measured = f"{slow:.0f} ms against {fast:.0f} ms = {slow / fast:.1f}x"
    yield report.Result("p99 of the answer, against no deletion", measured, "<= 2x", slow <= 2 * fast)
    visits = statistics.median(deleted)
    measured = f"{visits:,.0f} visits/s = {visits / rate:.1f}x what is accepted"
    yield report.Result("deleted meanwhile", measured, ">= 1x", visits >= rate)
    yield report.Result("deleted without other work", f"{alone:,.0f} visits/s", "")
    for name, size in sizes_before.items():
        yield report.Result(f"size of {name}", f"{size / 1e6:,.0f} MB, then {sizes_after[name] / 1e6:,.0f} MB", "")


def _deleted(server: PostgresServer, database: str) -> int:
    """Return how many arrivals retention has deleted, up to a second ago."""
    deleted: int = server.rows("select n_tup_del from pg_stat_user_tables where relname = 'arrivals'", database)[0][0]
    return deleted


def _wait_for_deletes(server: PostgresServer, database: str) -> int:
    """Wait until retention deletes; return how many arrivals it has deleted."""
    first = _deleted(server, database)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        deleted = _deleted(server, database)
        if deleted > first:
            return deleted
        time.sleep(0.1)
    raise SystemExit("retention deletes nothing")


def _sizes(server: PostgresServer, database: str) -> dict[str, int]:
    """Return the bytes of each large table with its indexes."""
    statement = "select relname, pg_total_relation_size(relid) from pg_stat_user_tables order by 2 desc limit 7"
    return dict(server.rows(statement, database))


async def _fill(server: PostgresServer, database: str, file: str, **values: int) -> None:
    """Run a script with some words replaced by values. Then bring the tables into the state of old ones."""
    script = (run.HERE / "numbers.sql").read_text("utf-8") + (run.HERE / file).read_text("utf-8")
    for word, value in values.items():
        script = script.replace(word, str(value))
    connection = await asyncpg.connect(server.dsn(database), server_settings={"synchronous_commit": "off"})
    await connection.execute(script)
    await connection.execute("vacuum analyze")
    await connection.execute("checkpoint")
    await connection.close()


@contextlib.asynccontextmanager
async def _store(server: PostgresServer, database: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(PostgresSettings(server.dsn(database), "bench"), lambda: time.time_ns() // 1000)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _destination(number: int) -> str:
    return f"bench/d{number:02}"


def sizes(rounds: int, seconds: float) -> Iterator[report.Result]:
    """Measure what docs/sizing.md calculates with: what a visit of 1.2 KB costs on PostgreSQL."""
    del rounds, seconds
    visits = run.SIZED_VISITS
    os.environ["USHER_INSTALL_KEY"] = "k" * 64
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer(is_durable=True, settings=SERVER, cores="1"))
        server.execute("create database sizes")
        receiver = stack.enter_context(run.bare("1"))
        gateway = stack.enter_context(run.usher("0", forward_to=receiver.port, store=server.dsn("sizes")))
        size_before, cpu_before = _size(server), server.cpu_seconds()
        cpu = run.deliver(gateway, visits)
        of_server, size = server.cpu_seconds() - cpu_before, _size(server) - size_before
    yield report.Result("CPU of the gateway for a visit that is delivered", f"{cpu / visits * 1000:.2f} ms", "")
    yield report.Result("CPU of the database for it", f"{of_server / visits * 1000:.2f} ms", "")
    yield report.Result("disk of such a visit", f"{size / visits:,.0f} bytes", "")


def _size(server: PostgresServer) -> int:
    return int(server.rows("select pg_database_size('sizes')")[0][0])


BENCHMARKS = {
    "sizes": sizes,
    "ingest": ingest,
    "replicas": replicas,
    "claims": claims,
    "retention": retention,
}


if __name__ == "__main__":
    logs.configure(level="error")
    sys.exit(run.main(__doc__, BENCHMARKS))
