"""The three counts of a day: what the sender, the gateway and the receivers counted, each on its own."""

import contextlib
import datetime
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import rich.box
import rich.console
import rich.table

from usher_gateway import model, simulator
from usher_gateway.timing import Clock

_SINCE = "2020-01-01"
_CLOCK_QUERIES = 5


class GatewayCounts:
    """A client of a gateway's admin port."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session, self.url = session, url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def counts(self) -> dict[str, Mapping[str, int]]:
        """Return tenant -> counts by their API names; ``skipped`` is the sum over all reasons."""
        counts_by_tenant: dict[str, Counter[str]] = {}
        rows = (await self._get(f"/api/usage?from={_SINCE}&by=month"))["rows"]
        for row in rows:
            numbers = {name: value for name, value in row.items() if isinstance(value, int)}
            counts_by_tenant.setdefault(row["tenant"], Counter()).update(
                numbers | {"skipped": sum(row["skipped"].values())}
            )
        return dict(counts_by_tenant)

    async def clock(self, scale: float) -> Clock:
        """Return a clock that agrees with the gateway's: never ahead, and behind by at most one round trip."""
        here, fastest, received_at, gateway_time = Clock(), math.inf, 0, 0
        for _ in range(_CLOCK_QUERIES):
            asked_at = here.steady()
            answer = await self._get("/api/config")
            if here.steady() - asked_at < fastest:
                received_at = here.steady()
                fastest = received_at - asked_at
                gateway_time = int(datetime.datetime.fromisoformat(answer["now"]).timestamp() * model.MICROSECONDS)
        return Clock(scale, gateway_time + int((here.steady() - received_at) * scale))

    async def _get(self, path: str) -> Any:
        async with self._session.get(self.url + path, headers=self._headers) as answer:
            answer.raise_for_status()
            return await answer.json()


@contextlib.asynccontextmanager
async def admin_client(url: str, token: str) -> AsyncIterator[GatewayCounts]:
    """Yield a client of an admin port."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield GatewayCounts(session, url, token)


def open_deliveries(counts: Mapping[str, Mapping[str, int]]) -> int:
    """Return how many deliveries were created and have not ended."""
    return sum(each["created"] - each["delivered"] - each["died"] - each["cancelled"] for each in counts.values())


class CountLine(msgspec.Struct, frozen=True):
    """One number as each side counted it; None if that side cannot know it."""

    name: str
    sender: int | None
    gateway: int | None
    receivers: int | None
    gateway_sum: int | None = None
    """The same number as a sum of other counts of the gateway; None if it has no such sum."""

    @property
    def agrees(self) -> bool:
        """True if every side that knows the number counted the same."""
        numbers = (self.sender, self.gateway, self.receivers, self.gateway_sum)
        return len({number for number in numbers if number is not None}) == 1

    @property
    def cells(self) -> tuple[str, str, str]:
        """The numbers of sender, gateway and receivers in the table."""
        sender, gateway, receivers = (
            "" if number is None else str(number) for number in (self.sender, self.gateway, self.receivers)
        )
        if self.gateway_sum not in {None, self.gateway}:
            gateway += f" ≠ {self.gateway_sum}"
        return sender, gateway, receivers


class TenantCounts(msgspec.Struct, frozen=True):
    """The lines of one tenant."""

    tenant: str
    lines: tuple[CountLine, ...]


def compare(
    sent: Iterable[simulator.SenderBooks], counted: Mapping[str, Mapping[str, int]], taken: Mapping[str, int]
) -> list[TenantCounts]:
    """Compare the counts of each listener that the sender knows; a listener has the name of its tenant."""
    return [
        TenantCounts(books.name, _lines(books, counted.get(books.name, {}), taken.get(books.name, 0))) for books in sent
    ]


def agree(tenants: Sequence[TenantCounts]) -> bool:
    """Return whether every line agrees, so that no visit was lost and no delivery was made twice."""
    return all(line.agrees for tenant in tenants for line in tenant.lines)


def _lines(sent: simulator.SenderBooks, counted: Mapping[str, int], taken: int) -> tuple[CountLine, ...]:
    def total(*names: str) -> int:
        return sum(counted.get(name, 0) for name in names)

    return (
        CountLine("visits", sent.visits + sent.sample_visits, total("visits"), None),
        CountLine("repeats", sent.repeats, total("repeats"), None),
        CountLine("redeliveries", sent.redelivered, total("redeliveries"), None),
        CountLine("probes", sent.probes, total("probes"), None),
        CountLine("unacknowledged", sent.unacknowledged, total("refused", "quarantined"), None),
        CountLine("routes = created + skipped", None, total("routed"), None, total("created", "skipped")),
        CountLine("delivered", None, total("delivered"), taken),
        CountLine("died", 0, total("died"), None),
        CountLine("created = delivered + expired", None, total("created"), None, total("delivered", "cancelled")),
    )


def print_table(console: rich.console.Console, tenants: Sequence[TenantCounts]) -> None:
    """Print all lines as a table."""
    table = rich.table.Table(title="Three counts of one day", box=rich.box.SIMPLE_HEAD, title_justify="left")
    for column in ("tenant", "", "sender", "gateway", "receivers", ""):
        table.add_column(column, justify="left" if column in {"tenant", ""} else "right")
    for tenant in tenants:
        for index, line in enumerate(tenant.lines):
            mark = "[green]=[/]" if line.agrees else "[red]differ[/]"
            is_last = index == len(tenant.lines) - 1
            table.add_row("" if index else tenant.tenant, line.name, *line.cells, mark, end_section=is_last)
    console.print(table)
