"""Removals are collected, decided together and halted if they are many; tombstones have their time."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.resources import removal_limit
from usher_operator import removals
from usher_operator.view import ObjectRef


@pytest.fixture
def pending() -> removals.PendingRemovals:
    return removals.PendingRemovals(settle_seconds=2, max_settle_seconds=30)


def listeners(count: int) -> list[removals.DocumentId]:
    return [("Listener", f"agency/l{number}") for number in range(count)]


def want(pending: removals.PendingRemovals, identities: list[removals.DocumentId], now: float = 0) -> None:
    for identity in identities:
        assert not pending.request(identity, now)


def test_decision_is_not_due_without_requests(pending: removals.PendingRemovals) -> None:
    assert pending.due_in(0) is None


def test_decision_waits_until_no_further_request_comes(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 10)
    want(pending, [("Listener", "agency/x")], 11.5)
    assert pending.due_in(12) == pytest.approx(1.5)
    assert pending.due_in(14) == 0


def test_stream_of_requests_is_decided_after_the_maximum_wait(pending: removals.PendingRemovals) -> None:
    for second, identity in enumerate(listeners(40)):
        pending.request(identity, second)
    assert pending.due_in(29) == 1
    assert pending.due_in(31) == 0


def test_repeated_request_does_not_delay_the_decision(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 0)
    want(pending, listeners(1), 1.9)
    assert pending.due_in(2) == 0


def test_few_listeners_are_removed(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(5))
    verdict = pending.decide(5, ())
    assert verdict.allowed == set(listeners(5))
    assert pending.request(("Listener", "agency/l0"), 1), "an allowed removal needs no second decision"


def test_more_than_five_and_a_tenth_are_halted(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    verdict = pending.decide(59, ())
    assert verdict.allowed == frozenset()
    assert verdict.halted is not None
    assert verdict.halted.names == tuple(key for _, key in listeners(6))
    assert not pending.request(("Listener", "agency/l0"), 1)


def test_tenth_of_many_listeners_is_removed(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    assert len(pending.decide(60, ()).allowed) == 6


def test_destinations_are_halted_together_with_listeners(pending: removals.PendingRemovals) -> None:
    want(pending, [*listeners(6), ("Destination", "agency/crm")])
    assert pending.decide(6, ()).allowed == frozenset()
    assert ("Destination", "agency/crm") in pending.waiting


def test_destinations_alone_are_removed_in_any_number(pending: removals.PendingRemovals) -> None:
    found: list[removals.DocumentId] = [("Destination", f"agency/d{number}") for number in range(20)]
    want(pending, found)
    assert pending.decide(10, ()).allowed == set(found)


def test_confirmation_allows_exactly_the_named_removals(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    halted = pending.decide(6, ()).halted
    assert halted is not None
    assert not pending.is_reopened(())
    assert pending.is_reopened([halted.digest])
    assert pending.decide(6, [halted.digest]).allowed == set(listeners(6))
    assert pending.halted is None


def test_additional_listener_needs_another_confirmation(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    halted = pending.decide(7, ()).halted
    assert halted is not None
    want(pending, [("Listener", "agency/another")], 5)
    assert pending.decide(7, [halted.digest]).halted != halted
    assert pending.waiting == {*listeners(6), ("Listener", "agency/another")}


def test_returned_listeners_end_the_halt(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(6))
    pending.decide(6, ())
    pending.withdraw(("Listener", "agency/l0"))
    assert pending.is_reopened(())
    assert pending.decide(6, ()).allowed == set(listeners(6)[1:])


def test_returned_document_is_decided_again_when_removed_again(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1))
    pending.decide(9, ())
    pending.withdraw(("Listener", "agency/l0"))
    assert not pending.request(("Listener", "agency/l0"), 9)


def test_deleted_crd_halts_even_one_removal(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, listeners(1))
    halted = pending.decide(50, ()).halted
    assert halted is not None
    assert pending.decide(50, [halted.digest]).allowed == set(listeners(1))
    want(pending, [("Listener", "agency/later")], 9)
    assert pending.decide(50, ()).halted is None, "a confirmation ends the suspicion"


def test_deleted_listener_crd_does_not_halt_destinations(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, [("Destination", "agency/crm")])
    assert pending.decide(50, ()).halted is None


def test_deleted_destination_crd_halts_destinations(pending: removals.PendingRemovals) -> None:
    pending.suspect("Destination")
    want(pending, [("Destination", "agency/crm")])
    halted = pending.decide(50, ()).halted
    assert halted is not None
    assert halted.names == ("Destination agency/crm",)
    assert pending.decide(50, [halted.digest]).allowed == {("Destination", "agency/crm")}


def test_suspicion_ends_when_every_document_is_wanted_again(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener")
    want(pending, listeners(2))
    pending.decide(50, ())
    for identity in listeners(2):
        pending.withdraw(identity)
    assert pending.is_reopened(())
    assert pending.decide(50, ()).halted is None
    want(pending, listeners(1))
    assert pending.decide(50, ()).halted is None, "the suspicion has ended"


@given(st.integers(0, 80), st.integers(0, 400))
def test_unconfirmed_removals_never_exceed_the_limit(count: int, others: int) -> None:
    pending = removals.PendingRemovals(settle_seconds=2, max_settle_seconds=30)
    want(pending, listeners(count))
    verdict = pending.decide(count + others, ())
    assert len(verdict.allowed) in {0, count}
    assert len(verdict.allowed) <= max(removal_limit.ALWAYS_ALLOWED, removal_limit.ALLOWED_SHARE * (count + others))
    assert (verdict.halted is None) == (len(verdict.allowed) == count)


REF = ObjectRef("v1", "Secret", "usher-config", "listener-1")
SAID = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
SAID_AT = "2026-11-25T12:00:00Z"
DAY = datetime.timedelta(days=1)


def after(seconds: float) -> datetime.datetime:
    return SAID + datetime.timedelta(seconds=seconds)


def test_tombstone_age_counts_from_its_timestamp() -> None:
    count = removals.TombstoneClock()
    assert count.seconds_left(REF, SAID_AT, after(0), 50.0) == 600
    assert count.seconds_left(REF, SAID_AT, after(200), 250.0) == 400
    assert count.seconds_left(REF, SAID_AT, after(600), 650.0) == 0


def test_tombstone_found_later_has_the_remaining_time() -> None:
    assert removals.TombstoneClock().seconds_left(REF, SAID_AT, after(500), 50.0) == 100
    assert removals.TombstoneClock().seconds_left(REF, SAID_AT, after(700), 50.0) < 0
    assert removals.TombstoneClock().seconds_left(REF, "nonsense", after(0), 50.0) < 0


def test_wall_clock_set_forward_ends_no_tombstone_early() -> None:
    count = removals.TombstoneClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    assert count.seconds_left(REF, SAID_AT, after(10) + DAY, 60.0) == 590


def test_wall_clock_set_back_prolongs_no_tombstone() -> None:
    count = removals.TombstoneClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    assert count.seconds_left(REF, SAID_AT, after(600) - DAY, 650.0) == 0
    assert removals.TombstoneClock().seconds_left(REF, SAID_AT, after(0) - DAY, 50.0) == 600


def test_later_tombstone_of_the_same_name_starts_over() -> None:
    count = removals.TombstoneClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    count.forget(REF)
    assert count.seconds_left(REF, SAID_AT, after(300), 950.0) == 300
    assert count.seconds_left(REF, "2026-11-25T12:10:00Z", after(600), 1250.0) == 600
