"""Streams of requests, and ways to cut them into pieces; reproducible from a seed."""

import gzip
import json
import random

from support import wire

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def visit(user: int, size: int = 0) -> bytes:
    """Build a body of at least this size in bytes."""
    return json.dumps({"user": {"id": user, "venue": {"id": 9}}, "more": "x" * size}).encode()


def request(target: str, user: int, rng: random.Random) -> bytes:
    """Build a complete random request that keeps the connection open. It has less than 10 kB."""
    kind = rng.randrange(9)
    body = visit(user, rng.choice((0, 0, 0, 50, 5000, 9_000)))
    if kind == 0:
        return wire.request(target, method=rng.choice(("GET", "HEAD", "OPTIONS")))
    if kind == 1:
        cut = rng.randrange(1, len(body))
        return wire.chunked(target, [body[:cut], body[cut:]])
    if kind == 2:
        return wire.request(target, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    if kind == 3:
        return wire.request(target, body, headers={"Expect": "100-continue"})
    if kind == 4:
        return wire.request("/nowhere", method="GET")
    if kind == 5:
        return b"\r\n" + wire.request(target, body[:-3])
    return wire.request(target, body)


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut bytes into one piece, a few pieces, or single bytes."""
    kind = rng.randrange(4)
    if kind == 0:
        return [data]
    if kind == 1 and len(data) < 3000:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(1, 12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
