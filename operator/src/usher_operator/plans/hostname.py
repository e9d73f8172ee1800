"""A hostname: its Ingress or HTTPRoute, and its Certificate. Per hostname, not per listener (design §7)."""

from usher_gateway.resources import listener_class
from usher_operator import exposure, objects, world
from usher_operator.children import certificate, httproute, ingress, routing
from usher_operator.plans import common


def plan(view: world.World, key: objects.Key) -> objects.Plan:
    """The plan of a hostname: no status."""
    if common.held_back(view):
        return objects.Plan(key, None)
    found = exposure.class_of(view, key.name)
    if found is None:
        # what is published without a class stays as it is exposed
        return objects.Plan(key, None if view.listeners_at(key.name) else ())
    spec = found.resource.spec
    if exposure.exposure_type(spec) == "HTTPRoute" and not view.features.gateway_api:
        # the old way in stays, if there was one, until the new one can be had
        return objects.Plan(key, None)
    return objects.Plan(key, tuple(_children(view, key.name, spec)))


def _children(view: world.World, hostname: str, spec: listener_class.ListenerClassSpec) -> list[objects.Child]:
    is_wanted = hostname == spec.hostname or bool(view.listeners_at(hostname))
    if not is_wanted:
        return []
    tls = exposure.tls_of(spec, hostname)
    children = [_route(view, part, spec, tls.secret_name) for part in _parts(view, hostname, spec)]
    if tls.issuer is not None and view.features.cert_manager:
        children.append(certificate.build(hostname, tls.secret_name, tls.issuer, view.install))
    return children


def _parts(view: world.World, hostname: str, spec: listener_class.ListenerClassSpec) -> list[routing.Part]:
    if exposure.exposure_type(spec) == "None" or not routing.is_host_routable(hostname):
        return []
    if not exposure.is_by_path(spec):
        return routing.whole(hostname)
    documents = view.listeners_at(hostname)
    paths = (address.path for one in documents for address in one.addresses if address.host == hostname)
    return routing.by_path(hostname, paths)


def _route(
    view: world.World, part: routing.Part, spec: listener_class.ListenerClassSpec, secret_name: str
) -> objects.Child:
    match spec.exposure:
        case listener_class.Exposure(type="HTTPRoute", http_route=listener_class.HttpRoute(parent_ref=parent)):
            return httproute.build(part, parent, view.install)
        case _:
            return ingress.build(part, spec, secret_name, view)
