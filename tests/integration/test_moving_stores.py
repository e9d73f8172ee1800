"""`usher export` and `usher import` as processes: visits are delivered once over a move, and kills do no harm."""

import asyncio
import base64
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support import databases, engines, gateways
from support.samples import NOW, arrival
from usher_gateway import model
from usher_gateway.cli import main
from usher_gateway.simulator import receiver
from usher_gateway.store import moving

KEY = bytes(range(32))
ENVIRONMENT = {**os.environ, "USHER_INSTALL_KEY": base64.b64encode(KEY).decode(), "COLUMNS": "160"}


@pytest.fixture
def database_name(tmp_path: Path) -> Iterator[str]:
    name = databases.name_of(tmp_path / "postgresql")
    databases.create(name)
    yield name
    databases.drop(name)


async def start_usher(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "usher_gateway",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=ENVIRONMENT,
    )


async def usher(*arguments: str) -> tuple[int, str]:
    process = await start_usher(*arguments)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


def flags_of(engine: str, tmp_path: Path, database_name: str) -> list[str]:
    """The flags of a command for the store of an engine."""
    flags = ["--data", str(tmp_path / engine / "data")]
    return flags if engine == "sqlite" else [*flags, "--store", databases.server().dsn(database_name)]


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
async def test_visits_are_delivered_once_over_a_move(
    tmp_path: Path, database_name: str, source: str, target: str
) -> None:
    for engine in (source, target):
        (tmp_path / engine).mkdir()
    file = tmp_path / "visits.usher"
    bodies = [gateways.visit(number) for number in range(30)]
    async with receiver.Receiver(receiver.ReceiverSettings(keep=False)) as peer:
        old, new = [
            gateways.Gateway(
                tmp_path / engine,
                [
                    gateways.TENANT,
                    gateways.listener("wifi", [gateways.route("crm", "crm")]),
                    gateways.destination("crm", f"{url}/crm"),
                ],
                database=database_name if engine == "postgresql" else None,
            )
            for engine, url in ((source, "http://127.0.0.1:1"), (target, peer.url))
        ]
        async with old, new:
            await old.start(USHER_INSTALL_KEY=ENVIRONMENT["USHER_INSTALL_KEY"])
            answers = [await gateways.post(old.port, "/wifi", body) for body in bodies]
            assert all(answer.is_acknowledgement for answer in answers)
            code, output = await usher("export", str(file), *flags_of(source, tmp_path, database_name))
            assert code == 1
            assert "gateway" in output
            assert await old.terminate() == 0

            code, output = await usher("export", str(file), *flags_of(source, tmp_path, database_name))
            assert code == 0, output
            assert file.stat().st_mode & 0o777 == 0o600
            code, output = await usher("import", str(file), *flags_of(target, tmp_path, database_name))
            assert code == 0, output
            assert "DIFFERENT" not in output
            assert f"The store equals the file. Start the gateway on it, and delete {file}" in output

            await old.launch(USHER_INSTALL_KEY=ENVIRONMENT["USHER_INSTALL_KEY"])
            assert await old.exit_code() == 1
            assert "were exported" in old.log_tail()
            await new.start(USHER_INSTALL_KEY=ENVIRONMENT["USHER_INSTALL_KEY"])
            store = new.store
            repeated = await gateways.post(new.port, "/wifi", bodies[0])
            assert repeated.is_acknowledgement
            await usher_retries(new)
            await gateways.wait_until(lambda: store.open_deliveries() == 0, 60, "the delivery of everything")
            assert await new.terminate() == 0
        meters = store.meters()
        assert (meters[model.Counter.visits], meters[model.Counter.repeats]) == (30, 1)
        assert meters[model.Counter.delivered] == 30
        assert sorted(peer.taken_ids("/crm").values()) == [1] * 30


async def usher_retries(gateway: gateways.Gateway) -> None:
    """Make the deliveries due that wait for a retry."""
    code, output = await usher(
        "deliveries",
        "retry",
        "--all",
        "--yes",
        "--data",
        str(gateway.data),
        "--admin",
        f"http://127.0.0.1:{gateway.admin}",
    )
    assert code == 0, output


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
async def test_killed_commands_can_be_run_again(tmp_path: Path, database_name: str, source: str, target: str) -> None:
    chance = random.Random(f"{source} {target}")
    place = tmp_path / "postgresql" if source == "postgresql" else tmp_path / "sqlite" / "data"
    bench = engines.Bench(engines.ENGINES[source](), place, key_fingerprint=model.key_fingerprint(KEY))
    await bench.open()
    for start in range(0, 5_000, 500):
        await bench.accept(*[arrival(f"v{number}", NOW) for number in range(start, start + 500)])
    await bench.store.close()
    file = tmp_path / "file"
    for command, engine in (("export", source), ("import", target)):
        arguments = [command, str(file), *flags_of(engine, tmp_path, database_name)]
        for _ in range(5):
            process = await start_usher(*arguments)
            try:
                await asyncio.wait_for(process.wait(), chance.uniform(0.3, 1.0))
            except TimeoutError:
                process.kill()
                await process.wait()
            if process.returncode == 0 or (command == "export" and file.exists()):
                break
        else:
            code, output = await usher(*arguments)
            assert code == 0, output
    counted = gateways_store(target, tmp_path, database_name)
    assert counted.count("arrivals") == 5_000
    assert counted.count("deliveries where state = 0") == 5_000


def make_store(engine: str, tmp_path: Path) -> None:
    """Create a store with a visit, in the place that flags_of() names."""
    place = tmp_path / "postgresql" if engine == "postgresql" else tmp_path / "sqlite" / "data"
    bench = engines.Bench(engines.ENGINES[engine](), place, key_fingerprint=model.key_fingerprint(KEY))

    async def fill() -> None:
        await bench.open()
        await bench.accept(arrival("a"))
        await bench.store.close()

    asyncio.run(fill())


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("sqlite", "another gateway, or a command, uses"),
        ("postgresql", "another export or import uses this database"),
    ],
)
def test_running_export_is_left_alone(
    tmp_path: Path, database_name: str, engine: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(engine, tmp_path)
    file, flags = tmp_path / "file", flags_of(engine, tmp_path, database_name)
    tries: list[tuple[int, str]] = []
    export_store = moving.export_store

    async def run_others(*arguments: Any, **named: Any) -> moving.Tally:
        tries.append(await usher("export", str(file), *flags))
        tries.append(await usher("export", str(tmp_path / "other"), *flags))
        tries.append(await usher("export", "--undo", *flags))
        return await export_store(*arguments, **named)

    monkeypatch.setattr(moving, "export_store", run_others)
    result = CliRunner().invoke(main.build(), ["export", str(file), *flags], env=ENVIRONMENT)
    assert result.exit_code == 0, result.output
    assert file.exists()
    assert [code for code, _ in tries] == [1, 1, 1]
    assert f"another export writes {file}.partial" in tries[0][1]
    assert reason in tries[1][1]
    assert reason in tries[2][1]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_undo_of_an_export_needs_a_confirmation(tmp_path: Path, database_name: str, engine: str) -> None:
    await asyncio.to_thread(make_store, engine, tmp_path)
    flags = flags_of(engine, tmp_path, database_name)
    undo = ("export", "--undo", *flags)
    assert await usher(*undo) == (0, "The store was not exported.\n")
    code, output = await usher("export", str(tmp_path / "file"), *flags)
    assert code == 0, output
    code, output = await usher(*undo)
    assert (code, "both stores would send the same deliveries" in output, "--yes" in output) == (2, True, True)
    assert await usher(*undo, "--yes") == (0, "Gateways may serve the store again.\n")
    assert await usher(*undo) == (0, "The store was not exported.\n")


async def test_store_in_the_folder_of_a_gateway_on_another_store_cannot_be_used(
    tmp_path: Path, database_name: str
) -> None:
    await asyncio.to_thread(make_store, "sqlite", tmp_path)
    data, key = tmp_path / "sqlite" / "data", ENVIRONMENT["USHER_INSTALL_KEY"]
    flags = flags_of("sqlite", tmp_path, database_name)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = gateways.Gateway(tmp_path / "old", [gateways.TENANT], data=data)
    new = gateways.Gateway(tmp_path / "new", [gateways.TENANT], data=data, database=database_name)
    async with old, new:
        await old.start(USHER_INSTALL_KEY=key)
        await new.launch(USHER_INSTALL_KEY=key)
        assert await new.exit_code() == 1
        assert "uses the SQLite store" in new.log_tail()
        assert await old.terminate() == 0
        await new.start(USHER_INSTALL_KEY=key)
        assert "unused_store_found" in new.log_tail()
        assert await new.terminate() == 0

        code, output = await usher("export", str(tmp_path / "file"), *flags)
        assert code == 0, output
        (tmp_path / "new" / "gateway.log").unlink()
        await new.start(USHER_INSTALL_KEY=key)
        assert "unused_store_found" not in new.log_tail()
        code, output = await usher("export", "--undo", "--yes", *flags)
        assert (code, "another gateway, or a command, uses" in output) == (1, True)


def test_draft_of_a_killed_export_is_replaced(tmp_path: Path) -> None:
    make_store("sqlite", tmp_path)
    (tmp_path / "file.partial").write_bytes(b"usher-export")
    synced: list[int] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", watched)
        arguments = ["export", str(tmp_path / "file"), "--data", str(tmp_path / "sqlite" / "data")]
        result = CliRunner().invoke(main.build(), arguments, env=ENVIRONMENT)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "file.partial").exists()
    assert synced[-2:] == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino], "the file, then its name"


def gateways_store(engine: str, tmp_path: Path, database_name: str) -> gateways.StoreData:
    (tmp_path / "reader").mkdir()
    database = database_name if engine == "postgresql" else None
    return gateways.Gateway(tmp_path / "reader", [], data=tmp_path / "sqlite" / "data", database=database).store
