"""``usher link``: links that show a customer its own tenant."""

import urllib.parse
from typing import Annotated

import typer

from usher_gateway import settings
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    USAGE,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    ListingGroup,
    OutputOption,
    fail,
    quoted,
)
from usher_gateway.words import listings

_Tenant = Annotated[str, typer.Option("--tenant", help="The tenant that it shows.", metavar="NAMESPACE/NAME")]
_Days = Annotated[int, typer.Option("--days", help="It ends after so many days.", min=1, max=400)]
_LastVisits = Annotated[
    bool, typer.Option("--last-visits", help="Show the last visits too, with the initials of visitors.")
]
_Pages = Annotated[
    str | None,
    typer.Option(
        "--pages", help="Where customers reach the pages, such as an Ingress. Default: --admin.", metavar="URL"
    ),
]
_Link = Annotated[str, typer.Argument(help="An id from `usher link list`.", metavar="ID")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, exit with 2.")]

_COLUMNS: tuple[listings.Column, ...] = (
    ("ID", listings.text_cell("id")),
    ("TENANT", listings.text_cell("tenant")),
    ("STATE", listings.text_cell("state")),
    ("ENDS (UTC)", listings.short_time_cell("expiresAt")),
    ("LAST USE (UTC)", listings.short_time_cell("lastUsedAt")),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=ListingGroup, help="Create, list and revoke links for customers.", epilog=LIST_IS_IMPLIED)
    group.command("list", epilog="Example:  usher link list   or   usher link list -o json")(list_links)
    example = "Example:  usher link create --tenant agency/acme --days 30 --pages https://usher.example.com"
    group.command("create", epilog=example)(create_link)
    group.command("revoke", epilog="Example:  usher link revoke 5f0c2a9be1d9 --yes")(revoke_link)
    app.add_typer(group, name="link")


def list_links(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the links, the newest first. A link stays in the list for 30 days after its end."""
    rows = AdminClient(admin, data, operate=True).get("/api/links")["rows"]
    tables.print_rows(rows, _COLUMNS, output, "No links.")


def create_link(
    *,
    tenant: _Tenant,
    days: _Days = 30,
    last_visits: _LastVisits = False,
    pages: _Pages = None,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Create a link, and print its address: it cannot be shown again, because the gateway keeps only its digest.

    The customer opens it once, in one browser, which then shows the numbers of this tenant until the link ends.
    """
    client = AdminClient(admin, data, operate=True)
    base = (pages or client.url).rstrip("/")
    try:
        host = urllib.parse.urlsplit(base).hostname
    except ValueError:
        fail(f"--pages is not an address: {base}", "write it like https://usher.example.com", USAGE)
    link = client.post("/api/links", {"tenant": tenant, "days": days, "lastVisits": last_visits})
    address = base + link["path"]
    if settings.Endpoint(host or "", 0).is_loopback:
        hint = "Only this machine can open this address: give --pages, the address at which customers reach the pages."
        tables.print_text(hint, err=True)
    if output == "json":
        tables.print_json({**link, "url": address})
        return
    typer.echo(address)
    ends = listings.short_time_cell("expiresAt")(link)
    typer.echo(
        f"Link {link['id']} shows {tenant} until {ends} UTC. It opens once; keep it until you send it.", err=True
    )


def revoke_link(identifier: _Link, yes: _Yes = False, admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Revoke a link: its browser shows nothing more, from the next request on."""
    if not yes:
        fail(f"this would revoke the link {identifier}", "give --yes to do it", USAGE)
    answer = AdminClient(admin, data, operate=True).post(f"/api/links/{quoted(identifier)}/revoke", {})
    tables.print_text(f"Revoked: {identifier}." if answer["revoked"] else f"Revoked before: {identifier}.")
