"""Signatures: what the standard's own library signs is good, and nothing else is."""

import base64
import datetime

import hypothesis
import pytest
import standardwebhooks
from hypothesis import strategies

from usher_gateway.simulator import verify

NOW = 1_790_000_000
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
KEYS = [verify.secret_key(SECRET)]


def _signed(body: str, secret: str = SECRET, at: int = NOW) -> dict[str, str]:
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", moment, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(strategies.text(max_size=200), strategies.binary(min_size=24, max_size=64))
def test_what_the_standards_library_signs_is_good(body: str, key: bytes) -> None:
    hypothesis.assume(body.isprintable())
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = _signed(body, secret)
    assert verify.verify([verify.secret_key(secret)], headers, body.encode(), NOW, 300) is verify.Signature.Good


@pytest.mark.parametrize("change", ["body", "id", "timestamp", "secret", "signature"])
def test_whatever_is_changed_makes_it_bad(change: str) -> None:
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
            keys = [verify.secret_key(OTHER)]
        case "signature":
            headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v1a,")
    assert verify.verify(keys, headers, body, NOW, 300) is verify.Signature.Bad


def test_any_of_several_signatures_and_secrets_is_enough() -> None:
    headers = _signed("{}", OTHER)
    headers["webhook-signature"] = f"v1,AAAA v1,not/base64! v2,x {headers['webhook-signature']}"
    keys = [*KEYS, verify.secret_key(OTHER)]
    assert verify.verify(keys, headers, b"{}", NOW, 300) is verify.Signature.Good


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_told_apart(name: str) -> None:
    headers = _signed("{}")
    del headers[name]
    assert verify.verify(KEYS, headers, b"{}", NOW, 300) is verify.Signature.Missing


@pytest.mark.parametrize(
    ("now", "tolerance", "expected"),
    [
        (NOW + 300, 300, verify.Signature.Good),
        (NOW + 301, 300, verify.Signature.Stale),
        (NOW - 301, 300, verify.Signature.Stale),
        (NOW + 10**6, 0, verify.Signature.Good),
    ],
)
def test_an_old_or_early_timestamp_is_stale(now: int, tolerance: int, expected: verify.Signature) -> None:
    assert verify.verify(KEYS, _signed("{}"), b"{}", now, tolerance) is expected


def test_a_secret_may_be_plain_text() -> None:
    assert verify.secret_key("plain") == b"plain"
    with pytest.raises(ValueError, match="base64"):
        verify.secret_key("whsec_***")


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(strategies.text(), strategies.text(), strategies.text())
def test_no_header_makes_it_raise(identifier: str, timestamp: str, signature: str) -> None:
    headers = {"webhook-id": identifier, "webhook-timestamp": timestamp, "webhook-signature": signature}
    hypothesis.assume(not any("\ud800" <= character <= "\udfff" for each in headers.values() for character in each))
    assert verify.verify(KEYS, headers, b"{}", NOW, 300) in {verify.Signature.Missing, verify.Signature.Bad}
