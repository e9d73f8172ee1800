import pytest

from usher_gateway.resources.removal_limit import (
    HaltedRemovals,
    Removal,
    RemovalBounds,
    RemovalKind,
    confirmations_of,
    decide,
    describe_halts,
    describe_removals,
    smallest_limit,
)


def removals(count: int, kind: RemovalKind = "Listener", first: int = 0, namespace: str = "agency") -> list[Removal]:
    return [Removal(kind, namespace, f"x{number:03}") for number in range(first, first + count)]


def is_halted(requested: list[Removal], bounds: RemovalBounds) -> bool:
    """Return whether all removals wait; if not, all of them go ahead."""
    decision = decide(requested, messages=(), confirmed=(), bounds=bounds)
    assert len(decision.allowed) in {0, len(requested)}
    return bool(decision.messages)


@pytest.mark.parametrize(
    ("count", "in_force", "removed", "expected"),
    [
        (5, 5, 0, False),
        (6, 6, 0, True),
        (6, 59, 0, True),
        (10, 100, 0, False),
        (11, 100, 0, True),
        (500, 5000, 0, False),
        (501, 5000, 0, True),
        (1, 20, 4, False),
        (1, 20, 5, True),
        (1, 91, 9, False),  # a tenth of the 100 before these removals
        (2, 91, 9, True),
    ],
)
def test_more_than_five_and_a_tenth_have_to_wait(count: int, in_force: int, removed: int, expected: bool) -> None:
    bounds = RemovalBounds({"Listener": in_force}, {"Listener": removed})
    assert is_halted(removals(count), bounds) is expected


def test_each_kind_has_its_own_limit() -> None:
    bounds = RemovalBounds({"Listener": 5, "Destination": 6}, {"Address": 9})
    assert not is_halted([*removals(5), *removals(5, "Destination")], bounds)
    assert is_halted([*removals(5), *removals(6, "Destination")], bounds)


def test_every_address_of_a_listener_counts() -> None:
    def moved(*counts: int) -> list[Removal]:
        return [
            Removal("Address", "agency", f"l{number}", tuple(f"{number}-{index}" for index in range(count)))
            for number, count in enumerate(counts)
        ]

    assert not is_halted(moved(3, 2), RemovalBounds({"Address": 20}))
    assert is_halted(moved(3, 3), RemovalBounds({"Address": 20}))
    assert HaltedRemovals.of(moved(3, 3)).count == 6


def test_last_listener_of_an_install_has_to_wait() -> None:
    assert is_halted(removals(1), RemovalBounds({"Listener": 1}, removes_every_listener=True))
    assert is_halted(removals(1), RemovalBounds({"Listener": 1}, limit=100, removes_every_listener=True))
    assert not is_halted(removals(2, "Destination"), RemovalBounds({}, removes_every_listener=True))


def test_own_limit_replaces_the_usual_one() -> None:
    assert not is_halted(removals(50), RemovalBounds({"Listener": 50}, limit=50))
    assert is_halted(removals(51), RemovalBounds({"Listener": 5000}, limit=50))
    assert is_halted(removals(1), RemovalBounds({"Listener": 5000}, limit=0))
    assert smallest_limit([None, 9, 3]) == 3
    assert smallest_limit([None]) is None


ANY = RemovalBounds({})  # Five removals may go ahead


def test_confirmation_covers_exactly_the_named_removals() -> None:
    halt = HaltedRemovals.of(removals(6))
    decision = decide(removals(12), messages=(halt,), confirmed={halt.digest}, bounds=ANY)
    assert decision.allowed == set(removals(6))
    assert decision.messages == (HaltedRemovals.of(removals(6, first=6)),)
    fewer = decide(removals(4), messages=(halt,), confirmed={halt.digest}, bounds=ANY)
    assert fewer.allowed == set(removals(4)), "some of the named objects were created again"


def test_confirmation_holds_although_more_was_deleted_since() -> None:
    first = HaltedRemovals.of(removals(6))
    grown = decide(removals(12), messages=(first,), confirmed=(), bounds=ANY)
    assert grown.messages == (first, HaltedRemovals.of(removals(12)))
    assert decide(removals(12), messages=grown.messages, confirmed={first.digest}, bounds=ANY).allowed == set(
        removals(6)
    )


def test_few_further_removals_do_not_go_with_the_confirmed_ones() -> None:
    halt, grown = HaltedRemovals.of(removals(6)), HaltedRemovals.of(removals(8))
    for messages in ((halt,), (halt, grown)):
        decision = decide(removals(8), messages=messages, confirmed={halt.digest}, bounds=ANY)
        assert decision.allowed == set(removals(6))
        assert decision.messages[-1] == HaltedRemovals.of(removals(2, first=6))


def test_removals_that_no_message_named_are_judged_by_their_own_kind() -> None:
    halt, further = HaltedRemovals.of(removals(6)), removals(2, "Destination")
    decision = decide([*removals(6), *further], messages=(halt,), confirmed={halt.digest}, bounds=ANY)
    assert decision.allowed == {*removals(6), *further}


def test_hash_that_no_message_had_confirms_nothing() -> None:
    assert decide(removals(6), messages=(), confirmed={HaltedRemovals.of(removals(6)).digest}, bounds=ANY).messages


def test_halt_stays_until_nothing_of_it_waits() -> None:
    halt = HaltedRemovals.of(removals(6))
    fewer = decide(removals(2), messages=(halt,), confirmed=(), bounds=ANY)
    assert fewer.messages == (halt, HaltedRemovals.of(removals(2)))
    assert not decide(removals(2, first=6), messages=(halt,), confirmed=(), bounds=ANY).messages
    assert not decide([], messages=(halt,), confirmed=(), bounds=ANY).messages


def test_messages_of_one_halt_are_limited() -> None:
    messages: tuple[HaltedRemovals, ...] = ()
    for count in range(6, 40):
        messages = decide(removals(count), messages=messages, confirmed=(), bounds=ANY).messages
    assert messages == tuple(HaltedRemovals.of(removals(count)) for count in range(24, 40))


def test_confirmation_does_not_cover_a_later_object_or_document_of_the_same_name() -> None:
    versions = [("1", "1"), ("2", "1"), ("1", "2")]
    halts = [
        HaltedRemovals.of([Removal("Listener", "a", "lobby", uid=uid, version=version)]) for uid, version in versions
    ]
    assert len({halt.digest for halt in halts}) == 3


def test_description_names_listeners_before_destinations() -> None:
    both = HaltedRemovals.of([Removal("Destination", "a", "crm"), Removal("Listener", "a", "lobby")])
    assert describe_removals(both) == "Listener `lobby`, Destination `crm` in namespace `a`"


def test_annotation_holds_one_hash_or_several() -> None:
    assert confirmations_of({}) == frozenset()
    assert confirmations_of({"usher.dev/confirm-removals": "aa"}) == {"aa"}
    assert confirmations_of({"usher.dev/confirm-removals": "aa, bb,"}) == {"aa", "bb"}


def test_description_names_each_namespace_with_its_hash() -> None:
    of_b, of_a = HaltedRemovals.of(removals(6, namespace="b")), HaltedRemovals.of(removals(3, namespace="a"))
    of_c = HaltedRemovals("c", "0123456789ab", ())
    assert describe_halts([of_b, of_c, of_a]) == (
        f'"{of_a.digest}" for Listener `x000`, Listener `x001`, Listener `x002` in namespace `a`; '
        f'"{of_b.digest}" for Listener `x000`, Listener `x001`, Listener `x002` and 3 more in namespace `b`; '
        '"0123456789ab" for removals in namespace `c`'
    )


def test_description_of_many_namespaces_says_where_the_others_are() -> None:
    several = [HaltedRemovals.of(removals(6, namespace=f"agency-{number:056}")) for number in range(9)]
    text = describe_halts(several)
    assert [halt.digest in text for halt in several] == [True] * 4 + [False] * 5
    assert text.endswith("; 5 more in `status.haltedRemovals` and the operator's log")
