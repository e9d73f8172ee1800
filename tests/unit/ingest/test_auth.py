import hmac
from unittest import mock

import pytest

from support import ingest_samples
from usher_gateway import documents, model
from usher_gateway.ingest import auth

KEY = ingest_samples.KEYS.credential


def rule(kind: str, header: str, value: bytes) -> documents.Authentication:
    return documents.Authentication(kind, header, documents.credential_digest(value, KEY))  # type: ignore[arg-type]


BASIC = rule("Basic", "authorization", b"Basic cHVycGxlOng=")
HEADER = rule("Header", "x-hook-key", "schlüssel".encode())


def refused(given: documents.Authentication, headers: dict[str, str]) -> model.RefusedReason | None:
    return auth.credentials_refused(given, headers, KEY)


def test_listener_without_authentication_accepts_everyone() -> None:
    assert refused(documents.Authentication(), {}) is None


def test_right_credentials_are_accepted() -> None:
    assert refused(BASIC, {"authorization": "Basic cHVycGxlOng="}) is None
    assert refused(HEADER, {"x-hook-key": "schlüssel"}) is None


@pytest.mark.parametrize("value", ["", "Basic cHVycGxlOnk=", "basic cHVycGxlOng", "Bearer x", "\udcff", "x" * 8000])
def test_wrong_credentials_are_refused(value: str) -> None:
    assert refused(BASIC, {"authorization": value}) is model.RefusedReason.Unauthenticated
    assert refused(HEADER, {"x-hook-key": value}) is model.RefusedReason.Unauthenticated
    assert refused(BASIC, {}) is model.RefusedReason.Unauthenticated


def test_unresolved_authentication_refuses_everyone() -> None:
    rule = documents.Authentication("Unresolved")
    assert refused(rule, {"authorization": "Basic cHVycGxlOng="}) is model.RefusedReason.AuthenticationUnresolved


def test_credentials_are_compared_in_constant_time() -> None:
    with mock.patch.object(hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
        refused(BASIC, {"authorization": "Basic cHVycGxlOng="})
    compare.assert_called_once()
    assert all(len(argument) == 64 for argument in compare.call_args.args), "digests: of one length whatever is sent"


TRUSTED = auth.networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.1.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.1.1", ["1.1.1.1, 198.51.100.1, 10.2.2.2"], "198.51.100.1"),
        ("10.1.1.1", ["1.1.1.1", "198.51.100.1 , 10.2.2.2"], "198.51.100.1"),
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", ["198.51.100.1, unknown"], "10.1.1.1"),
        ("10.1.1.1", ["198.51.100.1, unknown, 10.2.2.2"], "10.2.2.2"),
        ("10.1.1.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.1.1", ["[2001:db9::1]:443"], "2001:db9::1"),
        ("10.1.1.1", ["2001:db9::1"], "2001:db9::1"),
        ("10.1.1.1", ["fe80::1%jane@example.com"], "fe80::1"),
        ("2001:db8::5", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.1.1.1", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_client_address_is_the_last_untrusted_hop(peer: str, forwarded: list[str], client: str) -> None:
    assert auth.client_address(peer, forwarded, TRUSTED) == client


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("203.0.113.9", True),
        ("203.0.114.9", False),
        ("::ffff:203.0.113.9", True),
        ("::ffff:203.0.114.9", False),
        ("fe80::1%eth0", True),
        ("fe80::1", True),
        ("", False),
        ("unknown", False),
        ("203.0.113.9 ", False),
        ("203.0.113.009", False),
    ],
)
def test_source_is_allowed_by_its_address(address: str, is_allowed: bool) -> None:
    ranges = auth.networks(["203.0.113.0/24", "fe80::/10"])
    assert auth.is_in(address, ranges) is is_allowed


def test_range_of_mapped_addresses_matches_ipv4() -> None:
    assert auth.is_in("203.0.113.9", auth.networks(["::ffff:203.0.113.0/120"]))
