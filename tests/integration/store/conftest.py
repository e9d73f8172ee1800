"""A store under test for every module in this folder."""

from pathlib import Path
from typing import Any

import pytest

from support import engines


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    bench = engines.Bench(engines.Sqlite(), tmp_path / "data")
    await bench.open()
    yield bench
    await bench.store.close()
