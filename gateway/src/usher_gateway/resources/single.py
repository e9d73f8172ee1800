"""One resource checked or compiled alone, given what it has to know of the others. Pure.

compile.py goes over a whole set with these; an operator calls them for the one resource that changed.
"""

from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions, destination, hostnames, listener_class, listeners, secret, tenant, types


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What a listener or a destination has to know of the others."""

    tenant: resources.Tenant | None
    """The one that it refers to."""
    secrets: Mapping[str, resources.Secret]
    require_watch_label: bool = True


class ListenerSite(Site, frozen=True, kw_only=True):
    """What a listener has to know of the others."""

    keys: model.Keys
    policy: hostnames.Policy | None
    """Its class; None where there is none."""
    labels: Mapping[str, str]
    """Of its namespace."""
    claims: hostnames.Claims
    """With the owners of every hostname that it names, and every address that others have before it."""
    destinations: Mapping[str, resources.Destination]
    """Those that its routes name, or more."""
    trusted_proxies: tuple[str, ...] = ()
    previous: documents.Listener | None = None
    """Its document in force."""


def class_name(one: resources.Listener) -> str:
    """The ListenerClass that a listener wants."""
    return str(types.value_or_default(one.spec.listener_class_name, "Listener.spec.listenerClassName"))


def namespace_labels(namespace: str, known: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of a namespace: its name is one of them, also where nothing else is known."""
    return {**known, types.NAMESPACE_LABEL: namespace}


def check_class(one: resources.ListenerClass) -> list[conditions.Finding]:
    """What the schema cannot say of a class."""
    proxies = (one.spec.client_address and one.spec.client_address.trusted_proxies) or ()
    return [
        _finding(
            one,
            f"spec.clientAddress.trustedProxies[{index}]",
            conditions.Reason.UnsupportedValue,
            "is no address range",
        )
        for index in listeners.bad_networks(proxies)
    ]


def named_without_classes(one: resources.Listener) -> conditions.Finding:
    """What is told of a listener that names a class where there is none at all, so that the implicit one counts."""
    message = f"ListenerClass `{class_name(one)}` is not in this set; in a cluster nothing answers without it"
    return _finding(one, "spec.listenerClassName", conditions.Reason.ImplicitClass, message, severity="warning")


def check_tenant(one: resources.Tenant) -> list[conditions.Finding]:
    """What the schema cannot say of a tenant."""
    zone = one.spec.time_zone
    if zone is None or tenant.is_time_zone(zone):
        return []
    message = f"`{zone}` is no IANA time zone; write one such as Europe/London (UTC is used until then)"
    return [_finding(one, "spec.timeZone", conditions.Reason.UnsupportedValue, message)]


def compile_destination(
    one: resources.Destination, site: Site, previous: documents.Destination | None
) -> tuple[documents.Destination | None, list[conditions.Finding]]:
    """The document of a destination, and what is wrong; no document without its tenant."""
    owner = one.spec.tenant_ref
    if owner is not None and site.tenant is None:
        return None, [_tenant_not_found(one, owner.name)]
    return destination.compile_destination(one, _resolution(one, site), previous)


def compile_listener(
    one: resources.Listener, site: ListenerSite
) -> tuple[documents.Listener | None, list[conditions.Finding]]:
    """The document of a listener, and what is wrong; no document without its tenant or against its class."""
    reason, path = conditions.Reason, "spec.listenerClassName"
    if site.tenant is None:
        return None, [_tenant_not_found(one, one.spec.tenant_ref.name)]
    if site.policy is None:
        kept = listeners.refreshed(site.previous, site.tenant, site.claims) if site.previous else None
        message = f"ListenerClass `{class_name(one)}` must exist"
        missing = (listener_class.ListenerClass.kind_name, class_name(one))
        return kept, [_missing(_finding(one, path, reason.ClassNotFound, message), missing)]
    if not hostnames.permits(site.policy.spec.namespaces, site.labels):
        message = f"ListenerClass `{class_name(one)}` may not be used from this namespace"
        return None, [_finding(one, path, reason.ClassNotPermitted, message)]
    around = listeners.Surroundings(
        site.keys,
        site.policy,
        site.tenant,
        site.labels,
        site.claims,
        site.destinations,
        site.trusted_proxies,
        site.previous,
    )
    return listeners.compile_listener(one, around, _resolution(one, site))


def listener_limit(found: listener_class.ListenerClassSpec | None) -> int | None:
    """How many listeners a class lets a namespace have; None: any number."""
    return found.maximums.listeners_per_namespace if found and found.maximums else None


def destination_limit(classes: Iterable[listener_class.ListenerClassSpec], labels: Mapping[str, str]) -> int | None:
    """How many destinations a namespace may have: the highest number among the classes that it may use."""
    usable = [spec for spec in classes if hostnames.permits(spec.namespaces, labels)]
    limits = [spec.maximums.destinations_per_namespace if spec.maximums else None for spec in usable]
    given = [limit for limit in limits if limit is not None]
    return max(given) if given and len(given) == len(limits) else None


def over_limit(one: resources.Resource, limit: int) -> conditions.Finding:
    """What is told of a resource that is one too many."""
    message = f"there may be at most {limit} of this kind in a namespace; remove one, or ask the platform"
    return _finding(one, "", conditions.Reason.LimitExceeded, message)


def _resolution(one: resources.Resource, site: Site) -> secret.SecretResolver:
    owner = (one.kind_name, one.key)
    return secret.SecretResolver(site.secrets, owner, require_label=site.require_watch_label)


def _tenant_not_found(one: resources.Resource, name: str) -> conditions.Finding:
    message = f"Tenant `{name}` must exist in the same namespace"
    found = _finding(one, "spec.tenantRef.name", conditions.Reason.TenantNotFound, message)
    return _missing(found, (resources.Tenant.kind_name, f"{one.metadata.namespace}/{name}"))


def _missing(found: conditions.Finding, missing: tuple[str, str]) -> conditions.Finding:
    return msgspec.structs.replace(found, missing=missing)


def _finding(
    one: resources.Resource,
    path: str,
    reason: conditions.Reason,
    message: str,
    severity: conditions.Severity = "error",
) -> conditions.Finding:
    return conditions.Finding(one.kind_name, one.key, path, reason, message, severity)
