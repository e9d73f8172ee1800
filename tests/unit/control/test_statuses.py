"""What is written of a status: only differences, times that move with the status alone, informational ones slowly."""

from typing import Any

import pytest

from unit.control import test_cache
from usher_operator import events, kinds, seen, writer
from usher_operator.cache import Cache
from usher_operator.metrics import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import ConditionStatus, Key, Plan, ResourceStatus, StatusCondition, UnreadableResource
from usher_operator.workqueue import Workqueue

KEY = Key("Listener", "agency", "lobby")


def condition(type_: str = "Ready", status: ConditionStatus = "True", reason: str = "Ready") -> StatusCondition:
    return StatusCondition(type_, status, reason, "", 1)


def record(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> seen.Record:
    found = UnreadableResource(uid="uid", generation=generation, message="", conditions=conditions, fields=fields)
    times = {one.type: "then" for one in conditions}
    return seen.Record(
        uid="uid", resource_version="1", generation=1, found=found, observed_generation=generation, times=times
    )


def status(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> ResourceStatus:
    return ResourceStatus(generation, conditions, fields)


def test_the_same_in_another_order_is_no_difference() -> None:
    first, second = condition(), condition("Accepted")
    assert writer.differences(status(first, second), record(second, first)) == frozenset()


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
def test_a_difference_is_named(wanted: ResourceStatus, differs: set[str]) -> None:
    assert writer.differences(wanted, record(condition())) == differs


def test_a_time_moves_only_with_the_status() -> None:
    before = record(condition(), condition("Accepted"))
    wanted = status(condition(reason="Suspended"), condition("Accepted", "False"), condition("Exposed"))
    body = writer.body_of(KEY, wanted, before, "now")
    times = {one["type"]: one["lastTransitionTime"] for one in body["status"]["conditions"]}
    assert times == {"Ready": "then", "Accepted": "now", "Exposed": "now"}


def test_a_status_is_written_of_this_very_object() -> None:
    assert writer.body_of(KEY, status(), record(), "now")["metadata"] == {
        "name": "lobby",
        "namespace": "agency",
        "uid": "uid",
    }


class Server:
    """Answers a status write with the object as it is by then."""

    def __init__(self, **meta: Any) -> None:
        self._meta = meta

    async def apply(self, _path: str, body: dict[str, Any], *, is_status: bool) -> dict[str, Any]:
        assert is_status
        return {**test_cache.listener(resourceVersion="2", **self._meta), "status": body["status"]}


@pytest.mark.parametrize(("generation", "is_planned_again"), [(1, False), (2, True)])
async def test_an_edit_that_came_before_a_status_was_written_is_planned(
    generation: int, is_planned_again: bool
) -> None:
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], test_cache.listener())
    queue: Workqueue[Key] = Workqueue(lambda: 0.0, lambda: 0.5)
    around = (OperatorMetrics(), events.EventLogger(lambda: 0.0), events.EventRecorder(30.0))
    server: Any = Server(generation=generation, **({"labels": {"a": "b"}} if generation > 1 else {}))
    written = writer.StatusWriter(server, cache, queue, around, lambda: 0.0)
    await written.write(Plan(KEY, (), status(condition())))
    assert (KEY in set(iter(queue.take, None))) is is_planned_again


def test_informational_writes_share_so_many_a_second() -> None:
    now = [0.0]
    bucket = writer.StatusBucket(5, lambda: now[0])
    assert [bucket.wait() for _ in range(6)] == [0, 0, 0, 0, 0, pytest.approx(0.2)]
    now[0] += 0.2
    assert bucket.wait() == 0
    now[0] += 60
    assert [bucket.wait() for _ in range(6)][-1] > 0, "a long pause saves up a second's worth and no more"
