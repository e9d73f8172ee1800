"""What Ingress and HTTPRoute of one hostname have in common: the name, and which paths are routed.

``scope: Hostname`` sends the whole hostname to the gateway, in one object. ``scope: Path`` sends exact paths only, and
many of them may stand on one hostname: they are spread over several objects by a hash of the path, so that a new
listener changes one of them, and none grows out of its limits.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable

import msgspec

MOST_PATHS = 64
"""Most paths in one object. Source: gateway-api, HTTPRouteRule.matches has at most 64 items."""

_FORBIDDEN = re.compile(r"//|/\.\.?(/|$)|%2f", re.IGNORECASE)
"""What neither an Ingress nor an HTTPRoute takes in an exact path. Source: Kubernetes' validation of Ingress and the
rules of HTTPPathMatch."""

_BAD_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")


class Part(msgspec.Struct, frozen=True):
    """One object's share of a hostname."""

    name: str
    hostname: str
    paths: tuple[str, ...] | None
    """Exact paths, sorted; None: the whole hostname."""


def object_name(hostname: str) -> str:
    """Name of the objects of a hostname: readable, never too long, different for different hostnames."""
    readable = re.sub(r"[^a-z0-9]+", "-", hostname)[:36].strip("-")
    return f"usher-{readable}-{hashlib.sha256(hostname.encode()).hexdigest()[:8]}"


def whole(hostname: str) -> list[Part]:
    """The one part of a hostname that is the gateway's as a whole."""
    return [Part(object_name(hostname), hostname, None)]


def by_path(hostname: str, paths: Iterable[str]) -> list[Part]:
    """The parts of a hostname of which only some paths are the gateway's."""
    found = {path for path in paths if is_path_routable(path)}
    count = 1
    while True:
        buckets: dict[int, list[str]] = {}
        for path in sorted(found):
            buckets.setdefault(_digest(path) % count, []).append(path)
        if all(len(bucket) <= MOST_PATHS for bucket in buckets.values()):
            break
        count *= 2
    name = object_name(hostname)
    return [Part(f"{name}-{number}", hostname, tuple(buckets[number])) for number in sorted(buckets)]


def is_path_routable(path: str) -> bool:
    """Whether an exact path can stand in an Ingress or HTTPRoute."""
    return not _FORBIDDEN.search(path) and not _BAD_PERCENT.search(path)


def is_host_routable(hostname: str) -> bool:
    """Whether a hostname can stand in an Ingress or HTTPRoute: an IP address cannot."""
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return True
    return False


def _digest(path: str) -> int:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
