"""A receipt is signed as a whole, and anybody can verify it with the public key alone."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from usher_gateway import model
from usher_gateway.admin import receipts

KEYS = model.derive_keys(bytes(32))
ROW = {"id": "01a2", "status": "completed", "arrivals": 2, "arrivalsByTenant": {"agency/acme": 2}, "since": None}


def test_signature_is_verified_by_independent_code_over_sorted_json() -> None:
    receipt = receipts.sign(ROW, KEYS)
    signature = base64.b64decode(str(receipt.pop("signature")))
    canonical = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(receipts.public_key(KEYS)))
    key.verify(signature, canonical)


def test_same_erasure_gets_the_same_signature_from_every_gateway() -> None:
    assert receipts.sign(ROW, KEYS) == receipts.sign(ROW, model.derive_keys(bytes(32)))


@pytest.mark.parametrize(("store", "is_named"), [("PostgreSQL", True), ("SQLite", False)])
def test_signed_receipt_names_what_postgresql_keeps(store: str, is_named: bool) -> None:
    receipt = receipts.sign(ROW | {"store": store}, KEYS)
    assert ("until the next vacuum" in str(receipt["notReached"])) is is_named


def test_receipt_survives_another_order_and_indentation() -> None:
    receipt = receipts.sign(ROW, KEYS)
    reordered = json.dumps(dict(reversed(receipt.items())), indent=4)
    assert receipts.is_intact(receipts.parse(reordered))


def test_every_changed_byte_is_noticed() -> None:
    text = json.dumps(receipts.sign(ROW, KEYS), separators=(",", ":"))
    for place, character in enumerate(text):
        changed = text[:place] + chr(ord(character) ^ 1) + text[place + 1 :]
        try:
            is_intact = receipts.is_intact(receipts.parse(changed))
        except ValueError:
            continue
        assert not is_intact, changed


@pytest.mark.parametrize(
    ("found", "replacement"),
    [
        ('"arrivals":2', '"arrivals":1,"arrivals":2'),
        ('"arrivals":2', '"arrivals":2.0'),
        ('"since":null', '"since":NaN'),
        ('"signature"', '"Signature"'),
    ],
)
def test_json_that_programs_may_read_differently_is_no_receipt(found: str, replacement: str) -> None:
    text = json.dumps(receipts.sign(ROW, KEYS), separators=(",", ":"))
    with pytest.raises(ValueError, match=r"twice|not whole|not a signed receipt"):
        receipts.parse(text.replace(found, replacement))


def test_keys_of_two_installs_differ() -> None:
    assert receipts.public_key(KEYS) != receipts.public_key(model.derive_keys(b"\1" * 32))
