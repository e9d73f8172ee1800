"""The server extends classes of aiohttp, so a name that aiohttp adds later must not replace one of ours."""

import pytest
from aiohttp import web

from usher_gateway.ingest.answers import Answer
from usher_gateway.ingest.server import Connection, Request

OVERRIDES = {
    Connection: {
        *("__init__", "connection_made", "connection_lost", "data_received", "eof_received"),
        *("pause_writing", "resume_writing", "handle_error", "force_close"),
    },
    Request: set(),
    Answer: {"__init__", "keep_alive", "prepare", "write_eof"},
}
"""Class -> the names of aiohttp that it replaces on purpose."""

STANDARD = {"__module__", "__doc__", "__annotations__", "__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"}


@pytest.mark.parametrize(
    ("ours", "base"),
    [(Connection, web.RequestHandler), (Request, web.BaseRequest), (Answer, web.StreamResponse)],
)
def test_subclass_of_aiohttp_replaces_only_the_intended_names(ours: type, base: type) -> None:
    inherited = {name for ancestor in base.__mro__ for name in (*vars(ancestor), *getattr(ancestor, "__slots__", ()))}
    assert (vars(ours).keys() & inherited) - STANDARD == OVERRIDES[ours]


def test_answer_announces_whether_it_closes_the_connection() -> None:
    answer = Answer(200, keep_alive=True)
    assert answer.keep_alive
    assert b"Connection" not in answer.as_bytes()
    assert not answer.closing.keep_alive
    assert b"\r\nConnection: close\r\n" in answer.closing.as_bytes()
    assert answer.closing.closing is answer.closing
