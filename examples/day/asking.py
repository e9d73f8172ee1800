"""What the gateway counted, asked at its admin port as everybody can."""

import contextlib
import datetime
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from usher_gateway import clock as clocks
from usher_gateway import model

_SINCE = "2020-01-01"
_CLOCK_QUESTIONS = 5


class Admin:
    """The admin port of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session, self.url = session, url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def counts(self) -> dict[str, Mapping[str, int]]:
        """Tenant -> what was counted so far, by the names that the API gives; ``skipped`` for all reasons together."""
        found: dict[str, Counter[str]] = {}
        rows = (await self._get(f"/api/usage?from={_SINCE}&by=month"))["rows"]
        for row in rows:
            numbers = {name: value for name, value in row.items() if isinstance(value, int)}
            found.setdefault(row["tenant"], Counter()).update(numbers | {"skipped": sum(row["skipped"].values())})
        return dict(found)

    async def clock(self, scale: float) -> clocks.Clock:
        """A clock that agrees with the gateway's: never ahead, and behind by no more than a question takes."""
        here, fastest, heard, told = clocks.Clock(), math.inf, 0, 0
        for _ in range(_CLOCK_QUESTIONS):
            asked = here.steady()
            answer = await self._get("/api/config")
            if here.steady() - asked < fastest:
                heard = here.steady()
                fastest = heard - asked
                told = int(datetime.datetime.fromisoformat(answer["now"]).timestamp() * model.MICROSECONDS)
        return clocks.Clock(scale, told + int((here.steady() - heard) * scale))

    async def _get(self, path: str) -> Any:
        async with self._session.get(self.url + path, headers=self._headers) as answer:
            answer.raise_for_status()
            return await answer.json()


def open_deliveries(counts: Mapping[str, Mapping[str, int]]) -> int:
    """Deliveries that were made and have not ended."""
    return sum(each["created"] - each["delivered"] - each["died"] - each["cancelled"] for each in counts.values())


@contextlib.asynccontextmanager
async def admin(url: str, token: str) -> AsyncIterator[Admin]:
    """The admin port for the time of a ``with`` block."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield Admin(session, url, token)
