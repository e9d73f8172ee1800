"""The command lines of the four servers of a local cluster. Pure, except for the file of the audit policy."""

import json
from dataclasses import dataclass
from pathlib import Path

SERVICES = "10.96.0.0/16"
LOOPBACK = "127.0.0.1"
# Names and addresses in the API server's certificate.
KNOWN_AS = ("localhost", LOOPBACK, "kubernetes", "kubernetes.default.svc", "10.96.0.1")

COMPONENTS = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler")
# Audit policy: users, requests and answers without bodies, and without the cluster's own requests.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": list(COMPONENTS)},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class Ports:
    """The ports of the servers on loopback."""

    etcd: int
    etcd_peers: int
    api: int
    controllers: int
    scheduler: int


@dataclass(frozen=True)
class NodeAccess:
    """How the control plane and its only node reach each other."""

    name: str
    address: str


@dataclass(frozen=True)
class Layout:
    """The files of a cluster."""

    state: Path

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def data(self) -> Path:
        return self.state / "etcd"

    @property
    def audit(self) -> Path:
        """The audit log: one JSON document per answered request."""
        return self.state / "audit.log"

    @property
    def audit_policy(self) -> Path:
        return self.state / "audit-policy.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "admin.kubeconfig"

    @property
    def facts(self) -> Path:
        """The process group of a detached cluster, for `down`."""
        return self.state / "cluster.json"

    def component(self, name: str) -> Path:
        return self.certificates / f"{name}.kubeconfig"

    def write_audit_policy(self) -> None:
        self.audit_policy.write_text(json.dumps(AUDIT_POLICY), "utf-8")


def etcd(layout: Layout, ports: Ports) -> list[str]:
    clients, peers = f"http://{LOOPBACK}:{ports.etcd}", f"http://{LOOPBACK}:{ports.etcd_peers}"
    return [
        "etcd",
        f"--data-dir={layout.data}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",  # the data is not needed after the tests
        "--log-level=warn",
    ]


def api_server(layout: Layout, ports: Ports, node: NodeAccess | None = None) -> list[str]:
    pki = layout.certificates
    return [
        "kube-apiserver",
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        *(_without_node() if node is None else _with_node(layout, node)),
        f"--secure-port={ports.api}",
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-cluster-ip-range={SERVICES}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/accounts.pub",
        f"--service-account-signing-key-file={pki}/accounts.key",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit}",
    ]


def _without_node() -> list[str]:
    return [
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",  # otherwise it refuses to advertise loopback
        "--authorization-mode=RBAC",
    ]


def _with_node(layout: Layout, node: NodeAccess) -> list[str]:
    pki = layout.certificates
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={node.address}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def controllers(layout: Layout, ports: Ports) -> list[str]:
    pki = layout.certificates
    return [
        "kube-controller-manager",
        *_component(layout, "controllers", ports.controllers),
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/accounts.key",
        "--use-service-account-credentials=true",
        "--kube-api-qps=500",  # with the default a start takes 5 s instead of 0.7 s
        "--kube-api-burst=1000",
    ]


def scheduler(layout: Layout, ports: Ports) -> list[str]:
    return ["kube-scheduler", *_component(layout, "scheduler", ports.scheduler)]


def _component(layout: Layout, name: str, port: int) -> list[str]:
    kubeconfig = layout.component(name)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--leader-elect=false",
    ]
