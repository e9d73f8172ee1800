import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model
from usher_gateway.ingest.body import (
    ParsedBody,
    charset_of,
    inflate,
    parse,
)

Reason = model.QuarantineReason


def parse_json(raw: bytes, content_type: str = "application/json") -> ParsedBody:
    return parse(raw, content_type)


def lists(depth: int) -> bytes:
    """An object with so many levels, itself included."""
    return b'{"a":' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b"}"


def nodes(count: int) -> bytes:
    """An object with so many nodes: itself, the list, its items."""
    return b'{"a":[' + b",".join([b"1"] * (count - 2)) + b"]}"


ENCODED = ["{}".encode(charset) for charset in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be")]


@pytest.mark.parametrize("raw", [b"", b" ", b"\n\t \r\n" * 9, b"{}", b" {\n} ", b"\xef\xbb\xbf", *ENCODED])
def test_empty_body_is_a_probe(raw: bytes) -> None:
    assert parse_json(raw).is_probe


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_unicode_encoding_is_detected_without_a_charset(charset: str) -> None:
    assert parse_json('{"user":{"firstName":"Ærø"}}'.encode(charset)).document == {"user": {"firstName": "Ærø"}}


@pytest.mark.parametrize(
    "charset", ["utf-16", "UTF-16BE", "ISO-8859-1", "windows-1252", '"iso-8859-1"', "latin1", "cp1252"]
)
def test_body_is_decoded_with_the_named_charset(charset: str) -> None:
    raw = '{"user":{"firstName":"Zoë"}}'.encode(charset.strip('"'))
    for name in ("charset", "Charset", "CHARSET"):
        assert parse_json(raw, f"application/json; a=b; {name}={charset}").document == {"user": {"firstName": "Zoë"}}


@pytest.mark.parametrize(
    "charset", ["x-none", "shift_jis", "zlib", "rot13", "idna", "punycode", "unicode_escape", "utf-7", "\udce9"]
)
def test_unknown_charset_is_quarantined(charset: str) -> None:
    assert parse_json(b'{"user":{}}', f"application/json; charset={charset}").quarantine is Reason.BadCharset


def cpu_seconds(raw: bytes) -> float:
    """Return the least CPU time of five runs."""
    measured = []
    for _ in range(5):
        started = time.thread_time()
        parse_json(raw)
        measured.append(time.thread_time() - started)
    return min(measured)


def test_numbers_that_the_fast_parser_converts_slowly_cost_like_others() -> None:
    head, count = b'{"user":{"id":1},"x":[', 1_900  # fewer than too many nodes
    usual = head + b"1.2345678901234567," * count + b"1]}"
    slow = head + b"1.2345678901234567e-300," * count + b"1]}"
    assert parse_json(slow).quarantine is None
    assert cpu_seconds(slow) < 6 * cpu_seconds(usual)


@pytest.mark.parametrize("item", [b"1.2345678901234567e-300,", b"[],", b'{"a":"b,c"},'])
def test_body_with_too_many_nodes_costs_less_than_one_with_few(item: bytes) -> None:
    raw = b'{"user":{"id":1},"x":[' + item * (250_000 // len(item)) + b'"\\ud800"]}'
    few = b'{"user":{"id":1},"x":"' + b"\\u00e9" * 41_000 + b'\\ud800"}'
    assert parse_json(raw).quarantine is Reason.TooManyNodes
    assert cpu_seconds(raw) < 2 * cpu_seconds(few)


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [(b'{"user":"\xff"}', ""), (b'{"a":"\xed\xa0"}', ""), (b"\xff\xfe{", ""), (b"{}x", "a/b; charset=utf-16")],
)
def test_undecodable_bytes_are_quarantined(raw: bytes, content_type: str) -> None:
    assert parse_json(raw, content_type).quarantine is Reason.BadCharset


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"7", b"null", b"true", b"NaN", b"[{}]", b"1e999"])
def test_json_that_is_not_an_object_is_quarantined(raw: bytes) -> None:
    assert parse_json(raw).quarantine is Reason.NotObject


@pytest.mark.parametrize(
    "raw", [b"hello", b"{", b'{"a":1', b"{'a':1}", b'{"a":1}x', b"<xml/>", b"a=b", b'{"a":01}', b"\0"]
)
def test_invalid_json_is_quarantined(raw: bytes) -> None:
    assert parse_json(raw).quarantine is Reason.NotJSON


@pytest.mark.parametrize(
    "raw", [b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":1e999}']
)
def test_json_that_only_the_second_parser_accepts_is_parsed(raw: bytes) -> None:
    parsed = parse_json(raw)
    assert parsed.quarantine is None
    assert parsed.document


def test_last_of_equal_names_wins() -> None:
    assert parse_json(b'{"a":1,"a":2}').document == {"a": 2}
    assert parse_json(b'{"a":NaN,"a":2}').document == {"a": 2}


@pytest.mark.parametrize("nan", [b"", b',"x":NaN'])
def test_nesting_of_64_levels_is_accepted_and_65_is_not(nan: bytes) -> None:
    for depth, reason in ((64, None), (65, Reason.TooDeep), (900, Reason.TooDeep), (200_000, Reason.TooDeep)):
        assert parse_json(lists(depth)[:-1] + nan + b"}").quarantine is reason


@pytest.mark.parametrize("nan", [b"1", b"NaN"])
def test_body_of_2000_nodes_is_accepted_and_2001_is_not(nan: bytes) -> None:
    for count, reason in ((2000, None), (2001, Reason.TooManyNodes), (50_000, Reason.TooManyNodes)):
        assert parse_json(nodes(count).replace(b"[1", b"[" + nan)).quarantine is reason


def test_brackets_and_commas_in_strings_do_not_count_as_nodes() -> None:
    assert parse_json(json.dumps({"user": {"firstName": "[{," * 3000}}).encode()).quarantine is None


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("application/json", ""),
        ("a/b; charset=UTF-8", "utf-8"),
        ('a/b;charset="utf-16"', "utf-16"),
        ("a/b; x=charset", ""),
        ("a/b; mycharset=x", ""),
        ("charset=x", ""),
        (";;charset = y ;", "y"),
    ],
)
def test_charset_parameter_is_read_from_the_content_type(content_type: str, charset: str) -> None:
    assert charset_of(content_type) == charset


@given(st.binary(max_size=60), st.sampled_from(["", "a/b; charset=utf-16", "a/b; charset=big5", "a/b; charset=\udcff"]))
def test_any_bytes_are_parsed_or_quarantined(raw: bytes, content_type: str) -> None:
    parsed = parse_json(raw, content_type)
    assert (parsed.document is not None) + (parsed.quarantine is not None) + parsed.is_probe == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=5), JSON, min_size=1, max_size=4), st.sampled_from(["utf-8", "utf-16", "utf-32"])
)
def test_every_json_object_is_parsed(document: dict[str, object], charset: str) -> None:
    text = json.dumps(document)
    assert json.dumps(parse_json(text.encode(charset)).document, sort_keys=True) == json.dumps(document, sort_keys=True)


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
def test_content_encodings_are_undone(encoding: str, body: bytes) -> None:
    assert inflate(body, encoding, LIMIT) == DATA


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
def test_body_that_does_not_match_its_encoding_is_broken(encoding: str, body: bytes) -> None:
    assert inflate(body, encoding, LIMIT) is None


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, LIMIT + 2])
@pytest.mark.parametrize("compress", [gzip_of, zlib.compress, raw_deflate])
def test_inflate_limit_is_exact(compress: "object", size: int) -> None:
    assert callable(compress)
    body, encoding = compress(b"x" * size), "gzip" if compress is gzip_of else "deflate"
    assert inflate(body, encoding, LIMIT) == b"x" * min(size, LIMIT + 1)


def test_decompression_bomb_is_limited_in_memory_and_time() -> None:
    bomb = gzip_of(b"\0" * 100_000_000)
    tracemalloc.start()
    started = time.process_time()
    inflated = inflate(bomb, "gzip", LIMIT)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert inflated == b"\0" * (LIMIT + 1)
    assert seconds < 1
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("member", [gzip_of(b""), gzip_of(b"x")])
def test_body_of_many_gzip_members_is_limited_in_time(member: bytes) -> None:
    body = member * (LIMIT // len(member))
    started = time.process_time()
    assert inflate(body, "gzip", LIMIT) is None
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "raw",
    [
        b'{"user":{"id":%s}}' % (b"9" * 41),
        b'{"user":{"id":-%s}}' % (b"9" * 41),
        b'{"user":{},"list":[1,%s]}' % (b"1" * 200_000),
        json.dumps({"user": {}, "n": 10**41}).encode("utf-16"),
    ],
)
def test_integer_of_more_than_40_digits_is_quarantined(raw: bytes) -> None:
    assert parse_json(raw).quarantine is Reason.IntegerTooLong


def test_long_integer_is_quarantined_wherever_it_stands() -> None:
    for spaces in range(45):
        raw = b'{"user":{},' + b" " * spaces + b'"n":%s}' % (b"7" * 41)
        assert parse_json(raw).quarantine is Reason.IntegerTooLong


def test_integer_of_40_digits_and_digits_in_texts_and_fractions_are_accepted() -> None:
    document = {"user": {"id": int("9" * 40)}, "text": "9" * 500, "9" * 60: -int("1" * 40)}
    assert parse_json(json.dumps(document).encode()).document == document
    fraction = b'{"user":{},"n":0.1000000000000000055511151231257827021181583404541015625}'
    assert parse_json(fraction).document == {"user": {}, "n": 0.1}


def test_long_integers_cost_no_more_than_their_length() -> None:
    long = b'{"user":{},"n":[' + b",".join([b"9" * 4_200] * 62) + b"]}"
    began = time.thread_time()
    assert parse_json(long).quarantine is Reason.IntegerTooLong
    assert time.thread_time() - began < 0.05
