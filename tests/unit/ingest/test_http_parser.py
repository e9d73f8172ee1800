"""Bytes to requests, however they are cut."""

import pytest

from usher_gateway.ingest import http_parser, http_request


class Sender:
    """The connection of a request; notes what it is asked."""

    peer = ""
    is_connected = True

    def __init__(self) -> None:
        self.asked = 0

    def ask_for_body(self) -> None:
        self.asked += 1


def parsed(data: bytes, size: int) -> tuple[list[http_request.Request], bool]:
    parser = http_parser.Parser(Sender(), 0.0)
    for start in range(0, len(data), size):
        if parser.is_broken:
            break
        parser.feed(data[start : start + size], 1.0)
    return list(parser.requests), parser.is_broken


@pytest.mark.parametrize("size", [100, 8 * 1024, 16 * 1024, 1 << 20])
@pytest.mark.parametrize(("kilobytes", "is_taken"), [(30, True), (33, False), (47, False)])
def test_a_long_header_is_taken_or_not_however_it_is_cut(kilobytes: int, is_taken: bool, size: int) -> None:
    fields = b"".join(b"X-%04d: %s\r\n" % (number, b"v" * 1_000) for number in range(kilobytes))
    data = b"GET / HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n"
    requests, is_broken = parsed(data, size)
    assert (is_broken, [one is not http_parser.BROKEN for one in requests]) == (not is_taken, [is_taken])
