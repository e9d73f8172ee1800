import gzip
import time
import tracemalloc
import zlib

import pytest

from usher_gateway.ingest import inflate


def gzip_of(data: bytes, level: int = 9) -> bytes:
    """Gzip without the time in it: names of tests must be the same in every process."""
    return gzip.compress(data, level, mtime=0)


DATA = b'{"user":{"id":7}}' * 100
LIMIT = 8 * 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip_of(DATA)),
        (" X-GZIP ", gzip_of(DATA)),
        ("gzip", gzip_of(DATA[:99]) + gzip_of(b"") + gzip_of(DATA[99:])),
        ("deflate", zlib.compress(DATA)),
        ("deflate", raw_deflate(DATA)),
        ("identity", DATA),
        ("", DATA),
        ("deflate, identity,gzip", gzip_of(zlib.compress(DATA))),
        ("gzip,gzip", gzip_of(gzip_of(DATA))),
    ],
)
def test_encodings_are_undone(encoding: str, body: bytes) -> None:
    assert inflate.inflate(body, encoding, LIMIT) == DATA


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", DATA),
        ("gzip", gzip_of(DATA)[:-1]),
        ("gzip", gzip_of(DATA)[:-8]),
        ("gzip", gzip_of(DATA)[:5]),
        ("gzip", gzip_of(DATA) + b"garbage"),
        ("gzip", gzip_of(DATA)[:-6] + b"\0\0" + gzip_of(DATA)[-4:]),
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
@pytest.mark.parametrize("compress", [gzip_of, zlib.compress, raw_deflate])
def test_the_limit_is_exact(compress: "object", size: int) -> None:
    assert callable(compress)
    body, encoding = compress(b"x" * size), "gzip" if compress is gzip_of else "deflate"
    if size <= LIMIT:
        assert len(inflate.inflate(body, encoding, LIMIT)) == size
    else:
        with pytest.raises(inflate.TooLargeError):
            inflate.inflate(body, encoding, LIMIT)


def test_a_bomb_is_bounded_in_memory_and_time() -> None:
    bomb = gzip_of(gzip_of(b"\0" * 200_000_000, 9), 9)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(inflate.TooLargeError):
        inflate.inflate(bomb, "gzip, gzip", LIMIT)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("member", [gzip_of(b""), gzip_of(b"x")])
def test_a_body_of_many_members_is_bounded_in_time(member: bytes) -> None:
    body = member * (LIMIT // len(member))
    started = time.process_time()
    with pytest.raises(inflate.InflateError):
        inflate.inflate(body, "gzip", LIMIT)
    assert time.process_time() - started < 1
