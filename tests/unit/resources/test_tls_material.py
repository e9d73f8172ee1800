"""What a condition says of certificates and keys that a destination cannot use."""

import time

import pytest

from support import certificates
from usher_gateway.resources import tls_material

CHAIN, KEY = (part.decode() for part in certificates.make("client"))
_, OTHER_KEY = (part.decode() for part in certificates.make("other"))
ENDED, ENDED_KEY = (part.decode() for part in certificates.make("ended", days=-0.5))
NOW = time.time_ns() // 1000


def test_matching_certificate_and_key_are_fine() -> None:
    assert tls_material.client_problem(CHAIN, KEY, NOW) is None
    assert tls_material.client_problem(CHAIN + ENDED, KEY, NOW) is None
    assert tls_material.authority_problem(CHAIN + ENDED, NOW) is None


@pytest.mark.parametrize(
    ("chain", "key", "part"),
    [
        ("nonsense", KEY, "`tls.crt` must be certificates in PEM"),
        (CHAIN, "nonsense", "`tls.key` must be a private key"),
        (CHAIN, CHAIN, "`tls.key` must be a private key"),
        (CHAIN, OTHER_KEY, "must be the key of the certificate"),
        (ENDED, ENDED_KEY, "`tls.crt` ended on 20"),
    ],
)
def test_client_certificate_that_cannot_be_used_is_explained(chain: str, key: str, part: str) -> None:
    assert part in str(tls_material.client_problem(chain, key, NOW))


def test_authority_that_cannot_be_used_is_explained() -> None:
    assert tls_material.authority_problem("nonsense", NOW) == "must be certificates in PEM"
    assert str(tls_material.authority_problem(ENDED, NOW)).startswith("ended on 20")


def test_certificate_has_not_ended_while_the_time_is_unknown() -> None:
    assert tls_material.client_problem(ENDED, ENDED_KEY, 0) is None
