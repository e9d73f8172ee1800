"""The PostgreSQL database of a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import databases


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """Name of a database with the newest schema."""
    name = databases.name_of(tmp_path)
    databases.create(name)
    yield name
    databases.drop(name)
