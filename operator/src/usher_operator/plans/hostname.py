"""A hostname: its Ingress or HTTPRoute, and its Certificate. Per hostname, not per listener (design §7)."""

from usher_gateway.resources import listener_class
from usher_operator import exposure
from usher_operator.children import certificate, httproute, ingress, routing
from usher_operator.plans import common
from usher_operator.view import DesiredChild, Key, ObjectRef, Plan, View

_ROUTES = frozenset({"Ingress", "HTTPRoute"})


def plan(view: View, key: Key) -> Plan:
    """The plan of a hostname: no status."""
    if common.held_back(view):
        return Plan(key, None)
    found = exposure.class_of(view, key.name)
    if found is None:
        # what is published without a class stays as it is exposed
        return Plan(key, None if view.listeners_at(key.name) else ())
    spec = found.resource.spec
    if exposure.exposure_type(spec) == "HTTPRoute" and not view.features.gateway_api:
        # the old way in stays, if there was one, until the new one can be had
        return Plan(key, None)
    wanted = tuple(_children(view, key.name, spec))
    return Plan(key, wanted, staying=_old_way_in(view, key, wanted, spec))


def _old_way_in(
    view: View, key: Key, wanted: tuple[DesiredChild, ...], spec: listener_class.ListenerClassSpec
) -> tuple[ObjectRef, ...]:
    """What leads to the hostname by another kind of route than is wanted now; it stays until the new one leads there.

    Its certificate stays with it.
    """
    kinds = {child.ref.kind for child in wanted} & _ROUTES
    others = {child.ref for child in view.children(key)} - {child.ref for child in wanted}
    if not kinds or all(ref.kind in kinds or ref.kind not in _ROUTES for ref in others):
        return ()
    if exposure.exposed_state(view, spec, key.name).status == "True":
        return ()
    return tuple(sorted(ref for ref in others if ref.kind not in kinds))


def _children(view: View, hostname: str, spec: listener_class.ListenerClassSpec) -> list[DesiredChild]:
    is_wanted = hostname == spec.hostname or bool(view.listeners_at(hostname))
    if not is_wanted:
        return []
    tls = exposure.tls_of(spec, hostname)
    children = [_route(view, part, spec, tls.secret_name) for part in _parts(view, hostname, spec)]
    if tls.issuer is not None and view.features.cert_manager:
        children.append(certificate.build(hostname, tls.secret_name, tls.issuer, view.install))
    return children


def _parts(view: View, hostname: str, spec: listener_class.ListenerClassSpec) -> list[routing.Part]:
    if exposure.exposure_type(spec) == "None" or not routing.is_host_routable(hostname):
        return []
    if not exposure.is_by_path(spec):
        return routing.whole(hostname)
    documents = view.listeners_at(hostname)
    paths = (address.path for one in documents for address in one.addresses if address.host == hostname)
    return routing.by_path(hostname, paths)


def _route(view: View, part: routing.Part, spec: listener_class.ListenerClassSpec, secret_name: str) -> DesiredChild:
    match spec.exposure:
        case listener_class.Exposure(type="HTTPRoute", http_route=listener_class.HttpRoute(parent_ref=parent)):
            return httproute.build(part, parent, view.install)
        case _:
            return ingress.build(part, spec, secret_name, view)
