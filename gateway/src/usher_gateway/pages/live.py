"""Server-sent events for open pages: the counts of today, and new visits.

A stream asks the API every few seconds. The counts of past quarters of an hour are added up once for each quarter, so
a look costs the same at noon and at midnight. Source of the format: HTML Living Standard §9.2.
"""

import asyncio
import datetime
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from usher_gateway.pages import periods
from usher_gateway.pages.answers import HEADERS
from usher_gateway.pages.api import Api, ApiProblemError
from usher_gateway.pages.requests import CSRF_TOKEN, viewer_zone

_NEWEST = 5
"""New visits that one event names."""

_COUNTS = ("visits", "delivered", "quarantined", "refused")
_QUARTER = datetime.timedelta(minutes=15)


class LiveEvents:
    """Streams events to browsers until ``stop``.

    Args:
        now: returns the time, with a zone.
        interval_seconds: between two looks of a stream.
        most_streams: of all viewers together; a page without one is complete, and does not change.
        most_of_viewer: streams of one viewer.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime.datetime],
        interval_seconds: float = 5.0,
        most_streams: int = 50,
        most_of_viewer: int = 10,
    ) -> None:
        self._now, self._interval_seconds = now, interval_seconds
        self._most_streams, self._most_of_viewer = most_streams, most_of_viewer
        self._stopping = asyncio.Event()
        self._streams: Counter[str] = Counter()
        """CSRF token of a viewer -> the viewer's streams."""

    def stop(self) -> None:
        """End all streams."""
        self._stopping.set()

    async def stream(self, request: web.Request, api: Api) -> web.StreamResponse:
        """Answer ``GET /ui/events``; ``tenant`` (``namespace/name``) limits it to one."""
        viewer, are_many = request[CSRF_TOKEN], self._streams.total() >= self._most_streams
        if are_many or self._streams[viewer] >= self._most_of_viewer or self._stopping.is_set():
            return web.Response(status=204, headers=HEADERS)  # a browser does not ask again then
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        today = _Today(api, request, self._now)
        self._streams[viewer] += 1
        try:
            while not self._stopping.is_set():
                for name, data in await today.news():
                    await response.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
                try:
                    await asyncio.wait_for(self._stopping.wait(), self._interval_seconds)
                except TimeoutError:
                    continue
        except (ApiProblemError, ConnectionResetError):  # the page shows that the connection is lost, and asks again
            pass
        finally:
            self._streams[viewer] -= 1
            self._streams += Counter()  # forgets viewers without a stream
        return response


class _Today:
    """The counts of a viewer's day so far, and the newest visits."""

    def __init__(self, api: Api, request: web.Request, now: Callable[[], datetime.datetime]) -> None:
        self._api, self._now = api, now
        tenant = request.query.get("tenant")
        self._where = {"tenant": tenant} if tenant else {}
        self._zone = viewer_zone(request)
        self._past: dict[str, int] = {}
        self._past_until = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._newest = ""
        """Id of the newest visit that the browser knows."""

    async def news(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return events as (name, data): the counts, and the visits since the last call."""
        now = self._now()
        quarter = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
        if quarter != self._past_until:
            midnight = now.astimezone(self._zone).replace(hour=0, minute=0, second=0, microsecond=0)
            self._past = await self._totals(midnight, quarter) if midnight < quarter else dict.fromkeys(_COUNTS, 0)
            self._past_until = quarter
        present = await self._totals(quarter, quarter + _QUARTER)
        counts = {name: self._past[name] + present[name] for name in _COUNTS}
        return [("counts", counts), *[("visit", visit) for visit in await self._new_visits()]]

    async def _totals(self, since: datetime.datetime, until: datetime.datetime) -> dict[str, int]:
        times = {"from": since.isoformat(), "to": until.isoformat()}
        return periods.sums((await self._api.get("/api/usage/totals", {**times, **self._where}))["rows"], _COUNTS)

    async def _new_visits(self) -> list[Mapping[str, str]]:
        """Return the newest visits that the browser does not know, the oldest first; none at the first call."""
        rows = (await self._api.get("/api/visits", {"limit": str(_NEWEST), **self._where}))["rows"]
        newest_shown, self._newest = self._newest, rows[0]["id"] if rows else self._newest
        if not newest_shown:
            return []
        fields = ("id", "receivedAt", "namespace", "tenant", "listener", "countedAs")
        return [{name: row[name] for name in fields} for row in reversed(rows) if row["id"] > newest_shown]
