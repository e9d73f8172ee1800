from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import engines


@pytest.fixture(params=sorted(engines.ENGINES))
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    return engines.ENGINES[request.param]()


@pytest.fixture(
    params=[engines.Postgresql(), engines.Sqlite(), engines.Sqlite(fold_rows=1)],
    ids=["postgresql", "sqlite", "sqlite that folds at once"],
)
def folding_engine(request: pytest.FixtureRequest) -> engines.Engine:
    """Each engine, and SQLite also with all of its index in the tables."""
    engine: engines.Engine = request.param
    return engine


@pytest.fixture
async def bench(engine: engines.Engine, tmp_path: Path) -> AsyncIterator[engines.Bench]:
    bench = engines.Bench(engine, tmp_path / "data")
    await bench.open()
    yield bench
    await bench.store.close()
    engine.forget(bench.place)
