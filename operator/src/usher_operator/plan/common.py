"""What the plans of all kinds share: gone, another install's, unreadable, held back."""

import functools
from collections.abc import Iterable
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.config_secret import MAX_BYTES, envelope_of
from usher_operator import children
from usher_operator.plan import compiling, reports
from usher_operator.plan.conditions import PENDING, ConditionBuilder, ConditionState, OperatorReason
from usher_operator.view import (
    INFORMATIONAL_CONDITIONS,
    CachedResource,
    ConditionType,
    DesiredChild,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
    View,
)

FINGERPRINT_FIELD = "installKeyFingerprint"
"""In the status of a ListenerClass: which install key its URLs are derived from."""

INSTALL_KEY_SECRET = "usher-install-key"  # noqa: S105  the name of an object
"""Secret in the operator's namespace that holds the install key."""

_Type = ConditionType


def absent(view: View, key: Key, types: Iterable[str]) -> Plan:
    """The plan of what the lookups do not find: gone (its children go), or there, but unreadable (they stay)."""
    found = view.unreadable(key)
    if found is None:
        return Plan(key, None if held_back(view) else ())
    builder = ConditionBuilder(found.generation, found.conditions)
    message = f"this version of Usher cannot read it, and the last good configuration stays: {found.message}; "
    message += "it must be changed, or the operator updated"
    accepted = builder.false(_Type.Accepted, "UnsupportedValue", message)
    return Plan(key, None, status(builder, [accepted, *kept(builder, types)], fields=dict(found.fields)))


def kept(builder: ConditionBuilder, types: Iterable[str]) -> list[StatusCondition]:
    """The conditions that cannot be told anew, as they were told before."""
    found = []
    for type_ in types:
        before = builder.previous(type_)
        if before is not None:
            found.append(before)
        elif type_ not in INFORMATIONAL_CONDITIONS:
            found.append(builder.pending(type_, "not known yet: see the other conditions"))
    return found


def status(
    builder: ConditionBuilder,
    parts: list[StatusCondition],
    suspended: str = "",
    *,
    fields: dict[str, object] | None = None,
) -> ResourceStatus:
    """The status that conditions add up to: Ready stands before the informational ones."""
    needed = [one for one in parts if one.type not in INFORMATIONAL_CONDITIONS]
    informational = [one for one in parts if one.type in INFORMATIONAL_CONDITIONS]
    ready = builder.ready(needed, suspended)
    return ResourceStatus(ready.observed_generation, (*needed, ready, *informational), fields or {})


def held_back(view: View) -> ConditionState | None:
    """Why nothing is published now; None where it is."""
    found = keys_or_reason(view)
    return found if isinstance(found, ConditionState) else None


def keys_or_reason(view: View) -> model.Keys | ConditionState:
    """The keys, or why nothing is published: there is no install key, or not the one that the URLs are derived from."""
    if view.keys is None:
        message = f"waiting for the install key (Secret `{INSTALL_KEY_SECRET}` in the operator's namespace)"
        return ConditionState("Unknown", PENDING, message)
    present = _fingerprint(view.keys.install)
    for one in view.classes.values():
        before = one.fields.get(FINGERPRINT_FIELD)
        if before and before != present and compiling.is_ours(view, one):
            return ConditionState("False", OperatorReason.InstallKeyChanged, _changed(str(before), present))
    return view.keys


@functools.lru_cache(maxsize=1)
def _fingerprint(install_key: bytes) -> str:
    """Derived once per key: derived for each plan, it was a quarter of what plans cost."""
    return model.key_fingerprint(install_key)


def _changed(before: str, present: str) -> str:
    return (
        f"nothing is published: Secret `{INSTALL_KEY_SECRET}` must hold the install key with the fingerprint {before} "
        f"again, it has {present}; or, if every URL may change, delete and recreate the ListenerClass"
    )


def held_plan(key: Key, seen: CachedResource[Any], held: ConditionState, types: Iterable[str]) -> Plan:
    """The plan while nothing is published: everything stays as it is."""
    builder = ConditionBuilder(seen.resource.metadata.generation, seen.conditions)
    parts = [of_state(builder, _Type.Accepted, held), *kept(builder, types)]
    return Plan(key, None, status(builder, parts, fields=dict(seen.fields)))


def of_state(builder: ConditionBuilder, type_: str, state: ConditionState) -> StatusCondition:
    """A state as a condition."""
    match state.status:
        case "True":
            return builder.true(type_, state.reason, state.message)
        case "False":
            return builder.false(type_, state.reason, state.message)
        case "Unknown":
            return builder.pending(type_, state.message)


class Publication(msgspec.Struct, frozen=True):
    """What becomes of a compiled document."""

    child: DesiredChild | None = None
    """Its config Secret."""
    wanted: reports.Wanted | None = None
    """What gateways should run."""
    stays: bool = False
    """Whether everything in place stays as it is."""
    accepted: StatusCondition | None = None
    """Accepted, if publishing itself failed."""


def publish(view: View, key: Key, seen: compiling.SeenOfTenant, compiled: compiling.CompiledDocument) -> Publication:
    """The config Secret of what was compiled; what is blocked or too large leaves the last good one in force."""
    builder = ConditionBuilder(seen.resource.metadata.generation, ())
    before = view.published(key)
    last_good = reports.Wanted(before.hash, is_last_good=True) if before else None
    if compiled.is_blocked:
        return Publication(wanted=last_good, stays=True)
    if compiled.document is None or view.keys is None:
        return Publication()
    envelope = envelope_of(compiled.document, seen.uid, view.keys.document)
    try:
        child = children.build_config_secret(envelope, view.install)
    except model.DocumentTooLargeError:
        return Publication(wanted=last_good, stays=True, accepted=_too_large(builder))
    is_last_good = compiled.document.generation < seen.resource.metadata.generation
    return Publication(child, reports.Wanted(envelope.hash, is_last_good))


def _too_large(builder: ConditionBuilder) -> StatusCondition:
    message = (
        f"the configuration must not be larger than {MAX_BYTES} bytes, and the last good one stays in "
        "force; shorten expressions, headers and the values of Secrets, or spread routes over several listeners"
    )
    return builder.false(_Type.Accepted, OperatorReason.ConfigTooLarge, message)
