"""What is told about a resource: findings with a place, and the conditions that follow from them."""

import enum
from collections.abc import Iterable
from typing import Literal

import msgspec

from usher_gateway.resources import problem


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
    severity: problem.Severity = "error"
    missing: tuple[str, str] | None = None
    """(kind, key) of what it refers to and what is not there."""


class Condition(msgspec.Struct, frozen=True):
    """A condition without its times: whoever writes it knows those."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def conditions_of(findings: Iterable[Finding], types: Iterable[str] = ("Accepted", "ResolvedRefs")) -> list[Condition]:
    """The conditions of one resource: False with the first reason and every message, else True with its warnings."""
    findings = list(findings)
    return [_condition(kind, [found for found in findings if _type_of(found) == kind]) for kind in types]


def _type_of(found: Finding) -> str:
    return "ResolvedRefs" if found.reason in _REFERENCES else "Accepted"


def _condition(kind: str, findings: list[Finding]) -> Condition:
    errors = [found for found in findings if found.severity == "error"]
    told = errors or [found for found in findings if found.severity == "warning"]
    message = "; ".join(f"`{found.path}`: {found.message}" if found.path else found.message for found in told)
    if errors:
        return Condition(kind, "False", str(errors[0].reason), message[:1024])
    return Condition(kind, "True", kind, message[:1024])
