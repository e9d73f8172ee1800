"""The body of an arrival: inflate it, then parse it or find the reason for its quarantine (pure).

A body that is not valid is quarantined and acknowledged, never refused: enough refusals make Purple disable the hook.
Source: RFC 9110 §8.4 (Content-Encoding), purple.md.
"""

import codecs
import json
import zlib

import msgspec

from usher_gateway import model

MAX_DEPTH = 64
"""Deepest nesting of a body; what is deeper is quarantined."""

MAX_NODES = 2_000
"""Most values (objects, arrays, texts, numbers …) in a body; what has more is quarantined."""

_decode = msgspec.json.Decoder().decode
_BOM = codecs.BOM_UTF8
_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
_CHARSETS = frozenset(
    {
        *("utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be", "latin1", "latin-1"),
        *(f"iso-8859-{part}" for part in (*range(1, 12), *range(13, 17))),
        *(f"{name}{page}" for page in range(1250, 1259) for name in ("windows-", "cp")),
        *("koi8-r", "koi8-u", "macintosh", "tis-620", "big5", "gb2312", "gbk", "gb18030"),
        *("shift_jis", "euc-jp", "iso-2022-jp", "euc-kr"),
    }
)
"""What is decoded, and no other codec that Python has: some take quadratic time, and each unknown name is kept."""

_PIECE_BYTES = 65_536
_FED_BYTES = 16_384
_MAX_MEMBERS = 1_000
_MAX_ENCODINGS = 3


class InflateError(Exception):
    """The body is not what its Content-Encoding says, or the encoding is unknown."""


class InflatedTooLargeError(Exception):
    """More comes out than may come out."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """A body without its content encodings: ``gzip``, ``x-gzip``, ``deflate`` (zlib or raw), ``identity``, stacked.

    Raises:
        InflateError: unknown encoding, broken or truncated data.
        InflatedTooLargeError: more than ``limit`` bytes come out.
    """
    names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
    if len(names) > _MAX_ENCODINGS:
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
            fed = view[at : at + _FED_BYTES]
            try:
                piece = stream.decompress(fed, _PIECE_BYTES)
            except zlib.error as error:
                raise InflateError("broken data") from error
            at += len(fed) - len(stream.unconsumed_tail) - len(stream.unused_data)
            out += piece
            if len(out) > limit:
                raise InflatedTooLargeError
            if not fed and not piece and not stream.eof:
                raise InflateError("truncated data")
        if at == len(view):
            return bytes(out)
    raise InflateError("too many members")


class ParsedBody(msgspec.Struct, frozen=True, gc=False):
    """A body that was understood as a JSON object, or why not.

    ``plain`` is True where the fast parser took it; only then may the fast encoder be used on ``body``.
    """

    document: dict[str, object] | None = None
    is_plain: bool = True
    quarantine: model.QuarantineReason | None = None
    is_probe: bool = False


PROBE = ParsedBody(is_probe=True)
_QUARANTINED = {reason: ParsedBody(quarantine=reason) for reason in model.QuarantineReason}


def quarantined(reason: model.QuarantineReason) -> ParsedBody:
    """The result for a body that is quarantined without being parsed."""
    return _QUARANTINED[reason]


def parse(raw: bytes, content_type: str) -> ParsedBody:
    """Understand a body (inflated).

    An empty body, white space and ``{}`` are the portal's probe. What the fast parser refuses is tried once with the
    standard library's, which also takes UTF-16, UTF-32, NaN, lone surrogates and huge numbers. Source: design §3.
    """
    if raw.startswith(_BOM):
        raw = raw[3:]
    if len(raw) <= 8 and raw.strip() in {b"", b"{}"}:
        return PROBE
    if "charset" in content_type.lower():
        decoded = _to_utf8(raw, content_type)
        if decoded is None:
            return _QUARANTINED[model.QuarantineReason.BadCharset]
        raw = decoded
    try:
        document, is_plain = _decode(raw), True
    except RecursionError:
        return _QUARANTINED[model.QuarantineReason.TooDeep]
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            document, is_plain = json.loads(raw), False
        except RecursionError:
            return _QUARANTINED[model.QuarantineReason.TooDeep]
        except UnicodeDecodeError:
            return _QUARANTINED[model.QuarantineReason.BadCharset]
        except ValueError:
            return _QUARANTINED[model.QuarantineReason.NotJSON] if raw.strip() else PROBE
    if type(document) is not dict:
        return _QUARANTINED[model.QuarantineReason.NotObject]
    if not document:
        return PROBE
    reason = _over_limits(raw, document, is_plain)
    return _QUARANTINED[reason] if reason is not None else ParsedBody(document, is_plain)


def _to_utf8(raw: bytes, content_type: str) -> bytes | None:
    """The body in UTF-8, whatever charset its type names; None where that is unknown or wrong."""
    charset = charset_of(content_type)
    if charset in _UTF8:
        return raw
    if charset not in _CHARSETS:
        return None
    try:
        return raw.decode(charset).encode("utf-8", "surrogatepass")
    except UnicodeError:
        return None


def charset_of(content_type: str) -> str:
    """The charset parameter of a Content-Type, lower case; ``""`` if there is none. Source: RFC 9110 §8.3.2."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""


def _over_limits(raw: bytes, body: dict[str, object], plain: bool) -> model.QuarantineReason | None:
    """Whether a body is too deep or has too many nodes.

    Opening brackets bound the depth and, with commas, the number of nodes; so does the length, since every node but one
    has at least a separator beside it. Strings can only make a bound too high. So most bodies need no walk.
    """
    opens = raw.count(b"{") + raw.count(b"[")
    if plain and opens <= MAX_DEPTH and (len(raw) < 2 * MAX_NODES or opens + raw.count(b",") < MAX_NODES):
        return None
    nodes = 0
    level: list[object] = [body]
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            return model.QuarantineReason.TooManyNodes
        level = [child for node in level for child in _children(node)]
        if not level:
            return None
    return model.QuarantineReason.TooDeep if any(isinstance(node, dict | list) for node in level) else None


def _children(node: object) -> "list[object]":
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
