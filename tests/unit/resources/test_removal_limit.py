import pytest
from hypothesis import given
from hypothesis import strategies as st

from usher_gateway.resources.removal_limit import (
    HaltedRemovals,
    Removal,
    RemovalBounds,
    RemovalKind,
    confirmations_of,
    decide,
    describe_halts,
    describe_removals,
    exceeds_limit,
    namespaces_in,
    smallest_limit,
)


def removals(count: int, kind: RemovalKind = "Listener", first: int = 0, namespace: str = "agency") -> list[Removal]:
    return [Removal(kind, namespace, f"x{number:03}") for number in range(first, first + count)]


def exceeds(count: int, in_force: int, *, recent: int = 0, limit: int | None = None, is_all: bool = False) -> bool:
    bounds = RemovalBounds({"Listener": in_force}, limit, is_all)
    return exceeds_limit(removals(count), bounds, recent=removals(recent, first=500))


@pytest.mark.parametrize(("removed", "in_force"), [(0, 0), (5, 5), (5, 49), (10, 100), (20, 200), (20, 5000)])
def test_few_removals_go_ahead(removed: int, in_force: int) -> None:
    assert not exceeds(removed, in_force)


@pytest.mark.parametrize(("removed", "in_force"), [(6, 6), (6, 59), (11, 100), (21, 5000)])
def test_many_removals_have_to_wait(removed: int, in_force: int) -> None:
    assert exceeds(removed, in_force)


def test_each_kind_has_its_own_limit() -> None:
    both = [*removals(5), *removals(5, "Destination")]
    bounds = RemovalBounds({"Listener": 5, "Destination": 6})
    assert not exceeds_limit(both, bounds)
    more = [*both, *removals(1, "Destination", first=5)]
    assert exceeds_limit(more, bounds)


def test_last_listener_of_an_install_has_to_wait() -> None:
    assert exceeds(1, 1, is_all=True)
    assert exceeds(1, 1, is_all=True, limit=100)
    only_destinations = removals(2, "Destination")
    assert not exceeds_limit(only_destinations, RemovalBounds({}, removes_every_listener=True))


def test_removals_of_the_last_minute_count() -> None:
    assert not exceeds(1, 20, recent=4)
    assert exceeds(1, 20, recent=5)
    assert not exceeds(1, 91, recent=9), "the share is of the objects before these removals"


def test_own_limit_replaces_the_usual_one() -> None:
    assert not exceeds(50, 50, limit=50)
    assert exceeds(51, 5000, limit=50)
    assert exceeds(1, 5000, limit=0)
    assert smallest_limit([None, 9, 3]) == 3
    assert smallest_limit([None]) is None


def test_confirmation_covers_exactly_the_named_removals() -> None:
    named = HaltedRemovals.of(removals(6))
    assert decide(
        removals(6), named=(), confirmed={named.digest}, waited=(), is_too_much=lambda _: True
    ).allowed == set(removals(6))
    later = decide(removals(8), named=[named], confirmed={named.digest}, waited=(), is_too_much=lambda _: True)
    assert later.allowed == set(removals(6))
    assert later.halted == HaltedRemovals.of(removals(2, first=6))
    fewer = decide(removals(4), named=[named], confirmed={named.digest}, waited=(), is_too_much=lambda _: True)
    assert fewer.allowed == set(removals(4)), "some of the named objects were created again"
    assert fewer.halted is None


def test_rest_beside_confirmed_removals_is_judged_again() -> None:
    named = HaltedRemovals.of(removals(6))
    decision = decide(
        removals(8), named=[named], confirmed={named.digest}, waited=(), is_too_much=lambda rest: len(rest) > 5
    )
    assert decision.allowed == set(removals(8))
    assert decision.unconfirmed == set(removals(2, first=6))


def test_halt_stays_until_the_rest_is_confirmed_or_wanted_again() -> None:
    named = HaltedRemovals.of(removals(6))
    fewer = decide(removals(2), named=[named], confirmed=(), waited=removals(6), is_too_much=lambda _: False)
    assert fewer.halted == HaltedRemovals.of(removals(2))
    part = decide(removals(8), named=[named], confirmed={named.digest}, waited=removals(8), is_too_much=lambda _: False)
    assert part.halted is None


def test_confirmation_does_not_cover_a_later_object_of_the_same_name() -> None:
    first, second = Removal("Listener", "a", "lobby", uid="1"), Removal("Listener", "a", "lobby", uid="2")
    assert HaltedRemovals.of([first]).digest != HaltedRemovals.of([second]).digest


def test_description_names_listeners_before_destinations() -> None:
    both = HaltedRemovals.of([Removal("Destination", "a", "crm"), Removal("Listener", "a", "lobby")])
    assert describe_removals(both) == "Listener `lobby`, Destination `crm` in namespace `a`"


def test_annotation_holds_one_hash_or_several() -> None:
    assert confirmations_of({}) == frozenset()
    assert confirmations_of({"usher.dev/confirm-removals": "aa"}) == {"aa"}
    assert confirmations_of({"usher.dev/confirm-removals": "aa, bb,"}) == {"aa", "bb"}


def test_description_names_each_namespace_with_its_hash() -> None:
    of_b, of_a = HaltedRemovals.of(removals(6, namespace="b")), HaltedRemovals.of(removals(1, namespace="a"))
    assert describe_halts([of_b, of_a]) == (
        f'"{of_a.digest}" for Listener `x000` in namespace `a`; '
        f'"{of_b.digest}" for Listener `x000`, Listener `x001`, Listener `x002` and 3 more in namespace `b`'
    )


def test_description_of_several_namespaces_names_all_of_them() -> None:
    several = [HaltedRemovals.of(removals(6, namespace=f"agency-{number:056}")) for number in range(9)]
    text = describe_halts(several)
    assert [halt.digest in text for halt in several] == [True] * 4 + [False] * 5
    assert namespaces_in(text) == {halt.namespace for halt in several}
    assert text.endswith("the operator's log (removals_halted) has their hashes")


def test_description_of_many_namespaces_says_where_all_of_them_are() -> None:
    many = [HaltedRemovals.of(removals(6, namespace=f"agency-{number:056}")) for number in range(100)]
    text = describe_halts(many)
    assert len(text) < 1600
    assert text.endswith("and others: the operator's log (removals_halted) has their hashes")


@given(st.integers(0, 80), st.integers(0, 400), st.integers(0, 30))
def test_unconfirmed_removals_never_exceed_the_limit(count: int, others: int, recent: int) -> None:
    decision = decide(
        removals(count), named=(), confirmed=(), waited=(), is_too_much=lambda _: exceeds(count, count + others)
    )
    assert len(decision.allowed) in {0, count}
    assert len(decision.allowed) <= min(20, max(5, 0.1 * (count + others)))
    if not exceeds(count, count + others, recent=recent) and count:
        assert count + recent <= 20
