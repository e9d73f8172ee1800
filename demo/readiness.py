"""Which resources of a cluster are ready, according to their Ready conditions."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import rich.box
import rich.table


class ReadinessRow(msgspec.Struct, frozen=True):
    """The readiness of one resource."""

    kind: str
    name: str
    status: str
    """Status of the Ready condition; Unknown without a condition for the present generation."""
    reason: str
    message: str

    @property
    def is_ready(self) -> bool:
        """True if the status of the Ready condition is True."""
        return self.status == "True"


def rows(resources: Iterable[Mapping[str, Any]]) -> list[ReadinessRow]:
    """Return one row per resource."""
    return [_row(resource) for resource in resources]


def _row(resource: Mapping[str, Any]) -> ReadinessRow:
    conditions = resource.get("status", {}).get("conditions", [])
    ready: Mapping[str, Any] = next((condition for condition in conditions if condition["type"] == "Ready"), {})
    if ready.get("observedGeneration") != resource["metadata"]["generation"]:
        ready = {}
    return ReadinessRow(
        resource["kind"],
        resource["metadata"]["name"],
        ready.get("status", "Unknown"),
        ready.get("reason", ""),
        ready.get("message", ""),
    )


class ReadinessProgress:
    """Records how many seconds after its creation each resource was ready."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ready_after: dict[tuple[str, str], float] = {}
        self.rows: list[ReadinessRow] = []

    @property
    def is_complete(self) -> bool:
        """True if there are resources and all of them are ready."""
        return bool(self.rows) and all(row.is_ready for row in self.rows)

    def update(self, present_rows: list[ReadinessRow]) -> None:
        """Record the present rows."""
        self.rows = present_rows
        for row in present_rows:
            if row.is_ready:
                self._ready_after.setdefault((row.kind, row.name), time.monotonic() - self._began)

    def table(self) -> rich.table.Table:
        """Return the rows as a table."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for column in ("kind", "name", "ready", "reason", "after"):
            table.add_column(column, justify="right" if column == "after" else "left")
        for row in self.rows:
            after = self._ready_after.get((row.kind, row.name))
            mark = f"[green]{row.status}[/]" if row.is_ready else f"[yellow]{row.status}[/]"
            table.add_row(row.kind, row.name, mark, row.reason, "" if after is None else f"{after:.1f} s")
        return table
