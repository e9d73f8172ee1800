"""The writers send only differences, and queue the keys that an answer concerns."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from unit.usher_operator import test_cache
from usher_operator import children, kinds, writer
from usher_operator.cache import Cache, hostname_key, ref_of
from usher_operator.events import EventLogger, EventRecorder
from usher_operator.health import OperatorMetrics
from usher_operator.removals import PendingRemovals, TombstoneClock
from usher_operator.settings import OperatorSettings
from usher_operator.view import (
    ConditionStatus,
    DesiredChild,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
    UnreadableResource,
)
from usher_operator.workqueue import Workqueue

KEY = hostname_key("www.example.com")
REF = ref_of(kinds.INGRESS, "usher-system", "usher-www")
READY = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}


def ingress(version: str = "1", **rest: Any) -> dict[str, Any]:
    about = {
        "name": REF.name,
        "namespace": REF.namespace,
        "uid": "u",
        "resourceVersion": version,
        "labels": children.labels("usher.dev/usher"),
        "annotations": children.annotations(KEY),
    }
    return {"apiVersion": REF.api_version, "kind": REF.kind, "metadata": about, "spec": {}, **rest}


class Server:
    """Answers a write with the present object."""

    def __init__(self, answer: dict[str, Any], meanwhile: Callable[[], object] = lambda: None) -> None:
        self._answer, self._meanwhile = answer, meanwhile

    async def get(self, _path: str, *, missing_ok: bool) -> None:
        assert missing_ok

    async def apply(self, _path: str, _manifest: dict[str, Any]) -> dict[str, Any]:
        self._meanwhile()
        return self._answer


class RecordingEventLogger(EventLogger):
    """Records the calls of published()."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.is_new: list[bool] = []

    def published(self, _key: Key, *, is_new: bool) -> None:
        self.is_new.append(is_new)


def child_writer(
    server: Any, cache: Cache, queue: Workqueue[Key], event_logger: EventLogger | None = None
) -> writer.ChildWriter:
    return writer.ChildWriter(
        api=server,
        cache=cache,
        queue=queue,
        removals=PendingRemovals(settle_seconds=0.0, max_settle_seconds=0.0),
        tombstones=TombstoneClock(),
        metrics=OperatorMetrics(),
        event_logger=event_logger or EventLogger(lambda: 0.0),
    )


@pytest.mark.parametrize("known", [None, {}, READY])
@pytest.mark.parametrize("answered", [{}, READY])
async def test_child_status_in_an_answer_queues_the_key(known: dict[str, Any] | None, answered: dict[str, Any]) -> None:
    cache = Cache(OperatorSettings())
    if known is not None:
        cache.put(kinds.INGRESS, ingress(status=known))
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server: Any = Server(ingress("2", status=answered))
    await child_writer(server, cache, queue).apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert (KEY in set(iter(queue.take, None))) is (answered != (known or {}))


async def test_document_is_logged_as_new_even_if_its_watch_was_faster() -> None:
    cache = Cache(OperatorSettings())
    raw = test_cache.config()
    ref = ref_of(kinds.SECRET, raw["metadata"]["namespace"], raw["metadata"]["name"])
    event_logger = RecordingEventLogger(lambda: 0.0)
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server: Any = Server(raw, lambda: cache.put(kinds.SECRET, raw))
    manifest = {"apiVersion": "v1", "kind": "Secret", **raw}
    await child_writer(server, cache, queue, event_logger).apply(
        Plan(test_cache.LOBBY, (DesiredChild(ref, manifest, "new"),))
    )
    assert event_logger.is_new == [True]


LOBBY = Key("Listener", "agency", "lobby")


def condition(type_: str = "Ready", status: ConditionStatus = "True", reason: str = "Ready") -> StatusCondition:
    return StatusCondition(type_, status, reason, "", 1)


def record(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> kinds.ResourceRecord:
    found = UnreadableResource(uid="uid", generation=generation, message="", conditions=conditions, fields=fields)
    times = {one.type: "then" for one in conditions}
    return kinds.ResourceRecord(
        uid="uid", resource_version="1", generation=1, found=found, observed_generation=generation, times=times
    )


def status(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> ResourceStatus:
    return ResourceStatus(generation, conditions, fields)


def test_order_of_conditions_is_no_difference() -> None:
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
def test_differences_name_the_changed_conditions(wanted: ResourceStatus, differs: set[str]) -> None:
    assert writer.differences(wanted, record(condition())) == differs


def test_transition_time_changes_only_with_the_status() -> None:
    before = record(condition(), condition("Accepted"))
    wanted = status(condition(reason="Suspended"), condition("Accepted", "False"), condition("Exposed"))
    body = writer.body_of(LOBBY, wanted, before, "now")
    times = {one["type"]: one["lastTransitionTime"] for one in body["status"]["conditions"]}
    assert times == {"Ready": "then", "Accepted": "now", "Exposed": "now"}


def test_status_body_names_the_uid_of_the_object() -> None:
    assert writer.body_of(LOBBY, status(), record(), "now")["metadata"] == {
        "name": "lobby",
        "namespace": "agency",
        "uid": "uid",
    }


class StatusServer:
    """Answers a status write with the present object."""

    def __init__(self, **meta: Any) -> None:
        self._meta = meta
        self.writes = 0

    async def apply(self, _path: str, body: dict[str, Any], *, is_status: bool) -> dict[str, Any]:
        assert is_status
        self.writes += 1
        return {**test_cache.listener(resourceVersion="2", **self._meta), "status": body["status"]}


def status_writer(
    server: Any, cache: Cache, queue: Workqueue[Key], *, clock: Callable[[], float]
) -> writer.StatusWriter:
    return writer.StatusWriter(
        api=server,
        cache=cache,
        queue=queue,
        metrics=OperatorMetrics(),
        event_logger=EventLogger(lambda: 0.0),
        event_recorder=EventRecorder(30.0),
        clock=clock,
    )


@pytest.mark.parametrize(("generation", "is_planned_again"), [(1, False), (2, True)])
async def test_edit_before_a_status_write_queues_the_key(generation: int, is_planned_again: bool) -> None:
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], test_cache.listener())
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server: Any = StatusServer(generation=generation, **({"labels": {"a": "b"}} if generation > 1 else {}))
    written = status_writer(server, cache, queue, clock=lambda: 0.0)
    await written.write(Plan(LOBBY, (), status(condition())))
    assert (LOBBY in set(iter(queue.take, None))) is is_planned_again


async def test_informational_writes_share_a_rate_limit() -> None:
    now = [0.0]
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], {**test_cache.listener(), "status": {"observedGeneration": 1}})
    queue: Workqueue[Key] = Workqueue(clock=lambda: now[0], random=lambda: 0.5)
    server: Any = StatusServer()
    statuses = status_writer(server, cache, queue, clock=lambda: now[0])
    numbers = itertools.count()

    async def write(count: int) -> int:
        """Write statuses that differ in an informational condition only; return how many reached the server."""
        before = server.writes
        for _ in range(count):
            await statuses.write(Plan(LOBBY, (), status(condition("Receiving", reason=f"Reason{next(numbers)}"))))
        return int(server.writes - before)

    assert await write(6) == 5
    assert queue.due_in() == pytest.approx(0.2)
    now[0] += 0.2
    assert await write(1) == 1
    now[0] += 60
    assert await write(6) == 5, "a long pause saves up one second's worth"
