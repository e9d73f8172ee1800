"""HTTPS: a renewed certificate is followed without a restart."""

import asyncio
import contextlib
import json
import os
import ssl
from pathlib import Path

import pytest
import structlog

from support import certificates, source, waiting, wire
from support import gateway as gateways
from usher_gateway import model
from usher_gateway.ingest import certificates as ingest_certificates
from usher_gateway.ingest import server

FOLLOW_SECONDS = ingest_certificates._FOLLOW_SECONDS
VISIT = json.dumps({"user": {"id": 7, "venue": {"id": 9}}}).encode()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_certificates, "_FOLLOW_SECONDS", 0.1)


async def _serves(gateway: gateways.RunningGateway, certificate: bytes, name: str = "localhost") -> bool:
    try:
        async with wire.connect(gateway.port, certificates.trusting(certificate), name) as connection:
            await connection.send(wire.request(gateway.target(), method="GET"))
            return (await connection.answer()).acknowledges
    except ssl.SSLCertVerificationError:
        return False


async def _wait_served(gateway: gateways.RunningGateway, certificate: bytes, name: str = "localhost") -> None:
    async with asyncio.timeout(60):
        while not await _serves(gateway, certificate, name):  # noqa: ASYNC110 - each look is a handshake
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


ACME, GLOBEX = "hooks.acme.test", "hooks.globex.test"


def _secret(folder: Path, name: str, certificate: tuple[bytes, bytes]) -> Path:
    """Write a certificate as the kubelet mounts a Secret: files are links to a folder that a renewal replaces."""
    mounted = folder / name
    mounted.mkdir(exist_ok=True)
    content = mounted / f"..{len(list(mounted.iterdir()))}"
    content.mkdir()
    certificates.write(content, *certificate)
    link = mounted / "..new"
    link.symlink_to(content.name)
    link.replace(mounted / "..data")
    for file in ("tls.crt", "tls.key"):
        if not (mounted / file).exists():
            (mounted / file).symlink_to(f"..data/{file}")
    return mounted


def certificates_of(gateway: gateways.RunningGateway) -> ingest_certificates.Certificates:
    served = gateway.gateway.certificates
    assert served is not None
    return served


async def test_of_two_certificates_with_one_name_the_one_that_expires_later_is_served(tmp_path: Path) -> None:
    old, new = certificates.make("a", ACME, days=1), certificates.make("b", ACME, days=9)
    for name, certificate in {"0-new": new, "1-old": old}.items():
        _secret(tmp_path, name, certificate)
    async with gateways.running(tmp_path, tls_dir=tmp_path) as gateway:
        assert await _serves(gateway, new[0], ACME)


async def test_each_hostname_gets_its_certificate_and_its_renewal(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    acme, globex, wild = (
        certificates.make("a", ACME),
        certificates.make("g", GLOBEX),
        certificates.make("w", "*.wild.test"),
    )
    _secret(folder, "acme", acme)
    certificates.write(folder, *wild)
    cert, key = certificates.write(tmp_path, *certificates.make("default"))
    default = cert.read_bytes()
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key, tls_dir=folder) as gateway:
        assert await _serves(gateway, acme[0], ACME)
        assert await _serves(gateway, acme[0], ACME.upper())
        assert await _serves(gateway, wild[0], "any.wild.test")
        assert not await _serves(gateway, wild[0], "a.b.wild.test")
        assert await _serves(gateway, default)  # no certificate has this name
        assert not await _serves(gateway, globex[0], GLOBEX)
        _secret(folder, "globex", globex)
        await _wait_served(gateway, globex[0], GLOBEX)
        renewed = certificates.make("renewed", ACME)
        _secret(folder, "acme", renewed)
        await _wait_served(gateway, renewed[0], ACME)
        assert 'usher_certificate_expiry_timestamp_seconds{file="' in gateway.exposition()


async def test_folder_without_its_certificates_keeps_what_was_served(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    acme = certificates.make("a", ACME)
    certificates.write(folder, *acme)
    async with gateways.running(tmp_path, tls_dir=folder) as gateway:
        assert await _serves(gateway, acme[0], ACME)
        (folder / "tls.key").unlink()
        certificates_of(gateway).load_changed()
        assert await _serves(gateway, acme[0], ACME)
        (folder / "tls.crt").unlink()
        certificates_of(gateway).load_changed()
        assert await _serves(gateway, acme[0], ACME)


async def test_missing_certificate_is_served_until_its_name_has_another(tmp_path: Path) -> None:
    globex, renewed = certificates.make("g", GLOBEX), certificates.make("r", GLOBEX, days=0.5)
    mounted = _secret(tmp_path, "globex", globex)
    _secret(tmp_path, "acme", certificates.make("a", ACME))
    async with gateways.running(tmp_path, tls_dir=tmp_path) as gateway:
        with structlog.testing.capture_logs() as lines:
            (mounted / "tls.crt").unlink()
            (mounted / "tls.key").unlink()
            await waiting.wait_until(lambda: [line for line in lines if line["event"] == "certificate_file_lost"])
            assert await _serves(gateway, globex[0], GLOBEX)
        _secret(tmp_path, "moved", renewed)
        await _wait_served(gateway, renewed[0], GLOBEX)
    assert [line["file"] for line in lines if line["event"] == "certificate_file_lost"] == [str(mounted / "tls.crt")]


async def test_missing_certificate_is_dropped_once_it_has_expired(tmp_path: Path) -> None:
    mounted = _secret(tmp_path, "expired", certificates.make("e", GLOBEX, since_days=-2, days=-1))
    _secret(tmp_path, "acme", certificates.make("a", ACME))
    async with gateways.running(tmp_path, tls_dir=tmp_path) as gateway:
        (mounted / "tls.crt").unlink()
        served = certificates_of(gateway)
        await waiting.wait_until(lambda: list(served.expiry_times) == [str(tmp_path / "acme" / "tls.crt")])


async def test_unknown_name_gets_no_customers_certificate(tmp_path: Path) -> None:
    _secret(tmp_path, "acme", certificates.make("a", ACME))
    trusting_all = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting_all.check_hostname = False
    trusting_all.verify_mode = ssl.CERT_NONE
    async with gateways.running(tmp_path, tls_dir=tmp_path) as gateway:
        with pytest.raises((ssl.SSLError, ConnectionError)):  # the end of the connection may overtake the alert
            async with wire.connect(gateway.port, trusting_all, GLOBEX):
                pass
        async with wire.connect(gateway.port, trusting_all, ACME):
            pass


def test_folder_without_a_certificate_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(model.ConfigurationError, match="has no certificate") as caught:
        ingest_certificates.Certificates(None, tmp_path)
    assert "NAME.crt" in caught.value.hint
    (tmp_path / "a.crt").write_bytes(b"nonsense")
    with pytest.raises(model.ConfigurationError, match=r"a\.crt.*cannot be used"):
        ingest_certificates.Certificates(None, tmp_path)


def test_customers_unusable_certificate_does_not_stop_a_start(tmp_path: Path) -> None:
    """Otherwise one customer's broken file keeps the webhooks of all customers down after a restart."""
    good = certificates.make("good", ACME)
    _secret(tmp_path, "good", good)
    _secret(tmp_path, "broken", (b"nonsense", good[1]))
    started = ingest_certificates.Certificates(None, tmp_path)
    assert list(started.expiry_times) == [str(tmp_path / "good" / "tls.crt")]
    _secret(tmp_path, "broken", certificates.make("repaired", GLOBEX))
    started.load_changed()
    assert len(started.expiry_times) == 2


def test_unusable_default_certificate_is_an_error_at_the_start(tmp_path: Path) -> None:
    _secret(tmp_path, "good", certificates.make("good", ACME))
    default = ingest_certificates.CertificateFiles(tmp_path / "a.pem", tmp_path / "a.key")
    with pytest.raises(model.ConfigurationError, match=r"a\.pem.*cannot be used"):
        ingest_certificates.Certificates(default, tmp_path)


def test_files_that_would_block_or_fill_the_gateway_are_not_read(tmp_path: Path) -> None:
    good = certificates.make("good", ACME)
    _secret(tmp_path, "good", good)
    os.mkfifo(tmp_path / "pipe.crt")
    (tmp_path / "device.crt").symlink_to("/dev/zero")
    (tmp_path / "loop.crt").symlink_to(tmp_path / "loop.crt")
    (tmp_path / "folder.crt").mkdir()
    with (tmp_path / "huge.crt").open("wb") as huge:
        huge.truncate(1 << 40)
    for name in ("pipe", "device", "loop", "folder", "huge"):
        (tmp_path / f"{name}.key").write_bytes(good[1])
    started = ingest_certificates.Certificates(None, tmp_path)
    started.load_changed()
    assert len(started.expiry_times) == 1


def test_page_says_what_files_that_do_not_fit_change(tmp_path: Path) -> None:
    said = " ".join((source.DOCS / "operations.md").read_text("utf-8").split())
    for words in (
        "Every 5 seconds the gateway loads what is new or renewed.",
        "Files that do not fit together, or are no regular files of at most 1 MiB, change nothing",
        "serves the certificate as before and logs `certificate_not_loaded` once, with the `file` and the `error`",
        "(`KEY_VALUES_MISMATCH`: the key belongs to another certificate).",
        "they do not stop it, unless they are those of `--tls-cert` or no other certificate is left.",
    ):
        assert words in said
    assert (FOLLOW_SECONDS, ingest_certificates._MAX_FILE_BYTES) == (5, 1 << 20)
    folder, other = _secret(tmp_path, "acme", certificates.make("a", ACME)), certificates.make("g", GLOBEX)
    with structlog.testing.capture_logs() as lines:
        started = ingest_certificates.Certificates(None, tmp_path)
        served = started.expiry_times
        (folder / "tls.key").write_bytes(other[1])
        for _ in range(2):
            started.load_changed()
            assert started.expiry_times == served
    logged = {"file": str(folder / "tls.crt"), "error": "KEY_VALUES_MISMATCH"}
    assert lines == [{"event": "certificate_not_loaded", "log_level": "error", **logged}]


def test_unusable_file_is_logged_once_and_not_read_again(tmp_path: Path) -> None:
    _secret(tmp_path, "good", certificates.make("good", ACME))
    broken = _secret(tmp_path, "broken", (b"nonsense", b"nonsense"))
    with structlog.testing.capture_logs() as lines:
        started = ingest_certificates.Certificates(None, tmp_path)
        started.load_changed()
        started.load_changed()
    assert [line["file"] for line in lines if line["event"] == "certificate_not_loaded"] == [str(broken / "tls.crt")]


async def test_no_other_certificate_replaces_the_default_for_its_name(tmp_path: Path) -> None:
    """A customer's file could claim the platform's own name, with a certificate that no client trusts."""
    folder = tmp_path / "customers"
    folder.mkdir()
    own, claimed = certificates.make("own", ACME), certificates.make("claimed", ACME, days=9_000)
    _secret(folder, "claimed", claimed)
    cert, key = certificates.write(tmp_path, *own)
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key, tls_dir=folder) as gateway:
        assert await _serves(gateway, own[0], ACME)
        assert not await _serves(gateway, claimed[0], ACME)


async def test_certificate_that_is_not_valid_yet_replaces_no_valid_one(tmp_path: Path) -> None:
    valid, next_year = certificates.make("valid", ACME), certificates.make("later", ACME, since_days=300, days=600)
    _secret(tmp_path, "0-later", next_year)
    _secret(tmp_path, "1-valid", valid)
    async with gateways.running(tmp_path, tls_dir=tmp_path) as gateway:
        assert await _serves(gateway, valid[0], ACME)


async def test_plain_http_on_the_tls_port_is_closed(tmp_path: Path) -> None:
    cert, key = certificates.write(tmp_path, *certificates.make("old"))
    async with gateways.running(tmp_path, tls_cert=cert, tls_key=key) as gateway:
        async with wire.connect(gateway.port) as connection:
            await connection.send(wire.request(gateway.target(), VISIT))
            received = await asyncio.wait_for(connection.reader.read(), 60)
            assert b"HTTP/" not in received
        assert gateway.counted() == {}


async def test_oldest_unfinished_handshake_of_a_source_gives_way(tmp_path: Path) -> None:
    certificate = certificates.make("gateway")
    cert, key = certificates.write(tmp_path, *certificate)
    limits = server.ServerLimits(handshakes=8, header_seconds=60.0)  # 4 for each source
    async with (
        gateways.running(tmp_path, tls_cert=cert, tls_key=key, limits=limits) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        public = gateway.gateway.server
        silent = []
        for _ in range(4):
            silent.append(await stack.enter_async_context(wire.connect(gateway.port)))
            await waiting.wait_until(lambda: len(public.handshakes) == len(silent))
        async with wire.connect(gateway.port, certificates.trusting(certificate[0])) as connection:
            assert await asyncio.wait_for(silent[0].reader.read(), 60) == b""
            await connection.send(wire.request(gateway.target(), VISIT))
            assert (await connection.answer()).acknowledges
        assert public.displaced_handshakes == 1
        assert len(public.handshakes) == 3
