"""The pages of replays: progress, cancelling after a confirmation, and resuming."""

from support import admin_port, browsing, samples
from usher_gateway import model


async def test_replay_is_cancelled_after_a_confirmation_and_resumed(
    served: admin_port.Served, browser: browsing.Browser
) -> None:
    skipped = (samples.skip(model.SkipReason.Filter),)
    await served.bench.accept(*[samples.arrival(f"skipped {number}", if_visit=skipped) for number in range(60)])
    slow = {"reason": "Filter", "tenant": "agency/acme", "perSecond": 1}  # it runs for a minute
    _, replay = await served.ask("POST", "/api/replays", json=slow)
    path = f"/ui/replays/{replay['id']}"
    page = await browser.get(path)
    assert ("Replay, running" in page.words, "Filter, namespace agency, tenant acme" in page.words) == (True, True)
    asked = await browser.send(f"{path}/cancel", page)
    assert "This ends the replay and cancels" in asked.words
    assert "Replay, running" in (await browser.get(path)).words
    cancelled = await browser.send(f"{path}/cancel", asked, confirm=asked.confirm)
    assert (cancelled.status, "Replay, cancelled" in cancelled.words) == (200, True)
    resumed = await browser.send(f"{path}/resume", cancelled)
    assert (resumed.status, "Replay, running" in resumed.words) == (200, True)
    again = await browser.send(f"{path}/resume", resumed)
    assert (again.status, "Only a cancelled replay can be resumed" in again.words) == (409, True)
    asked = await browser.send(f"{path}/cancel", again)
    cancelled = await browser.send(f"{path}/cancel", asked, confirm=asked.confirm)
    assert (cancelled.status, "Replay, cancelled" in cancelled.words) == (200, True), "it was no double click"


async def test_unknown_replay_gets_a_clear_page(browser: browsing.Browser) -> None:
    page = await browser.get("/ui/replays/01920000-0000-7000-8000-000000000009")
    assert (page.status, "There is no such replay" in page.words) == (404, True)
    assert "No replays." in (await browser.get("/ui/replays")).words
