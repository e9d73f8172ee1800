"""Counters for metrics and conditions."""

from contract import samples
from usher_gateway import model
from usher_gateway.ingest.counters import ArrivalCounters


def test_redelivered_bad_body_is_not_counted_as_quarantined_again() -> None:
    found = ArrivalCounters()
    of_lobby = found.of(samples.LOBBY)
    for word in (model.CountedAs.Quarantined, model.CountedAs.Redelivery):
        found.add_committed(of_lobby, samples.quarantined(), model.Accepted(word))
    assert found.quarantined == {"NoUser": 1}
    assert list(found.take_recent()) == [(samples.LOBBY, 2, 1, 0)]


def test_arrival_of_another_company_is_counted_when_it_is_accepted() -> None:
    found = ArrivalCounters()
    arrival = samples.arrival("a", company_mismatch=True)
    found.add_committed(found.of(samples.LOBBY), arrival, model.Accepted(model.CountedAs.Visit))
    assert found.company_mismatches == {("agency", "acme"): 1}
    assert list(found.take_recent()) == [(samples.LOBBY, 1, 0, 1)]
    assert list(found.take_recent()) == []
    assert found.company_mismatches == {("agency", "acme"): 1}
