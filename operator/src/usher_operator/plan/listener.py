"""A Listener: its config Secret, the Secret with its URLs, and what is told of it."""

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions, types
from usher_operator import children
from usher_operator.plan import common, compiling, hostname, reports
from usher_operator.plan.conditions import ConditionBuilder, ConditionState, OperatorReason
from usher_operator.view import CachedResource, ConditionType, Key, Plan, StatusCondition, View

ADDRESSES_FIELD = "addresses"
"""In the status of a Listener: its addresses with shortened URLs."""

_Type = ConditionType
_KEPT = (
    _Type.ResolvedRefs,
    _Type.CertificateReady,
    _Type.Exposed,
    _Type.Programmed,
    _Type.Verified,
    _Type.Receiving,
    _Type.Quarantining,
    _Type.RoutesDegraded,
)


def plan(view: View, key: Key) -> Plan:
    """The plan of a Listener."""
    seen = view.listener(key.path)
    if seen is None:
        return common.absent(view, key, _KEPT)
    if compiling.is_foreign(view, seen.resource):
        return Plan(key)
    keys = common.keys_or_reason(view)
    if isinstance(keys, ConditionState):
        return common.held_plan(key, seen, keys, _KEPT)
    return _plan(view, key, seen, keys)


def _plan(view: View, key: Key, seen: CachedResource[resources.Listener], keys: model.Keys) -> Plan:
    builder = ConditionBuilder(seen.resource.metadata.generation, seen.conditions)
    compiled = compiling.compile_listener(view, seen, keys)
    published = common.publish(view, key, seen, compiled)
    document = _in_force(view, key, compiled, published)
    faces = _Faces.of(view, seen.resource, document)
    parts = builder.from_findings([*compiled.findings, *faces.findings], [_Type.Accepted, _Type.ResolvedRefs])
    parts[0] = published.accepted or parts[0]
    parts += faces.tell(builder)
    found = reports.programmed(view, key, published.wanted, builder)
    addresses = children.named_addresses(seen.resource, document, keys.install) if document else {}
    parts += [found.condition, *reports.of_listener(view, key.path, builder, has_url=bool(addresses))]
    urls = children.build_url_secret(seen, addresses, view.install.controller_name) if addresses else None
    shown = [
        {"name": name, "hostname": address.host, "url": documents.shorten_url(address.url)}
        for name, address in addresses.items()
    ]
    return Plan(
        key,
        None if published.stays else tuple(child for child in (published.child, urls) if child is not None),
        common.status(builder, parts, _told_suspended(view, seen, found, builder), fields={ADDRESSES_FIELD: shown}),
        is_behind=found.is_behind,
        again_at=found.again_at,
        unknown_secrets=(*compiled.unknown_secrets, *faces.unknown_secrets),
        granted=_granted(seen.resource, document) if published.child else (),
    )


def _granted(one: resources.Listener, document: documents.Listener | None) -> tuple[str, ...]:
    """The hostnames that a listener names and has."""
    named = {address.hostname for address in one.spec.addresses or ()}
    return tuple(sorted(named & {address.host for address in (document.addresses if document else ())}))


def _in_force(
    view: View, key: Key, compiled: compiling.CompiledDocument, published: common.Publication
) -> documents.Listener | None:
    """The document that gateways should run."""
    before = view.published(key) if published.stays else None
    document = before.document if before else compiled.document
    return document if isinstance(document, documents.Listener) else None


def _told_suspended(
    view: View, seen: CachedResource[resources.Listener], found: reports.Programmed, builder: ConditionBuilder
) -> str:
    """Why deliveries are held, as far as gateways have heard of it: what they do not run yet is not told."""
    before = builder.previous(_Type.Ready)
    if not found.is_behind or before is None:
        return suspended(view, seen.resource)
    return before.message if before.reason == OperatorReason.Suspended else ""


def suspended(view: View, one: resources.Listener) -> str:
    """Why deliveries are held; ``""`` where they are not."""
    if types.value_or_default(one.spec.state, "Listener.spec.state") == "Suspended":
        return "`state` is Suspended: visits are accepted, their deliveries held"
    tenant = view.tenant(f"{one.metadata.namespace}/{one.spec.tenant_ref.name}")
    if tenant and types.value_or_default(tenant.resource.spec.state, "Tenant.spec.state") == "Suspended":
        return "the Tenant's `state` is Suspended: visits are accepted, their deliveries held"
    return ""


class _Faces(msgspec.Struct, frozen=True):
    """How far the hostnames of a listener are."""

    certificate: ConditionState | None
    exposed: ConditionState | None
    """None: nothing can be told anew."""
    findings: list[conditions.Finding] = []
    unknown_secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, view: View, one: resources.Listener, document: documents.Listener | None) -> "_Faces":
        """Of every hostname that a document has."""
        own = compiling.our_class(view, one.class_name)
        if document is None or own is None:
            return cls(None, None)
        certificates, exposed, findings = [], [], []
        for host in dict.fromkeys(address.host for address in document.addresses):
            spec = (hostname.class_of(view, host) or own).resource.spec
            certificates.append(hostname.certificate_state(view, spec, host))
            exposed.append(hostname.exposed_state(view, spec, host))
            findings += hostname.unroutable(one, document, host, spec)
        unknown = dict.fromkeys(state.unknown_secret for state in certificates if state.unknown_secret)
        return cls(hostname.worst(certificates), hostname.worst(exposed), findings, tuple(unknown))

    def tell(self, builder: ConditionBuilder) -> list[StatusCondition]:
        """CertificateReady and Exposed."""
        if self.certificate is None or self.exposed is None:
            return common.kept(builder, (_Type.CertificateReady, _Type.Exposed))
        return [
            common.of_state(builder, _Type.CertificateReady, self.certificate),
            common.of_state(builder, _Type.Exposed, self.exposed),
        ]
