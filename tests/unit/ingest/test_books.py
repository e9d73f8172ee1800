"""What the door counts beside the store says the same as the store."""

from contract import samples
from usher_gateway import model
from usher_gateway.ingest import books


def test_a_bad_body_that_comes_again_is_a_redelivery_and_not_quarantined_twice() -> None:
    found = books.Books()
    of_lobby = found.of(samples.LOBBY)
    for word in (model.CountedAs.Quarantined, model.CountedAs.Redelivery):
        found.add_committed(of_lobby, samples.quarantined(), model.Accepted(word))
    assert found.quarantined == {"NoUser": 1}
    assert list(found.take_recent()) == [(samples.LOBBY, 2, 1)]
