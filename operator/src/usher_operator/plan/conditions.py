"""Builds conditions and statuses: types, reasons, and how the parts add up to Ready. Pure."""

import enum
from collections.abc import Iterable

import msgspec

from usher_gateway.resources import conditions
from usher_operator.view import (
    INFORMATIONAL_CONDITIONS,
    ConditionStatus,
    ConditionType,
    ResourceStatus,
    StatusCondition,
)

PENDING = "Pending"
"""The reason of every condition that is Unknown."""

_MAX_MESSAGE = 1024
"""Longest message in characters."""


class OperatorReason(enum.StrEnum):
    """Reasons that come from the cluster or from gateways; ``resources.conditions.Reason`` has those of compile()."""

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
    """A condition that does not belong to a resource yet: whether something holds, and why not."""

    status: ConditionStatus
    reason: str
    message: str = ""
    unknown_secret: str = ""
    """A Secret that has to be looked up first; see ``Plan.unknown_secrets``."""


class ConditionBuilder:
    """Builds the conditions and the status of one resource.

    Args:
        generation: generation of the resource; it becomes ``observedGeneration``.
        previous: the conditions of the stored status.
    """

    def __init__(self, generation: int, previous: Iterable[StatusCondition]) -> None:
        self._generation = generation
        self._previous = {one.type: one for one in previous}

    def true(self, type_: str, reason: str, message: str = "") -> StatusCondition:
        """A condition that holds."""
        return self._condition(type_, "True", reason, message)

    def false(self, type_: str, reason: str, message: str) -> StatusCondition:
        """A condition that does not hold; ``message`` says what must be done."""
        return self._condition(type_, "False", reason, message)

    def pending(self, type_: str, message: str) -> StatusCondition:
        """A condition of which the operator does not know yet whether it holds."""
        return self._condition(type_, "Unknown", PENDING, message)

    def from_state(self, type_: str, state: ConditionState) -> StatusCondition:
        """A condition with the status, reason and message of a state."""
        return self._condition(type_, state.status, state.reason, state.message)

    def from_findings(self, findings: Iterable[conditions.Finding], types: Iterable[str]) -> list[StatusCondition]:
        """The conditions that follow from the findings of compile()."""
        return [
            self._condition(one.type, one.status, one.reason, one.message)
            for one in conditions.conditions_of(findings, types)
        ]

    def previous(self, type_: str) -> StatusCondition | None:
        """The stored condition, with the generation that it was stored with."""
        return self._previous.get(type_)

    def carried_over(self, type_: str) -> StatusCondition | None:
        """The stored condition, for the present generation. For conditions that do not depend on the spec."""
        found = self._previous.get(type_)
        return msgspec.structs.replace(found, observed_generation=self._generation) if found else None

    def previous_if_current(self, type_: str) -> StatusCondition | None:
        """The stored condition if it is of the present generation."""
        found = self._previous.get(type_)
        return found if found is not None and found.observed_generation == self._generation else None

    def kept(self, types: Iterable[str]) -> list[StatusCondition]:
        """The stored conditions of some types, unchanged; pending where a needed one was never stored."""
        found = []
        for type_ in types:
            previous = self.previous(type_)
            if previous is not None:
                found.append(previous)
            elif type_ not in INFORMATIONAL_CONDITIONS:
                found.append(self.pending(type_, "not known yet; the other conditions say why"))
        return found

    def ready(self, parts: Iterable[StatusCondition], suspended: str = "") -> StatusCondition:
        """Ready: the first part that is False, else the first that is Unknown, else True.

        Args:
            parts: the conditions that Ready depends on.
            suspended: why the resource is suspended; ``""`` if it is not.
        """
        parts = list(parts)
        worst = next((one for one in parts if one.status == "False"), None)
        worst = worst or next((one for one in parts if one.status == "Unknown"), None)
        if worst is not None:
            return self._condition(ConditionType.Ready, worst.status, worst.reason, f"{worst.type}: {worst.message}")
        if suspended:
            return self.true(ConditionType.Ready, OperatorReason.Suspended, suspended)
        return self.true(ConditionType.Ready, OperatorReason.Ready)

    def status(
        self, parts: list[StatusCondition], suspended: str = "", *, fields: dict[str, object] | None = None
    ) -> ResourceStatus:
        """The status: the needed conditions, then Ready, then the informational conditions.

        Args:
            parts: every condition but Ready.
            suspended: why the resource is suspended; ``""`` if it is not.
            fields: the fields of the status other than conditions.
        """
        needed = [one for one in parts if one.type not in INFORMATIONAL_CONDITIONS]
        informational = [one for one in parts if one.type in INFORMATIONAL_CONDITIONS]
        ready = self.ready(needed, suspended)
        return ResourceStatus(self._generation, (*needed, ready, *informational), fields or {})

    def _condition(self, type_: str, status: ConditionStatus, reason: str, message: str) -> StatusCondition:
        return StatusCondition(type_, status, str(reason), message[:_MAX_MESSAGE], self._generation)
