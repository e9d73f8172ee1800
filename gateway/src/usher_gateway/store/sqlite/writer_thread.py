"""The thread in which the writer commits batches."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable

from usher_gateway.store.group_commit import Batch, BatchResult
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite.transaction import Transaction
from usher_gateway.store.sqlite.writer import Writer

Finished = Callable[[BatchResult], None]


class WriterThread:
    """Commits batches in the order in which they come (``group_commit.Committer``)."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[tuple[Batch, Finished] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="usher-store", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, finished: Finished) -> None:
        """Hand a batch to the thread; see ``Committer``."""
        self._batches.put((batch, finished))

    async def stop(self) -> None:
        """End the thread after the batch in its hands."""
        await asyncio.to_thread(self.join)

    def join(self) -> None:
        """End the thread after the batch in its hands, and wait for it."""
        self._batches.put(None)
        self._thread.join()

    def test_write(self, transaction: Transaction) -> None:
        """Find out whether the database can be written again."""
        transaction.connection.execute("insert or replace into meta values ('write_test', '')")

    def _run(self) -> None:
        """Commit batches until None comes."""
        while (work := self._batches.get()) is not None:
            batch, finished = work
            result = run_to_end(self._writer.commit(batch))
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits any more
                self._loop.call_soon_threadsafe(finished, result)
