"""Only signatures like those of the reference library are good."""

import base64
import datetime

import hypothesis
import pytest
import standardwebhooks
from hypothesis import strategies

from usher_gateway.simulator import receiving

NOW = 1_790_000_000
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
KEYS = [receiving.secret_key(SECRET)]


def _signed(body: str, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", moment, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


PRINTABLE = strategies.characters(categories=("L", "N", "P", "S"))


@hypothesis.given(strategies.text(PRINTABLE, max_size=200), strategies.binary(min_size=24, max_size=64))
def test_signature_of_the_reference_library_is_good(body: str, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = _signed(body, secret)
    assert (
        receiving.verify([receiving.secret_key(secret)], headers, body.encode(), NOW, 300) is receiving.Signature.Good
    )


@pytest.mark.parametrize("change", ["body", "id", "timestamp", "secret", "signature"])
def test_any_change_makes_the_signature_bad(change: str) -> None:
    body = b'{"a":1}'
    headers = _signed(body.decode())
    keys = KEYS
    match change:
        case "body":
            body = b'{"a":2}'
        case "id":
            headers["webhook-id"] = "msg_2"
        case "timestamp":
            headers["webhook-timestamp"] = str(NOW + 1)
        case "secret":
            keys = [receiving.secret_key(OTHER)]
        case "signature":
            headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v1a,")
    assert receiving.verify(keys, headers, body, NOW, 300) is receiving.Signature.Bad


def test_one_of_several_signatures_and_secrets_is_enough() -> None:
    headers = _signed("{}", OTHER)
    headers["webhook-signature"] = f"v1,AAAA v1,not/base64! v2,x {headers['webhook-signature']}"
    keys = [*KEYS, receiving.secret_key(OTHER)]
    assert receiving.verify(keys, headers, b"{}", NOW, 300) is receiving.Signature.Good


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_header_has_its_own_result(name: str) -> None:
    headers = _signed("{}")
    del headers[name]
    assert receiving.verify(KEYS, headers, b"{}", NOW, 300) is receiving.Signature.Missing


@pytest.mark.parametrize(
    ("now", "tolerance", "expected"),
    [
        (NOW + 300, 300, receiving.Signature.Good),
        (NOW + 301, 300, receiving.Signature.Stale),
        (NOW - 301, 300, receiving.Signature.Stale),
        (NOW + 10**6, 0, receiving.Signature.Good),
    ],
)
def test_old_or_early_timestamp_is_stale(now: int, tolerance: int, expected: receiving.Signature) -> None:
    assert receiving.verify(KEYS, _signed("{}"), b"{}", now, tolerance) is expected


def test_secret_may_be_plain_text() -> None:
    assert receiving.secret_key("plain") == b"plain"
    with pytest.raises(ValueError, match="base64"):
        receiving.secret_key("whsec_***")


@hypothesis.given(strategies.text(), strategies.text(), strategies.text())
def test_no_header_value_raises_an_error(identifier: str, timestamp: str, signature: str) -> None:
    headers = {"webhook-id": identifier, "webhook-timestamp": timestamp, "webhook-signature": signature}
    hypothesis.assume(not any("\ud800" <= character <= "\udfff" for each in headers.values() for character in each))
    assert receiving.verify(KEYS, headers, b"{}", NOW, 300) in {receiving.Signature.Missing, receiving.Signature.Bad}
