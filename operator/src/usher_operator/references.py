"""What refers to what, read backwards: which keys to plan again once something has changed. Pure."""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from usher_gateway import resources
from usher_gateway.resources import defaults, types
from usher_operator.view import Key

TargetKind = Literal["Secret", "Tenant", "Destination", "ListenerClass", "Hostname", "Namespace"]
Target = tuple[TargetKind, str]
"""What is referred to: its kind, and ``namespace/name`` or the name alone."""


class References:
    """Reverse maps over every Listener and Destination."""

    def __init__(self) -> None:
        self._targets: dict[Key, frozenset[Target]] = {}
        self._users: dict[Target, set[Key]] = {}

    def set(self, key: Key, targets: frozenset[Target]) -> None:
        """What a key refers to now; empty: nothing (any more)."""
        before = self._targets.get(key, frozenset())
        for gone in before - targets:
            users = self._users[gone]
            users.discard(key)
            if not users:
                del self._users[gone]
        for new in targets - before:
            self._users.setdefault(new, set()).add(key)
        if targets:
            self._targets[key] = targets
        else:
            self._targets.pop(key, None)

    def targets(self, key: Key) -> frozenset[Target]:
        """What a key refers to."""
        return self._targets.get(key, frozenset())

    def users(self, kind: TargetKind, path: str) -> frozenset[Key]:
        """Who refers to something."""
        return frozenset(self._users.get((kind, path), ()))


def class_name(one: resources.Listener) -> str:
    """The ListenerClass of a Listener."""
    return str(defaults.pick(one.spec.listener_class_name, "Listener.spec.listenerClassName"))


def targets_of(one: resources.Resource) -> frozenset[Target]:
    """Everything that a Listener or Destination refers to; of others nothing."""
    return frozenset(_targets_of(one))


def _targets_of(one: resources.Resource) -> Iterator[Target]:
    match one:
        case resources.Listener():
            namespace = one.metadata.namespace
            yield "Tenant", f"{namespace}/{one.spec.tenant_ref.name}"
            yield "ListenerClass", class_name(one)
            for route in one.spec.routes or ():
                yield "Destination", f"{namespace}/{route.destination_ref.name}"
            for address in one.spec.addresses or ():
                yield "Hostname", address.hostname
        case resources.Destination():
            namespace = one.metadata.namespace
            if one.spec.tenant_ref is not None:
                yield "Tenant", f"{namespace}/{one.spec.tenant_ref.name}"
        case _:
            return
    yield "Namespace", namespace
    for name in set(secret_names(one.spec)):
        yield "Secret", f"{namespace}/{name}"


def secret_names(value: object) -> Iterable[str]:
    """Names of the Secrets that are referred to anywhere inside."""
    match value:
        case types.SecretRef() | types.SecretKeyRef():
            yield value.name
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from secret_names(getattr(value, name))
        case list():
            for item in value:
                yield from secret_names(item)
