"""Limits how often links and tickets are tried, so that guesses stay rare and the store has time for visits."""

import ipaddress
import math
from collections import Counter
from collections.abc import Callable

_SECONDS = 60.0


class AttemptLimit:
    """Counts attempts in windows of a minute, of each peer and of all. Refused ones do not count.

    Args:
        of_peer: how many a peer has; an IPv6 network of a customer (/64) is one peer.
        of_all: how many there may be together.
        now: returns monotonic seconds.
    """

    def __init__(self, *, of_peer: int, of_all: int, now: Callable[[], float]) -> None:
        self._of_peer, self._of_all, self._now = of_peer, of_all, now
        self._ends_at = -math.inf
        self._counts: Counter[str] = Counter()

    def refused_seconds(self, peer: str) -> int:
        """Count an attempt; return 0, or after how many seconds the peer may try again."""
        now = self._now()
        if now >= self._ends_at:
            self._ends_at, self._counts = now + _SECONDS, Counter()
        name = _network(peer)
        if self._counts[name] >= self._of_peer or self._counts.total() >= self._of_all:
            return max(1, math.ceil(self._ends_at - now))
        self._counts[name] += 1
        return 0


def _network(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    mapped = getattr(address, "ipv4_mapped", None)
    if address.version == 4 or mapped is not None:
        return str(mapped or address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
