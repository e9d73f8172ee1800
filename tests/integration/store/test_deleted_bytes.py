"""Data that retention or an erasure deleted cannot be read in any file of the store."""

import asyncio
import contextlib
import hashlib
import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from support import engines, erasing, samples
from usher_gateway import model
from usher_gateway.store.base import Erasure
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.writer import open_writer

DAY = samples.DAY
BODY_DAYS = (1, 30, 3, 30, 2)  # By tenant
CONTENT, VISITOR, PERSON, MARK = range(4)
_MAGIC = b"\xa7\xc3"


def key_of(kind: int, number: int, size: int = 8) -> bytes:
    """Return a key that is spread like a digest, and names its visit."""
    digest = hashlib.blake2b(b"%d %d" % (kind, number)).digest()
    return digest[:3] + _MAGIC + bytes([kind]) + number.to_bytes(2, "big") + digest[8:size]


def visit(number: int, body: bytes) -> model.Arrival:
    tenant = number % len(BODY_DAYS)
    listener = model.ListenerName("agency", f"tenant-{tenant}", "lobby")
    once = samples.plan(samples.route("crm", listener), once_key=key_of(MARK, number, 16), once_until=samples.NOW + DAY)
    return samples.arrival(
        f"{number}",
        listener=listener,
        body=b'{"visit":"body-%05d","rest":"%b"}' % (number, body),
        body_days=BODY_DAYS[tenant],
        fingerprint=key_of(CONTENT, number, 16),
        visitor_key=key_of(VISITOR, number, 16),
        person_keys=(key_of(PERSON, number),),
        if_visit=(once,),
    )


async def fill(bench: engines.Bench, count: int, rolls: random.Random) -> dict[int, bytes]:
    """Store visits with bodies of usual sizes, a third of them dead with an answer; return their bodies by number."""
    sizes = [min(int(rolls.lognormvariate(6.9, 0.6)), 40_000) for _ in range(count)]
    visits = {number: visit(number, rolls.randbytes(size // 2).hex().encode()) for number, size in enumerate(sizes)}
    for start in range(0, count, 25):
        numbers = range(start, min(start + 25, count))
        for number, accepted in zip(numbers, await bench.accept(*[visits[n] for n in numbers]), strict=True):
            settled_as = model.SettledAs.Dead if number % 3 == 0 else model.SettledAs.Delivered
            answer = b"answer-%05d" % number if number % 3 == 0 else b""
            bench.store.settle(samples.settlement(accepted.deliveries[0], settled_as, status=400, answer=answer))
    for _ in range(300):  # until the index in memory is in the tables, of which each commit writes one of 256 parts
        await bench.store.flush()
    return {number: arrival.body for number, arrival in visits.items()}


async def erase_beside_retention(bench: engines.Bench, persons: Sequence[int]) -> list[Erasure]:
    """Erase the visits of some persons, in steps between those of retention; return the erasures, not yet completed."""
    keys = [key_of(PERSON, number) for number in persons]
    erasures = [await erasing.start(bench, *keys[start : start + 20]) for start in range(0, len(keys), 20)]
    arrivals_of = await bench.store.left_to_erase(erasures)
    bench.clock.now += 4 * DAY
    for erasure in erasures:
        await bench.store.erase(
            {erasure.key: arrivals_of[erasure.key]}, bench.clock.now, erasing.ignore, samples.no_marks
        )
        await bench.store.prune(bench.clock.now)
    await bench.prune_all()
    return erasures


async def complete(bench: engines.Bench, erasures: Sequence[Erasure]) -> None:
    async with asyncio.timeout(100):
        while not await bench.store.complete_erasures(erasures, bench.clock.now):
            pass


def numbers_in(folder: Path) -> dict[str, set[int]]:
    """Return which visits have something in any file, by what it is."""
    numbers: dict[str, set[int]] = {"body": set(), "answer": set()}
    kinds = {"content": CONTENT, "visitor": VISITOR, "person": PERSON, "mark": MARK}
    numbers |= {name: set() for name in kinds}
    for file in folder.iterdir():
        content = file.read_bytes()
        for name in ("body", "answer"):
            numbers[name].update([int(number) for number in re.findall(name.encode() + rb"-(\d{5})", content)])
        for name, kind in kinds.items():
            for match in re.finditer(rb"(?s)(?=...\xa7\xc3%b(..))" % re.escape(bytes([kind])), content):
                number = int.from_bytes(match[1], "big")
                if content.startswith(key_of(kind, number), match.start()):
                    numbers[name].add(number)
    return numbers


def assert_gone(folder: Path, count: int, persons: Sequence[int]) -> None:
    """Assert that the files have nothing of erased visits, no expired bodies, and the rest of the other visits."""
    others = set(range(count)).difference(persons)
    unexpired = {number for number in others if BODY_DAYS[number % len(BODY_DAYS)] == 30}
    answers = {number for number in others if number % 3 == 0}
    assert numbers_in(folder) == {
        "body": unexpired,
        "answer": answers,
        "content": others,
        "visitor": others,
        "person": others,
        "mark": set(),
    }


def bodies_in(folder: Path) -> Mapping[bytes, bytes]:
    """Check the database, and return its bodies by fingerprint."""
    with contextlib.closing(sqlite3.connect(folder / database.FILE_NAME)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        return dict(
            connection.execute("select fingerprint, body from arrivals join bodies using (key) where body not null")
        )


async def test_deleted_body_disappears_from_the_file_and_the_log(tmp_path: Path) -> None:
    clock = engines.Clock()
    store = engines.Sqlite().make(tmp_path, clock, truncate_seconds=0.2)
    await store.open()
    try:
        await store.accept(msgspec.structs.replace(visit(0, b""), if_visit=(), if_repeat=()))
        assert numbers_in(tmp_path)["body"]
        clock.now += 3 * DAY
        await store.prune(clock.now)
        async with asyncio.timeout(60):
            while numbers_in(tmp_path)["body"]:  # noqa: ASYNC110 - the file system has no event for this
                await asyncio.sleep(0.05)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("count", "seed"),
    [(3_000, 1), *[pytest.param(15_000, seed, marks=pytest.mark.long) for seed in range(2, 6)]],
)
async def test_files_have_nothing_of_erased_and_expired_visits(tmp_path: Path, count: int, seed: int) -> None:
    rolls = random.Random(seed)
    bench = engines.Bench(engines.Sqlite(fold_rows=256), tmp_path / "data")
    await bench.open()
    bodies = await fill(bench, count, rolls)
    persons = rolls.sample(range(count), count * 7 // 15)
    await complete(bench, await erase_beside_retention(bench, persons))
    assert_gone(bench.place, count, persons)
    bench.clock.now += 30 * DAY
    for _ in range(10):  # changes pages that were scrubbed, and writes them into the log
        await bench.store.prune(bench.clock.now)
    numbers = numbers_in(bench.place)
    assert not (numbers["body"] | numbers["content"] | numbers["visitor"] | numbers["person"]).intersection(persons)
    await bench.store.close()
    stored = bodies_in(bench.place)
    assert stored == {
        content: bodies[number] for number in bodies if (content := key_of(CONTENT, number, 16)) in stored
    }


async def test_copies_that_an_earlier_process_left_are_gone_once_an_erasure_is_completed(tmp_path: Path) -> None:
    rolls = random.Random(7)
    bench = engines.Bench(engines.Sqlite(fold_rows=256), tmp_path / "data")
    await bench.open()
    await fill(bench, 3_000, rolls)
    persons = rolls.sample(range(3_000), 1_400)
    await erase_beside_retention(bench, persons)
    await bench.engine.crash(bench.store)
    with contextlib.closing(database.connect(bench.place / database.FILE_NAME)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")  # as a person could, who looks at the file
    left_bodies = numbers_in(bench.place)["body"].intersection(persons)
    assert left_bodies
    bench.store = bench.engine.make(bench.place, bench.clock)
    await bench.store.open()
    await complete(bench, await bench.store.running_erasures())
    assert_gone(bench.place, 3_000, persons)
    await bench.store.close()


def is_swept(place: Path) -> bool:
    """Open a store, and return whether its file needs no sweep."""
    writer = open_writer(place, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=samples.NOW)
    try:
        return writer.scrubber.is_swept
    finally:
        writer.owned.release()


async def test_file_is_swept_after_a_kill_and_not_after_a_stop(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival())
    await bench.reopen(crash=True)
    await complete(bench, [await erasing.start(bench, key_of(PERSON, 1))])  # waits for the sweep
    await bench.store.close()
    assert is_swept(bench.place)
    assert not is_swept(bench.place)  # because the first of these two was not stopped


async def test_erasure_waits_for_a_reader_that_needs_the_log(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival(person_keys=(key_of(PERSON, 1),)))
    with contextlib.closing(database.connect(bench.place / database.FILE_NAME, read_only=True)) as reader:
        reader.execute("begin")
        assert reader.execute("select count(*) from arrivals").fetchone() == (1,)
        erasure = await erasing.start(bench, key_of(PERSON, 1))
        while await erasing.left_to_erase(bench, erasure):
            await erasing.step(bench, erasure)
        assert not await bench.store.complete_erasures([erasure], bench.clock.now)
    await complete(bench, [erasure])
    assert not numbers_in(bench.place)["person"]


def test_file_with_auto_vacuum_is_refused_with_a_way_out(tmp_path: Path) -> None:
    open_writer(tmp_path, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=samples.NOW).close()
    file = tmp_path / database.FILE_NAME
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript("pragma auto_vacuum = full; vacuum;")
    with pytest.raises(model.ConfigurationError) as refused:
        is_swept(tmp_path)
    commands = re.search(r"`(.+)`", refused.value.hint or "")
    assert commands
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(commands[1].replace("FILE", str(tmp_path / "copy")))
    (tmp_path / "copy").replace(file)
    assert not is_swept(tmp_path)
