"""Limits how often links and tickets are tried, so that guesses stay rare and the store has time for visits."""

import ipaddress
import math
from collections import Counter
from collections.abc import Callable

_SECONDS = 60.0


class AttemptLimit:
    """Counts attempts in windows of a minute, of each key and of all. Refused ones do not count.

    Args:
        of_key: how many a key has.
        of_all: how many there may be together.
        now: returns monotonic seconds.
    """

    def __init__(self, *, of_key: int, of_all: int, now: Callable[[], float]) -> None:
        self._of_key, self._of_all, self._now = of_key, of_all, now
        self._ends_at = -math.inf
        self._counts: Counter[str] = Counter()

    def count_attempt(self, key: str) -> int:
        """Return 0, or if there are too many attempts, after how many seconds there may be another."""
        now = self._now()
        if now >= self._ends_at:
            self._ends_at, self._counts = now + _SECONDS, Counter()
        if self._counts[key] >= self._of_key or self._counts.total() >= self._of_all:
            return max(1, math.ceil(self._ends_at - now))
        self._counts[key] += 1
        return 0


def network_of(peer: str) -> str:
    """Return a key for the address of a peer; all addresses of an IPv6 network (/64) of a customer have the same."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    mapped = getattr(address, "ipv4_mapped", None)
    if address.version == 4 or mapped is not None:
        return str(mapped or address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
