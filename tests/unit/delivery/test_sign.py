import base64
import datetime
import json

import pytest
import standardwebhooks
from hypothesis import given, settings
from hypothesis import strategies as st

from usher_gateway.delivery import sign

WEBHOOK_ID = "0193f5a0-0000-7000-8000-000000000001"


def verify(secret: str, timestamp: int, body: bytes, signature: str) -> None:
    headers = {"webhook-id": WEBHOOK_ID, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    standardwebhooks.Webhook(secret).verify(body, headers)


def now() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp())


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=64), st.dictionaries(st.text(max_size=5), st.integers(), max_size=5))
def test_the_standard_library_of_receivers_accepts_every_signature(key: bytes, document: dict[str, int]) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps(document).encode()
    verify(secret, now(), body, sign.signature([sign.signing_key(secret)], WEBHOOK_ID, now(), body))


def test_a_plain_text_secret_signs_with_its_own_bytes() -> None:
    signature = sign.signature([sign.signing_key("correct horse")], WEBHOOK_ID, now(), b'{"a":1}')
    verify("whsec_" + base64.b64encode(b"correct horse").decode(), now(), b'{"a":1}', signature)


def test_while_a_secret_rotates_receivers_with_either_one_accept() -> None:
    secrets = ["whsec_" + base64.b64encode(name * 8).decode() for name in (b"new!", b"old!")]
    signature = sign.signature([sign.signing_key(secret) for secret in secrets], WEBHOOK_ID, now(), b"{}")
    assert signature.count(" ") == 1
    for secret in secrets:
        verify(secret, now(), b"{}", signature)


def test_a_changed_body_id_or_time_is_not_accepted() -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    signature = sign.signature([sign.signing_key(secret)], WEBHOOK_ID, now(), b'{"a":1}')
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(secret, now(), b'{"a":2}', signature)
    other = sign.signature([sign.signing_key(secret)], "another", now(), b'{"a":1}')
    assert other != signature
    assert sign.signature([sign.signing_key(secret)], WEBHOOK_ID, now() + 1, b'{"a":1}') != signature


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "whsec_QUJ"])
def test_a_secret_that_signs_nothing_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a signing secret") as caught:
        sign.signing_key(secret)
    assert secret in ("", "whsec_") or secret not in str(caught.value)
