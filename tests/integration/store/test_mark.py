"""A start notices a write-ahead log that is missing or cut, whatever the lost commits contained."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support import engines, samples
from usher_gateway import model
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
        open_writer(place, key_fingerprint="k", fold_rows=FOLD_ROWS, now=NOW).close()
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


async def settle(bench: engines.Bench, delivery: model.Delivery) -> None:
    bench.store.settle(samples.settlement(delivery, model.SettledAs.Delivered))
    await bench.store.flush()


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
