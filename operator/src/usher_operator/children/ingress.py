"""The Ingress of a hostname."""

from typing import Any

from usher_gateway.resources import listener_class
from usher_operator.children import identity, routing
from usher_operator.view import DesiredChild, Install, Key, View

API_VERSION = "networking.k8s.io/v1"
"""Of every Ingress and IngressClass."""

_BODY_SIZE = "9m"
"""Over the 8 MiB that the gateway takes: what is too large is refused by the gateway, whose answer Purple knows."""

_SECONDS = 15
"""Over the 10 s after which Purple gives up: the gateway has answered by then."""

CONTROLLERS: dict[str, dict[str, str]] = {
    "k8s.io/ingress-nginx": {
        "nginx.ingress.kubernetes.io/proxy-body-size": _BODY_SIZE,
        "nginx.ingress.kubernetes.io/proxy-read-timeout": f"{_SECONDS}",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": f"{_SECONDS}",
    },
    "nginx.org/ingress-controller": {
        "nginx.org/client-max-body-size": _BODY_SIZE,
        "nginx.org/proxy-read-timeout": f"{_SECONDS}s",
        "nginx.org/proxy-send-timeout": f"{_SECONDS}s",
    },
    "haproxy-ingress.github.io/controller": {
        "haproxy-ingress.github.io/proxy-body-size": _BODY_SIZE,
        "haproxy-ingress.github.io/timeout-server": f"{_SECONDS}s",
    },
    "projectcontour.io/ingress-controller": {"projectcontour.io/response-timeout": f"{_SECONDS}s"},
}
"""``spec.controller`` of an IngressClass -> annotations for body size and time-outs, as each one's documentation names
them. Traefik, HAProxy Technologies' controller, AWS, GKE: no limit of the body, or none that an Ingress can set."""


def build(part: routing.Part, spec: listener_class.ListenerClassSpec, secret_name: str, view: View) -> DesiredChild:
    """The Ingress. ``secret_name``: of the certificate; ``""``: something else terminates TLS."""
    given = (spec.exposure and spec.exposure.ingress) or listener_class.Ingress()
    install = view.install
    class_name = given.class_name or view.features.default_ingress_class
    key = Key("Hostname", "", part.hostname)
    manifest: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Ingress",
        "metadata": {
            "name": part.name,
            "namespace": install.data_plane_namespace,
            "labels": identity.labels(install.controller_name),
            "annotations": {
                **CONTROLLERS.get(view.features.ingress_classes.get(class_name, ""), {}),
                **(given.annotations or {}),
                **identity.annotations(key),
            },
        },
        "spec": {"rules": [{"host": part.hostname, "http": {"paths": _paths(part, install)}}]},
    }
    if given.class_name:
        manifest["spec"]["ingressClassName"] = given.class_name
    if secret_name:
        manifest["spec"]["tls"] = [{"hosts": [part.hostname], "secretName": secret_name}]
    return identity.finish(manifest)


def _paths(part: routing.Part, install: Install) -> list[dict[str, Any]]:
    backend = {"service": {"name": install.service_name, "port": {"number": install.service_port}}}
    if part.paths is None:
        return [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return [{"path": path, "pathType": "Exact", "backend": backend} for path in part.paths]
