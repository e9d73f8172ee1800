"""Optional APIs of the cluster: the Gateway API, cert-manager, and the IngressClasses and issuers that exist. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from usher_operator import kinds
from usher_operator.view import ClusterFeatures

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"

Name = tuple[str, str]
"""(namespace, name)."""


class OptionalApis:
    """Tracks which optional APIs the cluster serves; `features` sums it up for plans."""

    def __init__(self, data_plane_namespace: str) -> None:
        self._namespace = data_plane_namespace
        self._classes: dict[str, tuple[str, bool]] = {}
        """Name of an IngressClass -> its controller, and whether it is the default class."""
        self._issuers: dict[str, set[Name]] = {kinds.ISSUER.name: set(), kinds.CLUSTER_ISSUER.name: set()}
        self._served: set[str] = set()
        """Names of the kinds of optional APIs that the cluster serves."""
        self.features = ClusterFeatures()

    def put(self, kind: kinds.WatchedKind, raw: Mapping[str, Any]) -> bool:
        """Add or update an IngressClass or an issuer; returns whether `features` changed."""
        metadata = raw["metadata"]
        if kind is kinds.INGRESS_CLASS:
            is_default = (metadata.get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
            self._classes[metadata["name"]] = (raw.get("spec") or {}).get("controller", ""), is_default
        else:
            self._issuers[kind.name].add((metadata.get("namespace", ""), metadata["name"]))
        return self._refresh()

    def remove(self, kind: kinds.WatchedKind, namespace: str, name: str) -> bool:
        """Remove an IngressClass or an issuer; returns whether `features` changed."""
        if kind is kinds.INGRESS_CLASS:
            self._classes.pop(name, None)
        else:
            self._issuers[kind.name].discard((namespace, name))
        return self._refresh()

    def is_served(self, kind: kinds.WatchedKind) -> bool:
        """Whether the cluster serves a kind. Kinds of one API may appear one by one."""
        return not kind.feature or kind.name in self._served

    def set_served(self, kind: kinds.WatchedKind, *, served: bool) -> bool:
        """Note whether the cluster serves a kind of an optional API; returns whether `features` changed."""
        if served:
            self._served.add(kind.name)
        else:
            self._served.discard(kind.name)
            self._issuers.get(kind.name, set()).clear()
        return self._refresh()

    def names(self, kind: kinds.WatchedKind) -> frozenset[Name]:
        """(namespace, name) of every known object of a kind."""
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
