"""HTTPS: a renewed certificate is followed without a restart."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from support import certificates, wire
from support import gateway as gateways
from usher_gateway import app
from usher_gateway.ingest import server

VISIT = json.dumps({"user": {"id": 7, "venue": {"id": 9}}}).encode()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_CERTIFICATE_SECONDS", 0.1)


async def _serves(gateway: gateways.RunningGateway, certificate: bytes) -> bool:
    try:
        async with wire.connect(gateway.port, certificates.trusting(certificate)) as connection:
            await connection.send(wire.request(gateway.target(), method="GET"))
            return (await connection.answer()).acknowledges
    except ssl.SSLCertVerificationError:
        return False


async def _wait_served(gateway: gateways.RunningGateway, certificate: bytes) -> None:
    async with asyncio.timeout(10):
        while not await _serves(gateway, certificate):  # noqa: ASYNC110 - each look is a handshake
            await asyncio.sleep(0.05)


async def test_renewed_certificate_is_served_and_open_connections_stay(tmp_path: Path) -> None:
    old, new = certificates.make("old"), certificates.make("new")
    cert, key = certificates.write(tmp_path, *old)
    async with (
        gateways.running(tmp_path, tls_cert=cert, tls_key=key) as gateway,
        wire.connect(gateway.port, certificates.trusting(old[0])) as connection,
    ):
        await connection.send(wire.request(gateway.target(), VISIT))
        assert (await connection.answer()).acknowledges
        certificates.write(tmp_path, *new)
        await _wait_served(gateway, new[0])
        assert not await _serves(gateway, old[0])
        await connection.send(wire.request(gateway.target(), VISIT))
        assert (await connection.answer()).acknowledges


async def test_incomplete_renewal_keeps_the_old_certificate(tmp_path: Path) -> None:
    old, new = certificates.make("old"), certificates.make("new")
    cert, key = certificates.write(tmp_path, *old)
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key) as gateway:
        for certificate, its_key in ((new[0], old[1]), (b"nonsense", old[1]), (new[0], b"")):
            certificates.write(tmp_path, certificate, its_key)
            for _ in range(4):
                await asyncio.sleep(0.1)
                assert await _serves(gateway, old[0])
        certificates.write(tmp_path, *new)
        await _wait_served(gateway, new[0])


async def test_plain_http_on_the_tls_port_is_closed(tmp_path: Path) -> None:
    cert, key = certificates.write(tmp_path, *certificates.make("old"))
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key) as gateway:
        async with wire.connect(gateway.port) as connection:
            await connection.send(wire.request(gateway.target(), VISIT))
            received = await asyncio.wait_for(connection.reader.read(), 10)
            assert b"HTTP/" not in received
        assert gateway.counted() == {}


async def test_unfinished_handshake_is_closed(tmp_path: Path) -> None:
    cert, key = certificates.write(tmp_path, *certificates.make("old"))
    limits = server.ServerLimits(header_seconds=0.5)
    async with (
        gateways.running(tmp_path, tls_cert=cert, tls_key=key, limits=limits) as gateway,
        wire.connect(gateway.port) as connection,
    ):
        await connection.send(b"\x16\x03\x01\x02\x00")
        assert await asyncio.wait_for(connection.reader.read(), 5) == b""


async def test_body_cut_off_over_tls_is_refused(tmp_path: Path) -> None:
    certificate = certificates.make("old")
    cert, key = certificates.write(tmp_path, *certificate)
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key) as gateway:
        async with wire.connect(gateway.port, certificates.trusting(certificate[0])) as connection:
            await connection.send(wire.request(gateway.target(), VISIT)[:-4])
            await gateways.wait_until(lambda: any(one.request for one in gateway.gateway.server.connections))
        await gateways.wait_until(lambda: gateway.counted() != {})
        assert gateway.counted() == {"refused:Disconnected": 1}
