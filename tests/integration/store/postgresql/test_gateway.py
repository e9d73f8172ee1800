"""Real gateways on a real PostgreSQL server: killed under load, and a server that is away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from postgresql.server import PostgresServer
from support import certificates, databases, gateways, kills, leaks, waiting

PASSWORD = "correct-horse-battery"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1030))
@pytest.mark.timeout(180)
async def test_many_kills_under_load_lose_no_acknowledged_visit(tmp_path: Path, seed: int, database: str) -> None:
    await kills.one_round(tmp_path, seed, database)


# Tests that stop their server


@pytest.fixture
def address(durable_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database on a server that a test may kill."""
    name = databases.name_of(tmp_path)
    durable_server.execute(f"create database {name}")
    yield durable_server.dsn(name)
    durable_server.drop(name)


async def test_visits_get_503_in_time_while_the_server_is_away(
    tmp_path: Path, durable_server: PostgresServer, address: str
) -> None:
    gateway = gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), "--store", address)
    async with gateway:
        await gateway.start()
        assert (await gateways.post(gateway.port, "/wifi", gateways.visit(1))).is_acknowledgement
        await asyncio.to_thread(durable_server.kill)
        reply = await gateways.post(gateway.port, "/wifi", gateways.visit(2))
        assert (reply.status, reply.has_header) == (503, False)
        assert reply.seconds < 8.5
        await asyncio.to_thread(durable_server.start)

        async def is_acknowledged() -> bool:
            return (await gateways.post(gateway.port, "/wifi", gateways.visit(3))).is_acknowledgement

        await waiting.wait_until(is_acknowledged, 60, "an accepted visit")
        assert await gateway.terminate() == 0
        query = "select body from bodies order by key"
        bodies = [
            bytes(body) for (body,) in await asyncio.to_thread(durable_server.rows, query, databases.name_in(address))
        ]
    assert bodies[0] == gateways.visit(1)
    assert bodies[-1] == gateways.visit(3)


async def test_password_comes_from_a_file_and_is_never_shown(
    tmp_path: Path, durable_server: PostgresServer, address: str
) -> None:
    leaks.SECRETS.add(PASSWORD)
    durable_server.require_password("keeper", PASSWORD)
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    keeper = address.replace("usher@", "keeper@")
    flags = ["--store", keeper, "--store-password-file", str(file)]
    async with gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), *flags) as gateway:
        await gateway.start()
        assert (await gateways.post(gateway.port, "/wifi", gateways.visit(1))).is_acknowledgement
        assert await gateway.terminate() == 0
        assert PASSWORD not in gateway.log.read_text()
    folder = tmp_path / "wrong"
    folder.mkdir()
    wrong = keeper.replace("keeper@", f"keeper:{PASSWORD}x@")
    async with gateways.Gateway(folder, gateways.one_route("http://127.0.0.1:1"), "--store", wrong) as gateway:
        await gateway.launch()
        assert await gateway.exit_code() == 2
        assert PASSWORD not in gateway.log.read_text()


async def test_gateway_that_starts_while_the_server_is_away_waits_for_it(
    tmp_path: Path, durable_server: PostgresServer, address: str
) -> None:
    await asyncio.to_thread(durable_server.stop)
    async with gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), "--store", address) as gateway:
        await gateway.launch()
        assert "PostgreSQL cannot be reached" in await gateway.wait_for_store_report()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{gateway.admin}/healthz") as alive,
        ):
            assert alive.status == 200
        token = (gateway.data / "observe.token").read_text().strip()
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.get(f"http://127.0.0.1:{gateway.admin}/api/usage") as refused,
        ):
            problem = await refused.json()
        assert (refused.status, problem["code"]) == (503, "StoreUnavailable")
        assert "waits for its store: PostgreSQL cannot be reached" in problem["detail"]
        await asyncio.to_thread(durable_server.start)
        await gateway.wait_ready()
        assert (await gateways.post(gateway.port, "/wifi", gateways.visit(1))).is_acknowledgement
        assert (await gateway.readiness())[0] == 200
        assert await gateway.terminate() == 0


async def test_gateway_that_waits_for_the_server_can_be_stopped(tmp_path: Path) -> None:
    nowhere = f"postgresql://keeper:{PASSWORD}@127.0.0.1:1/usher"
    leaks.SECRETS.add(PASSWORD)
    async with gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), "--store", nowhere) as gateway:
        await gateway.launch()
        await gateway.wait_for_store_report()
        assert await gateway.terminate() == 0
        assert PASSWORD not in gateway.log.read_text()


async def test_gateway_that_must_verify_the_server_refuses_one_without_tls(tmp_path: Path, address: str) -> None:
    """The chart sets both variables if its values name the authority of the database."""
    certificate, _ = certificates.make("authority")
    authority = tmp_path / "authority.crt"
    authority.write_bytes(certificate)
    async with gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), "--store", address) as gateway:
        await gateway.launch(PGSSLMODE="verify-full", PGSSLROOTCERT=str(authority))
        assert await gateway.exit_code() == 2
        assert "fails the check of its certificate: it has no TLS" in gateway.log.read_text()
