"""SIGKILL at random moments under load: every acknowledged visit is stored, delivered and counted exactly."""

from pathlib import Path

import pytest

from support import kills


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.timeout(90)
async def test_kills_under_load_lose_no_acknowledged_visit(tmp_path: Path, seed: int) -> None:
    await kills.one_round(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1100))
@pytest.mark.timeout(90)
async def test_many_kills_under_load_lose_no_acknowledged_visit(tmp_path: Path, seed: int) -> None:
    await kills.one_round(tmp_path, seed)
