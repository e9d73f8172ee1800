"""The labels and annotations by which the operator recognises its children. Pure."""

from collections.abc import Mapping

from usher_gateway import config_secret
from usher_operator.state.values import Key, Kind

CHILD_SELECTOR = f"{config_secret.MANAGED_LABEL}=true"  # Label selector of every child

# The watch label's value on `<listener>-url`, so that one watch reports both Secret kinds in a namespace.
URL_VALUE = "url"

URL_SUFFIX = "-url"  # End of the name of a Secret with the URLs of a listener
OWNER_KIND_ANNOTATION = "usher.dev/owner-kind"  # Kind of the key that owns a child

# Namespace for which a Certificate's hostname counts, whether the Certificate is in use or not; only if the class
# limits a namespace's hostnames.
COUNTS_FOR_ANNOTATION = "usher.dev/counts-for"

# When a Certificate's hostname was given up (RFC 3339); missing while the Certificate is in use.
UNUSED_SINCE_ANNOTATION = "usher.dev/unused-since"

_KINDS: dict[str, Kind] = {"Listener": "Listener", "Destination": "Destination", "Hostname": "Hostname"}


def labels(controller_name: str, owner_uid: str = "") -> dict[str, str]:
    """The labels for a child that is not a config Secret."""
    common = {
        config_secret.MANAGED_LABEL: "true",
        config_secret.INSTALL_LABEL: config_secret.install_label(controller_name),
    }
    return {**common, config_secret.OWNER_UID_LABEL: owner_uid} if owner_uid else common


def annotations(key: Key) -> dict[str, str]:
    """A child's annotations without ``usher.dev/desired``, which finish() adds."""
    return {config_secret.OWNER_ANNOTATION: key.path, OWNER_KIND_ANNOTATION: key.kind}


def is_ours(found_labels: Mapping[str, str], controller_name: str) -> bool:
    """True if this install made an object. The operator never writes other objects."""
    return found_labels.get(config_secret.MANAGED_LABEL) == "true" and found_labels.get(
        config_secret.INSTALL_LABEL
    ) == config_secret.install_label(controller_name)


def owner_of(found_annotations: Mapping[str, str]) -> Key | None:
    """The key that owns a child; None if its annotations do not name one."""
    kind = _KINDS.get(found_annotations.get(OWNER_KIND_ANNOTATION, ""))
    namespace, _, name = found_annotations.get(config_secret.OWNER_ANNOTATION, "").rpartition("/")
    if kind is None or not name or (kind == "Hostname") == bool(namespace):
        return None
    return Key(kind, namespace, name)


def url_secret_name(listener: str) -> str:
    """Name for the Secret with a listener's URLs."""
    return f"{listener}{URL_SUFFIX}"
