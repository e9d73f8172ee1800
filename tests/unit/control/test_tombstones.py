"""How long a removal is said, whatever happens to the wall clock."""

import datetime

from usher_operator import removals
from usher_operator.view import ObjectRef

REF = ObjectRef("v1", "Secret", "usher-config", "listener-1")
SAID = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
SAID_AT = "2026-11-25T12:00:00Z"
DAY = datetime.timedelta(days=1)


def after(seconds: float) -> datetime.datetime:
    return SAID + datetime.timedelta(seconds=seconds)


def test_a_tombstone_has_its_time_from_when_it_was_said() -> None:
    count = removals.TombstoneClock()
    assert count.left(REF, SAID_AT, after(0), 50.0) == 600
    assert count.left(REF, SAID_AT, after(200), 250.0) == 400
    assert count.left(REF, SAID_AT, after(600), 650.0) == 0


def test_one_that_is_found_has_what_is_left_of_it() -> None:
    assert removals.TombstoneClock().left(REF, SAID_AT, after(500), 50.0) == 100
    assert removals.TombstoneClock().left(REF, SAID_AT, after(700), 50.0) < 0
    assert removals.TombstoneClock().left(REF, "nonsense", after(0), 50.0) < 0


def test_a_clock_set_forward_ends_none_too_early() -> None:
    count = removals.TombstoneClock()
    count.left(REF, SAID_AT, after(0), 50.0)
    assert count.left(REF, SAID_AT, after(10) + DAY, 60.0) == 590


def test_a_clock_set_back_keeps_none_for_longer() -> None:
    count = removals.TombstoneClock()
    count.left(REF, SAID_AT, after(0), 50.0)
    assert count.left(REF, SAID_AT, after(600) - DAY, 650.0) == 0
    assert removals.TombstoneClock().left(REF, SAID_AT, after(0) - DAY, 50.0) == 600


def test_another_removal_of_the_same_name_begins_anew() -> None:
    count = removals.TombstoneClock()
    count.left(REF, SAID_AT, after(0), 50.0)
    count.forget(REF)
    assert count.left(REF, SAID_AT, after(300), 950.0) == 300
    assert count.left(REF, "2026-11-25T12:10:00Z", after(600), 1250.0) == 600
