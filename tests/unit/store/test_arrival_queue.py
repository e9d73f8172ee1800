"""The queue in front of the store: bounded, fair to tenants, and without losses."""

import concurrent.futures
import contextlib
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import samples
from usher_gateway import model
from usher_gateway.store.arrival_queue import ArrivalQueue, QueuedArrival, QueueLimits


def entry(tenant: str, body: bytes = b"{}") -> QueuedArrival:
    listener = model.ListenerName("agency", tenant, "lobby")
    return QueuedArrival(samples.arrival(listener=listener, body=body), cast("Any", concurrent.futures.Future()))


@pytest.mark.parametrize("limits", [QueueLimits(entries=1), QueueLimits(bytes=2)])
def test_full_queue_rejects_a_new_tenant_and_stays_usable(limits: QueueLimits) -> None:
    queued = ArrivalQueue(limits)
    first = entry("acme")
    queued.push(first)
    with pytest.raises(model.StoreBusyError):
        queued.push(entry("newcomer"))
    assert queued.draw() == [first]
    queued.push(entry("newcomer"))
    assert len(queued.draw()) == 1


def test_tenants_with_one_arrival_are_served_during_a_flood() -> None:
    queued = ArrivalQueue(QueueLimits(batch_entries=4))
    for tenant in [*["flood 1", "flood 2", "flood 3"] * 10, *[f"once {number}" for number in range(8)]]:
        queued.push(entry(tenant))
    drawn = [queued_arrival.arrival.listener.tenant for _ in range(3) for queued_arrival in queued.draw()]
    assert sum(tenant.startswith("once") for tenant in drawn) >= 6


@pytest.mark.parametrize(
    "limits", [QueueLimits(entries=64, tenant_entries=16), QueueLimits(bytes=512, tenant_bytes=128)]
)
def test_flooding_tenants_leave_room_for_a_light_one(limits: QueueLimits) -> None:
    queued = ArrivalQueue(limits)
    with contextlib.suppress(model.StoreBusyError):
        while True:
            for flood in range(8):
                queued.push(entry(f"flood {flood}", b"12345678"))
    queued.push(entry("quiet", b"12345678"))


STEPS = st.lists(st.one_of(st.sampled_from(["a", "b", "c", "d"]), st.just("draw")), max_size=60)


@given(STEPS)
def test_entries_are_drawn_once_in_the_order_of_their_tenant(steps: list[str]) -> None:
    queued = ArrivalQueue(QueueLimits(entries=6, tenant_entries=3, batch_entries=4))
    taken: list[QueuedArrival] = []
    drawn: list[QueuedArrival] = []
    for step in [*steps, "draw", "draw"]:
        if step == "draw":
            batch = queued.draw()
            assert len(batch) <= 4
            drawn += batch
            continue
        offered = entry(step)
        waiting = [other for other in taken if other not in drawn]
        is_full = len(waiting) >= 6 or sum(other.arrival.listener == offered.arrival.listener for other in waiting) >= 3
        try:
            queued.push(offered)
        except model.StoreBusyError:
            assert is_full
        else:
            assert not is_full
            taken.append(offered)
    for tenant in "abcd":
        assert of(taken, tenant) == of(drawn, tenant)
    assert (queued.entries, queued.bytes) == (0, 0)


def of(entries: list[QueuedArrival], tenant: str) -> list[int]:
    return [id(queued_arrival) for queued_arrival in entries if queued_arrival.arrival.listener.tenant == tenant]
