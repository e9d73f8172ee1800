"""A try of a changed configuration shares memory and the event loop with the arrivals of the gateway."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

from support import delivery_samples, samples
from usher_gateway import documents, model
from usher_gateway.delivery import payload, tries
from usher_gateway.destinations import DestinationRequest
from usher_gateway.expressions.turns import PAUSE_FACTOR

KEYS = model.derive_keys(b"k" * 32)
VISIT = bytes(16)

Render = Callable[..., DestinationRequest | payload.FormatError]


@pytest.fixture
def comparison() -> tries.ListenerComparison:
    """A comparison of a listener of three routes with itself."""
    snapshot = delivery_samples.snapshot()
    routes = tuple([documents.Route(f"crm-{number}", "agency/crm") for number in range(3)])
    lobby = msgspec.structs.replace(snapshot.listeners["agency/lobby"], routes=routes)
    in_force, changed = [tries.ConfiguredListener(lobby, snapshot.destinations, KEYS) for _ in range(2)]
    return tries.ListenerComparison(in_force=in_force, changed=changed, budget=tries.DiffBudget(0), mask=None)


async def take(comparison: tries.ListenerComparison, end: float) -> bool:
    return await comparison.take(samples.arrival(), VISIT, is_repeat=False, end=end)


def after_each_request(monkeypatch: pytest.MonkeyPatch, act: Callable[[DestinationRequest], object]) -> None:
    """Call a function with each request that is made."""
    render: Render = payload.render

    def render_and_act(*arguments: object) -> DestinationRequest:
        request = render(*arguments)
        assert isinstance(request, DestinationRequest)
        act(request)
        return request

    monkeypatch.setattr(payload, "render", render_and_act)


async def test_requests_of_one_route_are_dropped_before_the_next_route(
    comparison: tries.ListenerComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, counts = 0, []

    class CountedBody(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def count(request: DestinationRequest) -> None:
        nonlocal alive
        request.body = CountedBody(request.body)
        alive += 1
        counts.append(alive)

    after_each_request(monkeypatch, count)
    assert await take(comparison, end=time.monotonic() + 60.0)
    assert (counts, alive) == ([1, 2] * 3, 0)


async def test_try_pauses_after_each_long_step(
    comparison: tries.ListenerComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_seconds, pauses, sleep = 0.0, list[float](), asyncio.sleep

    def spend(_: DestinationRequest) -> None:
        nonlocal cpu_seconds
        cpu_seconds += 0.25

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    after_each_request(monkeypatch, spend)
    monkeypatch.setattr(time, "thread_time", lambda: cpu_seconds)
    monkeypatch.setattr(asyncio, "sleep", note)
    assert await take(comparison, end=time.monotonic() + 60.0)
    assert [seconds for seconds in pauses if seconds] == [0.25 * PAUSE_FACTOR] * 6


async def test_visit_that_is_cut_off_between_routes_does_not_count_as_tried(
    comparison: tries.ListenerComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic, passed, requests = time.monotonic, 0.0, list[DestinationRequest]()

    def let_time_pass(request: DestinationRequest) -> None:
        nonlocal passed
        passed += 60.0
        requests.append(request)

    after_each_request(monkeypatch, let_time_pass)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed)
    assert not await take(comparison, end=monotonic() + 60.0)
    assert (len(requests), comparison.tried) == (2, 0)
    assert [result.changed for result in await comparison.results()] == [tries.OutcomeCounts()] * 3
