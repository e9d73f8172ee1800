"""Decides to which addresses the gateway may connect.

The client asks about the very address that it is about to connect to. The guard never judges a name or the spelling of
an address, so a DNS answer that changes between a check and the connection gains nothing.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence

import msgspec

from usher_gateway import model

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_GLOBAL = "NotGlobal"

# Source: the IANA registries of special-purpose IPv4 and IPv6 addresses; the metadata services of the large clouds.
_FORBIDDEN_TEXT = (
    ("Metadata", "169.254.169.254/32 169.254.170.2/32 100.100.100.200/32 168.63.129.16/32 192.0.0.192/32"),
    ("Metadata", "fd00:ec2::254/128 fd20:ce::254/128"),
    ("Unspecified", "0.0.0.0/8 ::/128"),
    ("Loopback", "127.0.0.0/8 ::1/128"),
    ("Private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"),
    ("LinkLocal", "169.254.0.0/16 fe80::/10"),
    ("SharedByCarrier", "100.64.0.0/10"),
    ("UniqueLocal", "fc00::/7"),
    ("SiteLocal", "fec0::/10"),
    ("Multicast", "224.0.0.0/4 ff00::/8"),
    ("Broadcast", "255.255.255.255/32"),
    ("Reserved", "240.0.0.0/4 192.0.0.0/24 2001::/23 5f00::/16 3ffe::/16 100::/64"),
    ("Documentation", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20"),
    ("Benchmarking", "198.18.0.0/15"),
    (
        "EmbedsIPv4",
        "::ffff:0:0/96 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 2001::/32 2002::/16 192.88.99.0/24",
    ),
)

# The range assigned for global unicast. The rest of IPv6 is forbidden.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")

_ALLOWED_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


def _parse(table: Iterable[tuple[str, str]]) -> tuple[tuple[Network, str], ...]:
    """Return networks with their reasons, the narrowest first, so that the most specific reason is found first."""
    networks = [(ipaddress.ip_network(text), reason) for reason, texts in table for text in texts.split()]
    return tuple(sorted(networks, key=lambda entry: -entry[0].prefixlen))


_FORBIDDEN = _parse(_FORBIDDEN_TEXT)


def forbidden(address: Address) -> str | None:
    """Return why the gateway must not connect to an address, or None."""
    for network, reason in _FORBIDDEN:
        if address in network:
            return reason
    if isinstance(address, ipaddress.IPv6Address) and (address not in _GLOBAL_IPV6 or address.scope_id):
        return _NOT_GLOBAL
    return None


LOOPBACK = "loopback"  # An allow-list entry for all loopback addresses

_LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")


class AllowedDestination(msgspec.Struct, frozen=True):
    """One entry of the platform's allow-list. ``port`` 0 means any port."""

    network: Network | None
    host: str = ""
    """In lower case. Used if ``network`` is None."""
    port: int = 0

    def admits(self, host: str, port: int, address: Address) -> bool:
        """Return whether the entry allows ``address``, reached by the name ``host``."""
        if self.port not in (0, port):
            return False
        return host == self.host if self.network is None else address in self.network


def parse_allowed(text: str) -> AllowedDestination:
    """Parse one ``CIDR`` or ``HOST[:PORT]``. An IPv6 address with a port is written in brackets.

    Raises:
        ConfigurationError: the text is neither.
    """
    try:
        return AllowedDestination(ipaddress.ip_network(text))
    except ValueError:
        match = _ALLOWED_HOST.fullmatch(text)
    port = int(match["port"] or 0) if match else 0
    if match is None or "/" in text or port > 65_535:
        raise model.ConfigurationError(
            f"{text!r} is neither a CIDR nor HOST[:PORT]", "write 10.1.0.0/16, crm.internal:8080 or [fd00::1]:8080"
        )
    host = match["host"].strip("[]").lower().rstrip(".")
    try:
        return AllowedDestination(ipaddress.ip_network(host), port=port)
    except ValueError:
        return AllowedDestination(None, host, port)


class AddressGuard:
    """Decides about each address before the client connects to it."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        """Take the platform's allow-list: ``CIDR``, ``HOST[:PORT]`` or ``loopback`` each.

        Raises:
            ConfigurationError: an entry cannot be parsed.
        """
        entries = [entry for text in allow for entry in (_LOOPBACK_NETWORKS if text == LOOPBACK else (text,))]
        self._allowed = tuple(parse_allowed(entry) for entry in entries)

    def refusal(self, host: str, port: int, address: str) -> str | None:
        """Return why the client must not connect to the address that a URL's host resolved to, or None."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return _NOT_GLOBAL
        name = host.lower().rstrip(".")
        if any(entry.admits(name, port, parsed) for entry in self._allowed):
            return None
        return forbidden(parsed)
