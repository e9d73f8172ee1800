"""A form that is sent twice does what it asks for once."""

import asyncio

import pytest

from usher_gateway.pages.confirmed_forms import ConfirmedForms


class Action:
    """Counts how often it is done, and waits until it may end."""

    def __init__(self) -> None:
        self.done = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.done += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return f"/ui/replays/{self.done}"


async def test_form_that_comes_again_during_and_after_the_action_gets_its_answer() -> None:
    forms, action = ConfirmedForms[str](), Action()
    first = asyncio.create_task(forms.answer(b"a", action))
    again = asyncio.create_task(forms.answer(b"a", action))
    await asyncio.sleep(0)
    action.may_end.set()
    assert [await first, await again, await forms.answer(b"a", action)] == ["/ui/replays/1"] * 3
    assert action.done == 1
    assert await forms.answer(b"b", action) == "/ui/replays/2"


async def test_form_that_confirms_nothing_is_done_each_time() -> None:
    forms, action = ConfirmedForms[str](), Action()
    action.may_end.set()
    assert [await forms.answer(None, action) for _ in range(2)] == ["/ui/replays/1", "/ui/replays/2"]


async def test_form_whose_action_failed_can_be_sent_again() -> None:
    forms, action = ConfirmedForms[str](), Action()
    action.error = ValueError("the store is away")
    action.may_end.set()
    with pytest.raises(ValueError, match="away"):
        await forms.answer(b"a", action)
    await asyncio.sleep(0)
    action.error = None
    assert await forms.answer(b"a", action) == "/ui/replays/2"


async def test_browser_that_goes_away_does_not_end_the_action() -> None:
    forms, action = ConfirmedForms[str](), Action()
    first = asyncio.create_task(forms.answer(b"a", action))
    await asyncio.sleep(0)
    first.cancel()
    action.may_end.set()
    assert await forms.answer(b"a", action) == "/ui/replays/1"
