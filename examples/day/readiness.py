"""How far the resources of a cluster are, as their conditions say it."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import rich.box
import rich.table


class Row(msgspec.Struct, frozen=True):
    """One resource."""

    kind: str
    name: str
    status: str
    """Of its condition Ready; Unknown while there is none."""
    reason: str
    message: str

    @property
    def is_ready(self) -> bool:
        """Whether nothing is left to do."""
        return self.status == "True"


def rows(resources: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for each resource."""
    return [_row(resource) for resource in resources]


def _row(resource: Mapping[str, Any]) -> Row:
    conditions = resource.get("status", {}).get("conditions", [])
    ready: Mapping[str, Any] = next((one for one in conditions if one["type"] == "Ready"), {})
    if ready.get("observedGeneration") != resource["metadata"]["generation"]:
        ready = {}
    return Row(
        resource["kind"],
        resource["metadata"]["name"],
        ready.get("status", "Unknown"),
        ready.get("reason", ""),
        ready.get("message", ""),
    )


class Progress:
    """Which resource was ready when, from the making of this on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ready_after: dict[tuple[str, str], float] = {}
        self.rows: list[Row] = []

    @property
    def is_complete(self) -> bool:
        """Whether everything is ready; nothing at all is not."""
        return bool(self.rows) and all(row.is_ready for row in self.rows)

    def look(self, found: list[Row]) -> None:
        """Note how it is now."""
        self.rows = found
        for row in found:
            if row.is_ready:
                self._ready_after.setdefault((row.kind, row.name), time.monotonic() - self._began)

    def table(self) -> rich.table.Table:
        """What there is to see."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for column in ("kind", "name", "ready", "reason", "after"):
            table.add_column(column, justify="right" if column == "after" else "left")
        for row in self.rows:
            after = self._ready_after.get((row.kind, row.name))
            mark = f"[green]{row.status}[/]" if row.is_ready else f"[yellow]{row.status}[/]"
            table.add_row(row.kind, row.name, mark, row.reason, "" if after is None else f"{after:.1f} s")
        return table
