"""What a condition says of certificates and keys that a destination cannot use."""

import ssl
import time

import pytest

from support import certificates
from usher_gateway.resources import tls_material

CHAIN, KEY = (part.decode() for part in certificates.make("client"))
_, OTHER_KEY = (part.decode() for part in certificates.make("other"))
ENDED, ENDED_KEY = (part.decode() for part in certificates.make("ended", days=-0.5))
NOW = time.time_ns() // 1000
VERSION_7 = ssl.DER_cert_to_PEM_cert(
    ssl.PEM_cert_to_DER_cert(CHAIN).replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020106"))
)
RARE_CURVE_KEY = """\
-----BEGIN PRIVATE KEY-----
MGECAQAwEAYHKoZIzj0CAQYFK4EEAAgESjBIAgEBBBUAojIpjNeCB8DtO5QpMwrz
DQdUudihLAMqAARtuFaC1Sg32vsyx758x+G+yH/KRBJ2RNbmfSqsIoDe2KREeoE8
fn7Y
-----END PRIVATE KEY-----
"""
# A key and a certificate with the curve secp160r1.
RARE_CURVE = """\
-----BEGIN CERTIFICATE-----
MIIBOzCB+qADAgECAhR/Xd2kTrHoImpQ+QIvAz50xYL9tTAKBggqhkjOPQQDAjAM
MQowCAYDVQQDDAF4MCAXDTI2MTEyOTA2MzgzMFoYDzIxMjYxMTA1MDYzODMwWjAM
MQowCAYDVQQDDAF4MD4wEAYHKoZIzj0CAQYFK4EEAAgDKgAEbbhWgtUoN9r7Mse+
fMfhvsh/ykQSdkTW5n0qrCKA3tikRHqBPH5+2KNTMFEwHQYDVR0OBBYEFBM2JBd4
s/cl3/n6p8xJCzP+wpdJMB8GA1UdIwQYMBaAFBM2JBd4s/cl3/n6p8xJCzP+wpdJ
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDMAAwLQIUbFdX+5eJyFYEPo7y
iBT/AA92jEYCFQCxSOUiSrs/t6qQAG1g5iF2WtVPwQ==
-----END CERTIFICATE-----
"""


def test_matching_certificate_and_key_are_fine() -> None:
    assert tls_material.client_problem(CHAIN, KEY, NOW) is None
    assert tls_material.client_problem(CHAIN + ENDED, KEY, NOW) is None
    assert tls_material.authority_problem(CHAIN + ENDED, NOW) is None


@pytest.mark.parametrize(
    ("chain", "key", "part"),
    [
        ("nonsense", KEY, "`tls.crt` must be certificates in PEM"),
        (VERSION_7, KEY, "`tls.crt` must be certificates in PEM"),
        (RARE_CURVE, RARE_CURVE_KEY, "`tls.crt` must be certificates in PEM"),
        (CHAIN, RARE_CURVE_KEY, "`tls.key` must be a private key"),
        (CHAIN, "nonsense", "`tls.key` must be a private key"),
        (CHAIN, CHAIN, "`tls.key` must be a private key"),
        (CHAIN, OTHER_KEY, "must be the key of the certificate"),
        (ENDED, ENDED_KEY, "`tls.crt` ended on 20"),
        (CHAIN, certificates.rsa_key(4097), "`tls.key` must have at most 4096 bits"),
    ],
)
def test_client_certificate_that_cannot_be_used_is_explained(chain: str, key: str, part: str) -> None:
    assert part in str(tls_material.client_problem(chain, key, NOW))


def test_authority_that_cannot_be_used_is_explained() -> None:
    for bad in ("nonsense", VERSION_7):
        assert tls_material.authority_problem(bad, NOW) == "must be certificates in PEM"
    assert str(tls_material.authority_problem(ENDED, NOW)).startswith("ended on 20")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (certificates.rsa_key(4096), None),
        (certificates.rsa_key(4097), "must have at most 4096 bits"),
        (KEY, "must be an RSA key"),
        (RARE_CURVE_KEY, "must be a private key in PEM without a password"),
        ("nonsense", "must be a private key in PEM without a password"),
    ],
)
def test_key_that_cannot_sign_an_assertion_is_explained(key: str, problem: str | None) -> None:
    assert tls_material.signing_problem(key) == problem


def test_certificate_has_not_ended_while_the_time_is_unknown() -> None:
    assert tls_material.client_problem(ENDED, ENDED_KEY, 0) is None
