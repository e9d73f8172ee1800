"""Simulated people are reproducible, and a search finds them by their marks."""

from usher_gateway import simulator
from usher_gateway.simulator import bodies


def test_same_seed_gives_the_same_people() -> None:
    assert bodies.people(7, 50) == bodies.people(7, 50)
    assert bodies.people(7, 50)[49] == bodies.person(7, 49)


def test_people_of_different_seeds_share_no_mark_or_id() -> None:
    everybody = bodies.people(1, 300) + bodies.people(2, 300)
    assert len({person.user_id for person in everybody}) == 600
    assert len({person.email for person in everybody}) == 600
    assert len({person.first_name for person in everybody}) == 600


def test_every_value_of_a_person_contains_a_mark() -> None:
    for person in bodies.people(3, 200):
        assert all(any(mark in value for mark in simulator.MARKS) for value in person.marks)


def test_some_names_are_not_ascii() -> None:
    assert not all(person.first_name.isascii() for person in bodies.people(1, 50))
