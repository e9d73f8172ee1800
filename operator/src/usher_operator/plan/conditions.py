"""What is told of a resource: conditions and their reasons, and how they add up to Ready. Pure."""

import enum
from collections.abc import Iterable

import msgspec

from usher_gateway.resources import conditions
from usher_operator.view import ConditionStatus, ConditionType, StatusCondition

PENDING = "Pending"
"""The reason while it is not known yet whether a condition holds."""

_MOST_MESSAGE = 1024


class OperatorReason(enum.StrEnum):
    """Reasons that compile() does not know: they come from the cluster and from gateways (kubernetes.md §1.3)."""

    Accepted = "Accepted"
    ConfigTooLarge = "ConfigTooLarge"
    InstallKeyChanged = "InstallKeyChanged"
    RemovalsHalted = "RemovalsHalted"
    Issued = "Issued"
    Provided = "Provided"
    External = "External"
    Pending = "Pending"
    IssuerNotFound = "IssuerNotFound"
    CertManagerMissing = "CertManagerMissing"
    SecretNotFound = "SecretNotFound"
    Failed = "Failed"
    Exposed = "Exposed"
    NotExposed = "NotExposed"
    GatewayAPIMissing = "GatewayAPIMissing"
    IngressClassNotFound = "IngressClassNotFound"
    NotAllowedByListeners = "NotAllowedByListeners"
    NoMatchingParent = "NoMatchingParent"
    AddressNotAssigned = "AddressNotAssigned"
    Programmed = "Programmed"
    GatewayRejected = "GatewayRejected"
    GatewayUnavailable = "GatewayUnavailable"
    PartiallyProgrammed = "PartiallyProgrammed"
    Ready = "Ready"
    Suspended = "Suspended"
    ListenersNotReady = "ListenersNotReady"
    Verified = "Verified"
    Receiving = "Receiving"
    NoVisitYet = "NoVisitYet"
    Refusing = "Refusing"
    Silent = "Silent"
    Quarantining = "Quarantining"
    ExpressionTooSlow = "ExpressionTooSlow"
    CompanyMismatch = "CompanyMismatch"
    Healthy = "Healthy"
    CircuitOpen = "CircuitOpen"
    Gone = "Gone"


class ConditionState(msgspec.Struct, frozen=True):
    """A condition before it belongs to a resource: whether something holds, and why not."""

    status: ConditionStatus
    reason: str
    message: str = ""
    unknown_secret: str = ""
    """See Plan.unknown_secrets."""


class ConditionBuilder:
    """Makes the conditions of one resource: it knows the generation they speak of, and what was told before."""

    def __init__(self, generation: int, before: Iterable[StatusCondition]) -> None:
        self._generation = generation
        self._before = {one.type: one for one in before}

    def true(self, type_: str, reason: str, message: str = "") -> StatusCondition:
        """It holds."""
        return StatusCondition(type_, "True", str(reason), message[:_MOST_MESSAGE], self._generation)

    def false(self, type_: str, reason: str, message: str) -> StatusCondition:
        """It does not hold; ``message`` says what must be done."""
        return StatusCondition(type_, "False", str(reason), message[:_MOST_MESSAGE], self._generation)

    def pending(self, type_: str, message: str) -> StatusCondition:
        """It is not known yet."""
        return StatusCondition(type_, "Unknown", PENDING, message[:_MOST_MESSAGE], self._generation)

    def previous(self, type_: str) -> StatusCondition | None:
        """What was told before, of the generation that it was told of."""
        return self._before.get(type_)

    def carried_over(self, type_: str) -> StatusCondition | None:
        """What was told before, told of the present generation: for what does not depend on the spec."""
        found = self._before.get(type_)
        return msgspec.structs.replace(found, observed_generation=self._generation) if found else None

    def previous_if_current(self, type_: str) -> StatusCondition | None:
        """What was told before of the present generation."""
        found = self._before.get(type_)
        return found if found is not None and found.observed_generation == self._generation else None

    def from_findings(self, findings: Iterable[conditions.Finding], types: Iterable[str]) -> list[StatusCondition]:
        """The conditions that follow from what compile() found."""
        return [
            StatusCondition(one.type, one.status, one.reason, one.message, self._generation)
            for one in conditions.conditions_of(findings, types)
        ]

    def ready(self, parts: Iterable[StatusCondition], suspended: str = "") -> StatusCondition:
        """The first that fails, else the first that is not known; else True. ``suspended``: why, if it is."""
        parts = list(parts)
        worst = next((one for one in parts if one.status == "False"), None)
        worst = worst or next((one for one in parts if one.status == "Unknown"), None)
        if worst is not None:
            message = f"{worst.type}: {worst.message}"[:_MOST_MESSAGE]
            return StatusCondition(ConditionType.Ready, worst.status, worst.reason, message, self._generation)
        if suspended:
            return self.true(ConditionType.Ready, OperatorReason.Suspended, suspended)
        return self.true(ConditionType.Ready, OperatorReason.Ready)
