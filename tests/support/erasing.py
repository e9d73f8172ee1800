"""Erasures on a store, and the search for what is left of a person."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from support import databases, engines, samples
from usher_gateway.store.base import Erasure, ErasureRequest
from usher_gateway.store.jobs.erasures import STEP


def ignore(_: Sequence[int]) -> None:
    """Drop nothing from lanes, because there are none."""


async def start(bench: engines.Bench, *persons: bytes) -> Erasure:
    request = ErasureRequest(persons=persons, tenants=("agency/acme",), fields=("email",), reference="r-1")
    return await bench.store.start_erasure(request, bench.clock.now)


async def step(bench: engines.Bench, erasure: Erasure, on_cancelled: Callable[[Sequence[int]], None] = ignore) -> bool:
    """Erase a part, or end the erasure; return whether it has ended."""
    keys = await left_to_erase(bench, erasure)
    if keys:
        await bench.store.erase({erasure.key: keys[:STEP]}, bench.clock.now, on_cancelled, samples.no_marks)
        return False
    return await bench.store.complete_erasures([erasure], bench.clock.now)


async def left_to_erase(bench: engines.Bench, erasure: Erasure) -> list[int]:
    """Return the row keys of the arrivals that an erasure has to erase."""
    left = await bench.store.left_to_erase([erasure])
    return left[erasure.key]


async def finish(
    bench: engines.Bench, erasure: Erasure, on_cancelled: Callable[[Sequence[int]], None] = ignore
) -> Erasure:
    """Take all steps, without the time that a store of several gateways waits for them."""
    for _ in range(2_000):
        if await step(bench, erasure, on_cancelled):
            return await bench.store.find_erasure(erasure.id)
        if not await left_to_erase(bench, erasure):
            bench.store.settling_seconds = 0
    raise AssertionError("the erasure comes to no end")


def traces(bench: engines.Bench, value: str, person: bytes) -> list[str]:
    """Return where something of a person is left: files of SQLite, or tables of PostgreSQL."""
    if isinstance(bench.engine, engines.Sqlite):
        needles = (value.encode(), person, base64.b64encode(person))
        return [file.name for file in bench.place.rglob("*") if file.is_file() and holds(file, needles)]
    database = databases.name_of(bench.place)
    tables = databases.server().rows("select tablename from pg_tables where schemaname = 'public'", database)
    texts = (value, value.encode().hex(), person.hex(), base64.b64encode(person).hex())
    found = " or ".join([f"position('{text}' in t::text) > 0" for text in texts])
    return [table for (table,) in tables if databases.server().rows(f"select 1 from {table} t where {found}", database)]


def holds(file: Path, needles: Sequence[bytes]) -> bool:
    content = file.read_bytes()
    return any(needle in content for needle in needles)
