"""Only the owner may read the files of a data folder, because they contain visits."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from usher_gateway.store.names import NameNumbers
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.writer import open_writer


@pytest.fixture
def careless_umask() -> Iterator[None]:
    previous_umask = os.umask(0)
    yield
    os.umask(previous_umask)


@pytest.mark.usefixtures("careless_umask")
@pytest.mark.parametrize("is_there", [False, True])
def test_data_files_are_readable_by_their_owner_only(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "data"
    if is_there:
        folder.mkdir(mode=0o755)
    opened = open_writer(folder, key_fingerprint="key", names=NameNumbers(), fold_rows=100, now=0)
    try:
        files = sorted(folder.glob(f"{database.FILE_NAME}*"))
        assert len(files) == 3
        assert {file.name: oct(file.stat().st_mode & 0o077) for file in files} == {file.name: "0o0" for file in files}
        assert is_there or folder.stat().st_mode & 0o077 == 0
    finally:
        opened.close()
