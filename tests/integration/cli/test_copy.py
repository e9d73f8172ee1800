"""`usher copy`: visits are delivered once over a copy, and kills do no harm."""

import asyncio
import base64
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import command_line, databases, engines, gateways, waiting
from support.samples import NOW, arrival
from usher_gateway import model
from usher_gateway.simulator import receiver

KEY = bytes(range(32))
INSTALL_KEY = base64.b64encode(KEY).decode()


@pytest.fixture
def database_name(tmp_path: Path) -> Iterator[str]:
    name = databases.name_of(tmp_path / "postgresql")
    databases.create(name)
    yield name
    databases.drop(name)


async def usher(*arguments: str) -> tuple[int, str]:
    run = await command_line.usher(*arguments, USHER_INSTALL_KEY=INSTALL_KEY, COLUMNS="160")
    return run.code, run.out + run.err


def address_of(engine: str, tmp_path: Path, database_name: str) -> str:
    """The value of --from or --to for the store of an engine."""
    return str(tmp_path / "sqlite" / "data") if engine == "sqlite" else databases.server().dsn(database_name)


async def test_visits_are_delivered_once_over_a_copy(tmp_path: Path, database_name: str) -> None:
    for engine in ("sqlite", "postgresql"):
        (tmp_path / engine).mkdir()
    command = ["copy", "--from", address_of("sqlite", tmp_path, database_name)]
    command += ["--to", address_of("postgresql", tmp_path, database_name)]
    bodies = [gateways.visit(number) for number in range(30)]
    async with receiver.Receiver(receiver.ReceiverSettings(keep=False)) as peer:
        old = gateways.Gateway(tmp_path / "sqlite", gateways.one_route("http://127.0.0.1:1"))
        new = gateways.Gateway(tmp_path / "postgresql", gateways.one_route(peer.url), database=database_name)
        async with old, new:
            await old.start(USHER_INSTALL_KEY=INSTALL_KEY)
            answers = [await gateways.post(old.port, "/wifi", body) for body in bodies]
            assert all(answer.is_acknowledgement for answer in answers)
            code, output = await usher(*command)
            assert code == 1
            assert "gateway" in output
            assert await old.terminate() == 0

            code, output = await usher(*command)
            assert code == 0, output
            assert "DIFFERENT" not in output
            assert "Both stores are equal." in output

            await old.launch(USHER_INSTALL_KEY=INSTALL_KEY)
            assert await old.exit_code() == 1
            assert "were copied to another one" in old.log_tail()
            await new.start(USHER_INSTALL_KEY=INSTALL_KEY)
            store = new.store
            repeated = await gateways.post(new.port, "/wifi", bodies[0])
            assert repeated.is_acknowledgement
            await usher_retries(new)
            await waiting.wait_until(lambda: store.open_deliveries() == 0, 60, "the delivery of everything")
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
async def test_killed_copy_can_be_undone_and_run_again(
    tmp_path: Path, database_name: str, source: str, target: str
) -> None:
    chance = random.Random(f"{source} {target}")
    place = tmp_path / "postgresql" if source == "postgresql" else tmp_path / "sqlite" / "data"
    bench = engines.Bench(engines.ENGINES[source](), place, key_fingerprint=model.key_fingerprint(KEY))
    await bench.open()
    for start in range(0, 5_000, 500):
        await bench.accept(*[arrival(f"v{number}", NOW) for number in range(start, start + 500)])
    await bench.store.close()
    command = ["copy", "--from", address_of(source, tmp_path, database_name)]
    command += ["--to", address_of(target, tmp_path, database_name)]
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "usher_gateway", *command),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "USHER_INSTALL_KEY": INSTALL_KEY},
        )
        try:
            await asyncio.wait_for(process.wait(), chance.uniform(0.3, 1.5))
        except TimeoutError:
            process.kill()
            await process.wait()
        code, output = await usher("copy", "--undo", "--yes", *command[1:3])
        assert code == 0, output
        await asyncio.to_thread(make_empty, target, tmp_path, database_name)
    code, output = await usher(*command)
    assert code == 0, output
    counted = gateways_store(target, tmp_path, database_name)
    assert counted.count("arrivals") == 5_000
    assert counted.count("deliveries where state = 0") == 5_000


def make_empty(engine: str, tmp_path: Path, database_name: str) -> None:
    """Remove the store in the place that address_of() names."""
    if engine == "postgresql":
        databases.drop(database_name)
        databases.create(database_name)
    else:
        shutil.rmtree(tmp_path / "sqlite", ignore_errors=True)


def make_store(engine: str, tmp_path: Path) -> None:
    """Create a store with a visit, in the place that address_of() names."""
    place = tmp_path / "postgresql" if engine == "postgresql" else tmp_path / "sqlite" / "data"
    bench = engines.Bench(engines.ENGINES[engine](), place, key_fingerprint=model.key_fingerprint(KEY))

    async def fill() -> None:
        await bench.open()
        await bench.accept(arrival("a"))
        await bench.store.close()

    asyncio.run(fill())


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_undo_needs_a_confirmation(tmp_path: Path, database_name: str, engine: str) -> None:
    await asyncio.to_thread(make_store, engine, tmp_path)
    source = address_of(engine, tmp_path, database_name)
    undo = ("copy", "--undo", "--from", source)
    assert await usher(*undo) == (0, "The store was not copied.\n")
    code, output = await usher("copy", "--from", source, "--to", str(tmp_path / "target"))
    assert code == 0, output
    code, output = await usher(*undo)
    assert (code, "both stores would send the same deliveries" in output, "--yes" in output) == (2, True, True)
    assert await usher(*undo, "--yes") == (0, "Gateways may serve the store again.\n")
    assert await usher(*undo) == (0, "The store was not copied.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--from", "{tmp}/nothing", "--to", "{tmp}/new"], 2, "there is no store in"),
        (["--from", "{tmp}/sqlite/data"], 2, "give either --to or --undo"),
        (["--from", "{tmp}/sqlite/data", "--to", "{tmp}/new", "--undo"], 2, "give either --to or --undo"),
        (["--from", "{tmp}/sqlite/data", "--to", "{tmp}/new", "--yes"], 2, "--yes belongs to --undo"),
        (["--from", "{tmp}/sqlite/data", "--to", "{tmp}/sqlite/data"], 1, "another gateway, or a command, uses"),
        (["--from", "{tmp}/sqlite/data", "--to", "/proc/new"], 2, "Give --to a folder that Usher may write"),
        (["--from", "{tmp}/sqlite/data", "--to", "postgresql://127.0.0.1:1/usher"], 1, "Check the host of --to"),
        (["--from", "mysql://127.0.0.1/usher", "--to", "{tmp}/new"], 2, "--from"),
    ],
)
async def test_wrong_use_is_explained(tmp_path: Path, arguments: list[str], code: int, reason: str) -> None:
    await asyncio.to_thread(make_store, "sqlite", tmp_path)
    result, output = await usher("copy", *[argument.format(tmp=tmp_path) for argument in arguments])
    assert (result, reason in output) == (code, True), output
    assert "Traceback" not in output


def gateways_store(engine: str, tmp_path: Path, database_name: str) -> gateways.StoreData:
    (tmp_path / "reader").mkdir()
    database = database_name if engine == "postgresql" else None
    return gateways.Gateway(tmp_path / "reader", [], data=tmp_path / "sqlite" / "data", database=database).store
