"""A batch that fails on its data is taken apart, so that one bad arrival costs its neighbours nothing."""

import sqlite3

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.sqlite import writer

_log = structlog.get_logger(__name__)

_DATA_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
    TypeError,
)
"""Errors that speak of what was written, not of the database."""


class Result(msgspec.Struct):
    """What of a batch is committed: with an error, perhaps only a part."""

    accepted: list[model.Accepted | None]
    """One per arrival, in order; None where it is not committed."""
    rest_is_committed: bool = False
    """Settlements, counts, marks and the job."""
    error: Exception | None = None


def commit(batch_writer: writer.Writer, batch: writer.Batch) -> Result:
    """Commit a batch; where its data is refused, bisect its arrivals, and quarantine what fails alone. Never raises."""
    result = Result([None] * len(batch.arrivals))
    try:
        result.accepted = list(batch_writer.commit(batch))
        result.rest_is_committed = True
    except _DATA_ERRORS as error:
        if batch.job is None:
            _take_apart(batch_writer, batch, result)
        else:
            result.error = error
    except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must learn of it
        result.error = error
    return result


def _take_apart(batch_writer: writer.Writer, batch: writer.Batch, result: Result) -> None:
    try:
        _bisect(batch_writer, batch, result, 0, len(batch.arrivals))
        _commit_rest(batch_writer, msgspec.structs.replace(batch, arrivals=()))
        result.rest_is_committed = True
    except Exception as error:  # noqa: BLE001 - the same
        result.error = error


def _bisect(batch_writer: writer.Writer, batch: writer.Batch, result: Result, start: int, end: int) -> None:
    if start == end:
        return
    arrivals = batch.arrivals[start:end]
    try:
        result.accepted[start:end] = batch_writer.commit(writer.Batch(arrivals=arrivals, now=batch.now))
    except _DATA_ERRORS as error:
        if end - start == 1:
            _log.error("arrival_unstorable", listener=arrivals[0].listener.key, error=type(error).__name__)
            arrivals = [_unstorable(arrivals[0])]
            result.accepted[start:end] = batch_writer.commit(writer.Batch(arrivals=arrivals, now=batch.now))
            return
        middle = (start + end) // 2
        _bisect(batch_writer, batch, result, start, middle)
        _bisect(batch_writer, batch, result, middle, end)


def _unstorable(arrival: model.Arrival) -> model.Arrival:
    """What can be kept of an arrival whose data the store refuses: its digest, never its plans."""
    arrival.quarantine = model.QuarantineReason.Unstorable
    arrival.body_size = arrival.body_size or len(arrival.body)
    arrival.body, arrival.content_type = b"", b""
    arrival.person_keys, arrival.if_visit, arrival.if_repeat = (), (), ()
    arrival.visit_time = arrival.received_at
    return arrival


def _commit_rest(batch_writer: writer.Writer, rest: writer.Batch) -> None:
    try:
        batch_writer.commit(rest)
    except _DATA_ERRORS:
        for settlement in rest.settlements:
            try:
                batch_writer.commit(writer.Batch(settlements=[settlement], now=rest.now))
            except _DATA_ERRORS as error:
                _log.error("settlement_refused", delivery=settlement.key, error=type(error).__name__)
        batch_writer.commit(msgspec.structs.replace(rest, settlements=()))
