"""Random and damaged bodies and requests; reproducible from a seed."""

import gzip
import json
import random
import zlib
from typing import Any

from support import leaks

TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-16",
    "application/json; charset=iso-8859-1",
    "application/json; charset=punycode",
    "application/json; charset=zlib",
    "application/json; charset=\xe9",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
)
ENCODINGS = ("", "", "", "", "", "gzip", "deflate", "br", "identity", "gzip, deflate", "zstd")
ATOMS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18), 0.1, 1e308, 1.5e9, 1_764_000_000),
    *("", " ", "127", "007", "1e5", "²", "٣", "\0", "\ud800", "\U0001f600", "é", "e\u0301", "a" * 300, "0" * 25),
    *("2026-11-25T10:00:00Z", "2026-11-25T10:00:00", "0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59"),
    *("2026-11-25T10:00:00.5+01:00", "20261125", "1764000000", "1764000000000", "-0", "NaN", leaks.PERSON),
    *([], {}, [[]], [{}], {"": ""}, [1] * 50),
)


def sample(rng: random.Random) -> dict[str, Any]:
    """Build a body that Purple could send."""
    number = rng.randrange(100_000)
    return {
        "user": {
            "id": number if number % 2 else str(number),
            "firstName": leaks.PERSON,
            "email": f"{leaks.PERSON}{number}@example.test",
            "mobile": f"+99955{number}",
            "visitCountsForVenue": number % 5,
            "device": {"mac": f"06:5e:ed:00:00:{number % 256:02x}"},
            "venue": {"id": number % 7, "name": "Bar", "company": {"id": 77}},
            "loginDatetime": f"2026-11-{number % 28 + 1:02d}T10:00:00+01:00",
        },
        "extra": [{"key": "room", "value": number}],
    }


def mutated(value: Any, rng: random.Random, chance: float) -> Any:
    """Replace, drop, double or wrap some parts of a value."""
    if rng.random() < chance:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(ATOMS)
        if kind == 1:
            return [value] * rng.randrange(3)
        if kind == 2:
            return {"x": value}
        return str(value)
    if isinstance(value, dict):
        kept = {key: mutated(inner, rng, chance) for key, inner in value.items() if rng.random() > chance / 3}
        if rng.random() < chance:
            kept[rng.choice(("timestamp", "loginDatetime", "companyId", "", "\ud800", "user"))] = rng.choice(ATOMS)
        return kept
    if isinstance(value, list):
        return [mutated(inner, rng, chance) for inner in value]
    return value


def garbled(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, double or insert a few bytes."""
    result = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del result[at : at + rng.randrange(1, 40)]
        elif kind == 2:
            result[at:at] = rng.choice(SPLICES)
        elif kind == 3:
            result[at:at] = result[at : at + rng.randrange(1, 60)]
        elif kind == 4:
            del result[at:]
        else:
            result[at:at] = rng.randbytes(rng.randrange(1, 12))
    return bytes(result)


SPLICES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b"\t",
        b"%",
        b"[" * 70,
        b"{" * 3,
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"1e999",
    ),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"X: " + b"y" * 9000 + b"\r\n", b" HTTP/1.0", b"0\r\n\r\n", b"http://hooks.test"),
    *(b"9" * 30, b"-1", b"\xff\xfe", b"\xef\xbb\xbf", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
)


def body(rng: random.Random) -> tuple[bytes, str, str]:
    """Build a body; return it with its Content-Type and Content-Encoding."""
    kind, content_type, encoding = rng.randrange(8), rng.choice(TYPES), rng.choice(ENCODINGS)
    if kind == 0:
        data = rng.randbytes(rng.randrange(200))
    else:
        charset = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"))
        document = mutated(sample(rng), rng, 0.08 if kind > 2 else 0.3)
        text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
        data = text.encode(charset, "surrogatepass")
        if kind == 1:
            data = garbled(data, rng)
    if encoding == "gzip" and rng.random() < 0.9:
        data = gzip.compress(data, 1, mtime=0)
    elif encoding == "deflate" and rng.random() < 0.9:
        data = zlib.compress(data, 1)
    if encoding and rng.random() < 0.2:
        data = garbled(data, rng)
    return data, content_type, encoding
