"""How a receiver answers, what it counts, and how it verifies signatures. Pure.

Source for signatures: the Standard Webhooks specification, "Symmetric signatures": ``v1,`` + base64 of HMAC-SHA256 over
``webhook-id.webhook-timestamp.body``. Spaces separate several signatures, and one that matches is enough.
"""

import base64
import binascii
import enum
import hmac
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

EVERY_PATH = "*"  # The path of a rule for all paths without a rule of their own

# `Answer`: an answer with the given status. `Hang`: no answer until the peer gives up.
BehaviourKind = Literal["Answer", "Hang"]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the receiver answers requests."""

    kind: BehaviourKind = "Answer"
    status: int = 200
    delay_seconds: float = 0.0
    retry_after: str = ""
    """Value of Retry-After: seconds or a date."""
    location: str = ""
    """Value of Location, for a redirect."""
    success_header: bool = False
    """Answer ``wifiWebhookListener: 1``, as a Purple listener does, with every 2xx."""

    def __post_init__(self) -> None:
        """Reject values that no HTTP answer can have."""
        if not 200 <= self.status <= 599:
            raise ValueError("status must be from 200 to 599")
        if self.delay_seconds < 0:
            raise ValueError("delay_seconds must not be negative")
        if not (self.retry_after + self.location).isprintable():
            raise ValueError("retry_after and location must be printable")

    @property
    def takes(self) -> bool:
        """True if the receiver takes a request with this behaviour, so that the sender need not retry."""
        return self.kind == "Answer" and self.status < 300


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A behaviour from ``begins`` until before ``ends``, in seconds by the receiver's monotonic clock."""

    behaviour: Behaviour
    begins: float
    ends: float


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control endpoint command: a behaviour for a path, with an optional delay and duration."""

    path: str = EVERY_PATH
    after_seconds: float = 0.0
    for_seconds: float | None = None
    """None: until another command replaces it."""
    kind: BehaviourKind = "Answer"
    status: int = 200
    delay_seconds: float = 0.0
    retry_after: str = ""
    location: str = ""
    success_header: bool | None = None
    """None: keep the present value."""


class Rules:
    """Finds a path's behaviour: from the newest rule for the path, else for all paths, else the usual one."""

    def __init__(self, usual: Behaviour) -> None:
        self.usual = usual
        self._by_path: dict[str, list[Rule]] = {}

    def add(self, path: str, rule: Rule) -> None:
        """Add a rule for a path, with precedence over older ones. A rule without an end drops older rules."""
        rules = self._by_path.setdefault(path, [])
        if rule.ends == float("inf"):
            rules[:] = [other for other in rules if other.begins < rule.begins]
        rules.insert(0, rule)
        del rules[16:]

    def at(self, path: str, now: float) -> Behaviour:
        """Return a path's behaviour at this time."""
        for name in (path, EVERY_PATH):
            for rule in self._by_path.get(name, ()):
                if rule.begins <= now < rule.ends:
                    return rule.behaviour
        return self.usual


def of_command(command: Command, present: Behaviour) -> Behaviour:
    """Return a command's behaviour. ``present``: the behaviour until then.

    Raises:
        ValueError: no HTTP answer can be like that.
    """
    if not command.path.startswith("/") and command.path != EVERY_PATH:
        raise ValueError("path must begin with / or be *")
    if command.after_seconds < 0 or (command.for_seconds or 0) < 0:
        raise ValueError("after_seconds and for_seconds must not be negative")
    return Behaviour(
        kind=command.kind,
        status=command.status,
        delay_seconds=command.delay_seconds,
        retry_after=command.retry_after,
        location=command.location,
        success_header=present.success_header if command.success_header is None else command.success_header,
    )


# The prefix before a secret in its text form.
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, no secret

TOLERANCE_SECONDS = 300  # How many seconds a timestamp may differ from now

_MAX_DIGITS = 18


class Signature(enum.Enum):
    """The result of verifying a signature."""

    Good = "good"
    Missing = "missing"
    """One of the three headers is missing."""
    Bad = "bad"
    """No signature matches a secret."""
    Stale = "stale"
    """It matches, but the timestamp differs too much from now: a replay, or different clocks."""


def secret_key(secret: str) -> bytes:
    """Return a secret's key: the base64 part after ``whsec_``, or the text itself without this prefix.

    Raises:
        ValueError: the text after ``whsec_`` is not base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a secret with whsec_ must go on with base64") from None


def verify(
    keys: Iterable[bytes], headers: Mapping[str, str], body: bytes, now_seconds: float, tolerance_seconds: float
) -> Signature:
    """Verify a request. Header names must be in lower case; a tolerance of 0 accepts any timestamp."""
    identifier = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (identifier and timestamp and signatures):
        return Signature.Missing
    content = f"{identifier}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    expected = [hmac.digest(key, content, "sha256") for key in keys]
    if not any(hmac.compare_digest(signature, digest) for signature in _decoded(signatures) for digest in expected):
        return Signature.Bad
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _MAX_DIGITS):
        return Signature.Bad
    if tolerance_seconds and abs(now_seconds - int(timestamp)) > tolerance_seconds:
        return Signature.Stale
    return Signature.Good


def _decoded(signatures: str) -> list[bytes]:
    """Return the header's ``v1`` signatures without those that cannot be decoded."""
    decoded = []
    for signature in signatures.split(" "):
        version, _, value = signature.partition(",")
        if version != "v1":
            continue
        try:
            decoded.append(base64.b64decode(value, validate=True))
        except (ValueError, binascii.Error):
            continue
    return decoded


MAX_PATHS = 1_000  # Further paths are counted together, so that a wrong sender cannot fill the memory
OTHER_PATHS = "(other paths)"  # The name under which further paths are counted


class PathCounts(msgspec.Struct, kw_only=True):
    """One path's counts. ``received`` counts requests, and ``taken`` those answered with 2xx."""

    received: int = 0
    taken: int = 0
    distinct: int = 0
    """Distinct ``webhook-id`` among the taken requests, which is the number of deliveries."""
    duplicates: int = 0
    """Taken requests with a ``webhook-id`` that was taken before."""
    without_id: int = 0
    """Requests without ``webhook-id``, which Usher did not send."""
    signatures_good: int = 0
    signatures_missing: int = 0
    signatures_bad: int = 0
    signatures_stale: int = 0
    bytes_received: int = 0
    last_seen: int = 0
    """Microseconds; 0 means never."""

    @property
    def signatures_wrong(self) -> int:
        """Requests without a good signature."""
        return self.signatures_missing + self.signatures_bad + self.signatures_stale


class ReceiverTally:
    """Every path's counts and ids. Not thread-safe."""

    def __init__(self) -> None:
        self.counts: dict[str, PathCounts] = {}
        self._taken: dict[str, dict[str, int]] = {}

    def name_of(self, path: str) -> str:
        """Return the name under which a path is counted."""
        return path if path in self.counts or len(self.counts) < MAX_PATHS else OTHER_PATHS

    def receive(self, path: str, identifier: str, size: int, now: int) -> PathCounts:
        """Count a complete request; ``identifier`` is its ``webhook-id`` or empty."""
        name = self.name_of(path)
        counts = self.counts.setdefault(name, PathCounts())
        counts.received += 1
        counts.bytes_received += size
        counts.last_seen = now
        counts.without_id += not identifier
        return counts

    def take(self, path: str, identifier: str) -> None:
        """Count that the receiver answers a request with 2xx."""
        name = self.name_of(path)
        counts = self.counts[name]
        counts.taken += 1
        if not identifier:
            return
        times_by_id = self._taken.setdefault(name, {})
        counts.distinct += identifier not in times_by_id
        counts.duplicates += identifier in times_by_id
        times_by_id[identifier] = times_by_id.get(identifier, 0) + 1

    def taken_ids(self, path: str) -> dict[str, int]:
        """Return how often each ``webhook-id`` was taken."""
        return dict(self._taken.get(self.name_of(path), {}))


def note_signature(counts: PathCounts, signature: Signature) -> None:
    """Count verify()'s result."""
    match signature:
        case Signature.Good:
            counts.signatures_good += 1
        case Signature.Missing:
            counts.signatures_missing += 1
        case Signature.Bad:
            counts.signatures_bad += 1
        case Signature.Stale:
            counts.signatures_stale += 1
