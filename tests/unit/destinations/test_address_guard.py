import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model
from usher_gateway.destinations import address_guard

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "192.0.1.0",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
    "2001:4860:4860::8888",
    "2003::1",
    "3ffd::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_next_to_a_forbidden_range_is_allowed(address: str) -> None:
    assert address_guard.AddressGuard().refusal("crm.example", 443, address) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "Loopback"),
        ("10.1.2.3", "Private"),
        ("169.254.169.254", "Metadata"),
        ("169.254.1.1", "LinkLocal"),
        ("100.64.0.1", "SharedByCarrier"),
        ("0.0.0.0", "Unspecified"),
        ("255.255.255.255", "Broadcast"),
        ("::1", "Loopback"),
        ("fd00::1", "UniqueLocal"),
        ("fe80::1%eth0", "LinkLocal"),
        ("::ffff:8.8.8.8", "EmbedsIPv4"),
        ("64:ff9b::808:808", "EmbedsIPv4"),
        ("2002:808:808::1", "EmbedsIPv4"),
        ("2001::1", "EmbedsIPv4"),
        ("2606:4700::1%eth0", "NotGlobal"),
        ("4000::1", "NotGlobal"),
        ("no address", "NotGlobal"),
    ],
)
def test_refusal_names_the_most_specific_reason(address: str, reason: str) -> None:
    assert address_guard.AddressGuard().refusal("crm.example", 443, address) == reason


@given(st.ip_addresses())
def test_special_addresses_of_the_standard_library_are_forbidden(address: address_guard.Address) -> None:
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if special or address.is_reserved or address.is_unspecified:
        assert address_guard.forbidden(address) is not None


@given(st.ip_addresses(v=4))
def test_ipv4_address_inside_ipv6_is_forbidden(address: ipaddress.IPv4Address) -> None:
    for prefix in ("::ffff:", "::", "64:ff9b::"):
        assert address_guard.forbidden(ipaddress.ip_address(prefix + str(address))) is not None


@pytest.mark.parametrize(
    ("hole", "host", "port", "address", "free"),
    [
        ("10.1.0.0/16", "any", 80, "10.1.2.3", True),
        ("10.1.0.0/16", "any", 80, "10.2.0.1", False),
        ("10.1.2.3", "any", 80, "10.1.2.3", True),
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1", True),
        ("127.0.0.1:8080", "127.0.0.1", 8081, "127.0.0.1", False),
        ("[fd00::1]:8080", "any", 8080, "fd00::1", True),
        ("fd00::/8", "any", 1, "fd12::9", True),
        ("crm.internal", "CRM.Internal.", 443, "10.9.9.9", True),
        ("crm.internal:8443", "crm.internal", 443, "10.9.9.9", False),
        ("crm.internal", "evil.crm.internal", 443, "10.9.9.9", False),
        ("0.0.0.0/0", "any", 80, "::ffff:10.0.0.1", False),
    ],
)
def test_allow_list_entry_allows_only_what_it_names(hole: str, host: str, port: int, address: str, free: bool) -> None:
    assert (address_guard.AddressGuard([hole]).refusal(host, port, address) is None) is free


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.0/33", "10.0.0.1/8", "host:", "host:99999", "a/b", "[::1", "x:y:z", "host:0x1", "foo bar", "*.local"],
)
def test_invalid_allow_list_entry_is_rejected_with_a_hint(text: str) -> None:
    with pytest.raises(model.ConfigurationError) as caught:
        address_guard.AddressGuard([text])
    assert caught.value.hint


def test_loopback_entry_allows_loopback_addresses_only() -> None:
    guard = address_guard.AddressGuard(allow=["loopback"])
    assert guard.refusal("crm.example", 80, "127.8.8.8") is None
    assert guard.refusal("crm.example", 80, "::1") is None
    assert guard.refusal("crm.example", 80, "10.0.0.1") is not None
