import pytest

from usher_gateway.resources.removal_limit import HaltedRemovals, halted_removals, removal_digest


def names(count: int) -> list[str]:
    return [f"default/l{number:03}" for number in range(count)]


@pytest.mark.parametrize(("removed", "in_force"), [(0, 0), (5, 5), (5, 49), (10, 100)])
def test_few_removals_go_ahead(removed: int, in_force: int) -> None:
    assert halted_removals(names(removed), in_force=in_force, confirmed=()) is None


@pytest.mark.parametrize(("removed", "in_force"), [(6, 6), (6, 59), (11, 100)])
def test_many_removals_wait_until_exactly_they_are_confirmed(removed: int, in_force: int) -> None:
    halted = halted_removals(
        reversed(names(removed)), in_force=in_force, confirmed={removal_digest(names(removed + 1))}
    )
    assert halted == HaltedRemovals(removal_digest(names(removed)), tuple(names(removed)))
    assert halted_removals(names(removed), in_force=in_force, confirmed={halted.digest}) is None


def test_suspicious_removal_waits_even_if_it_is_one() -> None:
    halted = halted_removals(names(1), in_force=100, confirmed=(), is_suspicious=True)
    assert halted is not None
    assert halted_removals(names(1), in_force=100, confirmed={halted.digest}, is_suspicious=True) is None
