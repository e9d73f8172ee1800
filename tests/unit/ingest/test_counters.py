"""Counters for metrics and conditions."""

from support import samples
from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, RecentCounts
from usher_gateway.store.base import ListenerActivity


def test_redelivered_bad_body_is_not_counted_as_quarantined_again() -> None:
    found = ArrivalCounters()
    of_lobby = found.of(samples.LOBBY)
    for word in (model.CountedAs.Quarantined, model.CountedAs.Redelivery):
        found.add_committed(of_lobby, samples.quarantined(), model.Accepted(word))
    assert found.quarantined == {"NoUser": 1}
    assert list(found.take_recent()) == [(samples.LOBBY, RecentCounts(2, 1))]


def test_arrival_of_another_company_is_counted_when_it_is_accepted() -> None:
    found = ArrivalCounters()
    arrival = samples.arrival("a", company_mismatch=True)
    found.add_committed(found.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    assert found.company_mismatches == {("agency", "acme"): 1}
    assert list(found.take_recent()) == [(samples.LOBBY, RecentCounts(1, mismatches=1))]
    assert list(found.take_recent()) == []
    assert found.company_mismatches == {("agency", "acme"): 1}


def test_activity_of_used_listeners_is_returned_once() -> None:
    found, arrival = ArrivalCounters(), samples.arrival("a", address="one")
    found.of(model.ListenerName("agency", "acme", "unused"))
    found.add_committed(found.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    found.add_committed(found.of(samples.LOBBY), samples.quarantined(), model.Accepted(model.CountedAs.Quarantined))
    expected = ListenerActivity(samples.quarantined().received_at, {"one": arrival.received_at})
    assert found.take_activity() == {samples.LOBBY: expected}
    assert found.take_activity() == {}
    found.save_again([samples.LOBBY])
    assert found.take_activity() == {samples.LOBBY: expected}


def test_restored_activity_keeps_the_first_visits() -> None:
    found = ArrivalCounters()
    found.restore_activity({samples.LOBBY: ListenerActivity(7, {"one": 5}, {"old": 6})})
    found.add_committed(
        found.of(samples.LOBBY), samples.arrival("a", address="one"), model.Accepted(model.CountedAs.Visit)
    )
    assert found.of(samples.LOBBY).first_visits == {"one": 5}
    assert found.retired_arrivals == {"old": 6}


def test_addresses_of_a_listener_are_bounded() -> None:
    found = ArrivalCounters()
    for number in range(300):
        arrival = samples.arrival("a", address=str(number))
        found.add_committed(found.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    assert len(found.of(samples.LOBBY).first_visits) == 256
    assert "299" in found.of(samples.LOBBY).first_visits


def test_retired_addresses_that_were_used_longest_ago_are_forgotten() -> None:
    found = ArrivalCounters()
    of_lobby = found.of(samples.LOBBY)
    used = [documents.Address("hooks.example.com", f"/{number}") for number in range(300)]
    for now, address in enumerate([*used, used[0]]):
        found.add_retired(of_lobby, address, now)
    assert len(found.retired_arrivals) == 256
    assert found.retired_arrivals[used[0].id] == 300
