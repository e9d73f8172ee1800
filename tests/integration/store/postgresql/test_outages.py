"""A database in trouble: visits get 503 in time, and later ones are accepted again without help.

A visit that got 503 may be stored or not: Purple sends it again.
"""

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from support import databases, gateways, waiting
from support import gateway as in_process
from usher_gateway import model
from usher_gateway.ingest import server

IN_TIME_SECONDS = 8.0
LIMITS = server.ServerLimits(answer_seconds=2.0, header_seconds=1.5)

_numbers = itertools.count()


class Sender:
    """Posts visits to a gateway, and knows which ones are acknowledged."""

    def __init__(self, gateway: in_process.RunningGateway) -> None:
        self.gateway = gateway
        self.acknowledged: set[bytes] = set()

    async def post(self, body: bytes = b"") -> gateways.Reply:
        """Post a visit; by default another one than before."""
        body = body or gateways.visit(next(_numbers))
        reply = await gateways.post(self.gateway.port, "/wifi", body)
        if reply.is_acknowledgement:
            self.acknowledged.add(body)
        return reply

    async def is_accepted(self) -> bool:
        return (await self.post()).is_acknowledgement

    async def is_refused(self) -> bool:
        """Post a large visit, for which the pages that the tables have already do not suffice for long."""
        body = gateways.visit(next(_numbers), text=os.urandom(50_000).hex())
        return (await self.post(body)).status == 503

    async def assert_refused_in_time(self) -> None:
        """Post visits together, which all get 503 in time."""
        for reply in await asyncio.gather(*[self.post() for _ in range(10)]):
            assert (reply.status, reply.has_header) == (503, False)
            assert reply.seconds < IN_TIME_SECONDS

    async def assert_recovers(self) -> None:
        await waiting.wait_until(self.is_accepted, 60, "an accepted visit without help")

    def check(self, store: gateways.StoreData) -> None:
        """Compare what is stored with what is acknowledged, and with the books."""
        stored = {bytes(body) for (body,) in store.rows("select body from bodies")}
        assert self.acknowledged <= stored
        meters = store.meters()
        assert meters[model.Counter.visits] == len(stored) == store.count("arrivals")
        assert meters[model.Counter.created] == store.count("deliveries")


@contextlib.asynccontextmanager
async def sending(folder: Path, database: str) -> AsyncIterator[Sender]:
    """Run a gateway that has accepted a visit, with a destination that does not answer; check its store at the end."""
    nowhere = gateways.one_route("http://127.0.0.1:1")
    async with in_process.running(folder, nowhere, LIMITS, database=database) as gateway:
        sender = Sender(gateway)
        assert await sender.is_accepted()
        yield sender
    sender.check(gateway.store)


async def test_visits_while_somebody_locks_a_table(tmp_path: Path, database: str) -> None:
    async with sending(tmp_path, database) as sender:
        somebody = await asyncpg.connect(databases.server().dsn(database))
        transaction = somebody.transaction()
        await transaction.start()
        await somebody.execute("lock table arrivals in share mode")
        await sender.assert_refused_in_time()
        await transaction.rollback()
        await somebody.close()
        await sender.assert_recovers()


async def test_visits_while_every_statement_takes_too_long(tmp_path: Path, database: str) -> None:
    slow = """
        create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return null; end $$;
        create trigger slow before insert on arrivals execute function slow();
    """
    async with sending(tmp_path, database) as sender:
        await execute(slow, database)
        await sender.assert_refused_in_time()
        await execute("drop function slow cascade", database)
        await sender.assert_recovers()


async def test_visits_while_others_use_every_connection(tmp_path: Path, database: str) -> None:
    """The server ends the gateway's connections, and others take all that it allows."""
    async with sending(tmp_path, database) as sender:
        other = await asyncpg.connect(databases.gateway_dsn(database))
        await execute(f"alter database {database} connection limit 1")
        await execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{database}' and application_name = 'usher'"
        )
        await sender.assert_refused_in_time()
        await other.close()
        await execute(f"alter database {database} connection limit -1")
        await sender.assert_recovers()


@pytest.mark.parametrize("table", ["activity", "destination_activity"])
async def test_connection_cut_in_the_last_step_of_a_start_is_waited_for(
    tmp_path: Path, database: str, table: str
) -> None:
    nowhere = gateways.one_route("http://127.0.0.1:1")
    waiters = f"select pid from pg_stat_activity where datname = '{database}' and wait_event_type = 'Lock'"
    somebody = await asyncpg.connect(databases.server().dsn(database))
    async with gateways.Gateway(tmp_path, nowhere, database=database) as gateway:
        transaction = somebody.transaction()
        await transaction.start()
        await somebody.execute(f"lock table {table} in access exclusive mode")
        await gateway.launch()
        ((process,),) = await waiting.until(lambda: asyncio.to_thread(databases.server().rows, waiters))
        await execute(f"select pg_terminate_backend({process})")
        await transaction.rollback()
        await somebody.close()
        await gateway.wait_ready()
        assert (await gateways.post(gateway.port, "/wifi", gateways.visit(1))).is_acknowledgement
        assert await gateway.terminate() == 0


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A database whose tables are on a file system of 40 MB."""
    if os.geteuid() != 0:
        # The test needs a real full disk, and only root can mount one that is small enough.
        pytest.skip("only root mounts file systems")
    place = Path(tempfile.mkdtemp(prefix="usher-disk-", dir="/tmp"))  # the server's user must reach it
    place.chmod(0o755)
    name = databases.name_of(tmp_path)
    options = f"size=40m,uid={pwd.getpwnam('nobody').pw_uid}"  # The server runs as this user.
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False).returncode:
        # Containers without CAP_SYS_ADMIN do not let root mount one either.
        pytest.skip("this machine mounts no file systems")
    try:
        databases.server().execute(f"create tablespace {name} location '{place}'")
        databases.create(name, tablespace=name)
        yield name, place
        databases.drop(name)
        databases.server().execute(f"drop tablespace {name}")
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        shutil.rmtree(place)


@pytest.mark.long
async def test_visits_while_the_disk_of_the_database_is_full(tmp_path: Path, small_disk: tuple[str, Path]) -> None:
    name, disk = small_disk
    async with sending(tmp_path, name) as sender:
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        await waiting.wait_until(sender.is_refused, 60, "a visit without room")
        await sender.assert_refused_in_time()
        filler.unlink()
        await sender.assert_recovers()


async def execute(statements: str, database: str = "postgres") -> None:
    await asyncio.to_thread(databases.server().execute, statements, database)
