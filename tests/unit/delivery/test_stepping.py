"""Steps of replays and erasures: one that cannot go on keeps no other from its steps."""

import asyncio
from typing import Any
from unittest import mock

import pytest

from support import waiting
from usher_gateway import model
from usher_gateway.delivery.stepping import StepRunner


@pytest.mark.parametrize("error", [model.StoreUnavailableError("away"), RuntimeError("odd")])
async def test_request_whose_step_fails_keeps_no_other_from_its_steps(error: Exception) -> None:
    broken, other = mock.Mock(id=bytes(16)), mock.Mock(id=bytes(16))
    taken: list[Any] = []

    async def running() -> list[Any]:
        return [broken, other]

    async def step(request: Any) -> float:
        if request is broken:
            raise error
        taken.append(request)
        return 0.0

    task = asyncio.create_task(StepRunner("erasure", running, step).run())
    await waiting.wait_until(lambda: len(taken) >= 2)
    task.cancel()
