"""Data that retention deleted cannot be read in the files, even if the gateway keeps running without arrivals."""

import asyncio
from pathlib import Path

from support import engines, samples
from usher_gateway import model

MARKER = b"zqxjv-deleted"
DAY = 86_400 * model.MICROSECONDS


def holders(folder: Path) -> list[str]:
    """Return the names of the files that contain the marker."""
    return [file.name for file in folder.iterdir() if MARKER in file.read_bytes()]


async def test_deleted_body_disappears_from_the_file_and_the_log(tmp_path: Path) -> None:
    clock = engines.Clock()
    store = engines.Sqlite().make(tmp_path, clock, truncate_seconds=0.2)
    await store.open()
    try:
        body = b'{"user":{"id":"' + MARKER + b'"}}'
        await store.accept(samples.arrival("a", clock.now, body=body, body_days=1, if_visit=(), if_repeat=()))
        assert holders(tmp_path)
        clock.now += 3 * DAY
        await store.prune(clock.now)
        async with asyncio.timeout(60):
            while holders(tmp_path):  # noqa: ASYNC110 - the file system has no event for this
                await asyncio.sleep(0.05)
    finally:
        await store.close()
