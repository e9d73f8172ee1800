"""The brake: removals are gathered, judged together, and held back where they are many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.resources import removal_limit
from usher_operator import removals


@pytest.fixture
def pending() -> removals.PendingRemovals:
    return removals.PendingRemovals(2, 30)


def listeners(count: int) -> list[removals.Identity]:
    return [("Listener", f"agency/l{number}") for number in range(count)]


def want(pending: removals.PendingRemovals, identities: list[removals.Identity], now: float = 0) -> None:
    for identity in identities:
        assert not pending.want(identity, now)


def test_nothing_wanted_is_never_due(pending: removals.PendingRemovals) -> None:
    assert pending.due_in(0) is None


def test_a_removal_waits_until_no_other_has_come_for_a_while(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 10)
    want(pending, [("Listener", "agency/x")], 11.5)
    assert pending.due_in(12) == pytest.approx(1.5)
    assert pending.due_in(14) == 0


def test_a_stream_of_removals_is_judged_in_the_end(pending: removals.PendingRemovals) -> None:
    for second, identity in enumerate(listeners(40)):
        pending.want(identity, second)
    assert pending.due_in(29) == 1
    assert pending.due_in(31) == 0


def test_wanting_the_same_again_does_not_put_it_off(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 0)
    want(pending, listeners(1), 1.9)
    assert pending.due_in(2) == 0


def test_few_listeners_go(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(5))
    verdict = pending.judge(5, ())
    assert verdict.allowed == set(listeners(5))
    assert pending.want(("Listener", "agency/l0"), 1), "what was judged goes at once"


def test_more_than_five_and_a_tenth_stay(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    verdict = pending.judge(59, ())
    assert verdict.allowed == frozenset()
    assert verdict.halted is not None
    assert verdict.halted.names == tuple(key for _, key in listeners(6))
    assert not pending.want(("Listener", "agency/l0"), 1)


def test_a_tenth_of_many_goes(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    assert len(pending.judge(60, ()).allowed) == 6


def test_destinations_go_with_the_listeners_or_stay_with_them(pending: removals.PendingRemovals) -> None:
    want(pending, [*listeners(6), ("Destination", "agency/crm")])
    assert pending.judge(6, ()).allowed == frozenset()
    assert ("Destination", "agency/crm") in pending.waiting


def test_any_number_of_destinations_alone_goes(pending: removals.PendingRemovals) -> None:
    found: list[removals.Identity] = [("Destination", f"agency/d{number}") for number in range(20)]
    want(pending, found)
    assert pending.judge(10, ()).allowed == set(found)


def test_the_digest_lets_exactly_this_removal_through(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    halted = pending.judge(6, ()).halted
    assert halted is not None
    assert not pending.is_reopened(())
    assert pending.is_reopened([halted.digest])
    assert pending.judge(6, [halted.digest]).allowed == set(listeners(6))
    assert pending.halted is None


def test_one_more_listener_needs_another_digest(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    halted = pending.judge(7, ()).halted
    assert halted is not None
    want(pending, [("Listener", "agency/another")], 5)
    assert pending.judge(7, [halted.digest]).halted != halted
    assert pending.waiting == {*listeners(6), ("Listener", "agency/another")}


def test_listeners_that_come_back_release_the_brake(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    pending.judge(6, ())
    pending.keep(("Listener", "agency/l0"))
    assert pending.is_reopened(())
    assert pending.judge(6, ()).allowed == set(listeners(6)[1:])


def test_what_came_back_is_judged_anew_when_it_goes_again(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1))
    pending.judge(9, ())
    pending.keep(("Listener", "agency/l0"))
    assert not pending.want(("Listener", "agency/l0"), 9)


def test_after_a_lost_definition_even_one_stays(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, listeners(1))
    halted = pending.judge(50, ()).halted
    assert halted is not None
    assert pending.judge(50, [halted.digest]).allowed == set(listeners(1))
    want(pending, [("Listener", "agency/later")], 9)
    assert pending.judge(50, ()).halted is None, "a confirmation ends the suspicion"


def test_a_lost_definition_of_listeners_does_not_hold_destinations(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, [("Destination", "agency/crm")])
    assert pending.judge(50, ()).halted is None


def test_after_a_lost_definition_destinations_stay_too(pending: removals.PendingRemovals) -> None:
    pending.suspect("Destination")
    want(pending, [("Destination", "agency/crm")])
    halted = pending.judge(50, ()).halted
    assert halted is not None
    assert halted.names == ("Destination agency/crm",)
    assert pending.judge(50, [halted.digest]).allowed == {("Destination", "agency/crm")}


def test_after_a_lost_definition_everything_that_is_back_is_fine(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, listeners(2))
    pending.judge(50, ())
    for identity in listeners(2):
        pending.keep(identity)
    assert pending.is_reopened(())
    assert pending.judge(50, ()).halted is None
    want(pending, listeners(1))
    assert pending.judge(50, ()).halted is None, "the suspicion is over"


@given(st.integers(0, 80), st.integers(0, 400))
def test_without_a_confirmation_never_more_than_the_brake_allows(count: int, others: int) -> None:
    pending = removals.PendingRemovals(2, 30)
    want(pending, listeners(count))
    verdict = pending.judge(count + others, ())
    assert len(verdict.allowed) in {0, count}
    assert len(verdict.allowed) <= max(removal_limit.ALWAYS_ALLOWED, removal_limit.ALLOWED_SHARE * (count + others))
    assert (verdict.halted is None) == (len(verdict.allowed) == count)
