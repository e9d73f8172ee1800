"""Plans a Listener: its config Secret, the Secret with its URLs, and its status."""

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions
from usher_gateway.resources.conditions import Reason
from usher_gateway.resources.removal_limit import Removal
from usher_operator.plan import children, common, compiling, hostname, ownership, reports
from usher_operator.plan.common import ConditionBuilder, ConditionState
from usher_operator.state import child_labels
from usher_operator.state.values import (
    ADDRESSES_FIELD,
    CachedResource,
    ConditionType,
    Key,
    OperatorReason,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.state.view import View

_WAITS = (
    "the previous configuration stays in force while Usher checks whether it may take addresses out of service; if "
    "there are more of them than the removal limit allows, the ListenerClass says how to confirm it"
)

_Type = ConditionType
# Why a Listener has no document for now.
_CURABLE = {Reason.TenantNotFound, Reason.ClassNotFound, Reason.UnsupportedValue}

# Conditions besides Accepted on which Ready depends.
_NEEDED = (_Type.ResolvedRefs, _Type.CertificateReady, _Type.Exposed, _Type.Programmed)


def plan(view: View, key: Key) -> Plan:
    """The plan for a Listener."""
    cached = view.listener(key.path)
    if cached is None:
        return common.plan_absent(view, key, _NEEDED)
    if view.is_foreign_class(cached.resource.class_name):
        return Plan(key)  # no children: this install withdraws what it published before
    return common.plan_unpublished(view, key, cached, _NEEDED) or _plan(view, key, cached)


def _plan(view: View, key: Key, cached: CachedResource[resources.Listener]) -> Plan:
    assert view.keys is not None  # without them nothing is published
    builder = ConditionBuilder(cached.resource.metadata.generation, cached.conditions)
    contested = compiling.contested_hostname(view, cached.resource)
    if contested:
        return Plan(key, None, _awaits_gateways(view, contested, builder, cached))  # the children stay
    compiled = compiling.compile_listener(view, cached, view.keys)
    retiring = _retiring(view, key, cached, compiled)
    keeps_vanished = _keeps_vanished(view, cached, compiled)
    if keeps_vanished or _may_have_vanished(view, compiled, key):
        publication = common.leave(view, cached)
    elif view.may_retire(key, frozenset(retiring.addresses if retiring else ())):
        publication = common.publish(view, key, cached, compiled)
    else:
        publication = _unchanged(view, key, cached, compiled)
    document = publication.document if isinstance(publication.document, documents.ListenerDocument) else None
    hosts = _HostnameStates.of(view, cached.resource, document)
    parts = builder.from_findings([*compiled.findings, *hosts.findings], [_Type.Accepted, _Type.ResolvedRefs])
    parts[0] = publication.accepted or parts[0]
    name_taken = _name_taken(view, key, builder)
    if name_taken is not None and parts[0].status == "True":
        parts[0] = name_taken
    parts += hosts.conditions(builder)
    programmed = reports.programmed(view, key, publication.wanted, builder)
    addresses = children.named_addresses(cached, document, view.keys.install) if document else {}
    has_url_secret = bool(addresses) and name_taken is None
    status_addresses = [
        {"name": name, "hostname": address.host, "url": documents.shorten_url(address.url)}
        for name, address in addresses.items()
    ]
    to_paste = tuple(addresses.values()) if has_url_secret else ()
    is_unchanged = cached.fields.get(ADDRESSES_FIELD) == status_addresses
    if document is None and view.child_index.config_of(key) is None and _is_worse(compiled):
        status_addresses = cached.fields.get(ADDRESSES_FIELD) or []  # it keeps its hostnames
    parts.append(programmed.condition)
    own_hostnames = sorted(document.own_hostnames) if document else []  # the class has the condition for its own
    parts += reports.reachable(view, own_hostnames, builder)
    parts += reports.of_listener(view, key.path, builder, to_paste, is_unchanged=is_unchanged)
    parts += reports.address_retired(view, key.path, document, builder) if document else []
    urls = children.build_url_secret(cached, addresses, view.settings.controller_name) if has_url_secret else None
    return Plan(
        key,
        None if publication.stays else tuple(child for child in (publication.child, urls) if child is not None),
        builder.status(
            parts, _reported_suspension(view, cached, programmed, builder), fields={ADDRESSES_FIELD: status_addresses}
        ),
        is_behind=programmed.is_behind,
        again_at=_again_at(view, document, programmed),
        unknown_secrets=(*compiled.unknown_secrets, *hosts.unknown_secrets),
        retiring=retiring,
        ending=Removal("RetiredAddress", key.namespace, key.name, compiled.ended, cached.uid)
        if compiled.ended
        else None,
        keeps_vanished=keeps_vanished,
        granted=_granted(cached.resource, document) if publication.child else (),
    )


def _may_have_vanished(view: View, compiled: compiling.CompiledDocument, key: Key) -> bool:
    """True if a document without its credential would be published before the gateways said whether they have it."""
    is_unpublished = view.published(key) is None and compiled.document is not None
    return view.reports.unheard != () and is_unpublished and compiling.lacks_credential(compiled.findings)


def _awaits_gateways(
    view: View, hostname: str, builder: ConditionBuilder, cached: CachedResource[resources.Listener]
) -> ResourceStatus | None:
    """The status while a gateway may still serve a contested hostname; None before they were asked: it stays."""
    if view.reports.unheard is None:
        return None
    message = (
        f"several tenants claim `{hostname}`, and a gateway may still serve it for one of them: gateway "
        f"{view.reports.unheard[0]} must be ready and answer the operator, or be deleted if it never comes back"
    )
    accepted = builder.pending(_Type.Accepted, message)
    return builder.status([accepted, *builder.all_kept(_NEEDED)], fields=dict(cached.fields))


def _keeps_vanished(
    view: View, cached: CachedResource[resources.Listener], compiled: compiling.CompiledDocument
) -> bool:
    """True if gateways run a document of the same Tenant whose Secret is gone, and the new one is worse for now.

    That happens while a cluster is made again from Git, and a Tenant, a class or a credential comes late.
    """
    listener = cached.resource
    own_class = view.our_class(listener.class_name)
    if own_class is not None and not ownership.is_permitted(view, own_class, listener.metadata.namespace):
        return False
    return view.reports.vanished_tenant(cached.key) == listener.spec.tenant_ref.name and _is_worse(compiled)


def _is_worse(compiled: compiling.CompiledDocument) -> bool:
    """True if a Listener lacks what may come late, so that a former document is better than the new one."""
    if compiled.document is not None:
        return compiling.lacks_credential(compiled.findings)
    return any(finding.reason in _CURABLE for finding in compiled.findings if finding.severity == "error")


def _again_at(view: View, document: documents.ListenerDocument | None, programmed: reports.Programmed) -> int | None:
    """When to plan again: while an address is retired at least once an hour, because it ends without any event."""
    if document is None or not document.retired_addresses:
        return programmed.again_at
    hour = view.now + model.HOUR
    return hour if programmed.again_at is None else min(hour, programmed.again_at)


def _retiring(
    view: View, key: Key, cached: CachedResource[resources.Listener], compiled: compiling.CompiledDocument
) -> Removal | None:
    """The addresses that the newest version takes out of service; None if it takes none."""
    published, newest = view.published(key), compiled.document
    if published is None or published.listener is None or not isinstance(newest, documents.ListenerDocument):
        return None
    leaving = tuple(address.id for address in documents.retiring_addresses(published.listener, newest, view.time))
    if not leaving:
        return None
    return Removal("Address", key.namespace, key.name, leaving, cached.uid, published.version)


def _unchanged(
    view: View, key: Key, cached: CachedResource[resources.Listener], compiled: compiling.CompiledDocument
) -> common.Publication:
    """Take no address out of service, because that was not allowed yet."""
    if compiled.interim is None:
        publication = common.leave(view, cached)
    else:
        publication = common.publish(view, key, cached, msgspec.structs.replace(compiled, document=compiled.interim))
    if publication.wanted is None:
        return publication
    return msgspec.structs.replace(
        publication, wanted=msgspec.structs.replace(publication.wanted, why_last_good=_WAITS)
    )


def _name_taken(view: View, key: Key, builder: ConditionBuilder) -> StatusCondition | None:
    """The condition if a Secret with the URL Secret's name exists that the operator did not write."""
    name = child_labels.url_secret_name(key.name)
    path = f"{key.namespace}/{name}"
    is_own = any(child.ref.kind == "Secret" and child.ref.name == name for child in view.children(key))
    if is_own or (view.secret(path) is None and view.secret_state(path) != "NotLabelled"):
        return None
    message = (
        f"Usher writes the URL into the Secret `{name}`, but a Secret of this name exists that is not Usher's; it does "
        "not contain the URL and is left alone: delete it, or give the Listener another name"
    )
    return builder.false(_Type.Accepted, OperatorReason.SecretNameTaken, message)


def _granted(listener: resources.Listener, document: documents.ListenerDocument | None) -> tuple[str, ...]:
    """The hostnames that a listener names and that its document has."""
    hosts = {address.hostname for address in listener.spec.addresses}
    return tuple(sorted(hosts & {address.host for address in (document.live_addresses if document else ())}))


def _reported_suspension(
    view: View,
    cached: CachedResource[resources.Listener],
    programmed: reports.Programmed,
    builder: ConditionBuilder,
) -> str:
    """Why deliveries are held. While gateways do not all run the document, the status keeps the previous answer."""
    previous_ready = builder.previous(_Type.Ready)
    if not programmed.is_behind or previous_ready is None:
        return suspension(view, cached.resource)
    return previous_ready.message if previous_ready.reason == OperatorReason.Suspended else ""


def suspension(view: View, listener: resources.Listener) -> str:
    """Why a listener's deliveries are held; ``""`` if they are not."""
    if listener.spec.state == "Suspended":
        return "`state` is Suspended: visits are accepted and their deliveries are held"
    tenant = view.tenant(f"{listener.metadata.namespace}/{listener.spec.tenant_ref.name}")
    if tenant and tenant.resource.spec.state == "Suspended":
        return "the Tenant's `state` is Suspended: visits are accepted and their deliveries are held"
    return ""


def _write_state(view: View, host: str) -> ConditionState | None:
    """Why a hostname's route and certificate are not as planned; None if they were written."""
    failure = view.write_failure(Key("Hostname", "", host))
    blocked = common.blocked_write(failure)
    if failure is None or blocked is not None:
        return blocked
    if failure.cause == "NameTaken":
        message = (
            f"the route or the certificate of `{host}` is not written, because an object that is not this hostname's "
            f"has its name ({failure.error}); the platform's owner must delete that object"
        )
        return ConditionState("False", OperatorReason.ObjectNameTaken, message)
    return ConditionState("Unknown", common.PENDING, f"`{host}` could not be exposed yet: {failure.error}")


class _HostnameStates(msgspec.Struct, frozen=True):
    """The worst state among one listener's hostnames."""

    certificate: ConditionState | None
    exposed: ConditionState | None
    """None: without a document or a class, the stored conditions stay."""
    findings: list[conditions.Finding] = []
    unknown_secrets: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, view: View, listener: resources.Listener, document: documents.ListenerDocument | None
    ) -> "_HostnameStates":
        """The states for every hostname in a document."""
        own_class = view.our_class(listener.class_name)
        if document is None or own_class is None:
            return cls(None, None)
        certificates, exposed, findings = [], [], []
        for host in dict.fromkeys(address.host for address in document.live_addresses):
            spec = (hostname.class_of(view, host) or own_class).resource.spec
            certificates.append(hostname.certificate_state(view, spec, host))
            exposed.append(_write_state(view, host) or hostname.exposed_state(view, spec, host))
            findings += hostname.unroutable(listener, document, host, spec)
        unknown = dict.fromkeys(state.unknown_secret for state in certificates if state.unknown_secret)
        return cls(hostname.worst(certificates), hostname.worst(exposed), findings, tuple(unknown))

    def conditions(self, builder: ConditionBuilder) -> list[StatusCondition]:
        """CertificateReady and Exposed."""
        if self.certificate is None or self.exposed is None:
            return builder.kept((_Type.CertificateReady, _Type.Exposed))
        return [
            builder.from_state(_Type.CertificateReady, self.certificate),
            builder.from_state(_Type.Exposed, self.exposed),
        ]
