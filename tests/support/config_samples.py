"""Sample documents, and the config Secrets that an operator writes for them."""

import hashlib
import json
from typing import Any

import msgspec

from usher_gateway import config_secret, documents, model
from usher_gateway.config import published

KEYS = model.derive_keys(b"k" * 32)
OTHER_KEYS = model.derive_keys(b"o" * 32)
SAID_AT = "2026-11-25T12:00:00Z"


def listener(name: str = "wifi", **changes: object) -> documents.ListenerDocument:
    given: dict[str, object] = {
        "namespace": "acme",
        "name": name,
        "tenant": documents.TenantDocument("hotels"),
        "addresses": (documents.Address("hooks.example.com", f"/{name}"),),
        **changes,
    }
    return documents.ListenerDocument(**given)  # type: ignore[arg-type]


def destination(name: str = "crm", **changes: object) -> documents.DestinationDocument:
    return documents.DestinationDocument("acme", name, "https://crm.example.com/", **changes)  # type: ignore[arg-type]


def secret(document: config_secret.Document, version: str = "1", keys: model.Keys = KEYS) -> published.PublishedSecret:
    return secret_of(config_secret.envelope_of(document, "uid", keys.document), version)


def tombstone(
    document: config_secret.Document, version: str = "9", keys: model.Keys = KEYS
) -> published.PublishedSecret:
    envelope = config_secret.envelope_of(document, "uid", keys.document)
    return secret_of(config_secret.tombstone_of(envelope.kind, envelope.owner, 1, SAID_AT, keys.document), version)


def signed(envelope: dict[str, Any], key: bytes, document: bytes = b"") -> bytes:
    """Return an envelope's bytes with the right hash, also for a document that this release would not write."""
    document = document or json.dumps(envelope["document"], separators=(",", ":")).encode()
    names = ("namespace", "name", "uid", "install", "namespace_uid")
    parts = [envelope["kind"], *(envelope["owner"].get(name, "") for name in names), ""]
    digest = hashlib.blake2b("\0".join(parts).encode() + document, key=key, digest_size=16).hexdigest()
    head = {name: part for name, part in envelope.items() if name != "document"} | {"hash": digest}
    return json.dumps(head).encode()[:-1] + b',"document":' + document + b"}"


def secret_of(envelope: config_secret.Envelope, version: str = "1") -> published.PublishedSecret:
    metadata = {
        "name": config_secret.secret_name(*envelope.identity),
        "resourceVersion": version,
        "annotations": {config_secret.OWNER_ANNOTATION: envelope.owner.key},
    }
    content = {"metadata": metadata, "data": config_secret.secret_data(envelope)}
    return msgspec.convert(content, published.PublishedSecret)
