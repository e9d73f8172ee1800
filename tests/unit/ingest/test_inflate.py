import gzip
import time
import tracemalloc
import zlib

import pytest

from usher_gateway.ingest import inflate

DATA = b'{"user":{"id":7}}' * 100
LIMIT = 8 * 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(DATA)),
        (" X-GZIP ", gzip.compress(DATA)),
        ("gzip", gzip.compress(DATA[:99]) + gzip.compress(b"") + gzip.compress(DATA[99:])),
        ("deflate", zlib.compress(DATA)),
        ("deflate", raw_deflate(DATA)),
        ("identity", DATA),
        ("", DATA),
        ("deflate, identity,gzip", gzip.compress(zlib.compress(DATA))),
        ("gzip,gzip", gzip.compress(gzip.compress(DATA))),
    ],
)
def test_encodings_are_undone(encoding: str, body: bytes) -> None:
    assert inflate.inflate(body, encoding, LIMIT) == DATA


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", DATA),
        ("gzip", gzip.compress(DATA)[:-1]),
        ("gzip", gzip.compress(DATA)[:-8]),
        ("gzip", gzip.compress(DATA)[:5]),
        ("gzip", gzip.compress(DATA) + b"garbage"),
        ("gzip", gzip.compress(DATA)[:-6] + b"\0\0" + gzip.compress(DATA)[-4:]),
        ("deflate", b"\0\0\0\0"),
        ("deflate", zlib.compress(DATA)[:-1]),
        ("br", b"\x0b\x02\x80{}\x03"),
        ("zstd", b""),
        ("gzip, br", DATA),
        ("gzip,gzip,gzip,gzip", DATA),
    ],
)
def test_what_is_not_what_it_says_is_an_error(encoding: str, body: bytes) -> None:
    with pytest.raises(inflate.InflateError):
        inflate.inflate(body, encoding, LIMIT)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_the_limit_is_exact(compress: "object", size: int) -> None:
    assert callable(compress)
    body, encoding = compress(b"x" * size), "gzip" if compress is gzip.compress else "deflate"
    if size <= LIMIT:
        assert len(inflate.inflate(body, encoding, LIMIT)) == size
    else:
        with pytest.raises(inflate.TooLargeError):
            inflate.inflate(body, encoding, LIMIT)


def test_a_bomb_is_bounded_in_memory_and_time() -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * 200_000_000, 9), 9)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(inflate.TooLargeError):
        inflate.inflate(bomb, "gzip, gzip", LIMIT)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("member", [gzip.compress(b""), gzip.compress(b"x")])
def test_a_body_of_many_members_is_bounded_in_time(member: bytes) -> None:
    body = member * (LIMIT // len(member))
    started = time.process_time()
    with pytest.raises(inflate.InflateError):
        inflate.inflate(body, "gzip", LIMIT)
    assert time.process_time() - started < 1
