"""``usher tokens``: more tokens of the admin port, with scopes, limited to tenants, and with an end.

The commands write ``tokens.json`` in the gateway's folder; the gateway reads it again within a second.
"""

import json
import time
from typing import Annotated

import msgspec
import typer

from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    DATA,
    LIST_IS_IMPLIED,
    USAGE,
    WRONG,
    Data,
    DocumentOutput,
    ListingGroup,
    OutputOption,
    ending_with_message,
    fail,
)
from usher_gateway.words import listings

_Name = Annotated[str, typer.Argument(help="Name of the token, as the audit log shows it.", metavar="NAME")]
_Scopes = Annotated[
    list[str],
    typer.Option("--scope", help=f"{', '.join(tokens.Scope)}; for several, use commas or repeat the flag."),
]
_Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="Limit it to this tenant: NAMESPACE/NAME; commas, or repeat the flag."),
]
_Namespaces = Annotated[
    list[str] | None, typer.Option("--namespace", help="Limit it to the tenants of this namespace; repeat the flag.")
]
_Days = Annotated[
    int | None, typer.Option("--days", help="It ends after so many days. Default: never.", min=1, max=36_500)
]
_Print = Annotated[
    bool, typer.Option("--print", help="Print the entry instead of writing it, for a Secret with `tokens.json`.")
]
_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, exit with 2.")]


def _limit(row: listings.Row) -> str:
    return ", ".join([*[f"{namespace}/*" for namespace in row.get("namespaces") or ()], *(row.get("tenants") or ())])


_COLUMNS: tuple[listings.Column, ...] = (
    ("NAME", listings.text_cell("name")),
    ("LIMITED TO", _limit),
    ("ENDS (UTC)", listings.time_cell("expiresAt")),
    ("SCOPES", lambda row: ", ".join(row["scopes"])),
    ("CREATED (UTC)", listings.time_cell("createdAt")),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    text = "Create, list and revoke tokens of the admin port."
    group = typer.Typer(cls=ListingGroup, help=text, epilog=LIST_IS_IMPLIED)
    group.command("list", epilog="Example:  usher tokens list   or   usher tokens list -o json")(list_tokens)
    example = "Example:  usher tokens create desk --scope visits:read,persons:find --tenant agency/acme --days 90"
    group.command("create", epilog=example)(create_token)
    group.command("revoke", epilog="Example:  usher tokens revoke desk --yes")(revoke_token)
    app.add_typer(group, name="tokens")


def list_tokens(output: OutputOption = "text", data: Data = DATA) -> None:
    """List the tokens that were created. Those in observe.token and operate.token always exist besides."""
    with ending_with_message():
        entries = tokens.read_entries(data / tokens.TOKENS_FILE)
    rows = [_shown(entry) for entry in entries]
    nothing = "No tokens besides observe.token and operate.token."
    tables.print_rows(rows, _COLUMNS, output, nothing, essential=3)


def create_token(
    name: _Name,
    *,
    scope: _Scopes,
    tenant: _Tenants = None,
    namespace: _Namespaces = None,
    days: _Days = None,
    prints_entry: _Print = False,
    output: DocumentOutput = "text",
    data: Data = DATA,
) -> None:
    """Create a token, and print it: it cannot be shown again, because the file has only its digest.

    A token without --tenant and --namespace sees all tenants. A limited one cannot read the configuration, the audit
    log or the check of the books, and cannot send samples, because these are about all.
    """
    scopes = _scopes(scope)
    is_limited = tenant is not None or namespace is not None
    if is_limited and (refused := ", ".join(sorted(tokens.UNLIMITED_SCOPES.intersection(scopes)))):
        hint = "leave the scope out, or give it to a token without --tenant and --namespace"
        fail(f"a token with a limit cannot have the scope {refused}, which is about all tenants", hint, USAGE)
    file = data / tokens.TOKENS_FILE
    now = time.time_ns() // 1_000
    token, digest = tokens.new_token()
    entry = tokens.TokenEntry(
        name=name,
        digest=digest,
        scopes=scopes,
        namespaces=None if namespace is None else _listed(namespace),
        tenants=None if tenant is None else _listed(tenant),
        expires_at=None if days is None else model.format_time(now + days * model.DAY),
        created_at=model.format_time(now),
    )

    def add(others: list[tokens.TokenEntry]) -> list[tokens.TokenEntry]:
        tokens.check_entry(entry, others)
        return [*others, entry]

    with ending_with_message():
        if prints_entry:
            add([])
        else:
            tokens.change_entries(file, add)
    if output == "json" or prints_entry:
        tables.print_json({"token": token, "entry": msgspec.to_builtins(entry)})
    else:
        typer.echo(token)
        sees = _limit(_shown(entry)) or "all tenants"
        tables.print_text(
            f"It sees {sees}. Keep it now: it cannot be shown again. `usher` reads it from USHER_TOKEN.", err=True
        )


def revoke_token(name: _Name, yes: _Yes = False, data: Data = DATA) -> None:
    """Revoke a token: the gateway refuses it within a second."""
    file = data / tokens.TOKENS_FILE
    with ending_with_message():
        entries = tokens.read_entries(file)
    if name not in {entry.name for entry in entries}:
        fail(f"there is no token `{name}`", "`usher tokens` lists them", WRONG)
    if not yes:
        fail(f"this would revoke the token `{name}`", "give --yes to do it", USAGE)
    with ending_with_message():
        tokens.change_entries(file, lambda existing: [entry for entry in existing if entry.name != name])
    typer.echo(f"Revoked: {name}.")


def _listed(values: list[str]) -> tuple[str, ...]:
    return tuple([part.strip() for value in values for part in value.split(",") if part.strip()])


def _scopes(values: list[str]) -> tuple[tokens.Scope, ...]:
    names = _listed(values)
    if unknown := sorted(set(names) - set(tokens.Scope)):
        fail(f"there is no scope `{unknown[0]}`", f"there are {', '.join(tokens.Scope)}", USAGE)
    return tuple([tokens.Scope(name) for name in dict.fromkeys(names)])


def _shown(entry: tokens.TokenEntry) -> listings.Row:
    """Return an entry without its digest."""
    row: listings.Row = json.loads(msgspec.json.encode(entry))
    del row["digest"]
    return row
