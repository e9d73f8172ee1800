"""What the operator works on and makes: keys, children, conditions, plans. Values only, no I/O."""

import enum
from typing import Any, Literal

import msgspec

Kind = Literal["ListenerClass", "Tenant", "Listener", "Destination", "Hostname"]
"""What has a plan of its own. ``Hostname`` is no resource: it stands for the children of one hostname."""


class Key(msgspec.Struct, frozen=True, order=True):
    """The unit of work: one resource, or one hostname."""

    kind: Kind
    namespace: str
    """``""`` for a ListenerClass and a Hostname."""
    name: str
    """Of the resource; of a Hostname the hostname itself."""

    @property
    def path(self) -> str:
        """``namespace/name``, or the name alone where there is no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Ref(msgspec.Struct, frozen=True, order=True):
    """Which object of the API server a child is."""

    api_version: str
    kind: str
    namespace: str
    name: str


class Child(msgspec.Struct, frozen=True):
    """One object that is wanted, as it is to be applied (server-side, by force)."""

    ref: Ref
    manifest: dict[str, Any]
    """The whole object, with labels and annotations, ``usher.dev/desired`` among them."""
    desired: str
    """SHA-256 of what is wanted: where the child in place says the same, there is nothing to write."""


class ConditionType(enum.StrEnum):
    """Every condition that the operator writes (design §7)."""

    Accepted = "Accepted"
    ResolvedRefs = "ResolvedRefs"
    CertificateReady = "CertificateReady"
    Exposed = "Exposed"
    Programmed = "Programmed"
    Ready = "Ready"
    Verified = "Verified"
    Receiving = "Receiving"
    Quarantining = "Quarantining"
    RoutesDegraded = "RoutesDegraded"
    Healthy = "Healthy"


INFORMATIONAL = frozenset(
    {
        ConditionType.Verified,
        ConditionType.Receiving,
        ConditionType.Quarantining,
        ConditionType.RoutesDegraded,
        ConditionType.Healthy,
    }
)
"""Conditions that are no part of Ready, and whose writes share a small budget."""

Truth = Literal["True", "False", "Unknown"]


class Condition(msgspec.Struct, frozen=True):
    """A metav1.Condition without ``lastTransitionTime``: whoever writes it keeps or sets that."""

    type: str
    status: Truth
    reason: str
    message: str
    observed_generation: int


class Status(msgspec.Struct, frozen=True):
    """The status of one resource: what is written of it, all of it."""

    observed_generation: int
    conditions: tuple[Condition, ...]
    """In a fixed order; one that is not here is to be removed if it is ours."""
    fields: dict[str, Any] = {}
    """What else stands in ``status``: ``addresses`` of a Listener, ``installKeyFingerprint`` of a ListenerClass."""

    def condition(self, type_: str) -> Condition | None:
        """One of the conditions."""
        return next((one for one in self.conditions if one.type == type_), None)


class Plan(msgspec.Struct, frozen=True):
    """What is wanted for one key. Equal worlds give equal plans."""

    key: Key
    children: tuple[Child, ...] | None = ()
    """All children of this key; one in place that is not here goes (a config Secret by way of a tombstone, under the
    brake). None: leave every child as it is."""
    status: Status | None = None
    """None: write none (the resource is gone, is another install's, or the key is a Hostname)."""
    is_behind: bool = False
    """Whether gateways do not all run the wanted document: remember since when (World.behind_since), until a plan
    says otherwise."""
    again_at: int | None = None
    """When to plan again although nothing changed, by World.now."""
    unknown_secrets: tuple[str, ...] = ()
    """``namespace/name`` of Secrets of which it is not known why they are missing: look (one GET each), note it in the
    world and plan again, before this status is written."""
    staying: tuple[Ref, ...] = ()
    """Children in place that are wanted no more, and stay for now."""
    granted: tuple[str, ...] = ()
    """Hostnames that a Listener names and that its document is to have: while that is written, nobody else is to be
    granted them."""
