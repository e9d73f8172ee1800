"""``usher person``: export a person, and suppress one; ``cli/erasures.py`` has the commands that erase."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from usher_gateway.cli import erasures, person_value, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    Namespace,
    OutputOption,
    Tenant,
    fail,
)
from usher_gateway.words import listings, person_archive, person_words

_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, print what would change, and exit with 2.")]
_To = Annotated[Path, typer.Option("--to", help="The file to write. It must not exist.", dir_okay=False)]

_SUPPRESSIONS: tuple[listings.Column, ...] = (
    ("TENANT", lambda row: f"{row['namespace']}/{row['tenant']}"),
    ("PERSONS", listings.text_cell("persons")),
    ("FIRST (UTC)", listings.short_time_cell("firstAt")),
    ("LAST (UTC)", listings.short_time_cell("lastAt")),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Export, suppress or erase a person, see requests to erase, and verify receipts.")
    group.command("export", epilog="Example:  usher person export --as email --to ada.json")(export)
    example = "Example:  usher person suppress --as email   or   usher person suppress --as email --yes < mail.txt"
    group.command("suppress", epilog=example)(suppress)
    group.command("unsuppress", epilog="Example:  usher person unsuppress --as email")(unsuppress)
    group.command("suppressions", epilog="Example:  usher person suppressions -o csv")(suppressions)
    erasures.register(group)
    app.add_typer(group, name="person")


def export(
    *,
    to: _To,
    kind: person_value.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: person_value.Reference = "",
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
    question: dict[str, Any] = person_value.question(kind, tenant, namespace, reference)
    visits: list[listings.Row] = []
    while True:
        answer = client.post("/api/persons/export", question)
        visits += answer["rows"]
        question["cursor"] = answer["nextCursor"]
        if answer["nextCursor"] is None:
            break
        if sys.stderr.isatty():
            typer.echo(f"\r{listings.counted(len(visits), 'visit')}", nl=False, err=True)
    if not visits:
        nothing = person_words.nothing_stored(answer, kind, person_value.no_visit(answer, kind))
        fail("there is nothing to export", nothing, WRONG)
    archive = person_archive.encode(visits, reference, time.time_ns() // 1_000, answer["suppressedAt"])
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(archive)
    except OSError as error:
        fail(f"cannot write {to}: {error.strerror}", "name a file in a folder that you can write to", WRONG)
    tables.print_text(f"{listings.counted(len(visits), 'visit')} written to {to}.")


def suppress(
    *,
    kind: person_value.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: person_value.Reference = "",
    yes: _Yes = False,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Store and send nothing more of a person, at all tenants or at one.

    Purple still gets its 200, and visits are counted as suppressed. Pending deliveries are cancelled; what is stored
    stays until its retention ends, or `usher person erase` deletes it. A tenant that is added later is not included.
    `unsuppress` lifts it.
    """
    client = AdminClient(admin, data, operate=True)
    question = person_value.question(kind, tenant, namespace, reference) | {"dryRun": not yes}
    answer = client.post("/api/persons/suppress", question)
    if output == "json":
        tables.print_json(answer)
    elif yes:
        tables.print_text(person_words.suppressed(answer))
        tables.print_text(_effect(answer, "cancelled", kind))
    else:
        for name, count in sorted(answer["arrivalsByTenant"].items()):
            typer.echo(f"{name}: {listings.counted(count, 'visit')}")
        tables.print_text(_effect(answer, "would be cancelled", kind))
    if not yes:
        changes = answer["suppressed"] or answer["cancelled"]
        hint = "give --yes to do it" if changes else "the person is suppressed at every tenant"
        fail(f"this would suppress the person at {listings.counted(answer['suppressed'], 'tenant')}", hint, USAGE)


def _effect(answer: Mapping[str, Any], cancelled: str, kind: str | None) -> str:
    """Return what a suppression does with the data that it meets.

    ``cancelled``: the verb for pending deliveries; ``kind``: what the caller said that the value is.
    """
    pending, stored = listings.counted(answer["cancelled"], "pending delivery"), answer["stored"]
    if not stored:
        return f"{person_value.no_visit(answer, kind)} {person_words.NOT_SEARCHED}"
    stays = f"{listings.counted(stored, 'stored visit')} {'stays' if stored == 1 else 'stay'}"
    effect = f"{pending} {cancelled}, {stays} until retention or `usher person erase`."
    perhaps_sent = " A destination may have got a pending delivery that was attempted." if answer["cancelled"] else ""
    return f"{effect}{perhaps_sent}"


def unsuppress(
    *,
    kind: person_value.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: person_value.Reference = "",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Store and send visits of a person again, from now on: for somebody who consents again."""
    answer = AdminClient(admin, data, operate=True).post(
        "/api/persons/unsuppress", person_value.question(kind, tenant, namespace, reference)
    )
    tables.print_text(person_words.unsuppressed(answer))


def suppressions(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the tenants with suppressed persons, and how many. Nobody can read from it who they are.

    To see whether one person is suppressed, use `usher find`.
    """
    rows = AdminClient(admin, data, operate=True).get("/api/persons/suppressions")["rows"]
    tables.print_rows(rows, _SUPPRESSIONS, output, "No suppressed persons.")
