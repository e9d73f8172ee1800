"""A cluster with nodes, on which the chart is installed: a local one, or one that the user names."""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import kubectl as kubectls
from local_cluster import node

# Variable with an image of this checkout (NAME:TAG) that the nodes of a given cluster can fetch.
IMAGE = "USHER_TEST_IMAGE"


@dataclass(frozen=True)
class Site:
    """The cluster and what it offers."""

    kubectl: kubectls.Kubectl
    image: str
    folder: Path
    """For files of the tests."""
    local: node.Node | None
    """None for a given cluster, which has its own volumes, and whose programs the tests leave alone."""

    def get(self, *arguments: str) -> Any:
        """Return an object, or the list of objects that ``kubectl get`` finds."""
        answer = json.loads(self.kubectl.run("get", *arguments, "--output=json"))
        return answer["items"] if answer["kind"] == "List" else answer

    def apply(self, *documents: Any, dry_run: bool = False) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        how = ("--dry-run=server",) if dry_run else ()
        self.kubectl.run("apply", "--server-side", *how, "--filename=-", stdin=json.dumps(listed))

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """Return the decoded values of a Secret."""
        data = self.get("secret", name, f"--namespace={namespace}").get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def make_namespace(self, name: str) -> None:
        """Create a namespace that accepts only restricted pods."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def exists(self, *arguments: str) -> bool:
        return bool(self.kubectl.run("get", *arguments, "--ignore-not-found", "--output=name").strip())


def given_image() -> str | None:
    """Return the image that the user named, if any."""
    return os.environ.get(IMAGE)
