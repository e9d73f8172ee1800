"""Builds the documents that a few manifests would bring into force, over those that are in force. Pure.

The manifests may lack what a gateway in a cluster does not have either: the ListenerClass and the Secrets. So a
listener keeps the addresses, credentials and maximums that it has, and no document of an overlay has a credential. That
is enough to evaluate routes on stored visits, and to make the documents that they would send.
"""

from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import compiler, conditions, types
from usher_gateway.resources.destination_document import destination_document
from usher_gateway.resources.listener_document import check_listener, listener_document
from usher_gateway.resources.secret import SecretResolver
from usher_gateway.resources.tenant import check_tenant, tenant_document

_SECRET = "secret"  # noqa: S105 - a placeholder for every value of a Secret


class Overlay(msgspec.Struct, frozen=True):
    """The documents in force, without credentials, and those that the manifests would make of them."""

    in_force: documents.Snapshot
    changed: documents.Snapshot
    findings: tuple[conditions.Finding, ...]  # The mistakes. With any of them, `changed` lacks documents.
    changed_listeners: tuple[str, ...]
    """The listeners whose document, or one of whose destinations, would change."""


class _PlaceholderResolver(SecretResolver):
    """Gives a placeholder for every value, because no Secret is known."""

    def text(self, ref: types.SecretKeyRef, path: str) -> str:  # noqa: ARG002 - the base's
        return _SECRET

    def document(self, ref: types.SecretKeyRef, path: str) -> str:  # noqa: ARG002
        return ""

    def basic(self, ref: types.SecretRef, path: str) -> str:  # noqa: ARG002
        return f"Basic {_SECRET}"


def overlay_documents(in_force: documents.Snapshot, objects: Iterable[resources.Resource]) -> Overlay:
    """Lay Tenants, Listeners and Destinations over the documents in force. Other objects change nothing."""
    destinations = {key: _without_credentials(document) for key, document in in_force.destinations.items()}
    base = documents.Snapshot(in_force.listeners, destinations)
    declared = compiler.collect(objects, {})
    findings = [finding for tenant in declared.tenants.values() for finding in check_tenant(tenant)]
    tenants = {key: tenant_document(tenant) for key, tenant in declared.tenants.items()}
    listeners = {
        key: msgspec.structs.replace(document, tenant=tenants[document.tenant_key])
        if document.tenant_key in tenants
        else document
        for key, document in in_force.listeners.items()
    }
    known_tenants = {document.tenant_key: document.tenant for document in in_force.listeners.values()} | tenants
    for key, listener in declared.listeners.items():
        findings += check_listener(listener)
        tenant = known_tenants.get("/".join(listener.owner))
        if tenant is None:
            message = f"Tenant `{listener.owner[1]}` is neither in force nor among the manifests"
            reason = conditions.Reason.TenantNotFound
            findings.append(conditions.finding(listener, "spec.tenantRef.name", reason, message))
        elif not conditions.has_errors(findings):
            listeners[key] = _bound(_listener(listener, tenant, in_force.listeners.get(key)), destinations)
    changed_destinations = dict(destinations)
    for key, destination in declared.destinations.items():
        resolver = _PlaceholderResolver({}, destination.identity, require_label=False)
        document, own_findings = destination_document(destination, resolver, None, 0)
        findings += own_findings
        if document is not None:
            changed_destinations[key] = _in_place_of(destinations.get(key), _without_credentials(document))
    changed = documents.Snapshot(listeners, changed_destinations)
    errors = tuple(finding for finding in findings if finding.severity == "error")
    return Overlay(base, changed, errors, tuple(sorted(_changed_listeners(base, changed))))


def _changed_listeners(in_force: documents.Snapshot, changed: documents.Snapshot) -> Iterable[str]:
    destinations = documents.changed(in_force.destinations, changed.destinations)
    listeners = documents.changed(in_force.listeners, changed.listeners)
    for key, document in changed.listeners.items():
        if key in listeners or any(route.destination in destinations for route in document.routes):
            yield key


def _listener(
    listener: resources.Listener, tenant: documents.TenantDocument, current: documents.ListenerDocument | None
) -> documents.ListenerDocument:
    """Return a listener's document, with what depends on its class and its Secrets as in ``current``."""
    document = listener_document(
        listener,
        tenant=tenant,
        addresses=current.addresses if current is not None else (),
        authentication=current.authentication if current is not None else documents.Authentication(),
        class_spec=compiler.IMPLICIT_CLASS,
        trusted_proxies=(),
    )
    if current is None:
        return document
    return msgspec.structs.replace(
        document,
        generation=current.generation,
        client_address_from=current.client_address_from,
        trusted_proxies=current.trusted_proxies,
        max_body_bytes=current.max_body_bytes,
        requests_per_second=current.requests_per_second,
        max_stored_bytes=current.max_stored_bytes,
    )


def _bound(
    document: documents.ListenerDocument, destinations: Mapping[str, documents.DestinationDocument]
) -> documents.ListenerDocument:
    """Return a document whose routes mean the destinations that are in force, and else the manifests'."""
    uids = {key: destination.uid for key, destination in destinations.items()}
    routes = tuple(
        msgspec.structs.replace(route, destination_uid=uids.get(route.destination, msgspec.UNSET))
        for route in document.routes
    )
    return msgspec.structs.replace(document, routes=routes)


def _without_credentials(document: documents.DestinationDocument) -> documents.DestinationDocument:
    variables = tuple(
        msgspec.structs.replace(variable, secret=_SECRET if variable.secret else "")
        for variable in document.url_variables
    )
    return msgspec.structs.replace(
        document, url_variables=variables, headers=(), oauth2=None, tls=None, signing_secrets=()
    )


def _in_place_of(
    current: documents.DestinationDocument | None, document: documents.DestinationDocument
) -> documents.DestinationDocument:
    """Return a document that lacks the Secrets that the present one lacks."""
    if current is None:
        return document
    return msgspec.structs.replace(
        document,
        uid=current.uid,
        generation=current.generation,
        unresolved=current.unresolved,
        missing=current.missing,
    )
