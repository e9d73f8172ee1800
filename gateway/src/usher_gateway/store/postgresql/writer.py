"""The writer: commits batches, each in one transaction.

Each commit inserts a row with a number. If the connection is lost during the commit, the writer learns
from this row whether it took effect; until then the batch stays in its hands, so that nothing is written twice.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from usher_gateway import model
from usher_gateway.store.batch_writer import BatchWriter
from usher_gateway.store.group_commit import Batch, BatchResult
from usher_gateway.store.jobs import settle
from usher_gateway.store.names import NameNumbers, add_names
from usher_gateway.store.postgresql.accept import Acceptance
from usher_gateway.store.postgresql.connections import (
    COMMIT_STEP,
    CONNECT_SECONDS,
    OWNERSHIP_LOST,
    UNAVAILABLE,
    Connection,
    OwnershipLostError,
    Transaction,
    describe,
)

_log = structlog.get_logger(__name__)

_PAUSE_FIRST_SECONDS = 0.05
_PAUSE_LONGEST_SECONDS = 1.0

# Insert the row of a commit, but only while this incarnation has not ended.
_INSERT_COMMIT = """
    insert into commits (incarnation, number, counts)
    select number, $2, $3 from incarnations where number = $1 and ended_at is null returning number
"""

# Without a time limit, because a commit that waits for a standby must not be cancelled.
_COMMIT = "set local statement_timeout = 0; commit"

_COMMIT_SECONDS = 20.0  # After this time without an answer, the connection counts as lost

_NEVER_SECONDS = 1e6

# SQLSTATE of the warning that a commit is not replicated, because its wait for the standby was cancelled.
_WARNING = "01000"

# Prevent a commit that has not taken effect. If its transaction is still open, this waits for its end.
_VOID = "insert into commits (incarnation, number, counts, is_void) values ($1, $2, '', true) on conflict do nothing"

_IS_VOID = "select is_void from commits where incarnation = $1 and number = $2"

# Make a transaction wait for the standby, as one without a write would not.
_WRITE = "update incarnations set beat_at = beat_at where number = $1"

# Transactions that a gateway commits at once, so that it works on one batch while the database works on another.
LINES = 2


class Writer(BatchWriter):
    """Commits batches of one incarnation, of each line one at a time (``group_commit.Committer``)."""

    data_errors = (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        OverflowError,
        ValueError,
        TypeError,
    )

    def __init__(
        self,
        *,
        pool: "asyncpg.Pool[Any]",
        incarnation: int,
        ids: model.IdFactory,
        names: NameNumbers,
        stored_bytes: Counter[tuple[str, str]],
    ) -> None:
        self.lost = asyncio.Event()
        """Set when another gateway has ended this incarnation, or a restored database does not know it."""
        self.pool = pool
        self.incarnation = incarnation
        self.ids = ids
        self._names = names
        self._uncertain = 0  # Commits whose outcome is unknown
        self.stored_bytes = stored_bytes  # Tenant -> bytes that it stores
        self._numbers = list(range(LINES))  # Each line's last commit number
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_uncertain(self) -> bool:
        """True while the outcome of a commit is unknown."""
        return self._uncertain > 0

    def submit(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        """Begin to commit a batch; see ``Committer``."""
        task = asyncio.create_task(self._run(batch, finished), name="store-commit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for the batches in hand."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def test_write(self, transaction: Transaction) -> None:
        """Find out whether the database can be written: the commit inserts its row."""

    async def _run(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        finished(await self.commit(batch))

    def _explained(self, error: Exception, batch: Batch) -> Exception:  # noqa: ARG002
        """Return an error without the texts of the database, because they can quote data."""
        if isinstance(error, UNAVAILABLE):
            return model.StoreUnavailableError(f"the store failed: {describe(error)}")
        return error

    def _name_of(self, error: Exception) -> str:
        return describe(error)

    # One transaction

    async def _commit_once(self, batch: Batch) -> tuple[list[model.Accepted], object]:
        self._numbers[batch.line] += COMMIT_STEP
        number = self._numbers[batch.line]
        opened: Transaction | None = None
        accepted: list[model.Accepted] = []
        job_result: object = None
        is_committing = False
        try:
            async with self.pool.acquire(timeout=CONNECT_SECONDS) as connection:
                opened = Transaction(
                    connection=connection,
                    incarnation=self.incarnation,
                    number=number,
                    ids=self.ids,
                    names=self._names,
                    now=batch.now,
                )
                await connection.execute("begin")
                try:
                    accepted, job_result = await self._apply(opened, batch)
                    await self._insert_commit(opened)
                except OwnershipLostError:
                    self.lost.set()
                    await connection.execute("rollback")
                    raise
                except (*self.data_errors, model.UsherError):
                    await connection.execute("rollback")
                    raise
                except BaseException:
                    connection.terminate()  # after a failover it could be one to a server that only reads
                    raise
                is_committing = True
                await self._confirm_commit(connection, _COMMIT)
        except Exception:  # whatever it is, the transaction may be committed
            if not is_committing:
                raise
            if not await self._took_effect(number):
                raise model.StoreUnavailableError("the connection was lost before the commit") from None
        assert opened is not None
        self.stored_bytes.update(opened.tenant_changes())
        return accepted, job_result

    async def _apply(self, opened: Transaction, batch: Batch) -> tuple[list[model.Accepted], object]:
        accepted: list[model.Accepted] = []
        job_result: object = None
        if batch.job is not None:
            job_result = await batch.job(opened)
        await settle.settle(opened, batch.settlements)
        for name, slot, counter, count in batch.counts:
            opened.meter(opened.listener(name), slot, counter, count)
        if batch.arrivals or batch.unacknowledged:  # last, because it also inserts the row of the commit
            accepted = await Acceptance(opened, batch.arrivals, batch.unacknowledged).run()
        return accepted, job_result

    async def _insert_commit(self, opened: Transaction) -> None:
        if not opened.has_commit_row:
            await add_names(opened.session, opened.used)
            values = (self.incarnation, opened.number, opened.packed_meters())
            if await opened.connection.fetchval(_INSERT_COMMIT, *values) is None:
                raise OwnershipLostError(OWNERSHIP_LOST, "Restart this gateway.")

    @staticmethod
    async def _confirm_commit(connection: Connection, commit: str) -> None:
        """Commit, and return once the server confirms it. ``commit``: the statement.

        Raises:
            StoreUnavailableError: the transaction is perhaps not committed, or not replicated.
        """
        warnings: list[str] = []

        def note(_: Connection, message: "asyncpg.PostgresLogMessage") -> None:
            warnings.append(message.sqlstate or "")

        connection.add_log_listener(note)
        committing = asyncio.ensure_future(connection.execute(commit, timeout=_NEVER_SECONDS))
        if not (await asyncio.wait({committing}, timeout=_COMMIT_SECONDS))[0]:
            connection.terminate()  # does not cancel the commit, as a time limit of the statement would
        status = await committing
        connection.remove_log_listener(note)
        if status != "COMMIT" or _WARNING in warnings:
            raise model.StoreUnavailableError("the transaction is not committed, or not replicated")

    # After a lost connection

    async def _took_effect(self, number: int) -> bool:
        """Ask until the database says whether a commit took effect."""
        self._uncertain += 1
        _log.error("store_connection_lost", reason="during a commit; asking for its outcome")
        pause = _PAUSE_FIRST_SECONDS
        while True:
            try:
                async with self.pool.acquire(timeout=CONNECT_SECONDS) as connection:
                    took_effect = await self._void_unless_committed(connection, number)
            except (*UNAVAILABLE, model.StoreUnavailableError):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE_LONGEST_SECONDS)
            else:
                self._uncertain -= 1
                return took_effect

    async def _void_unless_committed(self, connection: Connection, number: int) -> bool:
        """Return whether a commit took effect; if it did not, it never will.

        The answer is as durable as a commit, because it is one with a write.
        """
        await connection.execute("begin")
        try:
            await connection.execute(_VOID, self.incarnation, number)
            is_void = await connection.fetchval(_IS_VOID, self.incarnation, number)
            await connection.execute(_WRITE, self.incarnation)
            await self._confirm_commit(connection, "commit")
        except BaseException:
            connection.terminate()
            raise
        return not is_void
