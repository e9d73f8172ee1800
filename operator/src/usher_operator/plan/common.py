"""Shared by the plans of several kinds: conditions and statuses, absent resources, published documents. Pure.

``ConditionBuilder`` makes the conditions and adds them up to Ready. ``publishing_state()`` says whether anything may be
published now, and ``publish()`` puts a compiled document into its config Secret.
"""

import functools
from collections.abc import Iterable
from typing import Any

import msgspec

from usher_gateway import config_secret, model
from usher_gateway.config_secret import MAX_BYTES, envelope_of
from usher_gateway.resources import conditions
from usher_operator.plan import children, compiling, versions
from usher_operator.state.memory import MOST_BYTES
from usher_operator.state.values import (
    AGENCY_ROLE,
    FINGERPRINT_FIELD,
    INFORMATIONAL_CONDITIONS,
    INSTALL_KEY_SECRET,
    OPERATOR_ACCOUNT,
    CachedResource,
    ConditionStatus,
    ConditionType,
    DesiredChild,
    Key,
    OperatorReason,
    Plan,
    ResourceStatus,
    StatusCondition,
    WriteFailure,
)
from usher_operator.state.view import View

PENDING = "Pending"  # The reason of every condition that is Unknown
_MAX_MESSAGE = 2048  # Longest message in characters

_Type = ConditionType


class ConditionState(msgspec.Struct, frozen=True):
    """A condition that does not belong to a resource yet: whether something holds, and why not."""

    status: ConditionStatus
    reason: str
    message: str = ""
    unknown_secret: str = ""
    """A Secret that has to be looked up first; see ``Plan.unknown_secrets``."""


def blocked_write(failure: WriteFailure | None) -> ConditionState | None:
    """The state of an object whose write is refused, or that another program changes again and again."""
    if failure is not None and failure.cause == "Forbidden":
        message = (
            f"the API server refuses a write of the operator ({failure.error}): the operator's account must have the "
            "rights of its manifests, and no quota or admission policy may refuse the object"
        )
        return ConditionState("False", OperatorReason.WriteForbidden, message)
    if failure is not None and failure.cause == "Contested":
        message = (
            f"{failure.error} again and again after Usher wrote it, so Usher waits before each write for longer, up to "
            "five minutes: that program must leave the object alone"
        )
        return ConditionState("False", OperatorReason.WriteConflict, message)
    return None


class ConditionBuilder:
    """Builds one resource's conditions and status. ``previous``: the conditions in the stored status."""

    def __init__(self, generation: int, previous: Iterable[StatusCondition]) -> None:
        self._generation = generation
        self._previous = {condition.type: condition for condition in previous}

    def true(self, condition_type: str, reason: str, message: str = "") -> StatusCondition:
        """A condition that holds."""
        return self._condition(condition_type, "True", reason, message)

    def false(self, condition_type: str, reason: str, message: str) -> StatusCondition:
        """A condition that does not hold; ``message`` says what must be done."""
        return self._condition(condition_type, "False", reason, message)

    def unknown(self, condition_type: str, reason: str, message: str) -> StatusCondition:
        """A condition that depends on an event that has not happened yet."""
        return self._condition(condition_type, "Unknown", reason, message)

    def pending(self, condition_type: str, message: str) -> StatusCondition:
        """A condition of which the operator does not know yet whether it holds."""
        return self._condition(condition_type, "Unknown", PENDING, message)

    def from_state(self, condition_type: str, state: ConditionState) -> StatusCondition:
        """A condition with a state's status, reason and message."""
        return self._condition(condition_type, state.status, state.reason, state.message)

    def from_findings(self, findings: Iterable[conditions.Finding], types: Iterable[str]) -> list[StatusCondition]:
        """The conditions that follow from compile()'s findings.

        With an error, a condition is False with the first reason and every message. Else it is True with the warnings.
        """
        findings = list(findings)
        return [self._from_findings(condition_type, findings) for condition_type in types]

    def _from_findings(self, condition_type: str, findings: list[conditions.Finding]) -> StatusCondition:
        findings = [finding for finding in findings if finding.condition == condition_type]
        errors = [finding for finding in findings if finding.severity == "error"]
        told = errors or [finding for finding in findings if finding.severity == "warning"]
        message = "; ".join(": ".join(filter(None, (finding.place_and_message, finding.hint))) for finding in told)
        if errors:
            return self.false(condition_type, errors[0].reason, message)
        return self.true(condition_type, condition_type, message)

    def previous(self, condition_type: str) -> StatusCondition | None:
        """The stored condition, with the generation that it was stored with."""
        return self._previous.get(condition_type)

    def carried_over(self, *types: str) -> list[StatusCondition]:
        """The stored conditions, for the present generation. For conditions that do not depend on the spec."""
        stored = [self._previous[condition_type] for condition_type in types if condition_type in self._previous]
        return [msgspec.structs.replace(condition, observed_generation=self._generation) for condition in stored]

    def previous_if_current(self, condition_type: str) -> StatusCondition | None:
        """The stored condition if it has the present generation."""
        stored = self._previous.get(condition_type)
        return stored if stored is not None and stored.observed_generation == self._generation else None

    def kept(self, types: Iterable[str]) -> list[StatusCondition]:
        """The stored conditions of some types, unchanged; pending where one was never stored."""
        return [
            self.previous(condition_type) or self.pending(condition_type, "not known yet; the other conditions say why")
            for condition_type in types
        ]

    def all_kept(self, needed: Iterable[str]) -> list[StatusCondition]:
        """All stored conditions except Accepted and Ready, unchanged; pending where a needed one was never stored."""
        others = [stored for stored in self._previous if stored not in {_Type.Accepted, _Type.Ready}]
        return self.kept(dict.fromkeys([*needed, *others]))

    def ready(self, parts: Iterable[StatusCondition], suspended: str = "") -> StatusCondition:
        """Ready: the first part that is False, else the first that is Unknown, else True.

        ``suspended``: why the resource is suspended; ``""`` if it is not.
        """
        parts = list(parts)
        worst = next((part for part in parts if part.status == "False"), None)
        worst = worst or next((part for part in parts if part.status == "Unknown"), None)
        if worst is not None:
            return self._condition(_Type.Ready, worst.status, worst.reason, f"{worst.type}: {worst.message}")
        if suspended:
            return self.true(_Type.Ready, OperatorReason.Suspended, suspended)
        return self.true(_Type.Ready, OperatorReason.Ready)

    def status(
        self, parts: list[StatusCondition], suspended: str = "", *, fields: dict[str, object] | None = None
    ) -> ResourceStatus:
        """The status: the needed conditions, then Ready, then the informational conditions."""
        needed = [part for part in parts if part.type not in INFORMATIONAL_CONDITIONS]
        informational = [part for part in parts if part.type in INFORMATIONAL_CONDITIONS]
        ready = self.ready(needed, suspended)
        conditions = {condition.type: condition for condition in (*needed, ready, *informational)}
        return ResourceStatus(self._generation, conditions, fields or {})

    def _condition(self, condition_type: str, status: ConditionStatus, reason: str, message: str) -> StatusCondition:
        return StatusCondition(condition_type, status, str(reason), message[:_MAX_MESSAGE], self._generation)


def plan_absent(view: View, key: Key, needed: Iterable[str]) -> Plan:
    """The plan for a resource that no lookup finds.

    If the resource is gone, its children go too. The garbage collector deletes those in the resource's namespace,
    because the resource owns them; the operator may have lost its permission there when the namespace is deleted. If
    the resource exists but this version cannot read it, the children and conditions except Accepted stay as they are.
    """
    unreadable = view.unreadable(key)
    if unreadable is None:
        own_namespace = {key.namespace} - {view.settings.configuration_namespace}
        owned = tuple(child.ref for child in view.children(key) if child.ref.namespace in own_namespace)
        return Plan(key, None if publishing_state(view) else (), _ending_status(view, key), staying=owned)
    builder = ConditionBuilder(unreadable.generation, unreadable.conditions)
    message = (
        "this version of Usher cannot read the resource, so the last good configuration stays in force: "
        f"{unreadable.message}; the resource must be changed or the operator updated"
    )
    accepted = builder.false(_Type.Accepted, "UnsupportedValue", message)
    if not unreadable.message:
        message = (
            f"the resources of this namespace take more than {MOST_BYTES // 2**20} MiB of memory, so Usher does not "
            "read this one, and the last good configuration stays in force; delete some, or shorten their expressions"
        )
        accepted = builder.false(_Type.Accepted, OperatorReason.ConfigTooLarge, message)
    return Plan(key, None, builder.status([accepted, *builder.all_kept(needed)], fields=dict(unreadable.fields)))


def _ending_status(view: View, key: Key) -> ResourceStatus | None:
    """The status for a resource that was deleted and still exists; None if it is gone."""
    ending = view.ending(key)
    if ending is None:
        return None
    message = (
        f"the {key.kind} was deleted, so Usher removes its configuration as far as the removal limit allows; the "
        "object is still there because whoever is named in `metadata.finalizers` has not removed its finalizer"
    )
    builder = ConditionBuilder(ending.generation, ending.conditions)
    fields = dict(ending.fields) if view.published(key) else {}
    return builder.status([builder.false(_Type.Accepted, OperatorReason.Deleted, message)], fields=fields)


def plan_unpublished(
    view: View, key: Key, cached: CachedResource[Any], needed: Iterable[str], *, needs_secrets: bool = True
) -> Plan | None:
    """The plan while nothing is published: children and conditions except Accepted stay as they are.

    That is while the install key is absent or another one, and where the operator may not use the namespace's Secrets,
    or has not read them yet. Otherwise None.
    """
    state = publishing_state(view)
    access = view.secret_access(key.namespace) if needs_secrets else "Permitted"
    if state is None and access == "Unknown":
        return Plan(key, None, unread_namespace=key.namespace)
    if state is None and access == "Denied":
        message = (
            "the operator may not read the Secrets of this namespace; to admit it, the platform's owner must run: "
            f"kubectl create rolebinding {AGENCY_ROLE} --namespace={key.namespace} --clusterrole={AGENCY_ROLE} "
            f"--serviceaccount={view.settings.namespace}:{OPERATOR_ACCOUNT}"
        )
        state = ConditionState("False", OperatorReason.NamespaceNotPermitted, message)
    if state is None:
        return None
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    parts = [builder.from_state(_Type.Accepted, state), *builder.all_kept(needed)]
    return Plan(key, None, builder.status(parts, fields=dict(cached.fields)))


def publishing_state(view: View) -> ConditionState | None:
    """Why nothing is published now: the install key is absent or another one. None if documents are published."""
    if view.keys is None:
        message = f"waiting for the install key in Secret `{_key_secret(view)}`"
        return ConditionState("Unknown", PENDING, message)
    fingerprint = _fingerprint(view.keys.install)
    for cached in view.our_classes():
        expected = cached.fields.get(FINGERPRINT_FIELD)
        if expected and expected != fingerprint:
            message = (
                f"nothing is published, because the install key has changed: Secret `{_key_secret(view)}` holds the "
                f"key with the fingerprint {fingerprint}, and ListenerClass `{cached.resource.metadata.name}` records "
                f"{expected}. Restore the Secret; if every URL may change, delete and recreate the ListenerClass"
            )
            return ConditionState("False", OperatorReason.InstallKeyChanged, message)
    return None


@functools.lru_cache(maxsize=1)
def _fingerprint(install_key: bytes) -> str:
    """The install key's fingerprint, cached because deriving it took 25 % of each plan's time."""
    return model.key_fingerprint(install_key)


def _key_secret(view: View) -> str:
    return f"{view.settings.namespace}/{INSTALL_KEY_SECRET}"


class WantedDocument(msgspec.Struct, frozen=True):
    """The document that gateways should run."""

    hash: str
    is_last_good: bool = False
    """True if it is an older document that stays in force."""
    why_last_good: str = "the last good configuration stays in force; the other conditions say what must be corrected"


class Publication(msgspec.Struct, frozen=True):
    """The result of publishing a compiled document."""

    child: DesiredChild | None = None
    """Its config Secret."""
    wanted: WantedDocument | None = None
    """The document that gateways should run."""
    document: config_secret.Document | None = None
    """The same; None if gateways should run none for this object, though they may still run a former object's."""
    stays: bool = False
    """True if every child stays as it is."""
    accepted: StatusCondition | None = None
    """The condition Accepted, if publishing failed."""


def publish(
    view: View, key: Key, cached: compiling.DocumentResource, compiled: compiling.CompiledDocument
) -> Publication:
    """Put a compiled document into its config Secret. A blocked or too large one leaves the last good one in force.

    So does one for which its namespace has no memory.
    """
    builder = ConditionBuilder(cached.resource.metadata.generation, ())
    if compiled.is_blocked:
        return leave(view, cached)
    if compiled.document is None or view.keys is None:
        return Publication()
    envelope = envelope_of(
        compiled.document,
        cached.uid,
        view.keys.document,
        install=view.settings.install_label,
        namespace_uid=view.namespace_uid(key.namespace),
    )
    try:
        child = children.build_config_secret(envelope, view.settings)
    except model.DocumentTooLargeError:
        return msgspec.structs.replace(leave(view, cached), accepted=_too_large(builder))
    if not view.has_room_for_document(key.namespace, key, config_secret.envelope_bytes(child.manifest["data"])):
        return msgspec.structs.replace(leave(view, cached), accepted=_no_room(builder))
    is_last_good = compiled.document.generation < cached.resource.metadata.generation
    return Publication(child, WantedDocument(envelope.hash, is_last_good), compiled.document)


def leave(view: View, cached: compiling.DocumentResource) -> Publication:
    """Leave in force what is published. A former object's document counts for nothing."""
    published = versions.own_version(view, cached)
    if published is None:
        return Publication(stays=True)
    return Publication(None, WantedDocument(published.hash, is_last_good=True), published.document, stays=True)


def _too_large(builder: ConditionBuilder) -> StatusCondition:
    message = (
        f"the configuration must not be larger than {MAX_BYTES} bytes, so the last good one stays in force; shorten "
        "expressions, headers and the values of Secrets, or spread the routes over several listeners"
    )
    return builder.false(_Type.Accepted, OperatorReason.ConfigTooLarge, message)


def _no_room(builder: ConditionBuilder) -> StatusCondition:
    message = (
        f"the configurations of this namespace would take more than {MOST_BYTES // 2**20} MiB, so the last good one "
        "stays in force; delete some resources, or refer to shorter values of Secrets"
    )
    return builder.false(_Type.Accepted, OperatorReason.ConfigTooLarge, message)
