"""A write that replaces somebody's change waits for twice as long as the one before."""

from usher_operator.write.rewrites import LAST_REWRITE_SECONDS, RewriteBackoff


def fight(backoff: RewriteBackoff[str], count: int) -> float:
    """Let somebody change an object back as soon as it is written; returns the time of the last write."""
    now = 0.0
    for _ in range(count):
        now += backoff.seconds_left("object", "theirs", now)
        backoff.written("object", "ours", "theirs", now)
    return now


def test_first_rewrite_waits_for_nothing_and_each_further_one_twice_as_long() -> None:
    backoff: RewriteBackoff[str] = RewriteBackoff()
    now, waits = 0.0, []
    for _ in range(12):
        wait = backoff.seconds_left("object", "theirs", now)
        waits.append(wait)
        now += wait
        backoff.written("object", "ours", "theirs", now)
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_own_change_never_waits() -> None:
    backoff: RewriteBackoff[str] = RewriteBackoff()
    for number in range(20):
        assert backoff.seconds_left("object", number, float(number)) == 0
        backoff.written("object", number + 1, number, float(number))


def test_rewrites_count_from_the_start_again_after_a_quiet_time() -> None:
    backoff: RewriteBackoff[str] = RewriteBackoff()
    now = fight(backoff, 5) + LAST_REWRITE_SECONDS + 1
    backoff.written("object", "newer", "ours", now)
    assert backoff.seconds_left("object", "theirs", now) == 0


def test_object_is_contested_from_the_third_rewrite_until_it_is_left_alone() -> None:
    backoff: RewriteBackoff[str] = RewriteBackoff()
    assert backoff.conflict_seconds_left("object", fight(backoff, 3)) == 0
    now = fight(backoff, 1)
    assert backoff.conflict_seconds_left("object", now) == 8
    assert backoff.conflict_seconds_left("object", now + 8) == 0
    backoff.forget("object")
    assert backoff.conflict_seconds_left("object", now) == 0
