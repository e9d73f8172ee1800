"""What is written of a status: only differences, times that move with the status alone, informational ones slowly."""

from typing import Any

import pytest

from usher_operator import objects, seen, statuses, world

KEY = objects.Key("Listener", "agency", "lobby")


def condition(type_: str = "Ready", status: objects.Truth = "True", reason: str = "Ready") -> objects.Condition:
    return objects.Condition(type_, status, reason, "", 1)


def record(*conditions: objects.Condition, generation: int = 1, **fields: Any) -> seen.Record:
    found = world.Unreadable(uid="uid", generation=generation, message="", conditions=conditions, fields=fields)
    times = {one.type: "then" for one in conditions}
    return seen.Record(
        uid="uid", resource_version="1", generation=1, found=found, observed_generation=generation, times=times
    )


def status(*conditions: objects.Condition, generation: int = 1, **fields: Any) -> objects.Status:
    return objects.Status(generation, conditions, fields)


def test_the_same_in_another_order_is_no_difference() -> None:
    first, second = condition(), condition("Accepted")
    assert statuses.differences(status(first, second), record(second, first)) == frozenset()


@pytest.mark.parametrize(
    ("wanted", "differs"),
    [
        (status(condition(status="False")), {"Ready"}),
        (status(condition(), condition("Verified")), {"Verified"}),
        (status(), {"Ready"}),
        (status(condition(), generation=2), {"status"}),
        (status(condition(), addresses=[]), {"status"}),
    ],
)
def test_a_difference_is_named(wanted: objects.Status, differs: set[str]) -> None:
    assert statuses.differences(wanted, record(condition())) == differs


def test_a_time_moves_only_with_the_status() -> None:
    before = record(condition(), condition("Accepted"))
    wanted = status(condition(reason="Suspended"), condition("Accepted", "False"), condition("Exposed"))
    body = statuses.body_of(KEY, wanted, before, "now")
    times = {one["type"]: one["lastTransitionTime"] for one in body["status"]["conditions"]}
    assert times == {"Ready": "then", "Accepted": "now", "Exposed": "now"}


def test_a_status_is_written_of_this_very_object() -> None:
    assert statuses.body_of(KEY, status(), record(), "now")["metadata"] == {
        "name": "lobby",
        "namespace": "agency",
        "uid": "uid",
    }


def test_informational_writes_share_so_many_a_second() -> None:
    now = [0.0]
    bucket = statuses.Bucket(5, lambda: now[0])
    assert [bucket.wait() for _ in range(6)] == [0, 0, 0, 0, 0, pytest.approx(0.2)]
    now[0] += 0.2
    assert bucket.wait() == 0
    now[0] += 60
    assert [bucket.wait() for _ in range(6)][-1] > 0, "a long pause saves up a second's worth and no more"
