"""A start notices a write-ahead log that is missing, cut or damaged, whatever the lost commits contained."""

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.writer import open_writer

NOW = samples.NOW
FRAME_BYTES = 8192 + 24


def snapshot(bench: engines.Bench, place: Path, log_bytes: int) -> Path:
    """Copy the data folder as a kill would leave it, but only with the start of the write-ahead log."""
    place.mkdir()
    for name in (database.FILE_NAME, "lock"):
        shutil.copy(bench.place / name, place / name)
    log = (bench.place / f"{database.FILE_NAME}-wal").read_bytes()
    if log_bytes:
        (place / f"{database.FILE_NAME}-wal").write_bytes(log[:log_bytes])
    return place


def log_bytes_of(bench: engines.Bench) -> int:
    return (bench.place / f"{database.FILE_NAME}-wal").stat().st_size


def opens(place: Path) -> bool:
    try:
        open_writer(place, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    except model.StoreCorruptError:
        return False
    return True


async def test_log_cut_after_any_commit_is_noticed(bench: engines.Bench, tmp_path: Path) -> None:
    for number in range(5):
        await bench.accept(samples.arrival(f"{number}"))
        whole = log_bytes_of(bench)
        assert opens(snapshot(bench, tmp_path / f"whole {number}", whole))
        assert not opens(snapshot(bench, tmp_path / f"missing {number}", 0))
        assert not opens(snapshot(bench, tmp_path / f"cut {number}", whole - FRAME_BYTES))


def damage(file: Path, at: int, count: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(random.Random(at).randbytes(count))


@pytest.mark.parametrize(("share", "count"), [(0.0, 64), (0.5, 8192)], ids=["header", "middle"])
async def test_damaged_log_is_noticed_until_a_person_decides(
    bench: engines.Bench, tmp_path: Path, share: float, count: int
) -> None:
    await accept_many(bench)
    place = snapshot(bench, tmp_path / "damaged", log_bytes_of(bench))
    damage(place / f"{database.FILE_NAME}-wal", int(share * log_bytes_of(bench)), count)
    assert not opens(place)
    (place / "lock").unlink()
    assert opens(place)


async def test_torn_end_and_damaged_index_of_a_log_are_recovered(bench: engines.Bench, tmp_path: Path) -> None:
    await accept_many(bench)
    place = snapshot(bench, tmp_path / "torn", log_bytes_of(bench))
    with (place / f"{database.FILE_NAME}-wal").open("ab") as log:
        log.write(random.Random(4).randbytes(5_000))
    (place / f"{database.FILE_NAME}-shm").write_bytes(random.Random(5).randbytes(32_768))
    assert opens(place)
    assert rows_in(place) == 50


async def test_log_that_another_program_checkpointed_is_not_a_loss(bench: engines.Bench, tmp_path: Path) -> None:
    await accept_many(bench)
    place = snapshot(bench, tmp_path / "checkpointed", log_bytes_of(bench))
    with contextlib.closing(sqlite3.connect(place / database.FILE_NAME)) as other:
        other.execute("pragma wal_checkpoint(truncate)")
    assert opens(place)
    assert rows_in(place) == 50


async def accept_many(bench: engines.Bench) -> None:
    for number in range(50):
        await bench.accept(samples.arrival(f"{number}"))


def rows_in(place: Path) -> int:
    with contextlib.closing(sqlite3.connect(place / database.FILE_NAME)) as connection:
        return int(connection.execute("select count(*) from arrivals").fetchone()[0])


async def settle(bench: engines.Bench, delivery: model.Delivery) -> None:
    await bench.settle(delivery, model.SettledAs.Delivered)


async def defer(bench: engines.Bench, delivery: model.Delivery) -> None:
    await bench.store.defer([delivery.key])


@pytest.mark.parametrize("change", [settle, defer])
async def test_lost_commit_without_an_arrival_is_noticed(
    bench: engines.Bench, tmp_path: Path, change: Callable[[engines.Bench, model.Delivery], object]
) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    bytes_before = log_bytes_of(bench)
    result = change(bench, accepted.deliveries[0])
    await result  # type: ignore[misc]
    assert not opens(snapshot(bench, tmp_path / "cut", bytes_before))
    assert opens(snapshot(bench, tmp_path / "whole", log_bytes_of(bench)))
