"""Builds what the operator writes: config Secrets, URL Secrets, Ingresses, HTTPRoutes and Certificates. Pure.

Every child carries the labels ``usher.dev/managed`` and ``usher.dev/install`` and the annotations ``usher.dev/owner``,
``usher.dev/owner-kind`` and ``usher.dev/desired``; a resource's child also carries that resource's uid. No child
carries ``app.kubernetes.io/instance``, because GitOps tools would take the child for their own.
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import config_secret, documents, resources
from usher_gateway.resources import listener_class, types
from usher_gateway.resources.listener_document import CLASS_ADDRESS, token_addresses
from usher_operator.settings import OperatorSettings
from usher_operator.state import child_labels
from usher_operator.state.values import (
    ADDRESSES_FIELD,
    CachedResource,
    ClusterFeatures,
    DesiredChild,
    Key,
    ObjectRef,
)


def finish(manifest: dict[str, Any]) -> DesiredChild:
    """Add a manifest's hash as an annotation, and return the child."""
    meta = manifest["metadata"]
    desired = hashlib.sha256(msgspec.json.encode(manifest, order="deterministic")).hexdigest()
    noted = {**meta["annotations"], config_secret.DESIRED_ANNOTATION: desired}
    ref = ObjectRef(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])
    return DesiredChild(ref, {**manifest, "metadata": {**meta, "annotations": noted}}, desired)


def build_config_secret(envelope: config_secret.Envelope, settings: OperatorSettings, name: str = "") -> DesiredChild:
    """The Secret that holds a document or a tombstone, as gateways read it.

    ``name``: name of the config Secret that a tombstone replaces; ``""``: a document's usual name.

    Raises:
        DocumentTooLargeError: the document does not fit into a Secret.
    """
    owner = envelope.owner
    key = Key(envelope.kind, owner.namespace, owner.name)
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name or config_secret.secret_name(envelope.kind, owner.key),
            "namespace": settings.configuration_namespace,
            "labels": config_secret.labels(settings.controller_name, owner.uid),
            "annotations": child_labels.annotations(key),
        },
        "type": config_secret.secret_type(envelope.kind),
        "data": config_secret.secret_data(envelope),
    }
    return finish(manifest)


def build_mark(settings: OperatorSettings, listeners: int) -> DesiredChild:
    """The Secret that marks the end of the first pass, with the number of Listeners that have a document.

    It is no document, so no key owns it.
    """
    name = config_secret.mark_name(settings.install_label)
    labels, namespace = {config_secret.CONFIG_LABEL: "true"}, settings.configuration_namespace
    annotations = {config_secret.LISTENERS_ANNOTATION: str(listeners)}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    return finish({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"})


def build_url_secret(
    cached: CachedResource[resources.Listener], addresses: dict[str, documents.Address], controller_name: str
) -> DesiredChild:
    """The Secret ``<listener>-url`` with the whole URLs, which are credentials.

    Its entry ``url`` holds the first URL; each URL is also in an entry ``<address>.url``.
    """
    meta = cached.resource.metadata
    key = Key("Listener", meta.namespace, meta.name)
    urls = [address.url for address in addresses.values()]
    data = {"url": urls[0], **{f"{name}.url": url for name, url in zip(addresses, urls, strict=True)}}
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": child_labels.url_secret_name(meta.name),
            "namespace": meta.namespace,
            "labels": {**child_labels.labels(controller_name, cached.uid), types.WATCH_LABEL: child_labels.URL_VALUE},
            "annotations": child_labels.annotations(key),
            "ownerReferences": [
                {
                    "apiVersion": cached.resource.api_version,
                    "kind": "Listener",
                    "name": meta.name,
                    "uid": cached.uid,
                    "controller": True,
                }
            ],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(url.encode()).decode("ascii") for name, url in data.items()},
    }
    return finish(manifest)


def named_addresses(
    cached: CachedResource[resources.Listener], document: documents.ListenerDocument, install_key: bytes
) -> dict[str, documents.Address]:
    """The addresses to paste into the portal: one for each declared address that the document has.

    Addresses with older tokens that the gateway still accepts are left out. If the document has retired addresses
    alone, because an edit was refused, these are the ones that the status showed before.
    """
    listener = cached.resource
    if not document.live_addresses:
        return _shown_before(cached, document)
    token = token_addresses(listener, install_key, "")[0].path
    if not listener.spec.addresses:
        return dict(zip((CLASS_ADDRESS,), document.live_addresses, strict=False))
    live = {(address.host, address.path, address.query): address for address in document.live_addresses}
    by_name = {}
    for declared in listener.spec.addresses:
        address = live.get((declared.hostname, declared.path or token, declared.query_pairs))
        if address is not None:
            by_name[declared.name] = address
    return by_name


def _shown_before(
    cached: CachedResource[resources.Listener], document: documents.ListenerDocument
) -> dict[str, documents.Address]:
    """A document's addresses that the stored status shows, by their names."""
    by_url: dict[str, documents.Address] = {}
    for address in document.addresses:
        by_url.setdefault(documents.shorten_url(address.url), address)  # the newest is first
    entries = [entry for entry in cached.fields.get(ADDRESSES_FIELD) or () if isinstance(entry, dict)]
    return {entry["name"]: by_url[entry["url"]] for entry in entries if entry.get("url") in by_url and "name" in entry}


MAX_PATHS_PER_ROUTE = 64  # Most paths in one object. Source: gateway-api, HTTPRouteRule.matches has at most 64 items.

# Characters that a path may contain without percent-encoding. Source: RFC 3986, section 3.3. A route has no
# percent-encoding, because some controllers decode it into their own configuration, and others compare the path with
# the request's decoded path, which never matches.
_ROUTABLE_PATH = re.compile(r"/[-A-Za-z0-9._~!$&'()*+,;=:@/]*")

# Sequences that neither an Ingress nor an HTTPRoute accepts in an exact path. Source: Kubernetes' validation of Ingress
# and the HTTPPathMatch rules.
_FORBIDDEN = re.compile(r"//|/\.\.?(/|$)")


class RoutePart(msgspec.Struct, frozen=True):
    """The part of a hostname that one Ingress or HTTPRoute routes."""

    name: str
    hostname: str
    paths: tuple[str, ...] = ()
    """Exact paths, sorted."""
    prefix: str = ""
    """Every path below it is routed; ``""`` means only the exact paths."""


# Base32 characters. They carry 130 bits, so that a search for two hostnames with the same name is hopeless.
_NAME_HASH_LENGTH = 26


def object_name(hostname: str) -> str:
    """Name for a hostname's objects: readable, unique by a hash, and short enough for a label with a suffix."""
    readable = re.sub(r"[^a-z0-9]+", "-", hostname)[:20].strip("-")
    digest = base64.b32encode(hashlib.sha256(hostname.encode()).digest()).decode("ascii").lower()
    return f"usher-{readable}-{digest[:_NAME_HASH_LENGTH]}"


def split_by_path(hostname: str, paths: Iterable[str]) -> list[RoutePart]:
    """The parts that route a hostname's token prefix and exact paths (``scope: Path``).

    An exact path's hash chooses its part. A part that exceeds its limit is divided by the hash's next bit, so
    that a new listener changes one part, and paths that somebody chose for their hashes divide no other part.
    """
    paths = set(paths)
    exact_paths = {path for path in paths if is_path_routable(path) and not path.startswith(documents.TOKEN_PREFIX)}
    name = object_name(hostname)
    hashed = [(_digest(path), path) for path in sorted(exact_paths)]
    exact = [RoutePart(f"{name}-{number:x}", hostname, part) for number, part in _divide(hashed)]
    has_token = any(path.startswith(documents.TOKEN_PREFIX) for path in paths)
    return [RoutePart(f"{name}-v1", hostname, prefix=documents.TOKEN_PREFIX), *exact] if has_token else exact


def _divide(hashed: Sequence[tuple[int, str]], number: int = 1) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield path parts, with their numbers: a part is divided into those with twice its number, and one more."""
    if len(hashed) <= MAX_PATHS_PER_ROUTE:
        if hashed:
            yield number, tuple([path for _, path in hashed])
        return
    bit = number.bit_length() - 1
    for value in (0, 1):
        yield from _divide([pair for pair in hashed if pair[0] >> bit & 1 == value], 2 * number + value)


def is_path_routable(path: str) -> bool:
    """True if an Ingress or HTTPRoute accepts an exact path."""
    return bool(_ROUTABLE_PATH.fullmatch(path)) and not _FORBIDDEN.search(path)


def is_host_routable(hostname: str) -> bool:
    """True if an Ingress or HTTPRoute accepts a hostname. Neither accepts an IP address."""
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return True
    return False


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")


def _child_of_hostname(  # noqa: PLR0917 - the fields of an object in their order
    api_version: str,
    kind: str,
    name: str,
    hostname: str,
    spec: dict[str, Any],
    settings: OperatorSettings,
    notes: Mapping[str, str] = {},
) -> DesiredChild:
    """A child in the data plane's namespace. ``notes``: annotations besides those that every child has."""
    metadata = {
        "name": name,
        "namespace": settings.data_plane_namespace,
        "labels": child_labels.labels(settings.controller_name),
        "annotations": {**notes, **child_labels.annotations(Key("Hostname", "", hostname))},
    }
    return finish({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})


_INGRESS_API = "networking.k8s.io/v1"  # Of every Ingress and IngressClass

# More than the 8 MiB that the gateway accepts, so that the gateway rejects a large body itself, in the way that Purple
# expects.
_BODY_SIZE = "9m"

_INGRESS_SECONDS = 15  # More than the 10 s after which Purple gives up, because the gateway has answered by then

# Annotations for body size and timeouts, by the IngressClass's `spec.controller`; each controller documents its own.
# Traefik, HAProxy Technologies' controller, AWS and GKE have no body limit, or none that an Ingress can set.
INGRESS_ANNOTATIONS: dict[str, dict[str, str]] = {
    "k8s.io/ingress-nginx": {
        "nginx.ingress.kubernetes.io/proxy-body-size": _BODY_SIZE,
        "nginx.ingress.kubernetes.io/proxy-read-timeout": f"{_INGRESS_SECONDS}",
        "nginx.ingress.kubernetes.io/proxy-send-timeout": f"{_INGRESS_SECONDS}",
    },
    "nginx.org/ingress-controller": {
        "nginx.org/client-max-body-size": _BODY_SIZE,
        "nginx.org/proxy-read-timeout": f"{_INGRESS_SECONDS}s",
        "nginx.org/proxy-send-timeout": f"{_INGRESS_SECONDS}s",
    },
    "haproxy-ingress.github.io/controller": {
        "haproxy-ingress.github.io/proxy-body-size": _BODY_SIZE,
        "haproxy-ingress.github.io/timeout-server": f"{_INGRESS_SECONDS}s",
    },
    "projectcontour.io/ingress-controller": {"projectcontour.io/response-timeout": f"{_INGRESS_SECONDS}s"},
}


def build_ingress(
    part: RoutePart,
    exposure: listener_class.Exposure,
    secret_name: str,
    settings: OperatorSettings,
    features: ClusterFeatures,
) -> DesiredChild:
    """The Ingress for one part of a hostname.

    ``secret_name``: Secret with the certificate; ``""`` if something else terminates TLS.
    """
    ingress = exposure.ingress or listener_class.Ingress()
    class_name = ingress.class_name or features.default_ingress_class
    spec: dict[str, Any] = {"rules": [{"host": part.hostname, "http": {"paths": _ingress_paths(part, settings)}}]}
    if ingress.class_name:
        spec["ingressClassName"] = ingress.class_name
    if secret_name:
        spec["tls"] = [{"hosts": [part.hostname], "secretName": secret_name}]
    controller_annotations = INGRESS_ANNOTATIONS.get(features.ingress_classes.get(class_name, ""), {})
    notes = {**controller_annotations, **ingress.annotations}
    return _child_of_hostname(_INGRESS_API, "Ingress", part.name, part.hostname, spec, settings, notes)


def _ingress_paths(part: RoutePart, settings: OperatorSettings) -> list[dict[str, Any]]:
    backend = {"service": {"name": settings.backend.service_name, "port": {"number": settings.backend.service_port}}}
    if part.prefix:
        return [{"path": part.prefix, "pathType": "Prefix", "backend": backend}]
    return [{"path": path, "pathType": "Exact", "backend": backend} for path in part.paths]


_GATEWAY_API_GROUP = "gateway.networking.k8s.io"  # API group of the Gateway API
_HTTP_ROUTE_API = f"{_GATEWAY_API_GROUP}/v1"  # Of every HTTPRoute and Gateway


def build_http_route(part: RoutePart, parent: listener_class.ParentRef, settings: OperatorSettings) -> DesiredChild:
    """The HTTPRoute for one part of a hostname; its Gateway terminates TLS."""
    paths = [("PathPrefix", part.prefix)] if part.prefix else [("Exact", path) for path in part.paths]
    matches = [{"path": {"type": match_type, "value": path}} for match_type, path in paths]
    service = {"name": settings.backend.service_name, "port": settings.backend.service_port}
    backend = {"group": "", "kind": "Service", **service, "weight": 1}
    reference = {"group": _GATEWAY_API_GROUP, "kind": "Gateway", "namespace": parent.namespace, "name": parent.name}
    if parent.section_name:
        reference["sectionName"] = parent.section_name
    spec = {
        "parentRefs": [reference],
        "hostnames": [part.hostname],
        "rules": [{"matches": matches, "backendRefs": [backend]}],
    }
    return _child_of_hostname(_HTTP_ROUTE_API, "HTTPRoute", part.name, part.hostname, spec, settings)


_CERTIFICATE_API = f"{listener_class.CERT_MANAGER_GROUP}/v1"  # Of every Certificate and issuer


def build_certificate(
    hostname: str,
    secret_name: str,
    issuer: listener_class.IssuerRef,
    settings: OperatorSettings,
    *,
    counts_for: str = "",
) -> DesiredChild:
    """A hostname's Certificate, which cert-manager writes into a Secret.

    ``counts_for``: the namespace for which the hostname counts; ``""`` if the class does not limit hostnames.
    """
    spec = {
        "secretName": secret_name,
        "dnsNames": [hostname],
        "issuerRef": {"group": issuer.group, "kind": issuer.kind, "name": issuer.name},
        # a stolen key becomes useless with the next renewal
        "privateKey": {"rotationPolicy": "Always"},
    }
    notes = {child_labels.COUNTS_FOR_ANNOTATION: counts_for} if counts_for else {}
    return _child_of_hostname(_CERTIFICATE_API, "Certificate", object_name(hostname), hostname, spec, settings, notes)


def build_unused_certificate(
    hostname: str, spec: dict[str, Any], settings: OperatorSettings, *, counts_for: str, since: str
) -> DesiredChild:
    """The Certificate for a hostname that was given up, with its present spec, so that nothing is issued."""
    notes = {child_labels.COUNTS_FOR_ANNOTATION: counts_for, child_labels.UNUSED_SINCE_ANNOTATION: since}
    return _child_of_hostname(_CERTIFICATE_API, "Certificate", object_name(hostname), hostname, spec, settings, notes)
