from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import engines


@pytest.fixture(params=sorted(engines.ENGINES))
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    return engines.ENGINES[request.param]()


@pytest.fixture
async def bench(engine: engines.Engine, tmp_path: Path) -> AsyncIterator[engines.Bench]:
    bench = engines.Bench(engine, tmp_path / "data")
    await bench.open()
    yield bench
    await bench.store.close()
    engine.forget(bench.place)
