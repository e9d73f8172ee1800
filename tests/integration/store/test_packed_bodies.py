"""Large bodies are stored compressed where that pays; readers get the bytes as they came."""

import random
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store import encodings
from usher_gateway.store.base import Filter

RANDOM = random.Random(1)
BODIES = {
    "empty": b"",
    "small": b'{"user":{"id":1}}',
    "just too small to pack": b"x" * (encodings.PACK_FROM_BYTES - 1),
    "large": b'{"user":{"id":1},"x":"' + b"x" * 200_000 + b'"}',
    "random": RANDOM.randbytes(100_000),
    "looks packed": encodings.PACKED + b"but is not",
    "large and looks packed": encodings.PACKED + RANDOM.randbytes(100_000),
}


async def stored_size(bench: engines.Bench) -> int:
    store: Any = bench.store
    row = await store._query_reader.run(lambda opened: opened.execute("select length(body) from bodies").fetchone())
    return int(row[0])


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
async def test_body_is_read_as_it_came(bench: engines.Bench, body: bytes) -> None:
    (accepted,) = await bench.accept(samples.arrival("a", body=body))
    (visit,) = await bench.visits()
    assert await bench.store.body(model.parse_id(visit["id"])) == (body, b"application/json")
    await bench.store.defer([accepted.deliveries[0].key])
    (claimed,) = await bench.claim()
    assert claimed.body == body
    await bench.accept(samples.quarantined("q", body=body))
    (quarantined,) = await bench.store.quarantined(Filter(), 10)
    assert quarantined.body == body


@pytest.mark.parametrize(("name", "most"), [("small", 17), ("large", 2_000), ("random", 100_000)])
async def test_body_is_packed_only_where_that_pays(bench: engines.Bench, name: str, most: int) -> None:
    await bench.accept(samples.arrival("a", body=BODIES[name]))
    assert await stored_size(bench) <= most
