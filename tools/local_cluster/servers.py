"""The four servers of a local cluster: with which flags each runs. Pure, but for the audit policy's file."""

import json
from dataclasses import dataclass
from pathlib import Path

SERVICES = "10.96.0.0/16"
LOOPBACK = "127.0.0.1"
KNOWN_AS = ("localhost", LOOPBACK, "kubernetes", "kubernetes.default.svc", "10.96.0.1")
"""The names and addresses that the API server's certificate is for."""

COMPONENTS = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler")
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
"""Who asked for what with which answer, bodies left out; nothing of the cluster's own work."""


@dataclass(frozen=True)
class Ports:
    """Where each server listens, on loopback."""

    etcd: int
    etcd_peers: int
    api: int
    controllers: int
    scheduler: int


@dataclass(frozen=True)
class Layout:
    """Where a cluster's files are."""

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
        """One JSON document per request that was answered."""
        return self.state / "audit.log"

    @property
    def audit_policy(self) -> Path:
        return self.state / "audit-policy.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.state / "admin.kubeconfig"

    @property
    def facts(self) -> Path:
        """What `down` must know of a cluster that runs on."""
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
        "--unsafe-no-fsync",  # what is in it ends with the tests
        "--log-level=warn",
    ]


def api_server(layout: Layout, ports: Ports) -> list[str]:
    pki = layout.certificates
    return [
        "kube-apiserver",
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",  # it would refuse to advertise loopback
        f"--secure-port={ports.api}",
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/accounts.pub",
        f"--service-account-signing-key-file={pki}/accounts.key",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit}",
    ]


def controllers(layout: Layout, ports: Ports) -> list[str]:
    pki = layout.certificates
    return [
        "kube-controller-manager",
        *_component(layout, "controllers", ports.controllers),
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/accounts.key",
        "--use-service-account-credentials=true",
        "--kube-api-qps=500",  # with the default its start takes 5 s in place of 0.7
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
