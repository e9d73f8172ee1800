"""Commands to a receiver, and its counts."""

import msgspec
import pytest

from usher_gateway.simulator import receiving

USUAL = receiving.Behaviour()
DOWN = receiving.Behaviour(status=503)
SLOW = receiving.Behaviour(delay_seconds=2)


def _rule(behaviour: receiving.Behaviour, begins: float, ends: float = float("inf")) -> receiving.Rule:
    return receiving.Rule(behaviour=behaviour, begins=begins, ends=ends)


def test_rule_applies_from_its_begin_until_before_its_end() -> None:
    rules = receiving.Rules(USUAL)
    rules.add("/a", _rule(DOWN, 10, 20))
    assert [rules.at("/a", now) for now in (9.9, 10, 19.9, 20)] == [USUAL, DOWN, DOWN, USUAL]
    assert rules.at("/b", 15) is USUAL


def test_rule_without_an_end_applies_again_after_a_temporary_one() -> None:
    rules = receiving.Rules(USUAL)
    rules.add("/a", _rule(SLOW, 0))
    rules.add("/a", _rule(DOWN, 5, 6))
    assert [rules.at("/a", now) for now in (4, 5, 6)] == [SLOW, DOWN, SLOW]


@pytest.mark.parametrize(
    "text",
    [
        '{"path": "a"}',
        '{"status": 99}',
        '{"status": 600}',
        '{"kind": "Explode"}',
        '{"state": 500}',
        '{"delay_seconds": -1}',
        '{"for_seconds": -1}',
        '{"retry_after": "1\\r\\nX: y"}',
        "[]",
    ],
)
def test_invalid_command_is_rejected(text: str) -> None:
    with pytest.raises((msgspec.ValidationError, ValueError)):
        receiving.of_command(msgspec.json.decode(text, type=receiving.Command), USUAL)


def test_command_keeps_the_success_header_by_default() -> None:
    previous_behaviour = receiving.Behaviour(success_header=True)
    assert receiving.of_command(receiving.Command(status=204), previous_behaviour).success_header
    assert not receiving.of_command(receiving.Command(success_header=False), previous_behaviour).success_header


def test_only_a_complete_2xx_takes_a_request() -> None:
    assert [USUAL.takes, DOWN.takes, receiving.Behaviour(kind="Hang").takes] == [True, False, False]


def test_duplicates_are_counted_among_taken_requests() -> None:
    counted = receiving.ReceiverTally()
    for identifier, taken in (("a", False), ("a", True), ("b", True), ("b", True), ("", True)):
        counted.receive("/x", identifier, 10, 5)
        if taken:
            counted.take("/x", identifier)
    assert counted.counts["/x"] == receiving.PathCounts(
        received=5, taken=4, distinct=2, duplicates=1, without_id=1, bytes_received=50, last_seen=5
    )
    assert counted.taken_ids("/x") == {"a": 1, "b": 2}


def test_paths_beyond_the_limit_are_counted_together() -> None:
    counted = receiving.ReceiverTally()
    for number in range(receiving.MAX_PATHS + 50):
        counted.receive(f"/{number}", "", 0, 1)
        counted.take(f"/{number}", "")
    assert len(counted.counts) == receiving.MAX_PATHS + 1
    assert counted.counts[receiving.OTHER_PATHS].taken == 50
