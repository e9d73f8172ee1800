"""Says which published document is an object's previous version. Pure.

An object is what has one uid. Its name may be made again: for another tenant, by another agency in a namespace that was
deleted and made again, or for the same tenant, as a cluster rebuild does, which gives every object a new uid.

- The same object's document is its previous version, with its URL, its credentials and its addresses.
- A Listener that was made again for its tenant keeps its addresses and the credential that Purple sends. Until it is
  valid itself, its deliveries are held, so that nothing is sent by the former routes.
- Any other document is somebody else's. It may stay in force until the removal guard lets it go, but nothing from it
  gets into a new document.

A document has its Destination's uid, and a route has the uid of the Destination that it means. A gateway holds
deliveries where the two differ. So a Listener whose removal is halted sends nothing to a Destination that somebody made
again, and a new Listener sends nothing to a Destination whose removal is halted, whichever document a gateway reads
first.
"""

from typing import Any

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources.listener_document import routes_of
from usher_operator.state.values import CachedResource, Key, PublishedDocument, path_key
from usher_operator.state.view import View

_NOT_VALID_YET = 0  # Generation in the document of a Listener that was made again, until it is valid


def own_version(view: View, cached: CachedResource[Any]) -> PublishedDocument | None:
    """This very object's published document."""
    published = view.published(cached.key)
    if published is None or published.owner.uid != cached.uid:
        return None
    # another namespace has the name if the operator saw the new one after it had published the document
    return published if is_of_present_namespace(view, cached.key) else None


def interim_version(view: View, cached: CachedResource[resources.Listener]) -> documents.ListenerDocument | None:
    """The document for a Listener that was made again for its tenant, while it is not valid; None for any other one."""
    listener, published = cached.resource, view.published(cached.key)
    document = published.listener if published is not None else None
    if published is None or document is None:
        return None
    if own_version(view, cached) is not None:
        is_made_again = document.generation == _NOT_VALID_YET
    else:
        is_made_again = published.owner.namespace_uid == view.namespace_uid(listener.metadata.namespace)
    if not is_made_again or document.tenant.name != listener.spec.tenant_ref.name:
        return None
    return hold(msgspec.structs.replace(document, routes=routes_of(listener)))


def hold(document: documents.ListenerDocument) -> documents.ListenerDocument:
    """The document with deliveries held until the Listener, which was made again, is valid."""
    return msgspec.structs.replace(document, generation=_NOT_VALID_YET, state="Suspended")


def is_of_present_namespace(view: View, key: Key) -> bool:
    """False if a name's published document comes from a namespace that was deleted and made again since."""
    published = view.published(key)
    return published is None or published.owner.namespace_uid in {"", view.namespace_uid(key.namespace)}


def bind_routes(
    view: View, document: documents.ListenerDocument, own: documents.ListenerDocument | None
) -> documents.ListenerDocument:
    """Return a document whose routes have their Destinations' uids.

    If a Destination is absent, the Listener that used it until now (``own``) stays bound to it, because its removal may
    be halted.
    """
    used = {route.destination: route.destination_uid for route in own.routes} if own is not None else {}
    uids = {path: _uid_of(view, path) or used.get(path, msgspec.UNSET) for path in _destinations(document)}
    routes = [msgspec.structs.replace(route, destination_uid=uids[route.destination]) for route in document.routes]
    return msgspec.structs.replace(document, routes=tuple(routes))


def _destinations(document: documents.ListenerDocument) -> dict[str, None]:
    return dict.fromkeys(route.destination for route in document.routes)


def _uid_of(view: View, path: str) -> str:
    """A Destination's uid, also if this version cannot read it; ``""`` if it is absent."""
    destination = view.destination(path) or view.unreadable(path_key("Destination", path))
    return destination.uid if destination is not None else ""
