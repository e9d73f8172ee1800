"""Bytes to a body, or to the reason for quarantine (pure). A bad body never costs the hook: it is set aside."""

import codecs
import json

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


class Parsed(msgspec.Struct, frozen=True, gc=False):
    """A body that was understood as a JSON object, or why not.

    ``plain`` is True where the fast parser took it; only then may the fast encoder be used on ``body``.
    """

    body: dict[str, object] | None = None
    plain: bool = True
    quarantine: model.QuarantineReason | None = None
    is_probe: bool = False


_PROBE = Parsed(is_probe=True)
_FAILED = {reason: Parsed(quarantine=reason) for reason in model.QuarantineReason}


def parse(raw: bytes, content_type: str) -> Parsed:
    """Understand a body (inflated).

    An empty body, white space and ``{}`` are the portal's probe. What the fast parser refuses is tried once with the
    standard library's, which also takes UTF-16, UTF-32, NaN, lone surrogates and huge numbers. Source: design §3.
    """
    if raw.startswith(_BOM):
        raw = raw[3:]
    if len(raw) <= 8 and raw.strip() in {b"", b"{}"}:
        return _PROBE
    if "charset" in content_type.lower():
        decoded = _to_utf8(raw, content_type)
        if decoded is None:
            return _FAILED[model.QuarantineReason.BadCharset]
        raw = decoded
    try:
        body, plain = _decode(raw), True
    except RecursionError:
        return _FAILED[model.QuarantineReason.TooDeep]
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            body, plain = json.loads(raw), False
        except RecursionError:
            return _FAILED[model.QuarantineReason.TooDeep]
        except UnicodeDecodeError:
            return _FAILED[model.QuarantineReason.BadCharset]
        except ValueError:
            return _FAILED[model.QuarantineReason.NotJSON] if raw.strip() else _PROBE
    if type(body) is not dict:
        return _FAILED[model.QuarantineReason.NotObject]
    if not body:
        return _PROBE
    reason = _over_limits(raw, body, plain)
    return _FAILED[reason] if reason is not None else Parsed(body, plain)


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
