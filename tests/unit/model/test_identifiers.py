"""Row keys and ids."""

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model

MILLISECOND = 1_764_072_000_000


@given(st.integers(0, 2**62), st.lists(st.tuples(st.integers(0, 63), st.integers(1, 1_000)), max_size=20))
def test_factories_that_share_keys_make_different_growing_ones(floor: int, calls: list[tuple[int, int]]) -> None:
    factories = [model.IdFactory(lambda: MILLISECOND, floor, slot=slot, slots=64) for slot in range(64)]
    keys_by_slot: dict[int, list[int]] = {slot: [] for slot in range(64)}
    for slot, count in calls:
        keys_by_slot[slot] += [*factories[slot].next_keys(count), factories[slot].next_key()]
    keys = [key for own in keys_by_slot.values() for key in own]
    assert len(set(keys)) == len(keys)
    assert all(own == sorted(own) for own in keys_by_slot.values())
    assert all(key > floor for key in keys)


@given(st.integers(0, 63), st.integers(1, 5_000))
def test_id_contains_its_key(slot: int, count: int) -> None:
    factory = model.IdFactory(lambda: MILLISECOND, slot=slot, slots=64)
    keys = list(factory.next_keys(count))
    assert [model.key_of(factory.id_of(key)) for key in keys] == keys
