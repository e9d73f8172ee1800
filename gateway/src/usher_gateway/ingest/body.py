"""The body of an arrival: inflate it, then parse it or find the reason for its quarantine (pure).

A body that is not valid is quarantined and acknowledged, never refused: enough refusals make Purple disable the hook.
Source: RFC 9110 §8.4 (Content-Encoding), docs/purple.md.
"""

import codecs
import json
import math
import re
import zlib

import msgspec

from usher_gateway import model

MAX_DEPTH = 64  # The deepest nesting of a body that is not quarantined
MAX_NODES = 2_000  # The most values (objects, arrays, strings, numbers) in a body that is not quarantined

# An object with more members counts as wide: the fast encoder takes quadratic time for its keys (`canonical`).
WIDE_KEYS = 200

# The most digits of an integer in a body that is not quarantined, because converting one takes quadratic time.
MAX_INTEGER_DIGITS = 40

_DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else 0 for byte in range(256))
_TOO_MANY_DIGITS = b"0" * (MAX_INTEGER_DIGITS + 1)
# The check first samples the bytes at this distance, because too many digits in a row have three samples.
_SAMPLED = (MAX_INTEGER_DIGITS + 1) // 3

# Finds as many commas outside of strings as a body with too many nodes has. Its time is linear.
_HAS_TOO_MANY_NODES = re.compile(rb"""(?:(?:[^",]++|"(?:[^"\\]++|\\.)*+"|")*+,){%d}""" % MAX_NODES, re.DOTALL).match


def _to_float(text: str) -> float:
    """Convert a number as the fast parser does, whose own conversion takes 8 us for ``1.2345678901234567e-300``."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("the number is out of range")
    return value


class _IntegerTooLongError(ValueError):
    """An integer has more than ``MAX_INTEGER_DIGITS`` digits."""


def _to_integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise _IntegerTooLongError
    return int(text)


_decode = msgspec.json.Decoder(float_hook=_to_float).decode
_BOM = codecs.BOM_UTF8
_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
# The charsets that are decoded. Python's other codecs are not used: some take quadratic time, and Python caches every
# unknown name.
_CHARSETS = frozenset({"utf-16", "utf-16le", "utf-16be", "latin1", "latin-1", "iso-8859-1", "windows-1252", "cp1252"})

_PIECE_BYTES = 65_536
_FED_BYTES = 16_384
_MAX_MEMBERS = 1_000
_MAX_ENCODINGS = 3


def inflate(content: bytes, encoding: str, limit: int) -> bytes | None:
    """Undo the content encodings of a body: ``gzip``, ``x-gzip``, ``deflate`` (zlib or raw), ``identity``, up to three.

    Returns at most ``limit + 1`` bytes; one more than ``limit`` means that there is more. None: the body does not match
    its encoding, or the encoding is unknown.
    """
    names = [name.strip().lower() for name in encoding.split(",") if name.strip()]
    inflated: bytes | None = content if len(names) <= _MAX_ENCODINGS else None
    for name in reversed(names):
        if inflated is not None:
            inflated = _inflate_once(inflated, name, limit)
    return inflated


def _inflate_once(content: bytes, name: str, limit: int) -> bytes | None:
    if name in {"gzip", "x-gzip"}:
        return _inflate_members(content, zlib.MAX_WBITS | 16, limit)
    if name == "deflate":
        inflated = _inflate_members(content, zlib.MAX_WBITS, limit)
        if inflated is None:  # raw, because some senders omit the zlib wrapper
            inflated = _inflate_members(content, -zlib.MAX_WBITS, limit)
        return inflated
    return content if name == "identity" else None


def _inflate_members(content: bytes, window_bits: int, limit: int) -> bytes | None:
    """Inflate all members of a body; gzip allows several.

    zlib gets small slices, because it copies the input that it does not consume, and members may be a few bytes long.
    """
    out, view, at = bytearray(), memoryview(content), 0
    for _ in range(_MAX_MEMBERS):
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            fed = view[at : at + _FED_BYTES]
            try:
                piece = stream.decompress(fed, _PIECE_BYTES)
            except zlib.error:
                return None
            at += len(fed) - len(stream.unconsumed_tail) - len(stream.unused_data)
            out += piece
            if len(out) > limit:
                return bytes(out[: limit + 1])
            if not fed and not piece and not stream.eof:
                return None
        if at == len(view):
            return bytes(out)
    return None


class ParsedBody(msgspec.Struct, frozen=True, gc=False):
    """A body parsed as a JSON object, or the reason for its quarantine.

    ``is_plain``: the fast parser (msgspec) accepted it. Only then may the fast encoder be used on ``document``.
    ``is_wide``: an object may have more than ``WIDE_KEYS`` members.
    """

    document: dict[str, object] | None = None
    is_plain: bool = True
    quarantine: model.QuarantineReason | None = None
    is_probe: bool = False
    is_wide: bool = False


PROBE = ParsedBody(is_probe=True)
_QUARANTINED = {reason: ParsedBody(quarantine=reason) for reason in model.QuarantineReason}


def quarantined(reason: model.QuarantineReason) -> ParsedBody:
    """Return the result for a body that is quarantined without being parsed."""
    return _QUARANTINED[reason]


def parse(raw: bytes, content_type: str) -> ParsedBody:
    """Parse an inflated body.

    An empty body, white space and ``{}`` are the portal's probe. If the fast parser rejects a body, the standard
    library's parser is tried, which also accepts UTF-16, UTF-32, NaN, lone surrogates and huge numbers.
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
    # Before parsing, because 256 KiB of numbers, lists or objects (400 bytes of gzip) take 25 ms to parse.
    commas = raw.count(b",")
    if commas >= MAX_NODES and _HAS_TOO_MANY_NODES(raw):
        return _QUARANTINED[model.QuarantineReason.TooManyNodes]
    loaded = _load(raw)
    if isinstance(loaded, ParsedBody):
        return loaded
    document, is_plain = loaded
    if type(document) is not dict:
        return _QUARANTINED[model.QuarantineReason.NotObject]
    if not document:
        return PROBE
    reason = _over_limits(raw, document, is_plain)
    return _QUARANTINED[reason] if reason is not None else ParsedBody(document, is_plain, is_wide=commas >= WIDE_KEYS)


def _load(raw: bytes) -> tuple[object, bool] | ParsedBody:
    """Return what a JSON text contains and whether the fast parser accepted it, or the result for an invalid one.

    Only the standard library's parser can refuse a long integer before it converts it. So it also gets the bodies that
    have as many digits in a row anywhere, such as in a text.
    """
    if b"000" not in raw[::_SAMPLED].translate(_DIGITS_AS_ZEROS) or _TOO_MANY_DIGITS not in raw.translate(
        _DIGITS_AS_ZEROS
    ):
        try:
            return _decode(raw), True
        except RecursionError:
            return _QUARANTINED[model.QuarantineReason.TooDeep]
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    try:
        return json.loads(raw, parse_int=_to_integer), False
    except RecursionError:
        return _QUARANTINED[model.QuarantineReason.TooDeep]
    except UnicodeDecodeError:
        return _QUARANTINED[model.QuarantineReason.BadCharset]
    except _IntegerTooLongError:
        return _QUARANTINED[model.QuarantineReason.IntegerTooLong]
    except ValueError:
        return _QUARANTINED[model.QuarantineReason.NotJSON] if raw.strip() else PROBE


def _to_utf8(raw: bytes, content_type: str) -> bytes | None:
    """Convert the body to UTF-8; None if the charset is unknown or does not fit the body."""
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
    """Return the charset parameter of a Content-Type in lower case, or ``""``. Source: RFC 9110 §8.3.2."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""


def _over_limits(raw: bytes, document: dict[str, object], is_plain: bool) -> model.QuarantineReason | None:
    """Return the reason if a body is nested too deeply or has too many nodes.

    Most bodies need no walk: the number of opening brackets limits the depth, and with the commas also the number of
    nodes. The length limits the nodes too, because all nodes but one need a separator. Brackets and commas inside
    strings only make these estimates too high.
    """
    opens = raw.count(b"{") + raw.count(b"[")
    if is_plain and opens <= MAX_DEPTH and (len(raw) < 2 * MAX_NODES or opens + raw.count(b",") < MAX_NODES):
        return None
    nodes = 0
    level: list[object] = [document]
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
