"""Whose a child is: its labels and annotations, read and written in one place.

Every child carries ``usher.dev/managed`` and ``usher.dev/install`` (labels) and ``usher.dev/owner`` and
``usher.dev/desired`` (annotations); what has an owner of its own, its uid too. Never ``app.kubernetes.io/instance``:
GitOps tools would take the child for theirs.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from usher_gateway import config_secret
from usher_operator.view import DesiredChild, Key, Kind, ObjectRef

SELECTOR = f"{config_secret.MANAGED_LABEL}=true"
"""Label selector of every child."""

OWNER_KIND_ANNOTATION = "usher.dev/owner-kind"
"""Kind of the key that a child belongs to."""

_KINDS: dict[str, Kind] = {"Listener": "Listener", "Destination": "Destination", "Hostname": "Hostname"}


def labels(controller_name: str, owner_uid: str = "") -> dict[str, str]:
    """The labels of a child that is no config Secret."""
    found = {
        config_secret.MANAGED_LABEL: "true",
        config_secret.INSTALL_LABEL: config_secret.install_label(controller_name),
    }
    return {**found, config_secret.OWNER_UID_LABEL: owner_uid} if owner_uid else found


def annotations(key: Key) -> dict[str, str]:
    """The annotations of a child, but for ``usher.dev/desired``, which finish() adds."""
    return {config_secret.OWNER_ANNOTATION: key.path, OWNER_KIND_ANNOTATION: key.kind}


def finish(manifest: dict[str, Any]) -> DesiredChild:
    """The child of a manifest, with the hash of everything in it as an annotation."""
    meta = manifest["metadata"]
    desired = hashlib.sha256(msgspec.json.encode(manifest, order="deterministic")).hexdigest()
    noted = {**meta["annotations"], config_secret.DESIRED_ANNOTATION: desired}
    ref = ObjectRef(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])
    return DesiredChild(ref, {**manifest, "metadata": {**meta, "annotations": noted}}, desired)


def is_ours(found_labels: Mapping[str, str], controller_name: str) -> bool:
    """Whether an object was made by this install: nobody else's is ever touched."""
    return found_labels.get(config_secret.MANAGED_LABEL) == "true" and found_labels.get(
        config_secret.INSTALL_LABEL
    ) == config_secret.install_label(controller_name)


def owner_of(found_annotations: Mapping[str, str]) -> Key | None:
    """The key that a child belongs to; None where its annotations do not say."""
    kind = _KINDS.get(found_annotations.get(OWNER_KIND_ANNOTATION, ""))
    namespace, _, name = found_annotations.get(config_secret.OWNER_ANNOTATION, "").rpartition("/")
    if kind is None or not name or (kind == "Hostname") == bool(namespace):
        return None
    return Key(kind, namespace, name)
