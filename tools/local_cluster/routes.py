"""What TLS routes need, as plain processes beside the kubelet: CoreDNS, cert-manager, Traefik and Pebble.

Every name below `test` is the node, where Traefik serves Ingress and Gateway API on ports 80 and 443. Other names do
not exist. cert-manager issues by the ClusterIssuers `authority` (a certificate authority) and `acme` (Pebble).
"""

import base64
import contextlib
import json
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_cluster import isolation, programs, servers

SOLVER = "usher.test/acmesolver:1"
ACME_PORT = 14_000
TRAEFIK_PORT = 8_081
ISSUERS = "cert-manager"  # Namespace of the Secrets of ClusterIssuers

_COREFILE = """
cluster.local:53 {{
  bind {address}
  errors
  kubernetes {{
    kubeconfig {kubeconfig}
  }}
}}
test:53 {{
  bind {address}
  errors
  template IN A {{
    answer "{{{{ .Name }}}} 5 IN A {address}"
  }}
  template IN AAAA {{
    rcode NOERROR
  }}
}}
.:53 {{
  bind {address}
  errors
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


@dataclass(frozen=True)
class RouteProgram:
    """A program with its command line, and the port of the node at which it answers when it is ready."""

    name: str
    command: list[str | Path]
    port: tuple[str, int] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def answers(self) -> bool:
        """Return whether it listens at its port, if it has one."""
        if self.port is None:
            return True
        with contextlib.suppress(OSError), socket.create_connection(self.port, timeout=1):
            return True
        return False


def programs_of(state: Path, layout: servers.Layout) -> list[RouteProgram]:
    """Write the programs' configuration and return the programs in the order of their start."""
    return [
        _coredns(state, layout),
        RouteProgram(
            "cert-manager",
            [
                programs.cert_manager(),
                f"-kubeconfig={layout.kubeconfig}",
                f"-solver-image={SOLVER}",
                f"-cluster-resource-namespace={ISSUERS}",
                f"-nameservers={isolation.ADDRESS}:53",
            ],
        ),
        _traefik(layout),
        _pebble(state, layout),
    ]


def classes() -> dict[str, Any]:
    """Return the objects that make the routes usable: issuers, an IngressClass and a GatewayClass."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ISSUERS}},
            _issuer("root", {"selfSigned": {}}),
            {
                "apiVersion": "cert-manager.io/v1",
                "kind": "Certificate",
                "metadata": {"name": "authority", "namespace": ISSUERS},
                "spec": {
                    "isCA": True,
                    "commonName": "authority of the tests",
                    "secretName": "authority",
                    "privateKey": {"algorithm": "ECDSA", "size": 256},
                    "issuerRef": {"name": "root", "kind": "ClusterIssuer"},
                },
            },
            _issuer("authority", {"ca": {"secretName": "authority"}}),
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressClass",
                "metadata": {"name": "traefik"},
                "spec": {"controller": "traefik.io/ingress-controller"},
            },
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "GatewayClass",
                "metadata": {"name": "traefik"},
                "spec": {"controllerName": "traefik.io/gateway-controller"},
            },
        ],
    }


def acme_issuer(layout: servers.Layout) -> dict[str, Any]:
    """Return the issuer that asks Pebble."""
    authority = base64.b64encode((layout.certificates / "ca.crt").read_bytes()).decode()
    settings = {
        "server": f"https://{servers.LOOPBACK}:{ACME_PORT}/dir",
        "caBundle": authority,
        "email": "tests@example.com",
        "privateKeySecretRef": {"name": "acme-account"},
        "solvers": [{"http01": {"ingress": {"ingressClassName": "traefik"}}}],
    }
    return _issuer("acme", {"acme": settings})


def acme_authority(layout: servers.Layout) -> bytes:
    """Return the certificate (PEM) of the authority that Pebble made at its start."""
    context = ssl.create_default_context(cafile=layout.certificates / "ca.crt")
    url = f"https://{servers.LOOPBACK}:{ACME_PORT + 1}/roots/0"
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        certificate: bytes = answer.read()
    return certificate


def _issuer(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": spec}


def _coredns(state: Path, layout: servers.Layout) -> RouteProgram:
    corefile = state / "Corefile"
    corefile.write_text(_COREFILE.format(address=isolation.ADDRESS, kubeconfig=layout.kubeconfig), "utf-8")
    return RouteProgram("coredns", [programs.coredns(), f"-conf={corefile}"], (isolation.ADDRESS, 53))


def _traefik(layout: servers.Layout) -> RouteProgram:
    address = isolation.ADDRESS
    command: list[str | Path] = [
        programs.traefik(),
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        f"--entrypoints.web.address={address}:80",
        f"--entrypoints.websecure.address={address}:443",
        "--entrypoints.websecure.http.tls=true",
        f"--entrypoints.traefik.address={servers.LOOPBACK}:{TRAEFIK_PORT}",
        "--ping",
        "--providers.providersthrottleduration=100ms",
        "--providers.kubernetesingress",
        "--providers.kubernetesingress.allowemptyservices=true",  # 503 instead of 404 while no pod is ready
        f"--providers.kubernetesingress.ingressendpoint.ip={address}",
        "--providers.kubernetescrd",
        "--providers.kubernetesgateway",
        f"--providers.kubernetesgateway.statusaddress.ip={address}",
    ]
    kubeconfig = {"KUBECONFIG": str(layout.kubeconfig)}
    return RouteProgram("traefik", command, (servers.LOOPBACK, TRAEFIK_PORT), kubeconfig)


def _pebble(state: Path, layout: servers.Layout) -> RouteProgram:
    settings = {
        "listenAddress": f"{servers.LOOPBACK}:{ACME_PORT}",
        "managementListenAddress": f"{servers.LOOPBACK}:{ACME_PORT + 1}",
        "httpPort": 80,
        "tlsPort": 443,
        "certificate": f"{layout.certificates}/api.crt",
        "privateKey": f"{layout.certificates}/api.key",
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    file = state / "pebble.json"
    file.write_text(json.dumps({"pebble": settings}), "utf-8")
    command: list[str | Path] = [programs.pebble(), f"-config={file}", f"-dnsserver={isolation.ADDRESS}:53"]
    # Otherwise Pebble waits up to 15 s before a validation, and refuses 5 % of the good requests.
    patience = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    return RouteProgram("pebble", command, (servers.LOOPBACK, ACME_PORT), patience)
