import pytest

from usher_gateway.timing import TokenBucket


def take(bucket: TokenBucket, now: float, count: int) -> int:
    return sum(bucket.take(now) for _ in range(count))


def test_burst_is_available_at_once() -> None:
    assert take(TokenBucket(10, burst=10, now=5.0), 5.0, 100) == 10


@pytest.mark.parametrize(("later", "given"), [(0.0, 0), (0.05, 0), (0.1, 1), (0.55, 5), (1.0, 10), (3600.0, 10)])
def test_bucket_fills_at_its_rate_up_to_its_burst(later: float, given: int) -> None:
    bucket = TokenBucket(10, burst=10, now=100.0)
    take(bucket, 100.0, 10)
    assert take(bucket, 100.0 + later + 1e-9, 100) == given


def test_bucket_says_when_the_next_token_comes() -> None:
    bucket = TokenBucket(0.5, burst=0.5, now=0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.5)
    assert bucket.seconds_until_token() == pytest.approx(1.5)
    assert bucket.take(2.0)


def test_bucket_earns_nothing_while_the_clock_is_set_back() -> None:
    bucket = TokenBucket(1, burst=1, now=100.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert bucket.take(51.0)
