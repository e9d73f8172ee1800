"""``usher listeners``: what runs, and what came today."""

import typer

from usher_gateway.cli import ask, tables

_EPILOG = "Example:  usher listeners   or   usher listeners -o json"


def _last(row: ask.Row) -> str:
    """When something came last, and whether that is too long ago (silence.afterSeconds)."""
    silent = "SILENT, " if row.get("receiving") == "Silent" else ""
    return f"{silent}last {tables.when('lastArrival')(row)}" if row.get("lastArrival") else silent.removesuffix(", ")


_COLUMNS: tuple[tables.Column, ...] = (
    ("LISTENER", lambda row: f"{row['namespace']}/{row['name']}"),
    ("STATE", lambda row: str(row["state"])),
    ("TENANT", lambda row: f"tenant {row['tenant']}"),
    ("TODAY", lambda row: _today(row["today"])),
    ("LAST ARRIVAL", _last),
    ("ROUTES", lambda row: ", ".join([f"{route['name']} to {route['destination']}" for route in row["routes"]])),
    ("ADDRESSES", lambda row: ", ".join(row["addresses"])),
)

_COUNTS = ("visits", "repeats", "redeliveries", "probes", "quarantined", "refused")


def _count(name: str) -> tables.Column:
    return name, lambda row: str(row["today"][name])


_CELLS: tuple[tables.Column, ...] = (
    *_COLUMNS[:2],
    ("TENANT", tables.text("tenant")),
    *[_count(name) for name in _COUNTS],
    ("LAST ARRIVAL", tables.when("lastArrival")),
    ("RECEIVING", tables.text("receiving")),
    *_COLUMNS[-2:],
)
"""For programs: a number is a number, a name is a name."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def listeners(
        output: ask.OutputOption = ask.Output.text, admin: ask.Admin = ask.ADMIN, data: ask.Data = ask.DATA
    ) -> None:
        """List the listeners that the gateway runs, with what they counted today (UTC).

        URLs are credentials: they are shown shortened; `usher url` prints the whole ones.
        """
        rows = ask.Gateway(admin, data).get("/api/listeners")["rows"]
        tables.print_rows(rows, _COLUMNS, output, "No listener runs.", _CELLS)


_NOUNS = {"visits": "visit", "repeats": "repeat", "redeliveries": "redelivery", "probes": "probe"}


def _counted(count: int, word: str) -> str:
    return tables.counted(count, _NOUNS[word]) if word in _NOUNS else f"{count} {word}"


def _today(counts: ask.Row) -> str:
    said = [_counted(counts[word], word) for word in _COUNTS if counts[word]]
    return ", ".join(said) or "nothing today"
