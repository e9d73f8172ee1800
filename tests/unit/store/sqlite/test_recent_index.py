"""The recent index finds the visit times of a visitor with any number of visits."""

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model
from usher_gateway.store.sqlite.recent_index import RecentIndex

VISITOR = b"v" * 16


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(-5, 65), st.integers(-5, 65))
def test_sighting_between_two_times_is_found_if_it_exists(times: list[int], earliest: int, latest: int) -> None:
    index = RecentIndex()
    for key, time in enumerate(times):
        index.add((key, b"", 1, 0, time, model.CountedAs.Visit, 0, 0, 0, 0, b"f" * 16, VISITOR, b"", b""))
    between = [time for time in times if earliest < time < latest]
    sighting = index.sighting_between(VISITOR, earliest, latest)
    assert sighting in between if between else sighting is None
