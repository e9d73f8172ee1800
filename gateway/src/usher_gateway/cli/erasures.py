"""``usher person erase`` and the commands about such requests: see them, end one, and verify receipts."""

import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer

from usher_gateway.cli import person_value, tables
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
    ending_with_message,
    fail,
    quoted,
    require_files,
)
from usher_gateway.pages import receipt_page
from usher_gateway.words import listings, person_words

_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, print what would be erased, and exit with 2.")]
_Receipt = Annotated[
    pathlib.Path, typer.Argument(envvar="USHER_RECEIPT", help="A receipt, JSON or a page; - for standard input.")
]
_Page = Annotated[
    pathlib.Path | None, typer.Option("--html", metavar="FILE", help="Write a page for people into this file.")
]
_PublicKey = Annotated[
    str | None,
    typer.Option(
        envvar="USHER_PUBLIC_KEY", metavar="KEY", help="The public key of the install that signed, or a file with it."
    ),
]
_KeyFolder = Annotated[
    pathlib.Path, typer.Option(envvar="USHER_DATA", help="Folder of install.key, as in usher run.", metavar="DIR")
]

_Forward = Annotated[
    bool, typer.Option("--forward", help="Ask destinations that declare `http.erasure` to erase the person too.")
]

_POLL_SECONDS = 0.5

_COLUMNS: tuple[listings.Column, ...] = (
    ("RECEIVED (UTC)", listings.short_time_cell("receivedAt")),
    ("ID", listings.short_id_cell),
    ("STATUS", listings.text_cell("status")),
    ("VISITS", listings.text_cell("arrivals")),
    ("REFERENCE", listings.text_cell("reference")),
    ("BY", listings.text_cell("requestedBy")),
    ("COMPLETED (UTC)", listings.short_time_cell("completedAt")),
)


def register(group: typer.Typer) -> None:
    """Add the commands to those about persons."""
    example = "Example:  usher person erase --as email --yes   or   usher person erase --tenant acme < mail.txt"
    group.command("erase", epilog=example)(erase_person)
    group.command("requests", epilog="Example:  usher person requests   or   usher person requests -o json")(requests)
    group.command("receipt", epilog="Example:  usher person receipt 01920000-0000-7000-8 -o json")(receipt)
    example = "Example:  usher person verify receipt.json --public-key agency.pub"
    group.command("verify", epilog=example)(verify)
    group.command("public-key", epilog="Example:  usher person public-key > agency.pub")(public_key)
    group.command("cancel", epilog="Example:  usher person cancel 01920000-0000-7000-8")(cancel)


def erase_person(
    *,
    kind: person_value.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: person_value.Reference = "",
    forward: _Forward = False,
    yes: _Yes = False,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Erase everything that is stored of a person, at all tenants or at one, and wait for the receipt.

    The command asks for the value, or reads it from standard input, as `usher find` does. Visits, bodies, deliveries
    and answers of the person go; counts stay, so the books still balance. Pending deliveries are cancelled. What
    destinations have got already is theirs to erase: the receipt names them. With --forward, the gateway first asks
    those that declare how: the receipt has their answers. If the command is interrupted meanwhile, the erasure
    goes on: `usher person requests` lists it.
    If the person is suppressed, the keyed digest by which Usher recognises the person stays until `unsuppress`.
    """
    client = AdminClient(admin, data, operate=True)
    question = person_value.question(kind, tenant, namespace, reference) | {"forward": forward}
    if not yes:
        _preview(client.post("/api/persons/erase", question | {"dryRun": True}), kind, output)
    row = client.post("/api/persons/erase", question)
    path = f"/api/persons/erasures/{quoted(row['id'])}"
    if sys.stderr.isatty():
        tables.print_text(
            "Erasing. With PostgreSQL it ends after 45 s, when no gateway can send anything any more.", err=True
        )
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


def _preview(answer: Mapping[str, Any], kind: str | None, output: tables.OutputFormat) -> NoReturn:
    if output == "json":
        tables.print_json(answer)
    else:
        _print_report(answer)
    count = answer["arrivals"]
    hint = "give --yes to do it; it cannot be taken back"
    if not count:
        nothing = person_words.nothing_stored(answer, kind, person_value.no_visit(answer, kind))
        hint = f"{nothing} --yes writes a signed receipt that says so."
    fail(f"this would erase {listings.counted(count, 'visit')}", hint, USAGE)


def _print(row: listings.Row, output: tables.OutputFormat) -> None:
    if output == "json":
        tables.print_json(row)
        return
    tables.print_facts(dict(receipt_page.facts(row)))
    typer.echo()
    _print_report(row)


def _print_report(row: Mapping[str, Any]) -> None:
    """Print what was or would be erased, and which destinations have got visits of the person."""
    is_complete = row.get("status") == "completed"
    if is_complete and not row["arrivals"]:
        typer.echo(person_words.NO_VISIT)
    for tenant, count in sorted(row["arrivalsByTenant"].items()):
        typer.echo(f"{tenant}: {listings.counted(count, 'visit')}")
    if row["deliveries"]:
        typer.echo(f"deliveries: {', '.join([f'{count} {state}' for state, count in row['deliveries'].items()])}")
    for destination, sent in row["sentTo"].items():
        step = (
            "it is asked to erase them" if destination in row.get("forwardsTo", ()) else person_words.left_to_do(sent)
        )
        tables.print_text(f"{destination} {_has_got(sent)}: {step}.")
    if is_complete and not row["sentTo"]:
        tables.print_text(person_words.NOT_SENT)
    if row.get("completedAt"):
        tables.print_text("\n".join(receipt_page.copies(row)))
    if "notReached" in row:
        typer.echo("\nNot reached:")
        for sentence in row["notReached"]:
            tables.print_text(sentence, lead="- ")


def _has_got(sent: listings.Row) -> str:
    """Return how many visits of the person a destination has got, or perhaps has."""
    if not sent["delivered"]:
        return f"perhaps has got {listings.counted(sent['attempted'], 'visit')} that it did not confirm"
    attempts = f", perhaps {sent['attempted']} more" if sent["attempted"] else ""
    last = f", the last at {listings.time_cell('lastAt')(sent)} UTC" if sent["lastAt"] else ""
    return f"has got {listings.counted(sent['delivered'], 'visit')}{attempts}{last}"


def requests(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the newest requests to erase a person, at most 100, without personal data."""
    rows = AdminClient(admin, data, operate=True).get("/api/persons/erasures")["rows"]
    tables.print_rows(rows, _COLUMNS, output, "No requests.", essential=4)


def receipt(
    identifier: Id,
    *,
    page: _Page = None,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Show one request: what was erased, and which destinations had got visits of the person before.

    Once the request has ended, the JSON is signed, and so is the text inside of the page: `usher person verify` takes
    both. The page is one file that loads nothing.
    """
    client = AdminClient(admin, data, operate=True)
    row = client.get(f"/api/persons/erasures/{quoted(client.full_id('requests', identifier))}")
    if page is None:
        _print(row, output)
        return
    if "signature" not in row:
        fail("the request has not ended, so there is no page yet", "wait, or `usher person cancel` it", WRONG)
    try:
        page.write_text(receipt_page.render(row), "utf-8")
    except OSError as error:
        fail(f"cannot write {page}: {error.strerror}", "give another file", USAGE)
    typer.echo(f"The page is in {page}.")


def verify(
    file: _Receipt,
    *,
    public_key: _PublicKey = None,
    data: _KeyFolder = DATA,
    output: DocumentOutput = "text",
) -> None:
    """Verify a receipt offline: that it is unchanged, and that this install, or the one of --public-key, signed it.

    Without --public-key, the key comes from the install key (USHER_INSTALL_KEY, or DATA/install.key). The key inside of
    the receipt proves nothing about the signer, because anyone can make one: ask the agency for its public key.

    Exit code 1: the receipt was changed, or another install signed it. 2: no receipt, or no key to compare with.
    """
    from usher_gateway.admin import receipts

    require_files([file])
    signer = "this install" if public_key is None else "the install with this public key"
    expected = _own_public_key(data) if public_key is None else _given_key(public_key)
    try:
        receipt_text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        signed_text = receipt_page.signed_text(receipt_text)
        receipt = receipts.parse(signed_text)
        is_unchanged = receipts.is_intact(receipt)
    except (ValueError, OSError, RecursionError) as error:
        hint = "give what `usher person receipt ID -o json` prints once the request has ended"
        fail(f"{file} is no receipt that can be verified: {error}", hint, USAGE)
    if not is_unchanged:
        fail("the receipt was changed after it was signed", "ask for it again: `usher person receipt ID`", WRONG)
    if expected is None:
        hint = "give --public-key: the agency prints it with `usher person public-key`"
        fail("the receipt is unchanged, but its own key does not say who signed it", hint, USAGE)
    if expected != receipt["publicKey"]:
        fail(f"the receipt was not signed by {signer}", f"another one did, with the key {receipt['publicKey']}", WRONG)
    if output == "json":
        tables.print_json(receipt)
        return
    typer.echo(f"This receipt was signed by {signer}, and is unchanged:\n")
    _print(receipt, output)
    if signed_text != receipt_text:
        typer.echo("\nOnly these lines were signed: the layout of the page may say something else.")


def public_key(data: _KeyFolder = DATA) -> None:
    """Print the key that verifies the receipts of this install. It is not secret: give it to your customers."""
    from usher_gateway.config import install_key

    key = _own_public_key(data)
    if key is None:
        hint = f"give the --data folder of `usher run`, or set {install_key.VARIABLE}"
        fail(f"there is no install key in {data}", hint, USAGE)
    typer.echo(key)


def _own_public_key(data: pathlib.Path) -> str | None:
    """Return the public key of the install whose key is at hand; None if there is none."""
    from usher_gateway import model
    from usher_gateway.admin import receipts
    from usher_gateway.config import install_key

    if not os.environ.get(install_key.VARIABLE) and not (data / install_key.FILE_NAME).exists():
        return None
    with ending_with_message():
        return receipts.public_key(model.derive_keys(install_key.load_install_key(data, os.environ, may_create=False)))


def _given_key(text_or_file: str) -> str:
    """Return a public key that is given as a text or in a file."""
    from usher_gateway.admin import receipts

    try:
        key = text_or_file if text_or_file.endswith("=") else pathlib.Path(text_or_file).read_text("utf-8").strip()
        receipts.parse_public_key(key)
    except (ValueError, OSError):
        hint = "give the line that `usher person public-key` prints, or a file with it"
        fail(f"there is no public key in {text_or_file}", hint, USAGE)
    return key


def cancel(identifier: Id, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """End a request that has not ended: no more visits are erased. Erased ones stay erased."""
    client = AdminClient(admin, data, operate=True)
    identifier = client.full_id("requests", identifier)
    _print(client.post(f"/api/persons/erasures/{quoted(identifier)}/cancel", {}), output)
