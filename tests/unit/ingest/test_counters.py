"""Counters for metrics and conditions."""

import pytest
import structlog

from support import samples
from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, RecentCounts, Streak
from usher_gateway.store.base import ListenerActivity

REASON = model.RefusedReason


def test_redelivered_bad_body_is_not_counted_as_quarantined_again() -> None:
    counters = ArrivalCounters()
    of_lobby = counters.of(samples.LOBBY)
    for word in (model.CountedAs.Quarantined, model.CountedAs.Redelivery):
        counters.add_committed(of_lobby, samples.quarantined(), model.Accepted(word))
    assert counters.quarantined == {"NoUser": 1}
    assert list(counters.take_recent()) == [(samples.LOBBY, RecentCounts(2, 1))]


def test_arrival_of_another_company_is_counted_when_it_is_accepted() -> None:
    counters = ArrivalCounters()
    arrival = samples.arrival("a", other_company="78")
    counters.add_committed(counters.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    assert counters.company_mismatches == {("agency", "acme"): 1}
    assert counters.of(samples.LOBBY).other_company == "78"
    assert list(counters.take_recent()) == [(samples.LOBBY, RecentCounts(1, mismatches=1))]
    assert list(counters.take_recent()) == []
    assert counters.company_mismatches == {("agency", "acme"): 1}


def test_activity_of_used_listeners_is_returned_once() -> None:
    counters, arrival = ArrivalCounters(), samples.arrival("a", address="one")
    counters.of(model.ListenerName("agency", "acme", "unused"))
    counters.add_committed(counters.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    counters.add_committed(
        counters.of(samples.LOBBY), samples.quarantined(), model.Accepted(model.CountedAs.Quarantined)
    )
    expected = ListenerActivity(samples.quarantined().received_at, {"one": arrival.received_at})
    assert counters.take_activity() == {samples.LOBBY: expected}
    assert counters.take_activity() == {}
    counters.save_again([samples.LOBBY])
    assert counters.take_activity() == {samples.LOBBY: expected}


def test_restored_activity_keeps_the_first_visits() -> None:
    counters = ArrivalCounters()
    counters.restore_activity({samples.LOBBY: ListenerActivity(7, {"one": 5}, {"old": 6})})
    counters.add_committed(
        counters.of(samples.LOBBY), samples.arrival("a", address="one"), model.Accepted(model.CountedAs.Visit)
    )
    assert counters.of(samples.LOBBY).first_visits == {"one": 5}
    assert counters.retired_arrivals == {"old": 6}


def test_refusals_of_a_listener_are_logged_once_a_minute() -> None:
    counters, minute = ArrivalCounters(), 60 * model.MICROSECONDS
    with structlog.testing.capture_logs() as logs:
        counters.add_refused(REASON.NotFound, None, 5)
        counters.add_refused(REASON.Unauthenticated, samples.LOBBY, 5)
        counters.add_refused(REASON.Unauthenticated, samples.BAR, 6)
        for moment in range(6, 9):
            counters.add_refused(REASON.Unauthenticated, samples.LOBBY, moment)
        counters.add_refused(REASON.SourceNotAllowed, samples.LOBBY, minute + 4)
        counters.add_refused(REASON.Unauthenticated, samples.LOBBY, minute + 5)
    assert [(line["event"], line["listener"], line["reasons"]) for line in logs] == [
        ("arrivals_refused", samples.LOBBY.key, {"Unauthenticated": 1}),
        ("arrivals_refused", samples.BAR.key, {"Unauthenticated": 1}),
        ("arrivals_refused", samples.LOBBY.key, {"Unauthenticated": 4, "SourceNotAllowed": 1}),
    ]
    assert counters.of(samples.LOBBY).refused_in_a_row == 6
    assert counters.refused == {"NotFound": 1, "Unauthenticated": 6, "SourceNotAllowed": 1}


@pytest.mark.parametrize(("seconds", "expected"), [(-1, 1), (1, 0)])
def test_arrival_that_another_gateway_accepts_later_ends_the_refusals_in_a_row(seconds: int, expected: int) -> None:
    counters, ahead = ArrivalCounters(), 1_000 * model.MICROSECONDS
    counters.add_refused(REASON.Unauthenticated, samples.LOBBY, 5 * model.MICROSECONDS)
    accepted_at = ahead + (5 + seconds) * model.MICROSECONDS
    elsewhere = {name: ListenerActivity(accepted_at) for name in (samples.LOBBY, samples.BAR)}
    counters.note_accepted_elsewhere(elsewhere, ahead)
    assert counters.of(samples.LOBBY).refused_in_a_row == expected


def test_addresses_of_a_listener_are_bounded() -> None:
    counters = ArrivalCounters()
    for number in range(300):
        arrival = samples.arrival("a", address=str(number))
        counters.add_committed(counters.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    assert len(counters.of(samples.LOBBY).first_visits) == 256
    assert "299" in counters.of(samples.LOBBY).first_visits


def test_retired_addresses_that_were_used_longest_ago_are_forgotten() -> None:
    counters = ArrivalCounters()
    of_lobby = counters.of(samples.LOBBY)
    used = [documents.Address("hooks.example.com", f"/{number}") for number in range(300)]
    for now, address in enumerate([*used, used[0]]):
        counters.add_retired(of_lobby, address, now)
    assert len(counters.retired_arrivals) == 256
    assert counters.retired_arrivals[used[0].id] == 300


def test_streak_begins_anew_after_a_pause_of_more_than_15_minutes() -> None:
    minute, streak = 60 * model.MICROSECONDS, Streak()
    for at in (100 * minute, 110 * minute, 125 * minute):
        streak.add(at)
    assert streak.since == 100 * minute
    streak.add(141 * minute)
    assert streak.since == 141 * minute
