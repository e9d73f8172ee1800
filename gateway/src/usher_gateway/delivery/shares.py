"""Divides a destination's limits among the gateways of one store. Pure.

For each destination the gateways have another order (by a hash, so that the order of the others stays the same when
one starts or ends). The first k of them share the limits, where k is at most the concurrency and the rate: every one of
these gets the same whole number, and the remainder goes to the first. So the shares add up to the limits exactly.

When a gateway ends, no share of the others gets smaller, and when one starts, none gets larger. Hence gateways that
have not noticed an end use less than their share. A gateway that starts gets its shares only after all others have
lowered theirs (``Replicas.has_joined``), so the sum is never over the limit.
"""

import hashlib

from usher_gateway.delivery.scheduler import LaneLimits
from usher_gateway.store.base import Replicas

NOTHING = LaneLimits(concurrency=0)


def share_of(limits: LaneLimits, destination: str, replicas: Replicas) -> LaneLimits:
    """Return this gateway's share of a destination's limits."""
    if not replicas.has_joined:
        return NOTHING
    count = len(replicas.members)
    if count == 1:
        return limits
    rate = int(limits.requests_per_second)
    sharing = min(count, limits.concurrency, rate or count)
    rank = _rank(destination, replicas)
    if rank >= sharing:
        return NOTHING
    return LaneLimits(_part(limits.concurrency, sharing, rank), _part(rate, sharing, rank))


def _part(total: int, count: int, rank: int) -> int:
    """Return a part of a whole number; the first ones get the remainder."""
    return (total - rank + count - 1) // count if total else 0


def _rank(destination: str, replicas: Replicas) -> int:
    """Return this gateway's place in the order of a destination."""
    own = _place(destination, replicas.own)
    return sum(_place(destination, member) < own for member in replicas.members)


def _place(destination: str, member: int) -> tuple[bytes, int]:
    return hashlib.blake2b(f"{member} {destination}".encode(), digest_size=8).digest(), member
