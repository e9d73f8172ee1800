"""What Usher tells about a resource: problems in files, findings, conditions and the status of each kind."""

import difflib
import enum
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from usher_gateway.resources import types

Severity = Literal["error", "warning", "notice"]


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing to tell whoever wrote a file. ``line`` counts from 1; ``path`` is a field such as ``spec.routes[0]``.

    Messages never repeat values of Secrets.
    """

    file: str
    line: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = "error"
    resource: str = ""
    """``Kind namespace/name``, where it is known."""
    reason: str = ""
    """Reason of the condition, for what compile() found."""
    because: str = ""
    """What it only follows from: the ``resource`` of another problem, or its ``file:line``."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word; else all of them, where they are few; else nothing."""
    words = sorted(known)
    near = nearest(word, words)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"known: {', '.join(words)}" if 0 < len(words) <= 16 else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    lowered = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def has_errors(problems: Iterable[Problem]) -> bool:
    """Whether any of the problems is more than a warning."""
    return any(found.severity == "error" for found in problems)


class Reason(enum.StrEnum):
    """Why something does not hold (kubernetes.md §1.3); shown in conditions and by ``usher check``."""

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
    NoSecretInAddress = "NoSecretInAddress"
    """Warning only: a path that can be guessed, and no authentication."""
    ImplicitClass = "ImplicitClass"
    """Notice, or warning, only: files without a ListenerClass."""


_REFERENCES = frozenset(
    {
        Reason.TenantNotFound,
        Reason.DestinationNotFound,
        Reason.SecretNotFound,
        Reason.SecretKeyNotFound,
        Reason.SecretNotLabelled,
    }
)


class Finding(msgspec.Struct, frozen=True):
    """One thing found about a resource. Messages name no other namespace and no secret."""

    kind: str
    key: str
    path: str
    reason: Reason
    message: str
    severity: Severity = "error"
    missing: tuple[str, str] | None = None
    """(kind, key) of what it refers to and what is not there."""


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


class CompiledCondition(msgspec.Struct, frozen=True):
    """A condition without its times: whoever writes it knows those."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def conditions_of(
    findings: Iterable[Finding], types: Iterable[str] = ("Accepted", "ResolvedRefs")
) -> list[CompiledCondition]:
    """The conditions of one resource: False with the first reason and every message, else True with its warnings."""
    findings = list(findings)
    return [_condition(kind, [found for found in findings if _type_of(found) == kind]) for kind in types]


def _type_of(found: Finding) -> str:
    return "ResolvedRefs" if found.reason in _REFERENCES else "Accepted"


def _condition(kind: str, findings: list[Finding]) -> CompiledCondition:
    errors = [found for found in findings if found.severity == "error"]
    told = errors or [found for found in findings if found.severity == "warning"]
    message = "; ".join(f"`{found.path}`: {found.message}" if found.path else found.message for found in told)
    if errors:
        return CompiledCondition(kind, "False", str(errors[0].reason), message[:1024])
    return CompiledCondition(kind, "True", kind, message[:1024])


MAX_CONDITIONS = 16
"""Most conditions of an object, those of other controllers included."""


MAX_GENERATION = 2**53 - 1
"""Largest generation: limits in a schema are floating-point numbers, and exact up to here."""


class Condition(types.Model, frozen=True, kw_only=True):
    """One condition, as everywhere in Kubernetes (metav1.Condition)."""

    type: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
            description="What the condition is about, such as `Ready`.",
        ),
    ]
    status: Annotated[
        Literal["True", "False", "Unknown"], msgspec.Meta(description="Whether it holds; Unknown: not told yet.")
    ]
    observed_generation: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=MAX_GENERATION,
                description="The `metadata.generation` that this was found of; lower than the present one: outdated.",
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
        str,
        msgspec.Meta(
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            description="Why, in one word for programs.",
        ),
    ]
    message: Annotated[str, msgspec.Meta(max_length=32_768, description="Why, and what to do, for people.")]


_Conditions = Annotated[
    list[Condition],
    msgspec.Meta(
        max_length=MAX_CONDITIONS,
        description="What holds of the object and what does not; `Ready` sums it up.",
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]

_ObservedGeneration = Annotated[
    int,
    msgspec.Meta(ge=0, le=MAX_GENERATION, description="The `metadata.generation` that the whole status was found of."),
]


class Status(types.Model, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    observed_generation: _ObservedGeneration | None = None
    conditions: _Conditions | None = None


class ListenerClassStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    install_key_fingerprint: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=128, description="Fingerprint of the install key that the tokens in URLs are derived from."
            ),
        ]
        | None
    ) = None


class TenantStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""


class ServedAddress(types.Model, frozen=True, kw_only=True):
    """One URL that the listener answers at."""

    name: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=types.MAX_NAME_LENGTH, description="Name of the declared address, or `class`."
        ),
    ]
    hostname: Annotated[str, msgspec.Meta(max_length=253, description="Host name of the URL.")] | None = None
    url: Annotated[
        str,
        msgspec.Meta(
            max_length=2048,
            description="The URL, its secret part shortened; the whole one is in the Secret `<listener>-url`.",
        ),
    ]


class ListenerStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    addresses: (
        Annotated[
            list[ServedAddress],
            msgspec.Meta(
                max_length=types.MAX_ADDRESSES,
                description="The URLs that the listener answers at, shortened, with the present token.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None


class DestinationStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    host: (
        Annotated[str, msgspec.Meta(max_length=260, description="Host (and port) of the URL, for `kubectl get`.")]
        | None
    ) = None


STATUSES: dict[str, type[Status]] = {
    "ListenerClass": ListenerClassStatus,
    "Tenant": TenantStatus,
    "Listener": ListenerStatus,
    "Destination": DestinationStatus,
}
"""Kind -> the type of its status."""
