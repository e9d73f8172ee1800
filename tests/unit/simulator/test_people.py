"""The people of the simulation can be made again, and can be found."""

from usher_gateway import simulator
from usher_gateway.simulator import bodies


def test_the_same_seed_gives_the_same_people() -> None:
    assert bodies.people(7, 50) == bodies.people(7, 50)
    assert bodies.people(7, 50)[49] == bodies.person(7, 49)


def test_people_share_no_mark_and_no_id_over_seeds() -> None:
    everybody = bodies.people(1, 300) + bodies.people(2, 300)
    assert len({person.user_id for person in everybody}) == 600
    assert len({person.email for person in everybody}) == 600
    assert len({person.first_name for person in everybody}) == 600


def test_every_value_of_a_person_holds_one_of_the_marks() -> None:
    for person in bodies.people(3, 200):
        assert all(any(mark in value for mark in simulator.MARKS) for value in person.marks)


def test_there_are_names_beyond_ascii() -> None:
    assert not all(person.first_name.isascii() for person in bodies.people(1, 50))
