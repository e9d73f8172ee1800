"""The list of replays, and one replay: its progress, and the forms that cancel and resume it."""

from aiohttp import web

from usher_gateway.pages import requests
from usher_gateway.pages.api import Api, Form, Values
from usher_gateway.words import listings, replay_words

_IGNORED = {"oncePer": "rules oncePer", "expiry": "time limits", "pause": "pauses"}


async def list_replays(api: Api, _: web.Request) -> Values:
    """Return the list's values."""
    answer = await api.get("/api/replays")
    return {"title": "Replays", "rows": [_with_words(row) for row in answer["rows"]]}


async def show(api: Api, request: web.Request) -> Values:
    """Return one replay's values."""
    row = await api.get(f"/api/replays/{requests.path_id(request)}")
    return {
        "title": f"Replay, {row['state']}",
        "replay": _with_words(row),
        "pending": replay_words.waiting(row),
        "reloads": row["state"] == "running",
    }


async def cancel(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Say how many deliveries wait; with ``confirm``, end the replay."""
    path = f"/api/replays/{requests.path_id(request)}"
    page = f"/ui/replays/{requests.path_id(request)}"
    if "confirm" in form:
        await api.post(f"{path}/cancel", {})
        return page
    waiting = replay_words.waiting(await api.get(path))
    return "confirm.html", {
        "title": "Cancel a replay",
        "sentences": [
            f"This ends the replay and cancels {listings.counted(waiting, 'waiting delivery')}.",
            "An attempt that already runs is not interrupted.",
            "A cancelled replay can be resumed. Its cancelled deliveries stay cancelled.",
        ],
        "button": "Cancel the replay",
        "action": f"{page}/cancel",
        "back": page,
    }


async def resume(api: Api, request: web.Request, _: Form) -> str:
    """Let a cancelled replay go on where it was."""
    identifier = requests.path_id(request)
    await api.post(f"/api/replays/{identifier}/resume", {})
    return f"/ui/replays/{identifier}"


def _with_words(row: listings.Row) -> listings.Row:
    """Return a replay with what it selects and what it left out in words."""
    return row | {
        "selects": replay_words.selection(row),
        "results": ", ".join([f"{count:,} {state}" for state, count in row["deliveries"].items()]),
        "left_out": replay_words.left_out(row["leftOut"]),
        "ignores": ", ".join([_IGNORED[name] for name in row["ignored"]]),
    }
