"""``usher person``: export, suppress and erase a person, and see what became of requests to erase."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from usher_gateway import model
from usher_gateway.admin import listings
from usher_gateway.cli import find, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    Id,
    Namespace,
    OutputOption,
    Tenant,
    fail,
    quoted,
)

_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, print what would be erased, and exit with 2.")]
_Reference = Annotated[
    str, typer.Option("--reference", help="Your own id of the request: letters, digits, dots, hyphens, underscores.")
]

_To = Annotated[Path, typer.Option("--to", help="The file to write. It must not exist.", dir_okay=False)]

_POLL_SECONDS = 0.5


def _tenant_cell(row: listings.Row) -> str:
    return f"{row['namespace']}/{row['tenant']}"


_SUPPRESSIONS: tuple[listings.Column, ...] = (
    ("TENANT", _tenant_cell),
    ("PERSONS", listings.text_cell("persons")),
    ("FIRST (UTC)", listings.short_time_cell("firstAt")),
    ("LAST (UTC)", listings.short_time_cell("lastAt")),
)
_SUPPRESSIONS_CSV = listings.fields("namespace", "tenant", "persons", "firstAt", "lastAt")

_COLUMNS: tuple[listings.Column, ...] = (
    ("RECEIVED (UTC)", listings.short_time_cell("receivedAt")),
    ("ID", listings.short_id_cell),
    ("STATUS", listings.text_cell("status")),
    ("VISITS", listings.text_cell("arrivals")),
    ("REFERENCE", listings.text_cell("reference")),
    ("BY", listings.text_cell("requestedBy")),
    ("COMPLETED (UTC)", listings.short_time_cell("completedAt")),
)

_CSV_COLUMNS = listings.fields(
    "id", "status", "receivedAt", "completedAt", "requestedBy", "reference", "arrivals", "tenants"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Export, suppress or erase a person, and see requests to erase.")
    group.command("export", epilog="Example:  usher person export --as email --to ada.json")(export)
    group.command("suppress", epilog="Example:  usher person suppress --as email --reference DSR-8")(suppress)
    group.command("unsuppress", epilog="Example:  usher person unsuppress --as email")(unsuppress)
    group.command("suppressions", epilog="Example:  usher person suppressions -o csv")(suppressions)
    example = "Example:  usher person erase --as email --yes   or   usher person erase --tenant acme < mail.txt"
    group.command("erase", epilog=example)(erase_person)
    group.command("requests", epilog="Example:  usher person requests   or   usher person requests -o json")(requests)
    group.command("receipt", epilog="Example:  usher person receipt 01920000-0000-7000-8 -o json")(receipt)
    group.command("cancel", epilog="Example:  usher person cancel 01920000-0000-7000-8")(cancel)
    app.add_typer(group, name="person")


def erase_person(
    *,
    kind: find.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: _Reference = "",
    yes: _Yes = False,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Erase everything that is stored of a person, at all tenants or at one, and wait for the receipt.

    The command asks for the value, or reads it from standard input, as `usher find` does. Visits, bodies, deliveries
    and answers of the person go; counts stay, so the books still balance. Pending deliveries are cancelled. What
    destinations have got already is theirs to erase: the receipt names them.
    """
    client = AdminClient(admin, data, operate=True)
    question = _question(kind, tenant, namespace, reference)
    if not yes:
        _preview(client.post("/api/persons/erase", question | {"dryRun": True}), output)
    row = client.post("/api/persons/erase", question)
    path = f"/api/persons/erasures/{quoted(row['id'])}"
    if sys.stderr.isatty():
        typer.echo("Erasing. With PostgreSQL it ends after 45 s, when no gateway can send anything any more.", err=True)
    try:
        while row["status"] in {"pending", "in_progress"}:
            time.sleep(_POLL_SECONDS)
            row = client.get(path)
    except KeyboardInterrupt:
        typer.echo(f"\nThe erasure goes on: `usher person receipt {row['id'][: listings.SHORT_ID]}`.", err=True)
        return
    _print(row, output)
    if row["status"] != "completed":
        fail("the erasure was cancelled", "start it again to erase the rest", WRONG)


def export(
    *,
    to: _To,
    kind: find.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: _Reference = "",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Write all that is stored of a person into one JSON file, at all tenants or at one: visits, bodies, deliveries.

    The command asks for the value, or reads it from standard input, as `usher find` does. Only you can read the file.
    It needs the operate token, or one with the scope persons:export.
    """
    client = AdminClient(admin, data, operate=True)
    if to.exists():
        fail(f"{to} exists", "name a new file", USAGE)
    question: dict[str, Any] = _question(kind, tenant, namespace, reference)
    visits: list[listings.Row] = []
    while True:
        answer = client.post("/api/persons/export", question)
        visits += answer["rows"]
        question["cursor"] = answer["nextCursor"]
        if answer["nextCursor"] is None:
            break
        if sys.stderr.isatty():
            typer.echo(f"\r{len(visits)} visits", nl=False, err=True)
    if not visits:
        fail("nothing is stored of this person", "see `usher find`", WRONG)
    archive = {
        "request": {
            "type": "portability",
            "reference": reference or None,
            "exportedAt": model.format_time(time.time_ns() // 1_000),
        },
        "tenants": answer["tenants"],
        "visits": visits,
    }
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(archive)) + b"\n")
    except OSError as error:
        fail(f"cannot write {to}: {error.strerror}", "name a file in a folder that you can write to", WRONG)
    tables.print_text(f"{listings.counted(len(visits), 'visit')} written to {to}.")


def suppress(
    *,
    kind: find.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: _Reference = "",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Store and send nothing more of a person, at all tenants or at one.

    Purple still gets its 200, and visits are counted as suppressed. Pending deliveries are cancelled; what is stored
    stays until `usher person erase` deletes it. A tenant that is added later is not included. `unsuppress` lifts it.
    """
    answer = AdminClient(admin, data, operate=True).post(
        "/api/persons/suppress", _question(kind, tenant, namespace, reference)
    )
    tables.print_text(_suppression(answer["suppressed"], answer["tenants"], "Suppressed now", "Suppressed before"))


def unsuppress(
    *,
    kind: find.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: _Reference = "",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Store and send visits of a person again, from now on: for somebody who consents again."""
    answer = AdminClient(admin, data, operate=True).post(
        "/api/persons/unsuppress", _question(kind, tenant, namespace, reference)
    )
    tables.print_text(_suppression(answer["unsuppressed"], answer["tenants"], "Unsuppressed", "Not suppressed"))


def suppressions(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the tenants with suppressed persons, and how many. Nobody can read from it who they are.

    To see whether one person is suppressed, use `usher find`.
    """
    rows = AdminClient(admin, data, operate=True).get("/api/persons/suppressions")["rows"]
    tables.print_rows(rows, _SUPPRESSIONS, output, "No suppressed persons.", _SUPPRESSIONS_CSV)


def _question(kind: str | None, tenant: str | None, namespace: str | None, reference: str) -> dict[str, Any]:
    return {
        "value": find.read_value(),
        "field": "device" if kind == "mac" else kind,
        "tenant": tenant,
        "namespace": namespace,
        "reference": reference,
    }


def _suppression(changed: int, tenants: int, done: str, as_before: str) -> str:
    """Return a sentence about how many tenants changed, and how many were so already."""
    counts = {done: changed, as_before: tenants - changed}
    return (
        "; ".join([f"{what} at {listings.counted(count, 'tenant')}" for what, count in counts.items() if count]) + "."
    )


def _preview(answer: Mapping[str, Any], output: tables.OutputFormat) -> NoReturn:
    if output == "json":
        tables.print_json(answer)
    else:
        _print_report(answer)
    count = answer["arrivals"]
    hint = "give --yes to do it; it cannot be taken back" if count else "nothing is stored of this person"
    fail(f"this would erase {listings.counted(count, 'visit')}", hint, USAGE)


def _print(row: listings.Row, output: tables.OutputFormat) -> None:
    if output == "json":
        tables.print_json(row)
        return
    names = ("id", "reference", "status", "receivedAt", "completedAt", "requestedBy", "fields", "tenants")
    tables.print_facts({name: row[name] for name in names})
    typer.echo()
    _print_report(row)


def _print_report(row: Mapping[str, Any]) -> None:
    """Print what was or would be erased, and which destinations have got visits of the person."""
    for tenant, count in sorted(row["arrivalsByTenant"].items()):
        typer.echo(f"{tenant}: {listings.counted(count, 'visit')}")
    if row["deliveries"]:
        typer.echo(f"deliveries: {', '.join([f'{count} {state}' for state, count in row['deliveries'].items()])}")
    for destination, sent in row["sentTo"].items():
        attempts = f", {sent['attempted']} more perhaps" if sent["attempted"] else ""
        last = f", the last at {listings.time_cell('lastAt')(sent)} UTC" if sent["lastAt"] else ""
        visits = f"{listings.counted(sent['delivered'], 'visit')}{attempts}{last}"
        tables.print_text(f"{destination} has got {visits}: erase them there too.")


def requests(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the newest requests to erase a person, at most 100, without personal data."""
    rows = AdminClient(admin, data, operate=True).get("/api/persons/erasures")["rows"]
    tables.print_rows(rows, _COLUMNS, output, "No requests.", _CSV_COLUMNS, essential=4)


def receipt(identifier: Id, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Show one request: what was erased, and which destinations had got visits of the person before."""
    client = AdminClient(admin, data, operate=True)
    _print(client.get(f"/api/persons/erasures/{quoted(_full_id(client, identifier))}"), output)


def cancel(identifier: Id, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """End a request that has not ended: no more visits are erased. Erased ones stay erased."""
    client = AdminClient(admin, data, operate=True)
    _print(client.post(f"/api/persons/erasures/{quoted(_full_id(client, identifier))}/cancel", {}), output)


def _full_id(client: AdminClient, identifier: str) -> str:
    """Return the id of the request that begins with these digits."""
    rows = client.get("/api/persons/erasures", id=identifier)["rows"]
    if len(rows) != 1:
        count = "several" if rows else "none"
        fail(f"of the requests, {count} have an id that begins with {identifier}", "see `usher person requests`", WRONG)
    return str(rows[0]["id"])
