"""Shared by the plans of several kinds: absent resources, publishing that is held back, config Secrets."""

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
    FINGERPRINT_FIELD,
    INSTALL_KEY_SECRET,
    CachedResource,
    ConditionType,
    DesiredChild,
    Key,
    Plan,
    StatusCondition,
    View,
)

_Type = ConditionType


def plan_absent(view: View, key: Key, types: Iterable[str]) -> Plan:
    """The plan of a resource that no lookup finds.

    If the resource is gone, its children go too. If it exists but this version cannot read it, the children and the
    conditions of ``types`` stay as they are.
    """
    unreadable = view.unreadable(key)
    if unreadable is None:
        return Plan(key, None if publishing_state(view) else ())
    builder = ConditionBuilder(unreadable.generation, unreadable.conditions)
    message = (
        "this version of Usher cannot read the resource, so the last good configuration stays in force: "
        f"{unreadable.message}; the resource must be changed or the operator updated"
    )
    accepted = builder.false(_Type.Accepted, "UnsupportedValue", message)
    return Plan(key, None, builder.status([accepted, *builder.kept(types)], fields=dict(unreadable.fields)))


def plan_held_back(key: Key, cached: CachedResource[Any], state: ConditionState, types: Iterable[str]) -> Plan:
    """The plan while nothing is published: children and the conditions of ``types`` stay as they are."""
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    parts = [builder.from_state(_Type.Accepted, state), *builder.kept(types)]
    return Plan(key, None, builder.status(parts, fields=dict(cached.fields)))


def publishing_state(view: View) -> ConditionState | None:
    """Why nothing is published now; None if documents are published."""
    found = keys_or_state(view)
    return found if isinstance(found, ConditionState) else None


def keys_or_state(view: View) -> model.Keys | ConditionState:
    """The keys to publish with; or why nothing is published, because the install key is absent or another one."""
    if view.keys is None:
        message = f"waiting for the install key in Secret `{INSTALL_KEY_SECRET}` in the operator's namespace"
        return ConditionState("Unknown", PENDING, message)
    present = _fingerprint(view.keys.install)
    for one in view.classes.values():
        expected = one.fields.get(FINGERPRINT_FIELD)
        if expected and expected != present and compiling.is_ours(view, one):
            message = _key_changed(str(expected), present)
            return ConditionState("False", OperatorReason.InstallKeyChanged, message)
    return view.keys


@functools.lru_cache(maxsize=1)
def _fingerprint(install_key: bytes) -> str:
    """Fingerprint of the install key, cached because deriving it took a quarter of the time of each plan."""
    return model.key_fingerprint(install_key)


def _key_changed(expected: str, present: str) -> str:
    return (
        f"nothing is published, because the install key has changed: Secret `{INSTALL_KEY_SECRET}` must hold the key "
        f"with the fingerprint {expected} again, and it holds the key with {present}. If every URL may change, delete "
        "and recreate the ListenerClass"
    )


class Publication(msgspec.Struct, frozen=True):
    """Result of publishing a compiled document."""

    child: DesiredChild | None = None
    """Its config Secret."""
    wanted: reports.WantedDocument | None = None
    """The document that gateways should run."""
    stays: bool = False
    """True if every child stays as it is."""
    accepted: StatusCondition | None = None
    """The condition Accepted, if publishing failed."""


def publish(
    view: View, key: Key, cached: compiling.DocumentResource, compiled: compiling.CompiledDocument
) -> Publication:
    """Put a compiled document into its config Secret. A blocked or too large one leaves the last good one in force."""
    builder = ConditionBuilder(cached.resource.metadata.generation, ())
    before = view.published(key)
    last_good = reports.WantedDocument(before.hash, is_last_good=True) if before else None
    if compiled.is_blocked:
        return Publication(wanted=last_good, stays=True)
    if compiled.document is None or view.keys is None:
        return Publication()
    envelope = envelope_of(compiled.document, cached.uid, view.keys.document)
    try:
        child = children.build_config_secret(envelope, view.install)
    except model.DocumentTooLargeError:
        return Publication(wanted=last_good, stays=True, accepted=_too_large(builder))
    is_last_good = compiled.document.generation < cached.resource.metadata.generation
    return Publication(child, reports.WantedDocument(envelope.hash, is_last_good))


def _too_large(builder: ConditionBuilder) -> StatusCondition:
    message = (
        f"the configuration must not be larger than {MAX_BYTES} bytes, so the last good one stays in force; shorten "
        "expressions, headers and the values of Secrets, or spread the routes over several listeners"
    )
    return builder.false(_Type.Accepted, OperatorReason.ConfigTooLarge, message)
