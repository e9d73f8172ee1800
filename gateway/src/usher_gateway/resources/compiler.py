"""Compiles resources into documents and findings. Pure: no Kubernetes client, no I/O, no clock.

This is the only path from a manifest to a document. The file source and ``usher check`` compile a whole set with
``compile_resources``. The operator compiles the one resource that changed with ``compile_listener`` or
``compile_destination``, and gives them just the resources that this one refers to.

Where several resources want the same hostname, address or place below a limit, documents in force come first, and then
the resources' order counts: in files their order, in a cluster their age.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from usher_gateway import documents, model
from usher_gateway.resources import hostnames, types
from usher_gateway.resources.conditions import Finding, Reason, finding
from usher_gateway.resources.destination import Destination
from usher_gateway.resources.destination_document import destination_document
from usher_gateway.resources.hostnames import AddressClaims, HostnamePolicy
from usher_gateway.resources.listener import DEFAULT_CLASS, AddressSpec, Listener
from usher_gateway.resources.listener_class import ListenerClass, ListenerClassSpec, check_class
from usher_gateway.resources.listener_document import (
    check_listener,
    declared_addresses,
    listener_document,
    token_addresses,
)
from usher_gateway.resources.secret import Secret, SecretResolver
from usher_gateway.resources.tenant import Tenant, check_tenant, tenant_document

IMPLICIT_CLASS = ListenerClassSpec(controller_name="usher.dev/usher", hostname=hostnames.IMPLICIT_HOSTNAME)


_NO_CLASS = "no ListenerClass permits this namespace; the platform's owner can change `namespaces` of one"

_Document = TypeVar("_Document", documents.ListenerDocument, documents.DestinationDocument)

_REFUSALS = {
    Reason.HostnameReserved: (
        "is the hostname of a class, or was until its retired URLs end; leave `addresses` out to be served at the "
        "class's hostname"
    ),
    Reason.HostnameNotAllowed: (
        "is not among the class's allowedHostnames for this namespace; the platform's owner can add it to the class"
    ),
    Reason.HostnameConflict: "belongs to another tenant; choose another one, or ask the platform's owner",
    Reason.LimitExceeded: (
        "is one hostname too many in this namespace, where the hostnames of retired addresses count until they end, "
        "and those with a certificate until 7 days after they were given up; use fewer, wait, or ask the platform's "
        "owner"
    ),
    Reason.PathConflict: "with this path and query is another listener's; change one of the two",
}


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Declared resources by key (``namespace/name``, or a class name), in order of precedence."""

    classes: Mapping[str, ListenerClass] = {}  # In a cluster: those that this install serves
    tenants: Mapping[str, Tenant] = {}
    listeners: Mapping[str, Listener] = {}
    destinations: Mapping[str, Destination] = {}
    secrets: Mapping[str, Secret] = {}
    namespaces: Mapping[str, Mapping[str, str]] = {}  # Labels of namespaces, as far as they are known

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """Return a namespace's labels. They always include its name, as at an API server."""
        return {**self.namespaces.get(namespace, {}), types.NAMESPACE_LABEL: namespace}

    def tenant_of(self, resource: Listener | Destination) -> Tenant | None:
        """Return the Tenant that a resource names; None if it is missing or if none is named."""
        ref = resource.spec.tenant_ref
        return self.tenants.get(f"{resource.metadata.namespace}/{ref.name}") if ref else None


class CompileContext(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that compilation needs besides the resources."""

    keys: model.Keys
    now: int  # The present time in microseconds. 0: no address is retired, and no certificate has ended.
    previous: documents.Snapshot = documents.Snapshot({}, {})
    """The documents in force, for the cases in which the last good one stays. Those that were made for another tenant
    count as other resources' documents with the same names: nothing from them stays."""
    reserved_hostnames: Container[str] | None = None
    """The hostnames that no listener may name: those in all ListenerClasses, also other installs', and those that
    classes had while retired addresses are there. None: as ``Resources.classes`` and ``previous`` say."""
    arrivals: Mapping[str, int] = {}
    """Retired address (``Address.id``) -> its last arrival in microseconds, as far as it is known."""
    trusted_proxies: tuple[str, ...] = ()  # Added to those of every class (`--trusted-proxies`)
    require_watch_label: bool = True  # True: a Secret without the label is an error. From files it is a warning.
    allow_implicit_class: bool = False
    """True: without any ListenerClass, listeners run at ``localhost`` and at the hostnames that they name. Files
    allow this."""


class CompiledResources(msgspec.Struct, frozen=True):
    """The result of compiling a whole set."""

    snapshot: documents.Snapshot
    findings: tuple[Finding, ...]


def collect(objects: Iterable[types.ResourceBase], namespaces: Mapping[str, dict[str, str]]) -> Resources:
    """Return resources sorted by kind. The order within a kind is kept."""
    by_kind: dict[type[types.ResourceBase], dict[str, Any]] = {
        kind: {} for kind in (ListenerClass, Tenant, Listener, Destination, Secret)
    }
    for resource in objects:
        by_kind[type(resource)][resource.key] = resource
    return Resources(
        classes=by_kind[ListenerClass],
        tenants=by_kind[Tenant],
        listeners=by_kind[Listener],
        destinations=by_kind[Destination],
        secrets=by_kind[Secret],
        namespaces=dict(namespaces),
    )


def compile_resources(resources: Resources, context: CompileContext) -> CompiledResources:
    """Return every document for a whole set, with the findings."""
    findings = [*_implicit_class_findings(resources, context)]
    for declared_class in resources.classes.values():
        findings += check_class(declared_class)
    for tenant in resources.tenants.values():
        findings += check_tenant(tenant)
    context = msgspec.structs.replace(context, reserved_hostnames=_reserved(resources, context))
    destinations: dict[str, documents.DestinationDocument] = {}
    ranks = _ranks(resources.destinations, context.previous.destinations)
    for key, destination in resources.destinations.items():
        compiled, own_findings = compile_destination(
            destination, resources, context, is_over_limit=_at_rank(ranks[key])
        )
        findings.extend(own_findings)
        if compiled is not None:
            destinations[key] = compiled
    listeners: dict[str, documents.ListenerDocument] = {}
    hostname_ranks = _hostname_ranks(resources, context)
    claims = AddressClaims(
        hostnames.owners_of(_hostname_claims(resources, context)),
        lambda namespace, hostname, limit: hostname_ranks[f"{namespace}/{hostname}"] >= limit,
    )
    ranks = _ranks(resources.listeners, context.previous.listeners)
    for key, listener in resources.listeners.items():
        is_over_limit = _at_rank(ranks[key])
        document, own_findings = compile_listener(
            listener, resources, context, claims=claims, is_over_limit=is_over_limit
        )
        findings.extend(own_findings)
        if document is not None:
            listeners[key] = document
    # after all listeners, because an address that any listener claims is not retired
    for key, listener in resources.listeners.items():
        document = retire_addresses(listener, listeners.get(key), resources, context, claims=claims)
        if document is not None:
            listeners[key] = document
    return CompiledResources(documents.Snapshot(listeners, destinations), tuple(findings))


def _ranks(keys: Iterable[str], in_force: Mapping[str, object]) -> dict[str, int]:
    """Return how many resources come before each one in its namespace: those in force first, then in order."""
    ranks: dict[str, int] = {}
    counts: dict[str, int] = {}
    for key in sorted(keys, key=lambda key: key not in in_force):
        namespace = key.partition("/")[0]
        ranks[key] = counts.get(namespace, 0)
        counts[namespace] = ranks[key] + 1
    return ranks


def _hostname_ranks(resources: Resources, context: CompileContext) -> dict[str, int]:
    """Return each hostname's rank among those that listeners name, by ``namespace/hostname``.

    Those in force come first, then those that have only retired addresses. Class hostnames do not count.
    """
    named = {
        f"{listener.metadata.namespace}/{address.hostname}": True
        for listener in resources.listeners.values()
        for address in listener.spec.addresses
    }
    in_force = {
        f"{document.namespace}/{host}": True
        for document in context.previous.listeners.values()
        for host in document.own_hostnames
    }
    return _ranks(named | in_force, in_force)


def _at_rank(rank: int) -> Callable[[int], bool]:
    return lambda limit: rank >= limit


def _implicit_class_findings(resources: Resources, context: CompileContext) -> Iterable[Finding]:
    """Yield a notice if no ListenerClass exists, and a warning for each listener that names one."""
    if not context.allow_implicit_class or resources.classes or not resources.listeners:
        return
    message = (
        f"there is no ListenerClass: listeners answer at `{IMPLICIT_CLASS.hostname}` and at the hostnames they name"
    )
    yield Finding("ListenerClass", "", "", Reason.ImplicitClass, message, "notice")
    for listener in resources.listeners.values():
        if listener.class_name != DEFAULT_CLASS:
            message = (
                f"ListenerClass `{listener.class_name}` is not in this set; in a cluster nothing answers without it"
            )
            yield finding(listener, "spec.listenerClassName", Reason.ImplicitClass, message, severity="warning")


def policy_of(listener: Listener, resources: Resources, context: CompileContext) -> HostnamePolicy | None:
    """Return a listener's class as its namespace sees it; None if the class does not exist."""
    declared_class = resources.classes.get(listener.class_name)
    is_implicit = declared_class is None and not resources.classes and context.allow_implicit_class
    if declared_class is None and not is_implicit:
        return None
    return HostnamePolicy(
        spec=declared_class.spec if declared_class else IMPLICIT_CLASS,
        namespace_labels=resources.labels_of(listener.metadata.namespace),
        reserved=_reserved(resources, context),
        is_implicit=is_implicit,
    )


def _reserved(resources: Resources, context: CompileContext) -> Container[str]:
    """Return the hostnames that no listener may name."""
    if context.reserved_hostnames is not None:
        return context.reserved_hostnames
    return frozenset(listener_class.spec.hostname for listener_class in resources.classes.values()) | _former(
        resources, context
    )


def _former(resources: Resources, context: CompileContext) -> frozenset[str]:
    """Return the hostnames that classes had and that only their retired addresses still have."""
    former_hostnames: set[str] = set()
    for key, document in context.previous.listeners.items() if context.now else ():
        listener = resources.listeners.get(key)
        if listener is not None:
            days = _retired_address_days(listener, resources)
            former_hostnames.update(
                address.host
                for address in document.addresses
                if address.is_class_address and _as_retired(address, days, context) is not None
            )
    own = (document.own_hostnames for document in context.previous.listeners.values())
    return frozenset(former_hostnames).difference(*own) if former_hostnames else frozenset()


def _hostname_claims(resources: Resources, context: CompileContext) -> Iterable[tuple[str, hostnames.Owner]]:
    """Yield the hostnames that listeners may claim: those with a tenant, and with a class that permits it."""
    for listener in resources.listeners.values():
        if not listener.spec.addresses:
            continue
        policy = policy_of(listener, resources, context)
        if policy is None or resources.tenant_of(listener) is None:
            continue
        for address in listener.spec.addresses:
            if policy.can_claim(address.hostname):
                yield address.hostname, listener.owner


def compile_destination(
    destination: Destination, resources: Resources, context: CompileContext, *, is_over_limit: Callable[[int], bool]
) -> tuple[documents.DestinationDocument | None, list[Finding]]:
    """Return a destination's document, and the findings.

    It gets no document without its tenant, or in a namespace that no class permits. Without any class the document in
    force stays. ``resources`` has what it refers to, and every class. ``is_over_limit`` returns True if at least this
    many destinations in the namespace come before this one.
    """
    previous = context.previous.destinations.get(destination.key)
    tenant_name = destination.spec.tenant_ref.name if destination.spec.tenant_ref else ""
    if previous is not None and previous.tenant != tenant_name:
        previous = None
    labels = resources.labels_of(destination.metadata.namespace)
    specs = [listener_class.spec for listener_class in resources.classes.values()]
    permitting = [spec for spec in specs if hostnames.permits(spec.namespaces, labels)]
    if not permitting and (specs or not context.allow_implicit_class):
        return (None if specs else previous), [finding(destination, "", Reason.ClassNotPermitted, _NO_CLASS)]
    limit = destination_limit(permitting)
    if limit is not None and is_over_limit(limit):
        return None, [_over_limit(destination, limit)]
    resolver = _resolver(destination, resources, context)
    document, findings = destination_document(destination, resolver, previous, context.now)
    if destination.spec.tenant_ref is not None and resources.tenant_of(destination) is None:
        return None, [_tenant_not_found(destination, destination.spec.tenant_ref.name), *findings]
    if document is None or document is previous:
        return document, findings
    return _with_warnings(document, findings), findings


def compile_listener(
    listener: Listener,
    resources: Resources,
    context: CompileContext,
    *,
    claims: AddressClaims,
    is_over_limit: Callable[[int], bool],
) -> tuple[documents.ListenerDocument | None, list[Finding]]:
    """Return a listener's document, and the findings.

    A listener gets no document without its tenant, against its class, or without any address. If a value or an
    expression is not valid, the previous document stays in force. A new listener with an invalid expression does get a
    document: the gateway accepts its visits and holds their deliveries.

    ``claims`` has the owners of the hostnames that it names, and the addresses that others have before it.
    ``is_over_limit`` returns True if at least this many listeners in the namespace come before this one.
    """
    previous = _previous(listener, context)
    found_class = resources.classes.get(listener.class_name)
    limit = found_class.spec.maximums.listeners_per_namespace if found_class else None
    if limit is not None and is_over_limit(limit):
        return None, [_over_limit(listener, limit)]
    resolver = _resolver(listener, resources, context)
    authentication = _authentication(listener, resolver, context.keys, previous)
    own_findings = [*check_listener(listener), *_destination_findings(listener, resources), *resolver.findings]
    owner = resources.tenant_of(listener)
    if owner is None:
        return None, [_tenant_not_found(listener, listener.spec.tenant_ref.name), *own_findings]
    policy = policy_of(listener, resources, context)
    path = "spec.listenerClassName"
    if policy is None:
        missing = (ListenerClass.kind_name, listener.class_name)
        message = f"ListenerClass `{listener.class_name}` must exist"
        not_found = finding(listener, path, Reason.ClassNotFound, message, missing=missing)
        return (_last_good(previous, owner, claims) if previous else None), [not_found, *own_findings]
    if not policy.permits_namespace:
        message = f"ListenerClass `{listener.class_name}` may not be used from this namespace"
        return None, [finding(listener, path, Reason.ClassNotPermitted, message), *own_findings]
    addresses, findings = _grant_addresses(listener, policy, claims, context.keys)
    findings += own_findings
    reasons = {error.reason for error in findings if error.severity == "error"}
    if previous is not None and reasons & {Reason.UnsupportedValue, Reason.ExpressionInvalid}:
        return _last_good(previous, owner, claims), findings
    if not addresses or Reason.UnsupportedValue in reasons:
        return None, findings
    document = listener_document(
        listener,
        tenant=tenant_document(owner),
        addresses=addresses,
        authentication=authentication,
        class_spec=policy.spec,
        trusted_proxies=context.trusted_proxies,
    )
    return _with_warnings(document, findings), findings


def _with_warnings(document: _Document, findings: Iterable[Finding]) -> _Document:
    """Return a document with the warnings from its findings."""
    warnings = tuple(warning.place_and_message for warning in findings if warning.severity == "warning")
    return msgspec.structs.replace(document, warnings=warnings) if warnings else document


def _previous(listener: Listener, context: CompileContext) -> documents.ListenerDocument | None:
    """Return a listener's document in force. A listener that gets another tenant is a new one.

    Another company knows the old URLs, and the old routes are its own.
    """
    previous = context.previous.listeners.get(listener.key)
    return previous if previous is not None and previous.tenant.name == listener.spec.tenant_ref.name else None


# For one listener. Otherwise edits that move a path again and again fill every gateway's memory.
_MAX_RETIRED_ADDRESSES = 256


def retire_addresses(
    listener: Listener,
    document: documents.ListenerDocument | None,
    resources: Resources,
    context: CompileContext,
    *,
    claims: AddressClaims,
) -> documents.ListenerDocument | None:
    """Return a listener's document with the addresses that an edit (its own or its class's) took out of service.

    Such an address stays for the class's ``retiredAddressDays`` after its last arrival, unless a listener claims it or
    its token is past its ``untilTime``. If there are very many, only those used last stay. Without any other address,
    the document is the previous one. ``document`` is what ``compile_listener`` returned.
    """
    previous, owner = _previous(listener, context), resources.tenant_of(listener)
    if not context.now or previous is None or owner is None:
        return document
    days = _retired_address_days(listener, resources)
    live = document.live_addresses if document is not None else ()
    live_places = {address.place for address in live}
    candidates = []
    for address in previous.addresses:
        retired = _as_retired(address, days, context)
        if retired is not None and address.place not in live_places:
            candidates.append(retired)
    if len(candidates) > _MAX_RETIRED_ADDRESSES:
        candidates.sort(key=lambda address: address.retired_at, reverse=True)
    retired_addresses = [
        address
        for address in candidates[:_MAX_RETIRED_ADDRESSES]
        if claims.may_keep(address, listener.owner) and claims.take(address, listener.key)
    ]
    if not live and not retired_addresses:
        return None
    if document is None:
        document = msgspec.structs.replace(previous, tenant=tenant_document(owner))
    return msgspec.structs.replace(document, addresses=(*live, *retired_addresses))


def _retired_address_days(listener: Listener, resources: Resources) -> int:
    """Return how long a listener's retired addresses are served after their last arrival."""
    found_class = resources.classes.get(listener.class_name)
    return (found_class.spec if found_class else IMPLICIT_CLASS).retired_address_days


def _as_retired(address: documents.Address, days: int, context: CompileContext) -> documents.Address | None:
    """Return an address that is not configured any more as a retired one; None if it is not served any longer."""
    retired_at = max(address.retired_at or context.now, context.arrivals.get(address.id, 0))
    is_over = days == 0 or context.now >= retired_at + days * model.DAY or 0 < address.until <= context.now
    return None if is_over else msgspec.structs.replace(address, retired_at=retired_at)


def _last_good(
    previous: documents.ListenerDocument, owner: Tenant, claims: AddressClaims
) -> documents.ListenerDocument | None:
    """Return the previous document with the tenant as it is now, without addresses that others have by now.

    The tenant is renewed so that suspending it always works.
    """
    pair = (previous.namespace, previous.tenant.name)
    addresses = tuple(
        address
        for address in previous.addresses
        if claims.may_keep(address, pair) and claims.take(address, previous.key)
    )
    if not addresses:
        return None
    return msgspec.structs.replace(previous, tenant=tenant_document(owner), addresses=addresses)


def _grant_addresses(
    listener: Listener, policy: HostnamePolicy, claims: AddressClaims, keys: model.Keys
) -> tuple[tuple[documents.Address, ...], list[Finding]]:
    """Return every address that a listener gets, and a finding for each one that it may not have."""
    declared = listener.spec.addresses
    if not declared:
        own = token_addresses(listener, keys.install, policy.spec.hostname, is_class_address=True)
        return tuple(address for address in own if claims.take(address, listener.key)), []
    granted: list[documents.Address] = []
    findings: list[Finding] = []
    for index, address in enumerate(declared):
        path = f"spec.addresses[{index}]"
        reason = _refusal(listener, address, policy, claims)
        if reason is not None:
            findings.append(finding(listener, f"{path}.hostname", reason, f"`{address.hostname}` {_REFUSALS[reason]}"))
            continue
        requested = declared_addresses(listener, keys.install, address)
        free = [
            candidate for candidate in requested if candidate not in granted and claims.take(candidate, listener.key)
        ]
        if len(free) < len(requested):
            message = f"`{address.hostname}` {_REFUSALS[Reason.PathConflict]}"
            findings.append(finding(listener, path, Reason.PathConflict, message))
        granted.extend(free)
        authentication = listener.spec.authentication
        if authentication and authentication.type == "None" and not address.has_secret:
            message = "anybody who guesses this path can post visits; add authentication if Purple can send it"
            findings.append(finding(listener, f"{path}.path", Reason.NoSecretInAddress, message, severity="warning"))
    return tuple(granted), findings


def _refusal(listener: Listener, address: AddressSpec, policy: HostnamePolicy, claims: AddressClaims) -> Reason | None:
    """Return why a listener may not have a hostname; None if it may."""
    reason = policy.refusal(address.hostname)
    if reason is not None:
        return reason
    if policy.is_implicit and address.hostname == policy.spec.hostname:
        return None
    if not claims.may_have(address.hostname, listener.owner):
        return Reason.HostnameConflict
    is_over_limit = claims.is_over_limit(address.hostname, listener.metadata.namespace, policy.spec)
    return Reason.LimitExceeded if is_over_limit else None


def _authentication(
    listener: Listener, resolver: SecretResolver, keys: model.Keys, previous: documents.ListenerDocument | None
) -> documents.Authentication:
    """Return how Purple authenticates. It fails closed.

    If a Secret never existed, the result is ``Unresolved``. If it disappeared, the last known credential stays, unless
    the listener declares another type or header now.
    """
    declared = listener.spec.authentication
    header = value = ""
    if declared and declared.basic:
        header = "authorization"
        value = resolver.basic(declared.basic.secret_ref, "spec.authentication.basic.secretRef")
    elif declared and declared.header:
        header = declared.header.name.lower()
        value = resolver.text(declared.header.secret_ref, "spec.authentication.header.secretRef")
    if declared is None or declared.type == "None":
        return documents.Authentication()
    if value and resolver.missing is None:
        digest = documents.credential_digest(value.encode(), keys.credential)
        return documents.Authentication(declared.type, header, digest)
    last = previous.authentication if previous else documents.Authentication()
    return (
        last
        if last.digest and (last.type, last.header) == (declared.type, header)
        else documents.Authentication(
            "Unresolved", missing=resolver.missing.message if resolver.missing is not None else ""
        )
    )


def _destination_findings(listener: Listener, resources: Resources) -> Iterable[Finding]:
    """Yield a finding for each route whose destination is missing or belongs to another tenant."""
    for index, route in enumerate(listener.spec.routes):
        path = f"spec.routes[{index}].destinationRef.name"
        key = f"{listener.metadata.namespace}/{route.destination_ref.name}"
        destination = resources.destinations.get(key)
        name = route.destination_ref.name
        if destination is None:
            message = f"Destination `{name}` must exist in this namespace for this tenant; until then deliveries wait"
            yield finding(listener, path, Reason.DestinationNotFound, message, missing=(Destination.kind_name, key))
        elif (
            destination.spec.tenant_ref is not None
            and destination.spec.tenant_ref.name != listener.spec.tenant_ref.name
        ):
            message = (
                f"Destination `{name}` belongs to Tenant `{destination.spec.tenant_ref.name}`: name another one; "
                "until then deliveries wait"
            )
            yield finding(listener, path, Reason.DestinationNotFound, message)


def destination_limit(permitting: Iterable[ListenerClassSpec]) -> int | None:
    """Return how many destinations a namespace may have: the highest number among the classes that permit it."""
    limits = [spec.maximums.destinations_per_namespace for spec in permitting]
    declared_limits = [limit for limit in limits if limit is not None]
    return max(declared_limits) if declared_limits and len(declared_limits) == len(limits) else None


def _over_limit(resource: types.ResourceBase, limit: int) -> Finding:
    message = f"there may be at most {limit} of this kind in a namespace; remove one, or ask the platform's owner"
    return finding(resource, "", Reason.LimitExceeded, message)


def _tenant_not_found(resource: Listener | Destination, name: str) -> Finding:
    message = f"Tenant `{name}` must exist in the same namespace"
    missing = (Tenant.kind_name, f"{resource.metadata.namespace}/{name}")
    return finding(resource, "spec.tenantRef.name", Reason.TenantNotFound, message, missing=missing)


def _resolver(resource: Listener | Destination, resources: Resources, context: CompileContext) -> SecretResolver:
    owner = (resource.kind_name, resource.key)
    return SecretResolver(resources.secrets, owner, require_label=context.require_watch_label)
