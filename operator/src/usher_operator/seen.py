"""Raw objects of the API server into what the cache keeps of them: typed, slim, and never more than is needed. Pure."""

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from usher_gateway import config_secret, documents, model, resources
from usher_operator import children, kinds
from usher_operator.view import (
    CachedResource,
    ChildState,
    ConditionType,
    Key,
    ObjectRef,
    PublishedDocument,
    StatusCondition,
    UnreadableResource,
)

Raw = dict[str, Any]

_OURS = frozenset(ConditionType)
_PREFIX = "usher.dev/"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

ResourceT = TypeVar("ResourceT", bound=resources.Resource)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One custom resource as last seen."""

    uid: str
    resource_version: str
    generation: int
    found: CachedResource[Any] | UnreadableResource
    observed_generation: int = 0
    """``status.observedGeneration``."""
    times: dict[str, str] = {}
    """Type of a condition -> its ``lastTransitionTime``."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One child in place."""

    key: Key
    uid: str
    resource_version: str
    seen: ChildState
    digest: str
    """Of its content, labels and annotations: another one means that somebody edited it."""
    published: PublishedDocument | None = None
    """The document in a config Secret."""
    tombstone: str = ""
    """When the removal of its document was said."""
    is_config: bool = False
    owner_uid: str = ""
    owner_generation: int = 0
    """Generation of the resource that a document was made from."""


def read(kind: str, raw: Raw) -> Record:
    """A custom resource."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    stored = [one for one in status.get("conditions") or () if one.get("type") in _OURS]
    around: dict[str, Any] = {
        "uid": metadata["uid"],
        "conditions": tuple(_condition(one) for one in stored),
        "fields": {name: value for name, value in status.items() if name not in {"conditions", "observedGeneration"}},
    }
    found: CachedResource[Any] | UnreadableResource
    try:
        resource = convert(raw, kinds.RESOURCES[kind])
        found = CachedResource(resource=resource, created=metadata.get("creationTimestamp", ""), **around)
    except msgspec.ValidationError as error:
        message = _without_values(str(error))
        found = UnreadableResource(generation=metadata.get("generation", 0), message=message, **around)
    return Record(
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        found=found,
        observed_generation=status.get("observedGeneration", 0),
        times={one["type"]: one.get("lastTransitionTime", "") for one in stored},
    )


def convert(raw: Raw, wanted: type[ResourceT]) -> ResourceT:
    """The part of a raw object that we have a type for.

    Raises:
        ValidationError: it does not fit.
    """
    slim = {name: value for name, value in raw.items() if name not in {"metadata", "status"}}
    slim["metadata"] = {
        name: value
        for name, value in raw["metadata"].items()
        if name in {"name", "namespace", "labels", "annotations", "generation"}
    }
    annotations = slim["metadata"].get("annotations") or {}
    slim["metadata"]["annotations"] = {name: value for name, value in annotations.items() if name != _LAST_APPLIED}
    for given, known in zip(("apiVersion", "kind"), _named(wanted), strict=True):
        slim.setdefault(given, known)  # items of a list of core objects do not say
    return msgspec.convert(slim, wanted)


def read_child(raw: Raw, controller_name: str, keys: model.Keys | None) -> Child | None:
    """A child of this install; None where it is not ours."""
    metadata = raw["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    key = children.owner_of(annotations)
    if key is None or not children.is_ours(labels, controller_name):
        return None
    ref = ObjectRef(raw["apiVersion"], raw["kind"], metadata.get("namespace", ""), metadata["name"])
    is_config = config_secret.CONFIG_LABEL in labels
    envelope = _envelope(raw, keys) if is_config and keys is not None else None
    document = envelope.document if envelope is not None else None
    return Child(
        key=key,
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        seen=ChildState(
            ref,
            metadata.get("generation", 0),
            annotations.get(config_secret.DESIRED_ANNOTATION, ""),
            {} if ref.kind == "Secret" else raw.get("status") or {},
        ),
        digest=digest_of(raw),
        published=PublishedDocument(_shared(document), envelope.hash) if envelope is not None and document else None,
        tombstone=envelope.tombstone if envelope is not None else "",
        is_config=is_config,
        owner_uid=labels.get(config_secret.OWNER_UID_LABEL, ""),
        owner_generation=envelope.generation if envelope is not None else 0,
    )


def is_foreign(raw: Raw, controller_name: str) -> bool:
    """Whether another install's operator made an object."""
    labels = raw["metadata"].get("labels") or {}
    install = labels.get(config_secret.INSTALL_LABEL, "")
    return labels.get(config_secret.MANAGED_LABEL) == "true" and install not in {
        "",
        config_secret.install_label(controller_name),
    }


def digest_of(manifest: Raw) -> str:
    """Of content, and of labels and annotations that are ours; equal for a Secret as wanted and as it is in place."""
    metadata = manifest["metadata"]
    content = {name: manifest[name] for name in ("type", "data", "spec", "immutable") if manifest.get(name)}
    for name in ("labels", "annotations"):
        content[name] = {key: value for key, value in (metadata.get(name) or {}).items() if key.startswith(_PREFIX)}
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _envelope(raw: Raw, keys: model.Keys) -> config_secret.Envelope | None:
    """None where it was tampered with, or is of another key."""
    try:
        return config_secret.decode_data(raw.get("data"), keys.document)
    except model.UsherError:
        return None


def _shared(document: config_secret.Document) -> config_secret.Document:
    """A document whose unchanged defaults are not kept once more."""
    if isinstance(document, documents.Listener) and document.fields == documents.DEFAULT_FIELDS:
        return msgspec.structs.replace(document, fields=documents.DEFAULT_FIELDS)
    return document


def _condition(raw: Raw) -> StatusCondition:
    status = raw.get("status")
    return StatusCondition(
        type=raw["type"],
        status=status if status in {"True", "False"} else "Unknown",
        reason=raw.get("reason", ""),
        message=raw.get("message", ""),
        observed_generation=raw.get("observedGeneration", 0),
    )


def _named(wanted: type[Any]) -> tuple[str, str]:
    return next(named for named, found in resources.KINDS.items() if found is wanted)


def _without_values(message: str) -> str:
    """What msgspec says, less the values that it quotes."""
    return re.sub(r"'[^']*'", "'…'", message)
