import pytest

from usher_gateway.ingest import bucket


def take(tokens: bucket.TokenBucket, now: float, count: int) -> int:
    return sum(tokens.take(now) for _ in range(count))


def test_a_second_s_worth_is_there_at_once() -> None:
    assert take(bucket.TokenBucket(10, 5.0), 5.0, 100) == 10


@pytest.mark.parametrize(("later", "given"), [(0.0, 0), (0.05, 0), (0.1, 1), (0.55, 5), (1.0, 10), (3600.0, 10)])
def test_it_fills_at_its_rate_and_not_beyond(later: float, given: int) -> None:
    tokens = bucket.TokenBucket(10, 100.0)
    take(tokens, 100.0, 10)
    assert take(tokens, 100.0 + later + 1e-9, 100) == given


def test_over_a_long_time_it_gives_its_rate() -> None:
    tokens = bucket.TokenBucket(7, 0.0)
    assert sum(tokens.take(step / 1000) for step in range(60_000)) == pytest.approx(7 * 61, abs=2)
