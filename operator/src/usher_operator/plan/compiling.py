"""One listener or destination of the world to its document: what compile has to know of the others is looked up. Pure.

Order among several is that of age (creationTimestamp, then namespace and name); what is published comes first.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions, hostnames, listener, single, types
from usher_operator.view import CachedResource, Key, Kind, UnreadableResource, View

_DocumentT = TypeVar("_DocumentT", documents.Listener, documents.Destination)
SeenOfTenant = CachedResource[resources.Listener] | CachedResource[resources.Destination]
"""What has a document."""


class Compiled(msgspec.Struct, frozen=True):
    """A document, and what is to be told of its resource."""

    document: documents.Listener | documents.Destination | None
    findings: list[conditions.Finding]
    unknown_secrets: tuple[str, ...]
    """See Plan."""
    is_blocked: bool = False
    """Whether something unreadable stands in the way: what is published stays."""


class _Secrets(Mapping[str, resources.Secret]):
    """The Secrets of the world as compile asks for them; notes those of which nothing is known."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.unknown: list[str] = []

    def __getitem__(self, path: str) -> resources.Secret:
        found = self._view.secret(path)
        if found is not None:
            return found
        state = self._view.secret_state(path)
        if state is None and path not in self.unknown:
            self.unknown.append(path)
        if state != "NotLabelled":
            raise KeyError(path)
        namespace, _, name = path.partition("/")
        without_label = types.Metadata(name=name, namespace=namespace)
        return resources.Secret(api_version="v1", kind="Secret", metadata=without_label)

    def __iter__(self) -> Iterator[str]:
        """Nothing is listed: Secrets are looked up one by one."""
        return iter(())

    def __len__(self) -> int:
        return 0


def our_class(view: View, name: str) -> CachedResource[resources.ListenerClass] | None:
    """A ListenerClass that this install serves."""
    found = view.classes.get(name)
    return found if found is not None and is_ours(view, found) else None


def is_ours(view: View, one: CachedResource[resources.ListenerClass]) -> bool:
    """Whether a class is this install's."""
    return one.resource.spec.controller_name == view.install.controller_name


def is_foreign(view: View, one: resources.Listener) -> bool:
    """Whether a listener is another install's; one whose class does not exist is everybody's."""
    found = view.classes.get(single.class_name(one))
    return found is not None and not is_ours(view, found)


def is_foreign_namespace(view: View, namespace: str) -> bool:
    """Whether other installs' classes let a namespace in, and none of ours does: its tenants are theirs."""
    labels = _labels(view, namespace)
    may = [
        is_ours(view, one) for one in view.classes.values() if hostnames.permits(one.resource.spec.namespaces, labels)
    ]
    return bool(may) and not any(may)


def compile_listener(view: View, seen: CachedResource[resources.Listener], keys: model.Keys) -> Compiled:
    """The document of a listener."""
    one = seen.resource
    key = Key("Listener", one.metadata.namespace, one.metadata.name)
    found = our_class(view, single.class_name(one))
    limit = single.listener_limit(found.resource.spec if found else None)
    if limit is not None and _is_over(view, seen, limit, view.listeners_in(key.namespace)):
        return Compiled(None, [single.over_limit(one, limit)], ())
    tenant = _tenant(view, key.namespace, one.spec.tenant_ref.name)
    if isinstance(tenant, UnreadableResource):
        return _blocked(one, one.spec.tenant_ref.name)
    secrets = _Secrets(view)
    previous = _previous(view, key, documents.Listener)
    site = single.ListenerSite(
        tenant=tenant,
        secrets=secrets,
        keys=keys,
        policy=hostnames.Policy(found.resource.spec) if found else None,
        labels=_labels(view, key.namespace),
        claims=_claims(view, seen, previous),
        destinations=_destinations(view, one),
        trusted_proxies=view.install.trusted_proxies,
        previous=previous,
    )
    document, findings = single.compile_listener(one, site)
    return Compiled(document, _not_missing(view, findings), tuple(secrets.unknown))


def compile_destination(view: View, seen: CachedResource[resources.Destination]) -> Compiled:
    """The document of a destination."""
    one = seen.resource
    key = Key("Destination", one.metadata.namespace, one.metadata.name)
    specs = [found.resource.spec for found in view.classes.values() if is_ours(view, found)]
    limit = single.destination_limit(specs, _labels(view, key.namespace))
    if limit is not None and _is_over(view, seen, limit, view.destinations_in(key.namespace)):
        return Compiled(None, [single.over_limit(one, limit)], ())
    ref = one.spec.tenant_ref
    tenant = _tenant(view, key.namespace, ref.name) if ref else None
    if isinstance(tenant, UnreadableResource):
        return _blocked(one, ref.name if ref else "")
    secrets = _Secrets(view)
    site = single.Site(tenant=tenant, secrets=secrets)
    document, findings = single.compile_destination(one, site, _previous(view, key, documents.Destination))
    return Compiled(document, findings, tuple(secrets.unknown))


def _tenant(view: View, namespace: str, name: str) -> resources.Tenant | UnreadableResource | None:
    key = Key("Tenant", namespace, name)
    found = view.tenant(key.path)
    return found.resource if found else view.unreadable(key)


def _blocked(one: resources.Listener | resources.Destination, tenant: str) -> Compiled:
    """A tenant that cannot be read is not taken for one that is gone."""
    message = f"Tenant `{tenant}` is there, but this version of Usher cannot read it: see its own conditions"
    reason = conditions.Reason.TenantNotFound
    found = conditions.Finding(one.kind_name, one.key, "spec.tenantRef.name", reason, message)
    return Compiled(None, [found], (), is_blocked=True)


def _not_missing(view: View, findings: list[conditions.Finding]) -> list[conditions.Finding]:
    """The findings; what is there, but cannot be read, is not called missing."""
    return [_is_there(found) if _is_unreadable(view, found.missing) else found for found in findings]


def _is_unreadable(view: View, missing: tuple[str, str] | None) -> bool:
    if missing is None:
        return False
    kind, path = missing
    namespace, _, name = path.rpartition("/")
    known: tuple[Kind, ...] = ("ListenerClass", "Destination")
    return any(kind == one and view.unreadable(Key(one, namespace, name)) is not None for one in known)


def _is_there(found: conditions.Finding) -> conditions.Finding:
    kind, path = found.missing or ("", "")
    message = f"{kind} `{path.rpartition('/')[2]}` is there, but this version of Usher cannot read it: see its own"
    return msgspec.structs.replace(found, message=f"{message} conditions")


def _previous(view: View, key: Key, type_: type[_DocumentT]) -> _DocumentT | None:
    found = view.published(key)
    return found.document if found is not None and isinstance(found.document, type_) else None


def _labels(view: View, namespace: str) -> Mapping[str, str]:
    return single.namespace_labels(namespace, view.namespace_labels(namespace))


def _destinations(view: View, one: resources.Listener) -> dict[str, resources.Destination]:
    found = {}
    for route in one.spec.routes or ():
        path = f"{one.metadata.namespace}/{route.destination_ref.name}"
        seen = view.destination(path)
        if seen is not None:
            found[path] = seen.resource
    return found


def age(seen: SeenOfTenant) -> tuple[str, str, str]:
    """What resources are ordered by: the oldest first."""
    return seen.created, seen.resource.metadata.namespace, seen.resource.metadata.name


def _is_over(view: View, seen: SeenOfTenant, limit: int, members: Collection[SeenOfTenant]) -> bool:
    """Whether a resource is one too many in its namespace; those that run already come first."""
    if len(members) <= limit:
        return False

    def rank(one: SeenOfTenant) -> tuple[bool, tuple[str, str, str]]:
        meta = one.resource.metadata
        kind: Kind = "Listener" if isinstance(one.resource, resources.Listener) else "Destination"
        return view.published(Key(kind, meta.namespace, meta.name)) is None, age(one)

    mine = rank(seen)
    return sum(rank(one) < mine for one in members if not _is_theirs(view, one.resource)) >= limit


def _is_theirs(view: View, one: resources.Listener | resources.Destination) -> bool:
    return isinstance(one, resources.Listener) and is_foreign(view, one)


def _claims(
    view: View, seen: CachedResource[resources.Listener], previous: documents.Listener | None
) -> hostnames.Claims:
    """Who has the hostnames that a listener names or has, and which of its addresses others have before it."""
    reserved = frozenset(one.resource.spec.hostname for one in view.classes.values())
    hosts = {address.hostname for address in seen.resource.spec.addresses or ()}
    hosts |= {address.host for address in (previous.addresses if previous else ())}
    claims: dict[str, list[CachedResource[resources.Listener]]] = {
        host: sorted(_claims_on(view, host, reserved), key=age) for host in sorted(hosts - reserved)
    }
    owners: dict[str, hostnames.Owner] = {}
    for host, found in claims.items():
        incumbent = view.incumbent(host)
        owners |= hostnames.owners_of((one.resource for one in found), {host: incumbent} if incumbent else {})
    granted = hostnames.Claims(owners, reserved)
    for host, found in claims.items():
        _take_before(view, seen, [one for one in found if _owner(one.resource) == owners[host]], granted)
    return granted


def _claims_on(view: View, host: str, reserved: frozenset[str]) -> Iterator[CachedResource[resources.Listener]]:
    """The listeners whose claim to a hostname counts, each with its addresses there only."""
    for seen in view.claimants(host):
        one = seen.resource
        namespace = one.metadata.namespace
        found = our_class(view, single.class_name(one))
        if found is None or _tenant(view, namespace, one.spec.tenant_ref.name) is None:
            continue
        there = [address for address in one.spec.addresses or () if address.hostname == host]
        narrowed = msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, addresses=there))
        policy = hostnames.Policy(found.resource.spec)
        claim = hostnames.claim_of(narrowed, policy, _labels(view, namespace), reserved)
        if claim is not None:
            yield msgspec.structs.replace(seen, resource=claim)


def _take_before(
    view: View,
    seen: CachedResource[resources.Listener],
    claims: list[CachedResource[resources.Listener]],
    granted: hostnames.Claims,
) -> None:
    """Mark the addresses on one hostname that others of the tenant have: who has one already, else the oldest."""
    mine = {_identity(address) for address in seen.resource.spec.addresses or () if address.path is not None}
    for claim in claims:
        if claim.uid == seen.uid:
            continue
        for address in claim.resource.spec.addresses or ():
            contested = address.path is not None and _identity(address) in mine
            if contested and _comes_first(view, claim, seen, _identity(address)):
                query = tuple((pair.name, pair.value) for pair in address.query or ())
                wanted = documents.Address(address.hostname, address.path or "", query)
                granted.take(wanted, claim.resource.key)


_Identity = tuple[str, str, tuple[tuple[str, str], ...]]


def _identity(address: listener.Address) -> _Identity:
    query = sorted((pair.name, pair.value) for pair in address.query or ())
    return address.hostname, address.path or "", tuple(query)


def _comes_first(
    view: View,
    one: CachedResource[resources.Listener],
    other: CachedResource[resources.Listener],
    identity: _Identity,
) -> bool:
    return (not _has(view, one.resource, identity), age(one)) < (not _has(view, other.resource, identity), age(other))


def _has(view: View, one: resources.Listener, identity: _Identity) -> bool:
    """Whether a listener is published with an address."""
    key = Key("Listener", one.metadata.namespace, one.metadata.name)
    document = _previous(view, key, documents.Listener)
    addresses = document.addresses if document else ()
    return any((address.host, address.path, tuple(sorted(address.query))) == identity for address in addresses)


def _owner(one: resources.Listener) -> hostnames.Owner:
    return one.metadata.namespace, one.spec.tenant_ref.name
