"""Checks of an arrival's credentials and source address (pure)."""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping

from usher_gateway import documents, model

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def credentials_refused(
    rule: documents.Authentication, headers: Mapping[str, str], key: bytes
) -> model.RefusedReason | None:
    """Return why the credentials of a request are refused, or None. ``key``: `Keys.credential`.

    Compares keyed digests in constant time. A rule whose Secret was never resolved refuses everything (fail closed).
    """
    if rule.type == "None":
        return None
    if rule.type == "Unresolved":
        return model.RefusedReason.AuthenticationUnresolved
    credential = headers.get(rule.header, "").encode("utf-8", "surrogateescape")
    matches = hmac.compare_digest(documents.credential_digest(credential, key), rule.digest)
    return None if matches else model.RefusedReason.Unauthenticated


def networks(ranges: Iterable[str]) -> tuple[Network, ...]:
    """Parse CIDRs. Host bits are allowed, and IPv4-mapped IPv6 networks become IPv4 networks.

    Raises:
        ValueError: a range is not a CIDR.
    """
    return tuple([_unmapped(ipaddress.ip_network(text, strict=False)) for text in ranges])


def _unmapped(network: Network) -> Network:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return (
        network if mapped is None or network.prefixlen < 96 else ipaddress.ip_network((mapped, network.prefixlen - 96))
    )


def client_address(peer: str, forwarded_for: Iterable[str], trusted: tuple[Network, ...]) -> str:
    """Return the client's address: the peer, or behind trusted proxies the last untrusted X-Forwarded-For entry.

    ``forwarded_for``: the values of all such headers in order. The search ends at an entry that is not an address,
    because an unknown party wrote the entries before it.
    """
    address = peer
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    while hops and is_in(address, trusted):
        hop = _without_port(hops.pop()).partition("%")[0]  # a zone is text of the sender's choice
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            break
        address = hop
    return address


def is_in(address: str, ranges: tuple[Network, ...]) -> bool:
    """Return whether an address lies in one of the ranges. Text that is not an address lies in none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    if mapped is not None:
        parsed = mapped
    return any(parsed in network for network in ranges if network.version == parsed.version)


def _without_port(hop: str) -> str:
    """Remove the port from ``1.2.3.4:80`` and ``[::1]:80``, which some proxies write."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
