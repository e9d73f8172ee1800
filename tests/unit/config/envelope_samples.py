"""Documents, and the Secrets that an operator makes of them."""

from usher_gateway import documents, envelopes, model
from usher_gateway.config import published

KEYS = model.derive_keys(b"k" * 32)
OTHER_KEYS = model.derive_keys(b"o" * 32)
SAID_AT = "2026-11-25T12:00:00Z"


def listener(name: str = "wifi", **changes: object) -> documents.Listener:
    given: dict[str, object] = {
        "namespace": "acme",
        "name": name,
        "tenant": documents.Tenant("hotels"),
        "addresses": (documents.Address("hooks.example.com", f"/{name}"),),
        **changes,
    }
    return documents.Listener(**given)  # type: ignore[arg-type]


def destination(name: str = "crm", **changes: object) -> documents.Destination:
    return documents.Destination("acme", name, "https://crm.example.com/", **changes)  # type: ignore[arg-type]


def secret(document: envelopes.Document, version: str = "1", keys: model.Keys = KEYS) -> published.Secret:
    return secret_of(envelopes.wrap(document, "uid", keys.document), version)


def tombstone(document: envelopes.Document, version: str = "9", keys: model.Keys = KEYS) -> published.Secret:
    envelope = envelopes.wrap(document, "uid", keys.document)
    return secret_of(envelopes.bury(envelope.kind, envelope.owner, 1, SAID_AT, keys.document), version)


def secret_of(envelope: envelopes.Envelope, version: str = "1") -> published.Secret:
    name = envelopes.secret_name(*envelope.identity)
    return published.Secret(name, version, envelope.owner.key, envelopes.secret_data(envelope))
