"""Connections over TLS to a server with a certificate."""

import re
from pathlib import Path

import asyncpg
import pytest

from postgresql.server import PostgresServer
from support import certificates, engines, samples, source
from usher_gateway import model
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore

PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def authority(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the server, which is for localhost and for no address."""
    certificate, key = certificates.make("database", "localhost")
    try:
        server.serve_tls(certificate, key)
    except asyncpg.InvalidParameterValueError:
        # The tests with Debian's programs (`make test-oldest-postgresql`) run this one.
        pytest.skip("the programs of the wheel are built without TLS; those of Debian have it")
    return written(tmp_path_factory.mktemp("authority"), certificate)


def written(folder: Path, certificate: bytes) -> Path:
    file = folder / "authority.crt"
    file.write_bytes(certificate)
    return file


def store(server: PostgresServer, host: str, authority: Path) -> PostgresStore:
    address = f"postgresql://usher:{PASSWORD}@{host}:{server.port}/postgres?sslmode=verify-full&sslrootcert={authority}"
    return PostgresStore(PostgresSettings(address, "k"), engines.Clock())


async def refusal(refused: PostgresStore) -> str:
    with pytest.raises(model.ConfigurationError) as raised:
        await refused.open()
    text = f"{raised.value} {raised.value.hint}"
    assert PASSWORD not in text
    return text


async def test_verified_server_is_used_with_tls(server: PostgresServer, authority: Path) -> None:
    opened = store(server, "localhost", authority)
    await opened.open()
    assert (await opened.accept(samples.arrival("a"))).counted_as is model.CountedAs.Visit
    used = "select distinct ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'usher'"
    assert server.rows(used) == [(True,)]
    await opened.close()


async def test_verification_without_an_authority_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without ~/.postgresql/root.crt
    address = "postgresql://usher@127.0.0.1:1/usher?sslmode=verify-full"
    text = await refusal(PostgresStore(PostgresSettings(address, "k"), engines.Clock()))
    assert "verify-full and verify-ca need sslrootcert" in text
    pages = [page.read_text("utf-8") for page in source.pages()]
    shown = [query for page in pages for query in re.findall(r"\?sslmode=verify-full[^`\s]*", page)]
    assert len(shown) == 2
    assert all("&sslrootcert=" in query for query in shown)


async def test_server_of_another_authority_is_refused(server: PostgresServer, authority: Path, tmp_path: Path) -> None:
    other, _ = certificates.make("other", "localhost")
    text = await refusal(store(server, "localhost", written(tmp_path, other)))
    assert "fails the check of its certificate" in text
    assert "sslrootcert" in text


async def test_server_with_another_name_is_refused(server: PostgresServer, authority: Path) -> None:
    text = await refusal(store(server, "127.0.0.1", authority))
    assert "IP address mismatch" in text
