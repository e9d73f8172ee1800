"""Commits a batch whatever its data are: each engine's writer extends it.

If a batch fails on its data, the writer rolls it back and commits each arrival alone, so that one bad arrival costs the
others nothing. An arrival that fails alone is quarantined.
"""

import abc
import time

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.acceptance import unstorable
from usher_gateway.store.group_commit import Batch, BatchResult

_log = structlog.get_logger(__name__)


class BatchWriter(abc.ABC):
    """Commits batches, in parts if need be. On SQLite no method suspends (``session.run_to_end``)."""

    data_errors: tuple[type[Exception], ...]
    """Errors that the written data cause, and not the state of the database."""

    @abc.abstractmethod
    async def _commit_once(self, batch: Batch) -> tuple[list[model.Accepted], object]:
        """Apply a batch in one transaction. If it raises, nothing is committed and no cache has changed.

        Returns:
            What was accepted, and the result of the job.
        """

    @abc.abstractmethod
    def _explained(self, error: Exception, batch: Batch) -> Exception:
        """Return the error for the callers that wait for a batch."""

    def _name_of(self, error: Exception) -> str:
        """Return the name of an error for the log, without its text, because that can quote data."""
        return type(error).__name__

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit a batch. If its data are refused, commit each arrival alone and quarantine those that fail.

        Never raises; the error is in the result.
        """
        started = time.perf_counter()
        result = BatchResult([None] * len(batch.arrivals))
        try:
            await self._commit_whole(batch, result)
        except Exception as error:  # noqa: BLE001 - the callers who wait for the batch must get any error
            result.error = self._explained(error, batch)
        result.seconds = time.perf_counter() - started
        return result

    async def _commit_whole(self, batch: Batch, result: BatchResult) -> None:
        try:
            accepted, result.job_result = await self._commit_once(batch)
            result.accepted = list(accepted)
        except self.data_errors:
            if batch.job is not None:
                raise
            for number, arrival in enumerate(batch.arrivals):
                result.accepted[number] = await self._commit_alone(arrival, batch)
            await self._commit_rest(msgspec.structs.replace(batch, arrivals=()))
        result.rest_is_committed = True

    async def _commit_alone(self, arrival: model.Arrival, batch: Batch) -> model.Accepted:
        part = Batch(arrivals=[arrival], now=batch.now, line=batch.line)
        try:
            (accepted,), _ = await self._commit_once(part)
        except self.data_errors as error:
            _log.error("arrival_quarantined", listener=arrival.listener.key, error=self._name_of(error))
            part.arrivals = [unstorable(arrival)]
            (accepted,), _ = await self._commit_once(part)
        return accepted

    async def _commit_rest(self, batch: Batch) -> None:
        try:
            await self._commit_once(batch)
        except self.data_errors:
            for settlement in batch.settlements:
                try:
                    await self._commit_once(Batch(settlements=[settlement], now=batch.now))
                except self.data_errors as error:
                    _log.error("settlement_refused", delivery=settlement.key, error=self._name_of(error))
            await self._commit_once(msgspec.structs.replace(batch, settlements=()))
