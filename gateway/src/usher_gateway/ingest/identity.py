"""An arrival's identity: fingerprint, visitor key, once-per keys, person keys and visit time (pure).

The fields are read by JSON pointers (RFC 6901), which `Extractor` compiles so that shared prefixes are walked once.
"""

import datetime
import functools
import hashlib
import json
import re
import unicodedata
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from usher_gateway import documents, model
from usher_gateway.ingest.body import WIDE_KEYS

_OLDEST = 946_684_800  # The start of the year 2000. A visitor cannot have authenticated before it.
_MILLISECONDS_FROM = 100_000_000_000

# Longer texts are not normalised, because that takes up to quadratic time. An e-mail address has at most 320
# characters.
_LONGEST_NORMALISED = 400

_encode_sorted = msgspec.json.Encoder(order="sorted").encode

# The fields that identity needs. Other fields are extracted only for expressions.
IDENTITY_FIELDS = ("user", "venue", "device", "email", "mobile", "company", "occurredAt")


class Identity(msgspec.Struct, frozen=True, gc=False):
    """An arrival's keyed digests, and its time (microseconds)."""

    fingerprint: bytes
    visitor_key: bytes
    person_keys: tuple[bytes, ...]
    visit_time: int
    time_trusted: bool
    future_time: int = 0
    """The time in the body if it is too far in the future to be trusted; else 0."""


class Identifier:
    """Computes the identity of one listener's bodies. All digests are keyed, and bound to the listener or tenant."""

    def __init__(self, listener: documents.ListenerDocument, keys: model.Keys) -> None:
        scope = f"{listener.tenant_key}/{listener.name}\0".encode()
        tenant = f"{listener.tenant_key}\0".encode()
        self._fingerprint = hashlib.blake2b(scope, key=keys.visitor, digest_size=16, person=b"fingerprint")
        self._visitor = hashlib.blake2b(scope, key=keys.visitor, digest_size=16, person=b"visitor")
        self._once_of_tenant = hashlib.blake2b(tenant, key=keys.once, digest_size=16, person=b"once of tenant")
        self._once = hashlib.blake2b(scope, key=keys.once, digest_size=16, person=b"once")
        self._persons = PersonKeys(keys, listener.namespace, listener.tenant.name)
        self._per = tuple(FIELD_OF[per] for per in listener.dedupe_per)
        self._zone = zoneinfo.ZoneInfo(listener.occurred_at_zone) if listener.occurred_at_zone else None
        self._extractor = Extractor(listener.fields, IDENTITY_FIELDS)

    def extract(self, body: object) -> dict[str, object]:
        """Return the body fields that identity needs."""
        return self._extractor.extract(body)

    def identify(
        self,
        body: dict[str, object],
        plain: bool,
        fields: dict[str, object],
        received_at: int,
        *,
        is_wide: bool = False,
    ) -> Identity:
        """Identify a valid body. ``fields``: from `extract`; ``plain``, ``is_wide``: as in `ParsedBody`."""
        fingerprint = _digest(self._fingerprint, canonical(_descending(body) if is_wide else body, plain))
        claimed_time = self._time_in(fields.get("occurredAt"))
        is_trusted = 0 < claimed_time <= received_at + model.TRUSTED_AHEAD
        return Identity(
            fingerprint=fingerprint,
            visitor_key=self._visitor_key(fields) or fingerprint,
            person_keys=self.person_keys(fields),
            visit_time=claimed_time if is_trusted else received_at,
            time_trusted=is_trusted,
            future_time=0 if is_trusted else claimed_time,
        )

    def identify_unparsed(self, content: bytes, received_at: int, fields: dict[str, object]) -> Identity:
        """Identify a body that could not be parsed, by its bytes."""
        hasher = self._fingerprint.copy()
        hasher.update(b"raw\0")
        hasher.update(content)  # not joined with the prefix, because it may be large
        fingerprint = hasher.digest()
        return Identity(fingerprint, fingerprint, self.person_keys(fields), received_at, time_trusted=False)

    def person_keys(self, fields: dict[str, object]) -> tuple[bytes, ...]:
        """Return the keys that find a person: from the normalised user id, e-mail, mobile and MAC."""
        keys = []
        for field in PERSON_FIELDS:
            value = fields.get(field)
            if value is not None and (text := normalise_person(field, value if type(value) is str else as_text(value))):
                keys.append(self._persons.key(field, text))
        return tuple(keys)

    def once_key(self, route: str, rule: documents.OncePer, fields: dict[str, object], period: str) -> bytes:
        """Return a once-per rule's mark: a digest that covers the rule's name or route, ids and the period."""
        ids = [as_text(fields.get(FIELD_OF[part])) for part in rule.per]
        if rule.name:
            return _digest(self._once_of_tenant, _join([rule.name, period, *ids]))
        return _digest(self._once, _join([route, period, *ids]))

    def occurred_at(self, value: object, received_at: int) -> int | None:
        """Return when the authentication was, in microseconds; None if the time cannot be trusted."""
        claimed_time = self._time_in(value)
        return claimed_time if 0 < claimed_time <= received_at + model.TRUSTED_AHEAD else None

    def _time_in(self, value: object) -> int:
        """Parse the time in the body; 0 if there is none."""
        return 0 if value is None else _instant(value, self._zone) or 0

    def _visitor_key(self, fields: dict[str, object]) -> bytes:
        ids = [as_text(fields.get(field)) for field in self._per]
        return _digest(self._visitor, _join(ids)) if all(ids) else b""


def canonical(body: object, plain: bool) -> bytes:
    """Return one encoding for equal JSON content: keys sorted, no white space."""
    if plain:
        return _encode_sorted(body)
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _descending(value: object) -> object:
    """Return a JSON value with the keys in its large objects in descending order.

    msgspec's sort takes quadratic time for keys in ascending order (5 ms for 1,980), and least for descending ones.
    """
    if type(value) is dict:
        keys = sorted(value, reverse=True) if len(value) > WIDE_KEYS else value
        return {key: _descending(value[key]) for key in keys}
    return [_descending(inner) for inner in value] if type(value) is list else value


def as_text(value: object) -> str:
    """Convert an id or text to text: ``127`` and ``"127"`` are the same id. ``""`` for any other value."""
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return str(int(value)) if value.is_integer() else str(value)
    return ""


def _digest(scoped: "hashlib.blake2b", data: bytes) -> bytes:
    hasher = scoped.copy()
    hasher.update(data)
    return hasher.digest()


def _join(parts: list[str]) -> bytes:
    """Join parts with their lengths, so that different lists never give the same bytes."""
    return "".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass")


def _instant(value: object, zone: zoneinfo.ZoneInfo | None) -> int | None:
    instant: int | None = None
    if type(value) is str:
        text = value.strip()
        if not text.isdecimal():
            instant = _from_iso(text, zone)
        elif len(text) < 20:
            instant = _from_number(int(text))
    elif type(value) is int or type(value) is float:
        instant = _from_number(value)
    return instant if instant is not None and instant >= _OLDEST * model.MICROSECONDS else None


def _from_number(value: float) -> int | None:
    """Convert epoch seconds or milliseconds. Huge numbers (10^400, infinity) are compared and never divided."""
    scale = 1000 if value >= _MILLISECONDS_FROM else model.MICROSECONDS
    instant = value * scale
    return round(instant) if 0 <= instant < _MILLISECONDS_FROM * model.MICROSECONDS else None


def _from_iso(text: str, zone: zoneinfo.ZoneInfo | None) -> int | None:
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            if zone is None:
                return None
            moment = moment.replace(tzinfo=zone)
        return model.instant_at(moment)
    except (ValueError, OverflowError):
        return None


# Value in `dedupe.per` and `oncePer.per` -> field in the body.
FIELD_OF = {"User": "user", "Venue": "venue", "Device": "device"}


def _digits(text: str) -> str:
    """Return a mobile number's digits; ``00`` before the country code is the same as ``+``."""
    digits = text.lstrip("+")
    if len(digits) > _LONGEST_NORMALISED:
        return digits
    if not digits.isdecimal():
        digits = "".join([letter for letter in text if letter.isdecimal()])
    return digits.removeprefix("00") or digits


def _hexadecimal(text: str) -> str:
    digits = text.replace(":", "").replace("-", "").lower()
    if len(digits) > _LONGEST_NORMALISED:
        return digits
    return digits if digits.isalnum() else "".join([letter for letter in digits if letter in "0123456789abcdef"])


def _folded(text: str) -> str:
    return plain(text.strip().casefold())


# Characters without a glyph besides those of category Cf. Source: Default_Ignorable_Code_Point of Unicode 16, and the
# blank Braille pattern.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def plain(text: str) -> str:
    """Return a text without differences that a person does not see, or types by another keyboard.

    Full-width letters, ligatures and the like become plain ones (NFKC), decimal digits become ASCII digits,
    and invisible characters, such as a zero-width space, a direction mark or a variation selector, go.
    """
    if text.isascii() or len(text) > _LONGEST_NORMALISED:
        return text
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)))
    letters = [letter for letter in visible if unicodedata.category(letter) != "Cf"]
    digits = [str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in letters]
    return unicodedata.normalize("NFKC", "".join(digits))


PersonField = Literal["user", "email", "mobile", "device"]
# The fields by which a person can be found.
PERSON_FIELDS: tuple[PersonField, ...] = ("user", "email", "mobile", "device")

_NORMALISERS: Mapping[str, Callable[[str], str]] = {
    "user": str.strip,
    "email": _folded,
    "mobile": _digits,
    "device": _hexadecimal,
}


def normalise_person(field: PersonField, value: str) -> str:
    """Return a person's value in the form in which spellings are equal; ``""`` if nothing is left."""
    return _NORMALISERS[field](plain(value))


class PersonKeys:
    """Computes a tenant's person keys: 8 bytes each.

    The first two bytes do not depend on the tenant, so that one index range has a person's keys at all tenants.
    About one person in 65,536 shares them, so they do not tell whether two tenants know the same person. The other six
    are bound to the tenant.
    """

    def __init__(self, keys: model.Keys, namespace: str, tenant: str) -> None:
        scope = f"{namespace}/{tenant}\0".encode()
        self._start = hashlib.blake2b(key=keys.person, digest_size=model.PERSON_KEY_START, person=b"person start")
        self._end = hashlib.blake2b(scope, key=keys.person, digest_size=8 - model.PERSON_KEY_START, person=b"person")

    def key(self, field: PersonField, normalised: str) -> bytes:
        """Return the key for a value from `normalise_person`."""
        value = f"{field[0]}:{normalised}".encode("utf-8", "surrogatepass")
        return _digest(self._start, value) + _digest(self._end, value)


class _Node:
    """One position in the pointer tree: the fields that end here, and the tokens that follow."""

    __slots__ = ("ends", "inner", "last")

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []  # (field, rank). Rank 0 is the pointer with the highest precedence.
        self.last: list[tuple[str, str, int]] = []
        """(token, field, rank): pointers' last tokens, with the field that ends there."""
        self.inner: list[tuple[str, _Node]] = []  # Tokens that are followed by others


class Extractor:
    """Extracts fields from a body. For each field the first pointer that leads to a value wins."""

    def __init__(self, fields: Mapping[str, Iterable[str]], field_names: Iterable[str]) -> None:
        self._root = _compiled(tuple([(field, tuple(fields.get(field, ()))) for field in field_names]))

    def extract(self, body: object) -> dict[str, object]:
        """Return field -> value, without the fields that are absent or null."""
        values: dict[str, object] = {}
        ranks: dict[str, int] = {}
        if self._root.ends:
            _note(self._root.ends, body, values, ranks)
        _walk(self._root, body, values, ranks)
        return values


def tokens_of(pointer: str) -> list[str]:
    """Return a JSON pointer's unescaped reference tokens."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


@functools.lru_cache(maxsize=1_024)
def _compiled(mapping: tuple[tuple[str, tuple[str, ...]], ...]) -> _Node:
    """Compile once for all listeners with the same mapping, which nearly all have."""
    ends = [(pointer, (field, rank)) for field, pointers in mapping for rank, pointer in enumerate(pointers)]
    return _compile([(tokens_of(pointer), end) for pointer, end in ends])


def _compile(paths: list[tuple[list[str], tuple[str, int]]]) -> _Node:
    node = _Node()
    following: dict[str, list[tuple[list[str], tuple[str, int]]]] = {}
    for tokens, end in paths:
        if tokens:
            following.setdefault(tokens[0], []).append((tokens[1:], end))
        else:
            node.ends.append(end)
    for token, remaining_paths in following.items():
        child = _compile(remaining_paths)
        if child.last or child.inner:
            node.inner.append((token, child))
        else:
            node.last.extend([(token, field, rank) for field, rank in child.ends])
    return node


def _walk(node: _Node, value: object, values: dict[str, object], ranks: dict[str, int]) -> None:
    if type(value) is dict:
        get = value.get
        for token, field, rank in node.last:
            inner = get(token)
            if inner is not None and (not rank or rank < ranks.get(field, rank + 1)):
                values[field], ranks[field] = inner, rank
        for token, child in node.inner:
            inner = get(token)
            if inner is not None:
                if child.ends:
                    _note(child.ends, inner, values, ranks)
                _walk(child, inner, values, ranks)
    elif type(value) is list:
        _walk_list(node, value, values, ranks)


def _walk_list(node: _Node, value: list[object], values: dict[str, object], ranks: dict[str, int]) -> None:
    for token, field, rank in node.last:
        inner = _item(value, token)
        if inner is not None:
            _note([(field, rank)], inner, values, ranks)
    for token, child in node.inner:
        inner = _item(value, token)
        if inner is not None:
            _note(child.ends, inner, values, ranks)
            _walk(child, inner, values, ranks)


def _item(value: list[object], token: str) -> object:
    is_index = token.isascii() and token.isdecimal() and len(token) < 10
    return value[int(token)] if is_index and int(token) < len(value) else None


def _note(ends: list[tuple[str, int]], value: object, values: dict[str, object], ranks: dict[str, int]) -> None:
    for field, rank in ends:
        if not rank or rank < ranks.get(field, rank + 1):
            values[field], ranks[field] = value, rank
