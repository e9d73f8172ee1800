"""The queue before the store: bounded, fair to tenants, and it loses nothing, full or not."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import samples
from usher_gateway import model
from usher_gateway.store.sqlite.group_commit import ArrivalQueue, QueuedArrival, QueueLimits


def entry(tenant: str, future: "asyncio.Future[model.Accepted]", body: bytes = b"{}") -> QueuedArrival:
    listener = model.ListenerName("agency", tenant, "lobby")
    return QueuedArrival(samples.arrival(listener=listener, body=body), future)


@pytest.mark.parametrize("limits", [QueueLimits(entries=1), QueueLimits(bytes=2)])
def test_a_newcomer_before_a_full_queue_is_refused_and_harms_nobody(limits: QueueLimits) -> None:
    queued = ArrivalQueue(limits)
    loop = asyncio.new_event_loop()
    first = entry("acme", loop.create_future())
    queued.push(first)
    with pytest.raises(model.StoreBusyError):
        queued.push(entry("newcomer", loop.create_future()))
    assert queued.draw() == [first]
    queued.push(entry("newcomer", loop.create_future()))
    assert len(queued.draw()) == 1
    loop.close()


def test_one_too_large_for_its_tenant_is_refused_and_harms_nobody() -> None:
    queued = ArrivalQueue(QueueLimits(tenant_bytes=10))
    loop = asyncio.new_event_loop()
    with pytest.raises(model.StoreBusyError):
        queued.push(entry("acme", loop.create_future(), b"x" * 11))
    assert queued.draw() == []
    loop.close()


def test_those_who_come_once_are_not_kept_behind_those_who_flood() -> None:
    queued = ArrivalQueue(QueueLimits(batch_entries=4))
    loop = asyncio.new_event_loop()
    for tenant in [*["flood 1", "flood 2", "flood 3"] * 10, *[f"once {number}" for number in range(8)]]:
        queued.push(entry(tenant, loop.create_future()))
    drawn = [one.arrival.listener.tenant for _ in range(3) for one in queued.draw()]
    assert sum(tenant.startswith("once") for tenant in drawn) >= 6
    loop.close()


def test_an_outage_however_long_leaves_no_more_behind_than_it_found() -> None:
    queued = ArrivalQueue(QueueLimits())
    loop = asyncio.new_event_loop()
    for number in range(3):
        queued.push(entry(f"tenant {number}", loop.create_future()))
    for _ in range(50):
        queued.put_back(queued.draw())
    assert len(queued._spare) <= 3
    assert len(queued.draw()) == 3
    loop.close()


@pytest.mark.parametrize(
    "limits", [QueueLimits(entries=64, tenant_entries=16), QueueLimits(bytes=512, tenant_bytes=128)]
)
def test_tenants_who_fill_the_queue_together_leave_room_for_one_with_little(limits: QueueLimits) -> None:
    queued = ArrivalQueue(limits)
    loop = asyncio.new_event_loop()
    with contextlib.suppress(model.StoreBusyError):
        while True:
            for flood in range(8):
                queued.push(entry(f"flood {flood}", loop.create_future(), b"12345678"))
    queued.push(entry("quiet", loop.create_future(), b"12345678"))
    loop.close()


STEPS = st.lists(st.one_of(st.sampled_from(["a", "b", "c", "d"]), st.just("draw")), max_size=60)


@given(STEPS)
def test_what_is_taken_in_comes_out_once_in_its_tenants_order(steps: list[str]) -> None:
    queued = ArrivalQueue(QueueLimits(entries=6, tenant_entries=3, batch_entries=4))
    loop = asyncio.new_event_loop()
    taken: list[QueuedArrival] = []
    drawn: list[QueuedArrival] = []
    for step in [*steps, "draw", "draw"]:
        if step == "draw":
            batch = queued.draw()
            assert len(batch) <= 4
            drawn += batch
            continue
        one = entry(step, loop.create_future())
        waiting = [other for other in taken if other not in drawn]
        is_full = len(waiting) >= 6 or sum(other.arrival.listener == one.arrival.listener for other in waiting) >= 3
        try:
            queued.push(one)
        except model.StoreBusyError:
            assert is_full
        else:
            assert not is_full
            taken.append(one)
    for tenant in "abcd":
        assert of(taken, tenant) == of(drawn, tenant)
    assert (queued.entries, queued.bytes) == (0, 0)
    loop.close()


def of(entries: list[QueuedArrival], tenant: str) -> list[int]:
    return [id(one) for one in entries if one.arrival.listener.tenant == tenant]
