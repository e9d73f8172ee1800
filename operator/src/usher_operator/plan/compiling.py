"""Compiles one listener or destination, with just the other resources that it needs. Pure.

A hostname belongs to the tenant that holds it (``View.holders``), else to the oldest listener that claims it.
If a tenant's listeners want the same address, or a namespace has more than its limit, the ones that are
already published come first, then the oldest (creationTimestamp, then uid).
"""

import itertools
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import compiler, conditions, hostnames, types
from usher_gateway.resources.listener_document import declared_addresses, fixed_addresses
from usher_operator.plan import versions
from usher_operator.state.values import CachedResource, Key, Kind, UnreadableResource, address_path
from usher_operator.state.view import View

# A resource that is compiled to a document.
DocumentResource = CachedResource[resources.Listener] | CachedResource[resources.Destination]


class CompiledDocument(msgspec.Struct, frozen=True):
    """A document, and the findings about its resource."""

    document: documents.ListenerDocument | documents.DestinationDocument | None
    findings: list[conditions.Finding]
    unknown_secrets: tuple[str, ...]
    """See ``Plan.unknown_secrets``."""
    is_blocked: bool = False
    """True if an unreadable resource prevents compiling, so that the published document stays."""
    interim: documents.ListenerDocument | None = None
    """The document that is in force while a Listener made again cannot have its own."""
    ended: tuple[str, ...] = ()
    """Retired addresses (``Address.id``) whose time is over. The document has it while the view does not allow that
    it ends."""


class _SecretLookup(Mapping[str, resources.Secret]):
    """Looks Secrets up one by one, and notes those that have to be looked up at the API server."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.unknown: list[str] = []

    def __getitem__(self, path: str) -> resources.Secret:
        secret = self._view.secret(path)
        if secret is not None:
            return secret
        state = self._view.secret_state(path)
        if state is None and path not in self.unknown:
            self.unknown.append(path)
        if state != "NotLabelled":
            raise KeyError(path)
        namespace, _, name = path.partition("/")
        without_label = types.Metadata(name=name, namespace=namespace)
        return resources.Secret(api_version="v1", kind="Secret", metadata=without_label)

    def __iter__(self) -> Iterator[str]:
        """Iterate over nothing: compile() only looks Secrets up by name."""
        return iter(())

    def __len__(self) -> int:
        return 0


class _ReservedHostnames(Container[str]):
    """The hostnames that no listener may name."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __contains__(self, hostname: object) -> bool:
        """Return True if no listener may name a hostname."""
        return isinstance(hostname, str) and self._view.is_reserved(hostname)


def compile_listener(view: View, cached: CachedResource[resources.Listener], keys: model.Keys) -> CompiledDocument:
    """Compile a listener, with just the resources that it refers to."""
    listener = cached.resource
    namespace = listener.metadata.namespace
    tenant = _tenant(view, namespace, listener.spec.tenant_ref.name)
    published, interim = versions.own_version(view, cached), versions.interim_version(view, cached)
    own = published.listener if published is not None else None
    interim = versions.bind_routes(view, interim, own) if interim is not None else None
    if isinstance(tenant, UnreadableResource):
        return _blocked(listener, listener.spec.tenant_ref.name, interim)
    own_class = view.our_class(listener.class_name)
    secrets = _SecretLookup(view)
    previous = interim or own
    declared = compiler.Resources(
        classes={listener.class_name: own_class.resource} if own_class else {},
        tenants={tenant.key: tenant} if tenant else {},
        destinations=_destinations(view, listener),
        secrets=secrets,
        namespaces={namespace: view.namespace_labels(namespace)},
    )
    context = compiler.CompileContext(
        keys=keys,
        previous=documents.Snapshot({listener.key: previous} if previous else {}, {}),
        reserved_hostnames=_ReservedHostnames(view),
        now=view.time,
        arrivals=_retired_arrivals(view, listener.key),
    )
    claims = _claims(view, cached, previous, keys)
    document, findings = compiler.compile_listener(
        listener,
        declared,
        context,
        claims=claims,
        is_over_limit=lambda limit: view.is_over_limit(cached.key, limit),
    )
    document = compiler.retire_addresses(listener, document, declared, context, claims=claims)
    ended: tuple[documents.Address, ...] = ()
    if document is not None:
        ended = _ended_addresses(view, listener, previous, document, claims)
        waiting = [address for address in ended if not view.may_retire(cached.key, frozenset((address.id,)))]
        document = msgspec.structs.replace(document, addresses=(*document.addresses, *waiting))
        if interim is not None and lacks_credential(findings):
            document = versions.hold(document)
        document = versions.bind_routes(view, document, own)
    return CompiledDocument(
        document,
        _not_missing(view, findings),
        tuple(secrets.unknown),
        interim=interim,
        ended=tuple(address.id for address in ended),
    )


def _ended_addresses(
    view: View,
    listener: resources.Listener,
    previous: documents.ListenerDocument | None,
    document: documents.ListenerDocument,
    claims: hostnames.AddressClaims,
) -> tuple[documents.Address, ...]:
    """The retired addresses whose time is over, without those that another listener has now."""
    if previous is None:
        return ()
    return tuple(
        address
        for address in documents.ended_addresses(previous, document, view.time)
        if claims.may_keep(address, listener.owner) and claims.take(address, listener.key)
    )


def lacks_credential(findings: Iterable[conditions.Finding]) -> bool:
    """True if the credential that Purple has to send is missing, so that the last known one counts."""
    return any(finding.severity == "error" and finding.path.startswith("spec.authentication") for finding in findings)


def _retired_arrivals(view: View, path: str) -> dict[str, int]:
    """The last arrival at each retired address that any gateway reports."""
    last_arrivals: dict[str, int] = {}
    for gateway in view.reports.ready or ():
        report = gateway.listeners.get(path)
        for address, at in report.retired_arrivals.items() if report is not None else ():
            arrived_at = int(at.timestamp()) * model.MICROSECONDS
            last_arrivals[address] = max(arrived_at, last_arrivals.get(address, 0))
    return last_arrivals


def compile_destination(
    view: View, cached: CachedResource[resources.Destination], keys: model.Keys
) -> CompiledDocument:
    """Compile a destination, with just the resources that it refers to."""
    destination = cached.resource
    namespace = destination.metadata.namespace
    ref = destination.spec.tenant_ref
    tenant = _tenant(view, namespace, ref.name) if ref else None
    if isinstance(tenant, UnreadableResource):
        return _blocked(destination, ref.name if ref else "")
    secrets = _SecretLookup(view)
    published = versions.own_version(view, cached)
    previous = published.document if published is not None else None
    document, findings = compiler.compile_destination(
        destination,
        compiler.Resources(
            classes={cached.resource.metadata.name: cached.resource for cached in view.our_classes()},
            tenants={tenant.key: tenant} if tenant else {},
            secrets=secrets,
            namespaces={namespace: view.namespace_labels(namespace)},
        ),
        compiler.CompileContext(
            keys=keys,
            now=view.time,
            previous=documents.Snapshot(
                {}, {destination.key: previous} if isinstance(previous, documents.DestinationDocument) else {}
            ),
        ),
        is_over_limit=lambda limit: view.is_over_limit(cached.key, limit),
    )
    if any(finding.reason is conditions.Reason.ClassNotPermitted for finding in findings):
        unreadable_class = _unreadable_class(view, cached.key)
        if unreadable_class is not None:
            findings = [
                msgspec.structs.replace(finding, missing=("ListenerClass", unreadable_class)) for finding in findings
            ]
        # listeners whose class is absent or unreadable keep their documents, and one that its class refuses keeps its
        # document while addresses retire; these documents need this one
        is_absent = unreadable_class is not None or "" in view.classes_using(cached.key)
        if is_absent or any(view.published(listener) for listener in view.listeners_using(cached.key)):
            return CompiledDocument(None, _not_missing(view, findings), (), is_blocked=True)
    if document is not None:
        document = msgspec.structs.replace(document, uid=cached.uid)
    return CompiledDocument(document, findings, tuple(secrets.unknown))


def _unreadable_class(view: View, destination: Key) -> str | None:
    """Name of a ListenerClass that this version cannot read, among those of the listeners with a route to it."""
    names = view.classes_using(destination)
    return next((name for name in sorted(names) if view.unreadable(Key("ListenerClass", "", name)) is not None), None)


def _tenant(view: View, namespace: str, name: str) -> resources.Tenant | UnreadableResource | None:
    key = Key("Tenant", namespace, name)
    cached = view.tenant(key.path)
    return cached.resource if cached else view.unreadable(key)


def _blocked(
    resource: resources.Listener | resources.Destination,
    tenant: str,
    interim: documents.ListenerDocument | None = None,
) -> CompiledDocument:
    """The result for a tenant that this version cannot read: it is not treated as gone."""
    message = f"Tenant `{tenant}` exists, but this version of Usher cannot read it; its conditions say why"
    reason = conditions.Reason.TenantNotFound
    finding = conditions.Finding(resource.kind_name, resource.key, "spec.tenantRef.name", reason, message)
    return CompiledDocument(interim, [finding], (), is_blocked=interim is None, interim=interim)


def _not_missing(view: View, findings: list[conditions.Finding]) -> list[conditions.Finding]:
    """The findings; one about a missing resource says so if the resource exists but cannot be read."""
    return [_is_there(finding) if _is_unreadable(view, finding.missing) else finding for finding in findings]


def _is_unreadable(view: View, missing: tuple[str, str] | None) -> bool:
    if missing is None:
        return False
    kind, path = missing
    namespace, _, name = path.rpartition("/")
    cached_kinds: tuple[Kind, ...] = ("ListenerClass", "Destination")
    return any(
        kind == cached_kind and view.unreadable(Key(cached_kind, namespace, name)) is not None
        for cached_kind in cached_kinds
    )


def _is_there(finding: conditions.Finding) -> conditions.Finding:
    kind, path = finding.missing or ("", "")
    message = f"{kind} `{path.rpartition('/')[2]}` exists, but this version of Usher cannot read it; its"
    return msgspec.structs.replace(finding, message=f"{message} conditions say why")


def _destinations(view: View, listener: resources.Listener) -> dict[str, resources.Destination]:
    destinations = {}
    for route in listener.spec.routes:
        path = f"{listener.metadata.namespace}/{route.destination_ref.name}"
        cached = view.destination(path)
        if cached is not None:
            destinations[path] = cached.resource
    return destinations


def _listeners(view: View, keys: Iterable[Key]) -> Iterator[CachedResource[resources.Listener]]:
    listeners = (view.listener(key.path) for key in keys)
    return (listener for listener in listeners if listener is not None)


def _claims(
    view: View,
    cached: CachedResource[resources.Listener],
    previous: documents.ListenerDocument | None,
    keys: model.Keys,
) -> hostnames.AddressClaims:
    """The owners of the hostnames that a listener names, and its addresses that other listeners have already."""
    listener = cached.resource
    hosts = {address.hostname for address in listener.spec.addresses if not view.is_reserved(address.hostname)}
    staying = {host for host in hosts if _is_alone_at(view, cached.key, host)}
    owners = {host: owner for host in sorted(hosts - staying) if (owner := _owner_of(view, host)) is not None}
    owners |= dict.fromkeys(staying, listener.owner)
    claims = hostnames.AddressClaims(
        owners, lambda namespace, hostname, limit: view.is_over_limit(Key("Hostname", namespace, hostname), limit)
    )
    fixed = {address.place for address in fixed_addresses(listener)}
    had = previous.addresses if previous else ()
    # Nobody may have a hostname without an owner, so nobody may have an address there.
    declared = (address for address in _declared_addresses(listener, keys) if address.host in owners)
    for address in (*declared, *had):
        if not view.is_reserved(address.host) and claims.may_keep(address, listener.owner):
            _take_before(view, cached, address, claims, is_fixed=address.place in fixed)
        if address.host in hosts and claims.may_have(address.host, listener.owner):
            _take_for_absent(view, listener, address, claims)
    return claims


def _is_alone_at(view: View, key: Key, host: str) -> bool:
    """True if only this listener's document has a hostname, perhaps for its former tenant. Then the hostname stays."""
    published = view.published(key)
    document = published.listener if published is not None else None
    is_holder = document is not None and host in document.own_hostnames and view.only_holder(host) == key
    return is_holder and versions.is_of_present_namespace(view, key)


def _owner_of(view: View, host: str) -> hostnames.Owner | None:
    """The tenant to which a hostname belongs; None if no listener may claim it.

    It belongs to the tenant that holds it, whatever others claim, so the claims are read only if that is not clear.
    """
    holders = view.holders(host)
    if len(holders) == 1:
        return next(iter(holders))
    if not holders:
        claims = (claimant.resource for claimant in _listeners(view, view.claimants(host)))
        return next((claim.owner for claim in claims if _can_claim(view, claim, host)), None)
    # only the status of the tenant that has the hostname shows it, also after somebody put back an older document
    confirmed = [holder for holder in view.shown_holders(host) if holder in holders]
    return confirmed[0] if len(confirmed) == 1 else _oldest_of(view, holders, host) or min(holders)


def _oldest_of(view: View, holders: Collection[hostnames.Owner], host: str) -> hostnames.Owner | None:
    """The holder with the oldest claim; None if no holder may claim the hostname."""
    claims = itertools.chain.from_iterable(_listeners(view, view.claimants_of(host, *holder)) for holder in holders)
    oldest = min(
        (claimant for claimant in claims if _can_claim(view, claimant.resource, host)),
        key=lambda claimant: claimant.age,
        default=None,
    )
    return oldest.resource.owner if oldest is not None else None


def contested_hostname(view: View, listener: resources.Listener) -> str:
    """A hostname for which tenants compete, and that a gateway may still serve for one of them; ``""`` if none.

    That is possible after a loss of config Secrets and statuses, until every gateway has said what it runs.
    """
    if view.reports.unheard == ():
        return ""
    hosts = sorted({address.hostname for address in listener.spec.addresses})
    return next((host for host in hosts if not view.holders(host) and _is_contested(view, listener, host)), "")


def _is_contested(view: View, listener: resources.Listener, host: str) -> bool:
    """True if a listener may claim a hostname, and another tenant's listener too."""
    if not _can_claim(view, listener, host):
        return False
    # the own namespace's claims too, because the oldest one hides those of its other tenants
    claims = itertools.chain(view.claimants(host), view.claimants_in(host, listener.metadata.namespace))
    others = (claimant.resource for claimant in _listeners(view, claims) if claimant.resource.owner != listener.owner)
    return any(_can_claim(view, other, host) for other in others)


def _can_claim(view: View, listener: resources.Listener, host: str) -> bool:
    """True if a listener is in an admitted namespace, with a tenant and a class that permits the hostname."""
    namespace, own_class = listener.metadata.namespace, view.our_class(listener.class_name)
    if own_class is None or _tenant(view, namespace, listener.spec.tenant_ref.name) is None:
        return False
    policy = hostnames.HostnamePolicy(
        spec=own_class.resource.spec,
        namespace_labels={**view.namespace_labels(namespace), types.NAMESPACE_LABEL: namespace},
        reserved=_ReservedHostnames(view),
    )
    return view.secret_access(namespace) != "Denied" and policy.can_claim(host)


def _declared_addresses(listener: resources.Listener, keys: model.Keys) -> Iterator[documents.Address]:
    """The addresses that a listener names, with its tokens."""
    for declared in listener.spec.addresses:
        yield from declared_addresses(listener, keys.install, declared)


def _take_before(
    view: View,
    cached: CachedResource[resources.Listener],
    address: documents.Address,
    claims: hostnames.AddressClaims,
    *,
    is_fixed: bool,
) -> None:
    """Give an address to the tenant's other listener that names it and comes first.

    If this listener does not name it any more (``is_fixed``), another one comes first once its own document has the
    address. Until then this listener's document keeps it, because a gateway reads one document after the other, and
    the address must be in one document while listeners swap their hostnames.
    """
    place = address.place
    mine = _precedence(view, cached, place)
    namespace, tenant = cached.resource.owner
    for other in _listeners(view, view.namers(address_path(namespace, address), tenant)):
        if other.uid == cached.uid or other.resource.owner != cached.resource.owner:
            continue
        is_first = _precedence(view, other, place) < mine if is_fixed else _serves(view, other, place)
        if is_first and _can_claim(view, other.resource, address.host):
            claims.take(address, other.resource.key)
            return


def _serves(view: View, cached: CachedResource[resources.Listener], place: documents.Place) -> bool:
    """True if a listener's published document has an address that is not retired."""
    document = _published(view, cached)
    return document is not None and any(address.place == place for address in document.live_addresses)


def _take_for_absent(
    view: View, listener: resources.Listener, address: documents.Address, claims: hostnames.AddressClaims
) -> None:
    """Leave an address to the tenant's listener that does not exist now and whose document is in force."""
    namespace, tenant = listener.owner
    for absent in view.absent_with(address_path(namespace, address), tenant):
        claims.take(address, absent.path)


def _published(view: View, cached: CachedResource[resources.Listener]) -> documents.ListenerDocument | None:
    """The document that is published under a listener's name, also if it is a former listener's."""
    published = view.published(cached.key)
    return published.listener if published is not None else None


def _precedence(
    view: View, cached: CachedResource[resources.Listener], place: documents.Place
) -> tuple[bool, tuple[str, str]]:
    """Lower comes first: a listener that is published with an address, else the oldest."""
    document = _published(view, cached)
    has_it = any(address.place == place for address in (document.addresses if document else ()))
    return not has_it, cached.age
