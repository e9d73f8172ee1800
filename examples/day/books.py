"""Three counts of one day, side by side: the sender's, the gateway's, the receivers'. Pure, but for the printing."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import rich.box
import rich.console
import rich.table

from usher_gateway import simulator


class Line(msgspec.Struct, frozen=True):
    """One thing that was counted; None where somebody cannot know it."""

    what: str
    sender: int | None
    gateway: int | None
    receivers: int | None

    @property
    def agrees(self) -> bool:
        """Whether all who know it say the same."""
        return len({number for number in (self.sender, self.gateway, self.receivers) if number is not None}) == 1


class Book(msgspec.Struct, frozen=True):
    """A tenant's lines."""

    tenant: str
    lines: tuple[Line, ...]


def compare(
    sent: Iterable[simulator.ListenerBooks], counted: Mapping[str, Mapping[str, int]], taken: Mapping[str, int]
) -> list[Book]:
    """A book for each listener that the sender knows; it has its tenant's name."""
    return [Book(one.name, _lines(one, counted.get(one.name, {}), taken.get(one.name, 0))) for one in sent]


def agree(books: Sequence[Book]) -> bool:
    """Whether nothing was lost and nothing came twice."""
    return all(line.agrees for book in books for line in book.lines)


def _lines(sent: simulator.ListenerBooks, counted: Mapping[str, int], taken: int) -> tuple[Line, ...]:
    def of(*names: str) -> int:
        return sum(counted.get(name, 0) for name in names)

    return (
        Line("visits", sent.visits + sent.sample_visits, of("visits"), None),
        Line("repeats", sent.repeats, of("repeats"), None),
        Line("redeliveries", sent.redelivered, of("redeliveries"), None),
        Line("probes", sent.probes, of("probes"), None),
        Line("unacknowledged", sent.unacknowledged, of("refused", "quarantined"), None),
        Line("routes = created + skipped", None, of("routed"), of("created", "skipped")),
        Line("delivered", None, of("delivered"), taken),
        Line("died", 0, of("died"), None),
        Line("created = delivered + expired", None, of("created"), of("delivered", "cancelled")),
    )


def print_table(console: rich.console.Console, books: Sequence[Book]) -> None:
    """The table."""
    table = rich.table.Table(title="Three counts of one day", box=rich.box.SIMPLE_HEAD, title_justify="left")
    for column in ("tenant", "", "sender", "gateway", "receivers", ""):
        table.add_column(column, justify="left" if column in {"tenant", ""} else "right")
    for book in books:
        for index, line in enumerate(book.lines):
            counts = ["" if number is None else str(number) for number in (line.sender, line.gateway, line.receivers)]
            mark = "[green]=[/]" if line.agrees else "[red]differ[/]"
            is_last = index == len(book.lines) - 1
            table.add_row("" if index else book.tenant, line.what, *counts, mark, end_section=is_last)
    console.print(table)
