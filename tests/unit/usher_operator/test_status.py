"""The status writer sends only differences, and queues the keys that an answer concerns."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from support import cache_samples
from usher_operator import kinds
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.status import (
    StatusWriter,
    body_of,
    differences,
    leftover_types,
    without_leftovers,
)
from usher_operator.view import (
    ConditionStatus,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
    UnreadableResource,
)
from usher_operator.workqueue import Workqueue

LOBBY = Key("Listener", "agency", "lobby")


def condition(
    condition_type: str = "Ready", status: ConditionStatus = "True", reason: str = "Ready"
) -> StatusCondition:
    return StatusCondition(condition_type, status, reason, "", 1)


def record(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> kinds.ResourceRecord:
    unreadable = UnreadableResource(uid="uid", generation=generation, message="", conditions=conditions, fields=fields)
    times = {entry.type: "then" for entry in conditions}
    return kinds.ResourceRecord(
        uid="uid", resource_version="1", generation=1, parsed=unreadable, observed_generation=generation, times=times
    )


def status(*conditions: StatusCondition, generation: int = 1, **fields: Any) -> ResourceStatus:
    return ResourceStatus(generation, {entry.type: entry for entry in conditions}, fields)


def test_order_of_conditions_is_no_difference() -> None:
    first, second = condition(), condition("Accepted")
    assert differences(status(first, second), record(second, first)) == frozenset()


@pytest.mark.parametrize(
    ("planned", "differs"),
    [
        (status(condition(status="False")), {"Ready"}),
        (status(condition(), condition("Verified")), {"Verified"}),
        (status(), {"Ready"}),
        (status(condition(), generation=2), {"status"}),
        (status(condition(), addresses=[{"type": "Hostname", "value": "a.test"}]), {"status"}),
        (status(condition(), addresses=[]), set()),
    ],
)
def test_differences_name_the_changed_conditions(planned: ResourceStatus, differs: set[str]) -> None:
    assert differences(planned, record(condition())) == differs


def test_transition_time_changes_only_with_the_status() -> None:
    stored = record(condition(), condition("Accepted"))
    planned = status(condition(reason="Suspended"), condition("Accepted", "False"), condition("Exposed"))
    body = body_of(LOBBY, planned, stored, "now")
    times = {entry["type"]: entry["lastTransitionTime"] for entry in body["status"]["conditions"]}
    assert times == {"Ready": "then", "Accepted": "now", "Exposed": "now"}


def test_status_body_names_the_uid_of_the_object() -> None:
    assert body_of(LOBBY, status(), record(), "now")["metadata"] == {
        "name": "lobby",
        "namespace": "agency",
        "uid": "uid",
    }


def test_condition_of_another_manager_is_left_out_of_the_next_version() -> None:
    stored = [{"type": name} for name in ("Ready", "Healthy", "example.com/Own")]
    raw = {"metadata": {"resourceVersion": "7"}, "status": {"conditions": stored}}
    assert leftover_types(raw, status(condition())) == {"Healthy"}
    assert without_leftovers(raw, status(condition())) == {
        "metadata": {"resourceVersion": "7"},
        "status": {"conditions": [{"type": "Ready"}, {"type": "example.com/Own"}]},
    }


class StatusServer:
    """Answers a status write with the present object."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None, **meta: Any) -> None:
        self._meanwhile, self._meta = meanwhile, meta
        self.writes = 0

    async def apply(self, _path: str, body: dict[str, Any], *, is_status: bool) -> dict[str, Any]:
        assert is_status
        self.writes += 1
        self._meanwhile()
        return {**cache_samples.listener(resourceVersion="2", **self._meta), "status": body["status"]}


def status_writer(server: Any, cache: Cache, queue: Workqueue[Key], *, clock: Callable[[], float]) -> StatusWriter:
    return StatusWriter(
        api=server,
        cache=cache,
        queue=queue,
        metrics=OperatorMetrics(),
        clock=clock,
    )


class EventServer(StatusServer):
    """Keeps the Events, and stores each status that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def create(self, _path: str, event: dict[str, Any], **_: object) -> None:
        await self.events.put(event)

    async def apply(self, path: str, body: dict[str, Any], *, is_status: bool) -> dict[str, Any]:
        answer = await super().apply(path, body, is_status=is_status)
        answer["metadata"]["resourceVersion"] = str(self.writes + 1)
        return answer


async def test_lost_address_is_reported_although_ready_is_unknown_in_between() -> None:
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], cache_samples.listener())
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server = EventServer()
    statuses = status_writer(server, cache, queue, clock=lambda: 0.0)
    pending = condition(status="Unknown", reason="Pending")
    lost = condition(status="False", reason="AddressNotAssigned")
    for written in (pending, lost, pending, condition(), pending, pending, lost):
        await statuses.write(Plan(LOBBY, (), status(written)))
    posting = asyncio.create_task(statuses.post_events())
    async with asyncio.timeout(10):
        posted = [(await server.events.get())["message"] for _ in range(2)]
    posting.cancel()
    await asyncio.wait({posting})
    assert posted == ["Ready is True (was Unknown, Pending)", "Ready is False (was True)"]


class ServerWithoutEmptyLists(EventServer):
    """Stores no list where an apply empties one, as the API server does."""

    async def apply(self, path: str, body: dict[str, Any], *, is_status: bool) -> dict[str, Any]:
        answer = await super().apply(path, body, is_status=is_status)
        answer["status"] = {name: value for name, value in body["status"].items() if value != []}
        return answer


async def test_emptied_list_is_no_change_of_somebody_else() -> None:
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], cache_samples.listener())
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server = ServerWithoutEmptyLists()
    statuses = status_writer(server, cache, queue, clock=lambda: 0.0)
    addresses = [{"type": "Hostname", "value": "a.test"}]
    for number in range(4):
        await statuses.write(Plan(LOBBY, (), status(condition(), addresses=addresses)))
        await statuses.write(Plan(LOBBY, (), status(condition(status="False"), addresses=[])))
        assert server.writes == 2 * (number + 1)


@pytest.mark.parametrize(("generation", "is_planned_again"), [(1, False), (2, True)])
async def test_edit_before_a_status_write_queues_the_key(generation: int, is_planned_again: bool) -> None:
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], cache_samples.listener())
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    meta: dict[str, Any] = {"labels": {"a": "b"}} if generation > 1 else {}
    server: Any = StatusServer(generation=generation, **meta)
    written = status_writer(server, cache, queue, clock=lambda: 0.0)
    await written.write(Plan(LOBBY, (), status(condition())))
    assert (LOBBY in set(iter(queue.take, None))) is is_planned_again


async def test_answer_to_a_status_write_does_not_undo_an_edit_that_the_watch_reported() -> None:
    cache, kind = Cache(OperatorSettings()), kinds.BY_NAME["Listener"]
    cache.put(kind, cache_samples.listener())
    edited = cache_samples.listener(resourceVersion="3", generation=2)
    server: Any = StatusServer(lambda: cache.put(kind, edited), generation=1)
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    await status_writer(server, cache, queue, clock=lambda: 0.0).write(Plan(LOBBY, (), status(condition())))
    assert cache.version_of(kind, LOBBY.namespace, LOBBY.name)[1] == "3"
    assert cache.records[LOBBY].generation == 2


async def test_answer_to_a_status_write_does_not_bring_back_a_resource_that_was_deleted_meanwhile() -> None:
    cache, kind = Cache(OperatorSettings()), kinds.BY_NAME["Listener"]
    cache.put(kind, cache_samples.listener())
    server: Any = StatusServer(lambda: cache.remove(kind, LOBBY.namespace, LOBBY.name))
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    await status_writer(server, cache, queue, clock=lambda: 0.0).write(Plan(LOBBY, (), status(condition())))
    assert LOBBY not in cache.records


@pytest.mark.parametrize(
    ("stored", "generation", "writes"),
    [
        pytest.param(3, 3, 0, id="the plan is older than the stored status"),
        pytest.param(9, 2, 1, id="the stored status is newer than the resource itself"),
    ],
)
async def test_too_high_observed_generation_is_mended(stored: int, generation: int, writes: int) -> None:
    cache = Cache(OperatorSettings())
    listener = {**cache_samples.listener(generation=generation), "status": {"observedGeneration": stored}}
    cache.put(kinds.BY_NAME["Listener"], listener)
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server: Any = StatusServer(generation=generation)
    await status_writer(server, cache, queue, clock=lambda: 0.0).write(
        Plan(LOBBY, (), status(condition(), generation=2))
    )
    assert server.writes == writes


async def test_informational_writes_share_a_rate_limit() -> None:
    now = [0.0]
    cache = Cache(OperatorSettings())
    cache.put(kinds.BY_NAME["Listener"], {**cache_samples.listener(), "status": {"observedGeneration": 1}})
    queue: Workqueue[Key] = Workqueue(clock=lambda: now[0], random=lambda: 0.5)
    server: Any = StatusServer()
    statuses = status_writer(server, cache, queue, clock=lambda: now[0])
    numbers = itertools.count()

    async def write(count: int) -> int:
        """Write statuses that differ in an informational condition only; return how many reached the server."""
        writes_before = server.writes
        for _ in range(count):
            await statuses.write(Plan(LOBBY, (), status(condition("Receiving", reason=f"Reason{next(numbers)}"))))
        return int(server.writes - writes_before)

    assert await write(6) == 5
    statuses.release()
    assert queue.take() is None
    now[0] += 0.2
    statuses.release()
    assert queue.take() == LOBBY
    assert await write(2) == 1
    now[0] += 0.2
    statuses.release()
    assert await write(1) == 1
    now[0] += 60
    assert await write(6) == 5, "a long pause saves up one second's worth"


async def test_informational_writes_of_one_namespace_do_not_delay_another() -> None:
    now = [0.0]
    cache = Cache(OperatorSettings())
    keys = [*(Key("Listener", "agency", f"l{number}") for number in range(100)), Key("Listener", "other", "lobby")]
    for key in keys:
        listener = {**cache_samples.listener(key.name, namespace=key.namespace), "status": {"observedGeneration": 1}}
        cache.put(kinds.BY_NAME["Listener"], listener)
    queue: Workqueue[Key] = Workqueue(clock=lambda: now[0], random=lambda: 0.5)
    server: Any = StatusServer()
    statuses = status_writer(server, cache, queue, clock=lambda: now[0])
    for key in keys:
        await statuses.write(Plan(key, (), status(condition("Receiving"))))
    assert not {*iter(queue.take, None)} & {*keys}
    now[0] += 0.4
    statuses.release()
    assert {*iter(queue.take, None)} == {keys[5], keys[-1]}


async def test_hold_is_written_although_other_informational_writes_wait() -> None:
    cache = Cache(OperatorSettings())
    keys = [Key("Listener", "agency", f"l{number}") for number in range(8)]
    for key in keys:
        listener = {**cache_samples.listener(key.name, namespace="agency"), "status": {"observedGeneration": 1}}
        cache.put(kinds.BY_NAME["Listener"], listener)
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    server: Any = StatusServer()
    statuses = status_writer(server, cache, queue, clock=lambda: 0.0)
    for key in keys:
        await statuses.write(Plan(key, (), status(condition("Receiving"))))
    assert server.writes == 5
    await statuses.write(Plan(keys[-1], (), status(condition("Receiving"), condition("DeliveriesHeld"))))
    assert server.writes == 6
