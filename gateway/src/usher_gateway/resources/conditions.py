"""Findings about resources, and the forms in which users see them: file problems, conditions, and the status.

The compiler returns findings. ``usher check`` and the file source show them as problems with file and line. The
operator writes them as conditions into the status.
"""

import difflib
import enum
import heapq
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from usher_gateway.expressions import samples as expression_samples
from usher_gateway.resources import types

Severity = Literal["error", "warning", "notice"]


class Problem(msgspec.Struct, frozen=True, order=True):
    """A mistake in a file, or a warning or a notice about it.

    ``line`` counts from 1; 0 means the file as a whole. ``path`` is a field such as ``spec.routes[0]``. Messages never
    repeat Secret values.
    """

    file: str
    line: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"
    resource: str = ""  # `Kind namespace/name`; `""` if it is not known
    reason: str = ""  # Reason of the condition; `""` if the problem is not a finding of the compiler
    because: str = ""  # The problem that caused this one: the `resource` of that problem, or its `file:line`

    @property
    def file_and_line(self) -> str:
        """The problem's place: ``file:line``, only the file if the line is 0, or ``-``."""
        if not self.file:
            return "-"
        return f"{self.file}:{self.line}" if self.line else self.file


_SIMILAR = 0.6  # From this ratio on, two words are similar

# Of more known words, only the most similar are compared in full, because that takes 1 ms and more for each word.
_MAX_COMPARED = 32


def did_you_mean(word: str, known_words: Iterable[str]) -> str:
    """Return a hint that names the nearest known word, else all known words if they are at most 16, else ``""``."""
    words = sorted(known_words)
    near = nearest(word, words)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"known: {', '.join(words)}" if 0 < len(words) <= 16 else ""


def nearest(word: str, known_words: Iterable[str]) -> str | None:
    """Return the known word that was probably meant; None if no word is similar.

    In words like ``namespace/name``, both parts must be similar: a long namespace would make any two names similar.
    """
    word = word.lower()
    lowered = {candidate.lower(): candidate for candidate in sorted(known_words)}
    candidates: Iterable[str] = lowered
    if len(lowered) > _MAX_COMPARED:
        candidates = heapq.nlargest(_MAX_COMPARED, lowered, key=lambda candidate: _common_characters(word, candidate))
    candidates = [candidate for candidate in candidates if _are_parts_similar(word, candidate)]
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=_SIMILAR)
    return lowered[close[0]] if close else None


def _are_parts_similar(word: str, candidate: str) -> bool:
    parts, candidate_parts = word.split("/"), candidate.split("/")
    return len(parts) != len(candidate_parts) or all(
        difflib.SequenceMatcher(None, part, other).ratio() >= _SIMILAR
        for part, other in zip(parts, candidate_parts, strict=True)
    )


def _common_characters(first: str, second: str) -> int:
    """Return how many characters two words have in common at their start and at their end."""
    return _common_start(first, second) + _common_start(first[::-1], second[::-1])


def _common_start(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(first), len(second)))


def has_errors(problems: "Iterable[Problem | Finding]") -> bool:
    """Return True if any problem or finding is an error."""
    return any(problem.severity == "error" for problem in problems)


class Reason(enum.StrEnum):
    """Why a condition is not True. Conditions and ``usher check`` show it."""

    ClassNotFound = "ClassNotFound"
    ClassNotPermitted = "ClassNotPermitted"
    HostnameConflict = "HostnameConflict"
    HostnameReserved = "HostnameReserved"
    HostnameNotAllowed = "HostnameNotAllowed"
    PathConflict = "PathConflict"
    LimitExceeded = "LimitExceeded"
    UnsupportedValue = "UnsupportedValue"
    ExpressionInvalid = "ExpressionInvalid"
    TenantNotFound = "TenantNotFound"
    DestinationNotFound = "DestinationNotFound"
    SecretNotFound = "SecretNotFound"
    SecretKeyNotFound = "SecretKeyNotFound"
    SecretNotLabelled = "SecretNotLabelled"
    CertificateInvalid = "CertificateInvalid"  # A certificate or key in a Secret cannot be used, or has ended
    ExpressionFails = "ExpressionFails"  # Only a warning: an expression fails on a sample body
    NoSecretInAddress = "NoSecretInAddress"
    """Only a warning: the path can be guessed, and the listener does not authenticate."""
    ImplicitClass = "ImplicitClass"  # Only a notice or a warning: the files have no ListenerClass


_REFERENCES = frozenset(
    {
        Reason.TenantNotFound,
        Reason.DestinationNotFound,
        Reason.SecretNotFound,
        Reason.SecretKeyNotFound,
        Reason.SecretNotLabelled,
        Reason.CertificateInvalid,
    }
)


class Finding(msgspec.Struct, frozen=True):
    """One result from compiling a resource. Messages name no other namespace and no secret."""

    kind: str
    key: str
    path: str
    reason: Reason
    message: str
    severity: Severity = "error"
    missing: tuple[str, str] | None = None
    """(kind, key) for an object that the resource refers to and that does not exist."""
    hint: str = ""  # How to correct it, if the message does not say so

    @property
    def condition(self) -> Literal["Accepted", "ResolvedRefs"]:
        """The condition type that the finding belongs to."""
        return "ResolvedRefs" if self.reason in _REFERENCES else "Accepted"

    @property
    def place_and_message(self) -> str:
        """The field and the message, without the hint."""
        return f"`{self.path}`: {self.message}" if self.path else self.message


def finding(
    resource: types.ResourceBase,
    path: str,
    reason: Reason,
    message: str,
    *,
    severity: Severity = "error",
    missing: tuple[str, str] | None = None,
) -> Finding:
    """Return a finding about a resource. ``missing``: see Finding."""
    return Finding(resource.kind_name, resource.key, path, reason, message, severity, missing)


def expression_findings(resource: types.ResourceBase) -> Iterator[Finding]:
    """Yield a finding for each problem of a resource's expressions, and a warning for each that fails on samples."""
    kind, key = resource.identity
    for path, source, where in resource.expressions:
        check = expression_samples.check_expression(source, where)
        for message in check.problems:
            yield Finding(kind, key, path, Reason.ExpressionInvalid, message)
        if (warning := check.warning) is not None:
            yield Finding(kind, key, path, Reason.ExpressionFails, warning.message, "warning", hint=warning.hint)


MAX_HALTED = 1000  # Most namespaces of which a status says that their removals wait
MAX_CONDITIONS = 16  # Most conditions of an object, including those of other controllers


# Largest generation. Limits in a schema are floating-point numbers, which are exact up to this number.
MAX_GENERATION = 2**53 - 1


class Condition(types.Model, frozen=True, kw_only=True):
    """A condition, as everywhere in Kubernetes (metav1.Condition)."""

    type: Annotated[
        str,
        types.text(
            "Name of the condition, such as `Ready`.",
            316,
            r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
        ),
    ]
    status: Annotated[
        Literal["True", "False", "Unknown"],
        msgspec.Meta(description="Whether the condition holds. Unknown: the operator does not know yet."),
    ]
    observed_generation: (
        Annotated[
            int,
            types.number(
                "The `metadata.generation` that the condition is about. If it is lower than the "
                "present one, the condition is outdated.",
                0,
                MAX_GENERATION,
            ),
        ]
        | None
    ) = None
    last_transition_time: Annotated[
        str,
        msgspec.Meta(
            max_length=40, description="When `status` last changed.", extra_json_schema={"format": "date-time"}
        ),
    ]
    reason: Annotated[
        str, types.text("The reason in one word, for programs.", 1024, r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    message: Annotated[str, types.text("The reason and what to do, for people.", 32_768, shortest=0)]


_Conditions = Annotated[
    list[Condition],
    types.entries(
        "The state of the object. `Ready` is the summary.",
        MAX_CONDITIONS,
        {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]

_ObservedGeneration = Annotated[
    int, types.number("The `metadata.generation` that the whole status is about.", 0, MAX_GENERATION)
]


class Status(types.Model, frozen=True, kw_only=True):
    """The state of the object. Only the operator writes it."""

    observed_generation: _ObservedGeneration | None = None
    conditions: _Conditions | None = None


class HaltedNamespace(types.Model, frozen=True, kw_only=True):
    """Removals of one namespace that wait for a confirmation."""

    namespace: Annotated[str, types.text("The namespace whose removals wait.", 63)]
    hash: Annotated[str, types.text("The value of the annotation `usher.dev/confirm-removals` that confirms them.", 64)]


class ListenerClassStatus(Status, frozen=True, kw_only=True):
    """The state of the object. Only the operator writes it."""

    install_key_fingerprint: (
        Annotated[
            str,
            types.text("Fingerprint of the install key from which the tokens in URLs are derived.", 128, shortest=0),
        ]
        | None
    ) = None
    halted_removals: (
        Annotated[
            list[HaltedNamespace],
            types.entries(
                "Removals that [wait for a confirmation](../removals.md#confirm-a-removal).",
                MAX_HALTED,
                {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["namespace"]},
            ),
        ]
        | None
    ) = None


class ServedAddress(types.Model, frozen=True, kw_only=True):
    """One URL of the listener."""

    name: Annotated[str, types.text("Name of the declared address, or `class`.", types.MAX_NAME_LENGTH)]
    hostname: Annotated[str, types.text("Host name of the URL.", 253, shortest=0)] | None = None
    url: Annotated[
        str,
        types.text(
            "The URL, shortened because it is a credential. The whole URL is in the Secret `<listener>-url`.",
            2048,
            shortest=0,
        ),
    ]


class ListenerStatus(Status, frozen=True, kw_only=True):
    """The state of the object. Only the operator writes it."""

    addresses: (
        Annotated[
            list[ServedAddress],
            types.entries(
                "The URLs of the listener with the present token, shortened.", types.MAX_ADDRESSES, types.LIST_MAP
            ),
        ]
        | None
    ) = None


class DestinationStatus(Status, frozen=True, kw_only=True):
    """The state of the object. Only the operator writes it."""

    host: (
        Annotated[str, types.text("Host (and port) of the URL in force, for `kubectl get`.", 260, shortest=0)] | None
    ) = None


# Kind -> its status type.
STATUSES: dict[str, type[Status]] = {
    "ListenerClass": ListenerClassStatus,
    "Tenant": Status,
    "Listener": ListenerStatus,
    "Destination": DestinationStatus,
}
