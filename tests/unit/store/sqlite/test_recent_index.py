"""The recent index finds the visit times of a visitor with any number of visits."""

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.store.sqlite.recent_index import RecentArrival, RecentIndex

VISITOR = b"v" * 16
TIMES = st.lists(st.integers(0, 60), max_size=40)


def filled(*stretches: list[int]) -> RecentIndex:
    """Return an index with two generations: one that is being folded, and one that grows."""
    index = RecentIndex(fold_rows=1)
    for times in stretches:
        for key, time in enumerate(times):
            index.growing.add(RecentArrival(key, 0, b"f" * 16, VISITOR, time, is_visit=True, remembers_print=True))
        index.next_bucket()
    return index


@given(TIMES, TIMES, st.integers(-5, 65), st.integers(-5, 65))
def test_sighting_between_two_times_is_found_if_it_exists(
    folding: list[int], growing: list[int], earliest: int, latest: int
) -> None:
    between = [time for time in folding + growing if earliest < time < latest]
    sighting = filled(folding, growing).sighting_between(VISITOR, earliest, latest)
    assert sighting in between if between else sighting is None
