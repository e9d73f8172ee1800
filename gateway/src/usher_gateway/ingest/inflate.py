"""Content-Encoding of a request, undone under a hard limit (pure). Source: RFC 9110 §8.4."""

import zlib

_SLICE = 65_536
_FED = 16_384
_MAX_MEMBERS = 1_000


class InflateError(Exception):
    """The body is not what its Content-Encoding says, or the encoding is unknown."""


class TooLargeError(Exception):
    """More comes out than may come out."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """A body without its content encodings: ``gzip``, ``x-gzip``, ``deflate`` (zlib or raw), ``identity``, stacked.

    Raises:
        InflateError: unknown encoding, broken or truncated data.
        TooLargeError: more than ``limit`` bytes come out.
    """
    names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
    if len(names) > 3:
        raise InflateError("too many encodings")
    for name in reversed(names):
        if name in {"gzip", "x-gzip"}:
            body = _members(body, zlib.MAX_WBITS | 16, limit)
        elif name == "deflate":
            body = _deflated(body, limit)
        elif name != "identity":
            raise InflateError("unknown encoding")
    return body


def _deflated(body: bytes, limit: int) -> bytes:
    try:
        return _members(body, zlib.MAX_WBITS, limit)
    except InflateError:
        return _members(body, -zlib.MAX_WBITS, limit)  # raw: some senders leave the zlib wrapper out


def _members(body: bytes, window_bits: int, limit: int) -> bytes:
    """All members of a body one after the other, as gzip allows.

    Fed in small slices: zlib copies what it does not consume, and a body may be made of members of a few bytes.
    """
    out, view, at = bytearray(), memoryview(body), 0
    for _ in range(_MAX_MEMBERS):
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            fed = view[at : at + _FED]
            try:
                piece = stream.decompress(fed, _SLICE)
            except zlib.error as error:
                raise InflateError("broken data") from error
            at += len(fed) - len(stream.unconsumed_tail) - len(stream.unused_data)
            out += piece
            if len(out) > limit:
                raise TooLargeError
            if not fed and not piece and not stream.eof:
                raise InflateError("truncated data")
        if at == len(view):
            return bytes(out)
    raise InflateError("too many members")
