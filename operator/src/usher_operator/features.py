"""What not every cluster offers: the Gateway API, cert-manager, IngressClasses, issuers. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from usher_operator import kinds
from usher_operator.view import ClusterFeatures

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"

Name = tuple[str, str]
"""(namespace, name)."""


class Optional:
    """The optional APIs as they come and go."""

    def __init__(self, data_plane_namespace: str) -> None:
        self._namespace = data_plane_namespace
        self._classes: dict[str, tuple[str, bool]] = {}
        """IngressClass -> its controller, and whether it is the default."""
        self._issuers: dict[str, set[Name]] = {kinds.ISSUER.name: set(), kinds.CLUSTER_ISSUER.name: set()}
        self._served: set[str] = set()
        """Kinds of optional APIs that are there."""
        self.features = ClusterFeatures()

    def put(self, kind: kinds.Watched, raw: Mapping[str, Any]) -> bool:
        """Take an IngressClass or an issuer; returns whether that changes anything."""
        metadata = raw["metadata"]
        if kind is kinds.INGRESS_CLASS:
            is_default = (metadata.get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
            self._classes[metadata["name"]] = (raw.get("spec") or {}).get("controller", ""), is_default
        else:
            self._issuers[kind.name].add((metadata.get("namespace", ""), metadata["name"]))
        return self._refresh()

    def remove(self, kind: kinds.Watched, namespace: str, name: str) -> bool:
        """Forget one; returns whether that changes anything."""
        if kind is kinds.INGRESS_CLASS:
            self._classes.pop(name, None)
        else:
            self._issuers[kind.name].discard((namespace, name))
        return self._refresh()

    def is_served(self, kind: kinds.Watched) -> bool:
        """Whether a kind is there; each comes and goes by itself."""
        return not kind.feature or kind.name in self._served

    def set_served(self, kind: kinds.Watched, *, served: bool) -> bool:
        """Whether a kind of an optional API is there; returns whether that changes anything."""
        if served:
            self._served.add(kind.name)
        else:
            self._served.discard(kind.name)
            self._issuers.get(kind.name, set()).clear()
        return self._refresh()

    def names(self, kind: kinds.Watched) -> frozenset[Name]:
        """(namespace, name) of all of a kind."""
        if kind is kinds.INGRESS_CLASS:
            return frozenset(("", name) for name in self._classes)
        return frozenset(self._issuers[kind.name])

    def _refresh(self) -> bool:
        before = self.features
        has_certificates = self.is_served(kinds.CERTIFICATE)
        defaults = sorted(name for name, (_, is_default) in self._classes.items() if is_default)
        self.features = ClusterFeatures(
            gateway_api=self.is_served(kinds.HTTP_ROUTE),
            cert_manager=has_certificates,
            ingress_classes={name: controller for name, (controller, _) in self._classes.items()},
            default_ingress_class=defaults[0] if defaults else "",
            issuers=self._usable_issuers() if has_certificates else None,
        )
        return msgspec.structs.astuple(before) != msgspec.structs.astuple(self.features)

    def _usable_issuers(self) -> frozenset[tuple[str, str]]:
        return frozenset(
            (kind, name)
            for kind, found in self._issuers.items()
            for namespace, name in found
            if kind == kinds.CLUSTER_ISSUER.name or namespace == self._namespace
        )
