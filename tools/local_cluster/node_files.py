"""The configuration files of a node's programs, and its volumes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import isolation

PAUSE = "usher.test/pause:1"
PODS = "10.244.0.0/24"
CNI_PROGRAMS = Path("/usr/lib/cni")  # Where Debian's package has the CNI plugins

# Root needs not have CAP_SYS_RESOURCE here, so scores for the out-of-memory killer must not sink.
_CONTAINERD = """
version = 2
root = "{state}/containerd"
state = "{state}/containerd-state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{state}/cni"
"""


@dataclass(frozen=True)
class NodeFiles:
    """The files of a node; those of its control plane are in ``state/cluster``."""

    state: Path

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def containerd(self) -> Path:
        return self.state / "containerd.toml"

    @property
    def kubelet(self) -> Path:
        return self.state / "kubelet.json"

    @property
    def proxy(self) -> Path:
        return self.state / "proxy.json"

    def write(self, control_group: str) -> None:
        """Write all files. Pods get control groups below the given one."""
        for folder in (self.logs, self.state / "cni", self.state / "kubelet"):
            folder.mkdir(parents=True)
        (self.state / "resolv.conf").write_text("", "ascii")
        (self.state / "cni" / "10-pods.conflist").write_text(json.dumps(self._network()), "utf-8")
        values = {"state": self.state, "socket": self.socket, "pause": PAUSE, "cni": CNI_PROGRAMS}
        self.containerd.write_text(_CONTAINERD.format_map(values), "utf-8")
        self.kubelet.write_text(json.dumps(self._kubelet(control_group)), "utf-8")
        self.proxy.write_text(json.dumps(self._proxy()), "utf-8")

    def _network(self) -> dict[str, Any]:
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.state / "cni-addresses"),
        }
        bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}

    def _kubelet(self, control_group: str) -> dict[str, Any]:
        authority = self.state / "cluster" / "certificates" / "ca.crt"
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": isolation.ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{control_group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [isolation.ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.state / "resolv.conf"),
            "localStorageCapacityIsolation": False,  # it needs to know the file system of the image store
            "imagePullCredentialsVerificationPolicy": "NeverVerify",
            "evictionHard": {"memory.available": "100Mi"},  # not the fill level of the machine's disk
        }

    def _proxy(self) -> dict[str, Any]:
        kubeconfig = self.state / "cluster" / "certificates" / "proxy.kubeconfig"
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": PODS,
            "conntrack": {"maxPerCore": 0},  # the limit belongs to the machine
            "clientConnection": {"kubeconfig": str(kubeconfig)},
        }


def volume(name: str, folder: Path, size: str, node: str, storage_class: str) -> dict[str, Any]:
    """Return a PersistentVolume on a folder of the node."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }
