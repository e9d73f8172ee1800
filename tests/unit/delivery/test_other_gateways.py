"""The shares of a destination's limits: together exactly the limit."""

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.delivery import other_gateways
from usher_gateway.delivery.scheduler import LaneLimits, RateLimit
from usher_gateway.store.base import Replicas

RATES = st.none() | st.builds(RateLimit, st.integers(1, 100))
LIMITS = st.builds(LaneLimits, st.integers(1, 100), RATES)
MEMBERS = st.lists(st.integers(1, 1000), min_size=1, max_size=12, unique=True).map(sorted)


def share(limits: LaneLimits, own: int, members: list[int], destination: str = "n/a") -> LaneLimits:
    return other_gateways.share_of(limits, destination, Replicas(own, tuple(members)))


def requests(limits: LaneLimits) -> int:
    return limits.rate.requests if limits.rate else 0


@given(LIMITS, MEMBERS)
def test_shares_add_up_to_the_limits(limits: LaneLimits, members: list[int]) -> None:
    own_shares = [share(limits, own, members) for own in members]
    assert sum(own_share.concurrency for own_share in own_shares) == limits.concurrency
    assert sum(map(requests, own_shares)) == requests(limits)
    if limits.rate:
        assert all((own_share.concurrency > 0) == (requests(own_share) > 0) for own_share in own_shares)


@given(LIMITS, MEMBERS, st.data())
def test_shares_add_up_to_at_most_the_limits_after_an_end(
    limits: LaneLimits, members: list[int], data: st.DataObject
) -> None:
    """Some gateways have noticed the end, others have not."""
    ended = data.draw(st.sampled_from(members))
    left = [member for member in members if member != ended]
    noticed = set(data.draw(st.lists(st.sampled_from(left)))) if left else set()
    own_shares = [share(limits, own, left if own in noticed else members) for own in left]
    assert sum(own_share.concurrency for own_share in own_shares) <= limits.concurrency
    assert sum(map(requests, own_shares)) <= requests(limits)


@given(LIMITS, MEMBERS, st.integers(1001, 2000))
def test_share_does_not_grow_when_a_gateway_starts(limits: LaneLimits, members: list[int], newest: int) -> None:
    for own in members:
        earlier, later = share(limits, own, members), share(limits, own, [*members, newest])
        assert later.concurrency <= earlier.concurrency
        assert later.concurrency == 0 or requests(later) <= requests(earlier)


@given(st.integers(1, 100), st.lists(st.integers(1, 20), min_size=1, max_size=5), MEMBERS)
def test_destinations_of_a_shared_rate_have_the_same_part_of_it(
    most: int, concurrencies: list[int], members: list[int]
) -> None:
    rate = RateLimit(most, 60, "n//vendor")
    parts = {own: set[int]() for own in members}
    for number, concurrency in enumerate(concurrencies):
        for own in members:
            own_share = share(LaneLimits(concurrency, rate), own, members, f"n/{number}")
            parts[own] |= {own_share.rate.requests} if own_share.rate else set()
    assert all(len(part) <= 1 for part in parts.values())
    assert sum(sum(part) for part in parts.values()) <= most


def test_destinations_with_one_attempt_are_spread_over_gateways() -> None:
    members = [3, 4, 9]
    attempts_by_member = {
        own: sum(share(LaneLimits(1), own, members, f"n/{number}").concurrency for number in range(300))
        for own in members
    }
    assert sum(attempts_by_member.values()) == 300
    assert min(attempts_by_member.values()) > 60
