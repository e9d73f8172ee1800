"""The status writer sends only differences, and queues the keys that an answer concerns."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from support import cache_samples
from support.operator_parts import OperatorParts, record_of, status_of
from usher_operator.state import kinds
from usher_operator.state.values import (
    ConditionStatus,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.write.status_writer import (
    body_of,
    differences,
    leftover_types,
    without_leftovers,
)

LOBBY = Key("Listener", "agency", "lobby")
LISTENER = kinds.BY_NAME["Listener"]


def condition(
    condition_type: str = "Ready", status: ConditionStatus = "True", reason: str = "Ready"
) -> StatusCondition:
    return StatusCondition(condition_type, status, reason, "", 1)


def test_order_of_conditions_is_no_difference() -> None:
    first, second = condition(), condition("Accepted")
    assert differences(status_of(first, second), record_of(second, first)) == frozenset()


@pytest.mark.parametrize(
    ("planned", "differs"),
    [
        (status_of(condition(status="False")), {"Ready"}),
        (status_of(condition(), condition("Verified")), {"Verified"}),
        (status_of(), {"Ready"}),
        (status_of(condition(), generation=2), {"status"}),
        (status_of(condition(), addresses=[{"type": "Hostname", "value": "a.test"}]), {"status"}),
        (status_of(condition(), addresses=[]), set()),
    ],
)
def test_differences_name_the_changed_conditions(planned: ResourceStatus, differs: set[str]) -> None:
    assert differences(planned, record_of(condition())) == differs


def test_transition_time_changes_only_with_the_status() -> None:
    stored = record_of(condition(), condition("Accepted"))
    planned = status_of(condition(reason="Suspended"), condition("Accepted", "False"), condition("Exposed"))
    body = body_of(LOBBY, planned, stored, "now")
    times = {entry["type"]: entry["lastTransitionTime"] for entry in body["status"]["conditions"]}
    assert times == {"Ready": "then", "Accepted": "now", "Exposed": "now"}


def test_status_body_names_the_uid_of_the_object() -> None:
    assert body_of(LOBBY, status_of(), record_of(), "now")["metadata"] == {
        "name": "lobby",
        "namespace": "agency",
        "uid": "uid",
    }


def test_condition_of_another_manager_is_left_out_of_the_next_version() -> None:
    stored = [{"type": name} for name in ("Ready", "Healthy", "example.com/Own")]
    raw = {"metadata": {"resourceVersion": "7"}, "status": {"conditions": stored}}
    assert leftover_types(raw, status_of(condition())) == {"Healthy"}
    assert without_leftovers(raw, status_of(condition())) == {
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


class StatusBench(OperatorParts):
    """A status writer whose cache has a listener."""

    def __init__(self, server: Any, listener: dict[str, Any] | None = None) -> None:
        super().__init__(server)
        self.put(listener or cache_samples.listener())

    def put(self, listener: dict[str, Any]) -> None:
        self.cache.put(LISTENER, listener)

    async def write(self, *conditions: StatusCondition, key: Key = LOBBY, generation: int = 1, **fields: Any) -> None:
        await self.statuses.write(Plan(key, (), status_of(*conditions, generation=generation, **fields)))


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
    server = EventServer()
    writer = StatusBench(server)
    pending = condition(status="Unknown", reason="Pending")
    lost = condition(status="False", reason="AddressNotAssigned")
    for written in (pending, lost, pending, condition(), pending, pending, lost):
        await writer.write(written)
    posting = asyncio.create_task(writer.statuses.post_events())
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
    server = ServerWithoutEmptyLists()
    writer = StatusBench(server)
    addresses = [{"type": "Hostname", "value": "a.test"}]
    for number in range(4):
        await writer.write(condition(), addresses=addresses)
        await writer.write(condition(status="False"), addresses=[])
        assert server.writes == 2 * (number + 1)


@pytest.mark.parametrize(("generation", "is_planned_again"), [(1, False), (2, True)])
async def test_edit_before_a_status_write_queues_the_key(generation: int, is_planned_again: bool) -> None:
    meta: dict[str, Any] = {"labels": {"a": "b"}} if generation > 1 else {}
    writer = StatusBench(StatusServer(generation=generation, **meta))
    await writer.write(condition())
    assert (LOBBY in writer.queued()) is is_planned_again


async def test_answer_to_a_status_write_does_not_undo_an_edit_that_the_watch_reported() -> None:
    edited = cache_samples.listener(resourceVersion="3", generation=2)
    writer = StatusBench(StatusServer(lambda: writer.put(edited), generation=1))
    await writer.write(condition())
    assert writer.cache.version_of(LISTENER, LOBBY.namespace, LOBBY.name)[1] == "3"
    assert writer.cache.records[LOBBY].generation == 2


async def test_answer_to_a_status_write_does_not_bring_back_a_resource_that_was_deleted_meanwhile() -> None:
    writer = StatusBench(StatusServer(lambda: writer.cache.remove(LISTENER, LOBBY.namespace, LOBBY.name)))
    await writer.write(condition())
    assert LOBBY not in writer.cache.records


@pytest.mark.parametrize(
    ("stored", "generation", "writes"),
    [
        pytest.param(3, 3, 0, id="the plan is older than the stored status"),
        pytest.param(9, 2, 1, id="the stored status is newer than the resource itself"),
    ],
)
async def test_too_high_observed_generation_is_mended(stored: int, generation: int, writes: int) -> None:
    listener = {**cache_samples.listener(generation=generation), "status": {"observedGeneration": stored}}
    server = StatusServer(generation=generation)
    await StatusBench(server, listener).write(condition(), generation=2)
    assert server.writes == writes


def observed_listener(key: Key) -> dict[str, Any]:
    return {**cache_samples.listener(key.name, namespace=key.namespace), "status": {"observedGeneration": 1}}


async def test_informational_writes_share_a_rate_limit() -> None:
    server = StatusServer()
    writer, numbers = StatusBench(server, observed_listener(LOBBY)), itertools.count()

    async def write(count: int) -> int:
        """Write statuses that differ in an informational condition only; return how many reached the server."""
        writes_before = server.writes
        for _ in range(count):
            await writer.write(condition("Receiving", reason=f"Reason{next(numbers)}"))
        return server.writes - writes_before

    assert await write(6) == 5
    writer.statuses.release()
    assert writer.queue.take() is None
    writer.now += 0.2
    writer.statuses.release()
    assert writer.queue.take() == LOBBY
    assert await write(2) == 1
    writer.now += 0.2
    writer.statuses.release()
    assert await write(1) == 1
    writer.now += 60
    assert await write(6) == 5, "a long pause saves up one second's worth"


async def test_informational_writes_of_one_namespace_do_not_delay_another() -> None:
    writer = StatusBench(StatusServer())
    keys = [*(Key("Listener", "agency", f"l{number}") for number in range(100)), Key("Listener", "other", "lobby")]
    for key in keys:
        writer.put(observed_listener(key))
        await writer.write(condition("Receiving"), key=key)
    assert not writer.queued() & {*keys}
    writer.now += 0.4
    writer.statuses.release()
    assert writer.queued() == {keys[5], keys[-1]}


async def test_hold_is_written_although_other_informational_writes_wait() -> None:
    server = StatusServer()
    writer, keys = StatusBench(server), [Key("Listener", "agency", f"l{number}") for number in range(8)]
    for key in keys:
        writer.put(observed_listener(key))
        await writer.write(condition("Receiving"), key=key)
    assert server.writes == 5
    await writer.write(condition("Receiving"), condition("DeliveriesHeld"), key=keys[-1])
    assert server.writes == 6
