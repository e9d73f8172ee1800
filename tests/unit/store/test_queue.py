"""The queue before the store: bounded, fair to tenants, and it loses nothing, full or not."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import samples
from usher_gateway import model
from usher_gateway.store.sqlite import queue


def entry(tenant: str, future: "asyncio.Future[model.Accepted]", body: bytes = b"{}") -> queue.Entry:
    listener = model.ListenerName("agency", tenant, "lobby")
    return queue.Entry(samples.arrival(listener=listener, body=body), future)


@pytest.mark.parametrize("limits", [queue.Limits(entries=1), queue.Limits(bytes=2)])
def test_a_newcomer_before_a_full_queue_is_refused_and_harms_nobody(limits: queue.Limits) -> None:
    queued = queue.ArrivalQueue(limits)
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
    queued = queue.ArrivalQueue(queue.Limits(tenant_bytes=10))
    loop = asyncio.new_event_loop()
    with pytest.raises(model.StoreBusyError):
        queued.push(entry("acme", loop.create_future(), b"x" * 11))
    assert queued.draw() == []
    loop.close()


STEPS = st.lists(st.one_of(st.sampled_from(["a", "b", "c", "d"]), st.just("draw")), max_size=60)


@given(STEPS)
def test_what_is_taken_in_comes_out_once_in_its_tenants_order(steps: list[str]) -> None:
    queued = queue.ArrivalQueue(queue.Limits(entries=6, tenant_entries=3, batch_entries=4))
    loop = asyncio.new_event_loop()
    taken: list[queue.Entry] = []
    drawn: list[queue.Entry] = []
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


def of(entries: list[queue.Entry], tenant: str) -> list[int]:
    return [id(one) for one in entries if one.arrival.listener.tenant == tenant]
