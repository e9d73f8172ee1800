"""Receipts of erasure are signed, verified offline, and have no personal data, as JSON and as a page."""

import base64
import json
from pathlib import Path

import pytest

from support import admin_port, command_line, gateways, waiting
from support import gateway as in_process
from support.admin_port import EMAIL
from usher_gateway import model
from usher_gateway.simulator import receiver
from usher_gateway.store.base import ErasureRequest
from usher_gateway.store.postgresql.store import PostgresStore


@pytest.fixture
def stuck(served: admin_port.Served, monkeypatch: pytest.MonkeyPatch) -> admin_port.Served:
    """The same admin port, whose erasures come to no end."""

    async def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(served.bench.store, "complete_erasures", never)
    return served


@pytest.fixture
def served(with_ada: admin_port.Served) -> admin_port.Served:
    return with_ada


async def erase(served: admin_port.Served) -> str:
    """Erase Ada; return the id of the request."""
    return str(json.loads(await served.output_of("person", "erase", "--yes", "-o", "json", piped=EMAIL))["id"])


async def receipt_of(served: admin_port.Served, folder: Path) -> Path:
    """Erase Ada; return a file with the receipt."""
    file = folder / "receipt.json"
    file.write_text(await served.output_of("person", "receipt", await erase(served), "-o", "json"))
    return file


def keep_key(folder: Path, install_key: bytes = bytes(32)) -> None:
    (folder / "install.key").write_text(base64.b64encode(install_key).decode())


async def test_receipt_is_verified_offline_by_its_install(served: admin_port.Served, tmp_path: Path) -> None:
    file = await receipt_of(served, tmp_path)
    keep_key(tmp_path)
    run = command_line.run("person", "verify", file, USHER_DATA=str(tmp_path))
    assert (run.code, run.out.splitlines()[0]) == (0, "This receipt was signed by this install, and is unchanged:")
    assert "agency/acme: 2 visits" in run.out
    receipt = json.loads(file.read_text())
    assert receipt["since"] == "2025-11-25T12:00:00.000Z"
    assert receipt["backups"] == {"days": 35, "goneBy": "2025-12-30T12:00:00.000Z"}
    assert "those from before the end of the erasure are gone by 2025-12-30 12:00:00 UTC" in " ".join(run.out.split())


async def test_customer_verifies_a_receipt_with_the_public_key_only(served: admin_port.Served, tmp_path: Path) -> None:
    file = await receipt_of(served, tmp_path)
    keep_key(tmp_path)
    key = command_line.run("person", "public-key", USHER_DATA=str(tmp_path)).out.strip()
    key_file = tmp_path / "agency.pub"
    key_file.write_text(f"{key}\n")
    elsewhere = {"USHER_DATA": str(tmp_path / "none")}
    for given in (key, key_file):
        run = command_line.run("person", "verify", "-", "--public-key", given, piped=file.read_text(), **elsewhere)
        assert (run.code, "signed by the install with this public key" in run.out) == (0, True)
    unknown = command_line.run("person", "verify", file, **elsewhere)
    assert (unknown.code, "its own key does not say who signed it" in unknown.err) == (2, True)


async def test_changed_receipt_and_one_of_another_install_are_refused(
    served: admin_port.Served, tmp_path: Path
) -> None:
    file = await receipt_of(served, tmp_path)
    keep_key(tmp_path, b"\1" * 32)
    other = command_line.run("person", "verify", file, USHER_DATA=str(tmp_path))
    assert (other.code, "was not signed by this install" in other.err) == (1, True)
    file.write_text(file.read_text().replace('"arrivals": 3', '"arrivals": 2'))
    changed = command_line.run("person", "verify", file, USHER_DATA=str(tmp_path))
    assert (changed.code, "the receipt was changed" in changed.err) == (1, True)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "no receipt that can be verified"),
        (b"\xff\x00", [], "no receipt that can be verified"),
        (b"[" * 100_000, [], "no receipt that can be verified"),
        (b'{"id": "1", "status": "completed"}', [], "it is not a signed receipt"),
        (b"{}", ["--public-key", "AAAA="], "there is no public key in AAAA="),
        (b"{}", ["--public-key", "missing.pub"], "there is no public key in missing.pub"),
    ],
)
def test_input_that_is_no_receipt_or_no_key_is_a_usage_error(
    tmp_path: Path, content: bytes, arguments: list[str], message: str
) -> None:
    (tmp_path / "given").write_bytes(content)
    keep_key(tmp_path)
    run = command_line.run("person", "verify", tmp_path / "given", *arguments, USHER_DATA=str(tmp_path))
    assert (run.code, message in run.said) == (2, True), run.err


async def test_request_that_runs_has_no_signature_yet(served: admin_port.Served) -> None:
    status, row = await served.ask("POST", "/api/persons/erase", json={"value": EMAIL})
    assert (status, "signature" in row) == (202, False)


async def test_page_is_verified_by_the_receipt_inside_of_it(served: admin_port.Served, tmp_path: Path) -> None:
    page = tmp_path / "receipt.html"
    keep_key(tmp_path)
    await served.output_of("person", "receipt", await erase(served), "--html", str(page))
    page.write_text(page.read_text().replace("Deleted visits", "No visits at all"))
    run = command_line.run("person", "verify", page, USHER_DATA=str(tmp_path))
    assert (run.code, "agency/acme: 2 visits" in run.out, "Only these lines were signed" in run.out) == (0, True, True)
    page.write_text(page.read_text().replace("&#34;arrivals&#34;: 3", "&#34;arrivals&#34;: 2"))
    run = command_line.run("person", "verify", page, USHER_DATA=str(tmp_path))
    assert (run.code, "the receipt was changed" in run.err) == (1, True)


async def test_cancelled_request_has_a_signed_receipt_too(stuck: admin_port.Served, tmp_path: Path) -> None:
    request = ErasureRequest(persons=(bytes(8),), tenants=("agency/acme",), fields=("email",), store="SQLite")
    running = await stuck.bench.store.start_erasure(request, stuck.bench.clock.now)
    file = tmp_path / "receipt.json"
    file.write_text(await stuck.output_of("person", "cancel", model.format_id(running.id), "-o", "json"))
    keep_key(tmp_path)
    run = command_line.run("person", "verify", file, USHER_DATA=str(tmp_path))
    assert (run.code, "may have the deleted visits for some minutes more" in run.out) == (0, True), run.err


async def test_page_of_a_running_request_is_not_written(stuck: admin_port.Served, tmp_path: Path) -> None:
    request = ErasureRequest(persons=(bytes(8),), tenants=("agency/acme",), fields=("email",))
    running = await stuck.bench.store.start_erasure(request, stuck.bench.clock.now)
    page = tmp_path / "receipt.html"
    run = await stuck.command("person", "receipt", model.format_id(running.id), "--html", str(page))
    assert (run.code, "the request has not ended" in run.err, page.exists()) == (1, True, False)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_receipt_and_page_of_a_real_gateway_have_no_personal_data(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresStore, "settling_seconds", 1)
    database = request.getfixturevalue("database") if engine == "postgresql" else None
    email = "ada.lovelace@example.org"
    visitor = {"id": 90210, "email": email, "first_name": "Augusta", "last_name": "Lovelace"}
    body = {"user": visitor | {"mobile": "+441632960001", "mac": "02:00:5e:10:00:01"}, "venue": {"id": 7}}
    async with receiver.Receiver(receiver.ReceiverSettings()) as peer:
        manifests = gateways.one_route(f"http://127.0.0.1:{peer.port}")
        async with in_process.running(tmp_path, manifests, backup_days=7, database=database) as gateway:
            data = gateway.gateway.settings.data
            assert (await gateways.post(gateway.port, "/wifi", json.dumps(body).encode())).is_acknowledgement
            await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1"))
            erased = await gateway.command("person", "erase", "--yes", "-o", "json", piped=email)
            assert erased.code == 0, erased.err
            receipt, page = json.loads(erased.out), tmp_path / "receipt.html"
            written = await gateway.command("person", "receipt", receipt["id"], "--html", page)
            assert written.code == 0, written.err
    (tmp_path / "receipt.json").write_text(erased.out)
    for file in (page, tmp_path / "receipt.json"):
        verified = command_line.run("person", "verify", file, USHER_DATA=str(data))
        assert (verified.code, "default/crm has got 1 visit" in verified.out) == (0, True), verified.err
    assert (receipt["arrivals"], receipt["store"].lower(), receipt["backups"]["days"]) == (1, engine, 7)
    texts = f"{erased.out} {page.read_text()}".lower()
    assert [
        value for value in ("ada.", "augusta", "lovelace", ": 90210", "1632960001", "5e:10") if value in texts
    ] == []
