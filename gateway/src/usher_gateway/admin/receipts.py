"""Erasure receipts: what became of a request, as JSON that the install signs.

The signature is Ed25519 (RFC 8032) over all other fields as canonical JSON (RFC 8785). Its key is derived
from the install key. So every gateway in an install makes the same signature, and anyone with the public key can verify
it without the gateway.
"""

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import usher_gateway
from usher_gateway import model
from usher_gateway.words import person_words

if TYPE_CHECKING:  # loaded only where it is used: most gateways never erase anybody
    from cryptography.hazmat.primitives.asymmetric import ed25519

_UNREADABLE = ", ".join([reason.name for reason in model.UNREADABLE])

_SUPPRESSION = (
    "If the person is suppressed: the keyed digest by which Usher recognises the person,"
    " until `usher person unsuppress`."
)

# Data that an erasure leaves; docs/privacy.md has the details.
NOT_REACHED = (
    "What the destinations, Purple and copies of the store have of the person.",
    "Visits that arrived after the request, and visits that do not have the value by which it searched.",
    "Visits that were being sent during the erasure: this receipt counts them as perhaps sent.",
    f"Bodies that could not be read (quarantined as {_UNREADABLE}): no search finds them. Retention deletes them.",
    "Values in a part of a body that its listener does not read: no search finds them. Retention deletes them too.",
    "Values in a list, and values whose name the same object has again later: the same holds for them.",
    "Marks of routes that send once per day, week or month, if the body was deleted before: keyed digests until then.",
    _SUPPRESSION,
)


def sign(row: Mapping[str, object], keys: model.Keys) -> dict[str, object]:
    """Return an erasure that has ended, as a signed receipt. The same erasure always gets the same signature."""
    content = {
        **row,
        "notReached": [*([person_words.ROWS_ON_DISK] if row.get("store") == "PostgreSQL" else []), *NOT_REACHED],
        "version": usher_gateway.__version__,
        "install": model.key_fingerprint(keys.install),
        "publicKey": public_key(keys),
    }
    return {**content, "signature": base64.b64encode(_private_key(keys).sign(_canonical(content))).decode()}


def public_key(keys: model.Keys) -> str:
    """Return the key that verifies an install's receipts: 32 bytes in base64."""
    return base64.b64encode(_private_key(keys).public_key().public_bytes_raw()).decode()


def parse(text: str) -> dict[str, Any]:
    """Parse a receipt, without verifying it.

    A name that occurs twice, or a number that is not whole, is refused: another program may read it differently.

    Raises:
        ValueError: the text is not a signed receipt.
    """
    receipt = json.loads(text, object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)
    if not isinstance(receipt, dict) or not all(isinstance(receipt.get(name), str) for name in _SIGNED_NAMES):
        raise ValueError("it is not a signed receipt")
    return receipt


_SIGNED_NAMES = ("id", "status", "publicKey", "signature")


def parse_public_key(text: str) -> "ed25519.Ed25519PublicKey":
    """Parse a public key.

    Raises:
        ValueError: it is none.
    """
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def is_intact(receipt: Mapping[str, Any]) -> bool:
    """Return whether the key inside a receipt has signed exactly this receipt.

    The caller has to know whose key it is.

    Raises:
        ValueError: the receipt's key is not valid.
    """
    from cryptography import exceptions

    key = parse_public_key(receipt["publicKey"])
    content = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        key.verify(base64.b64decode(receipt["signature"], validate=True), _canonical(content))
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True


def _private_key(keys: model.Keys) -> "ed25519.Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.from_private_bytes(keys.receipt)


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _refuse(_: str) -> NoReturn:
    raise ValueError("a number is not whole")
