"""``usher tenants``: the tenants that a gateway serves, what they need, and how long their data is kept."""

from typing import Annotated

import typer

from usher_gateway.cli import destinations, listeners, overview, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    USAGE,
    Admin,
    AdminClient,
    Data,
    ListingGroup,
    OutputOption,
    fail,
)
from usher_gateway.words import listings
from usher_gateway.words.troubles import is_tenant_failing, tenant_troubles, urgency


def register(app: typer.Typer) -> None:
    """Add the commands."""
    example = "Example:  usher tenants list --failing   or   usher tenants -o csv > tenants.csv"
    tenants = typer.Typer(cls=ListingGroup, help="Look at tenants.", epilog=LIST_IS_IMPLIED)
    tenants.command("list", epilog=example)(overview.list_command(_TENANTS))
    tenants.command("show", epilog="Example:  usher tenants show agency/acme")(show_tenant)
    app.add_typer(tenants, name="tenants")


def _tenant_troubles(row: listings.Row) -> str:
    state = [] if row["state"] == "Active" else [row["state"]]
    return ", ".join([*state, *tenant_troubles(row).values()])


_TENANT_COLUMNS: tuple[listings.Column, ...] = (
    ("TENANT", overview.path_of),
    ("VISITS", overview.today_cell("visits")),
    ("WAIT", lambda row: str(row["backlog"] or "")),
    ("TROUBLES", _tenant_troubles),
    ("QUOTA", lambda row: "" if row["quotaUsed"] is None else f"{row['quotaUsed']:.0%}"),
    ("LAST (UTC)", overview.last_arrival_cell),
    ("LISTENERS", listings.text_cell("listeners")),
)

_TENANTS = overview.Overview(
    path="/api/tenants",
    noun="tenant",
    help="""List the tenants with their troubles, visits of today (UTC) and waiting deliveries.

    --failing lists those with a trouble, the most urgent first: listeners refuse all or lack a Secret, get another
    company's visits; destinations fail; deliveries are dead or held; listeners quarantine, have a slow expression or
    times that are not trusted; over 90 % of the quota; arrivals from an unexpected source or at a retired URL; silence.
    """,
    columns=_TENANT_COLUMNS,
    states={
        "failing": is_tenant_failing,
        "silent": lambda row: bool(row["silentListeners"]),
        "unused": lambda row: row["lastArrival"] is None,
    },
    add=lambda row: {"troubles": list(tenant_troubles(row).values())},
    urgency=urgency,
)


_TenantName = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a tenant.", metavar="TENANT")]

# Daily count (name) -> its noun in the singular; empty if it has none.
_SHOWN_TODAY = {
    "arrivals": "arrival",
    "visits": "visit",
    "repeats": "repeat",
    "redeliveries": "redelivery",
    "quarantined": "",
    "probes": "probe",
    "refused": "",
    "suppressed": "",
    "delivered": "",
    "died": "",
}


def show_tenant(name: _TenantName, output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Show one tenant: its troubles, its quota, how long data and backups are kept, and how far back commands reach."""
    client = AdminClient(admin, data)
    rows = client.get(_TENANTS.path, tenant=name)["rows"]
    if len(rows) != 1:
        fail(f"there are {len(rows)} tenants `{name}`", "name one as NAMESPACE/NAME", USAGE)
    (row,) = rows
    if output == "json":
        tables.print_json(row | _TENANTS.add(row))
    elif output == "csv":
        tables.print_csv([row | _TENANTS.add(row)])
    else:
        _print_tenant(row)
        _print_troubles(client, row)
        _print_retention(row["retention"])


def _print_tenant(row: listings.Row) -> None:
    """Print what a tenant has and did today."""
    today = [
        listings.counted(count, _SHOWN_TODAY[name]) if _SHOWN_TODAY[name] else f"{count:,} {name}"
        for name, count in row["today"].items()
        if name in _SHOWN_TODAY and count
    ]
    today += [f"{count} skipped {reason}" for reason, count in row["today"]["skipped"].items() if count]
    facts: listings.Row = {
        "tenant": overview.path_of(row),
        "state": row["state"],
        "listeners": row["listeners"],
        "last accepted": f"{listings.time_cell('lastArrival')(row)} UTC" if row["lastArrival"] else "none yet",
        "today (UTC)": today,
        "waiting": row["backlog"],
        "held": overview.held_reasons(row) or 0,
        "dead": row["dead"],
        "time zone": row["timeZone"],
    }
    if row["quota"]:
        used = f"{row['quotaUsed']:.0%} of {listings.counted(row['quota']['visitsPerMonth'], 'visit')} a month"
        facts["quota"] = f"{used} (counted every 30 s), then {row['quota']['whenExceeded']}"
    tables.print_facts(facts)


# Trouble kind -> what to do or look at next.
_GO_ON = {
    "AuthenticationUnresolved": "create the Secret",
    "CompanyMismatch": "`usher visits --reason CompanyMismatch {}` for the visits; correct the webhook in the portal, "
    "or `companyID` of the Tenant",
    "destinations": "`usher destinations {}`",
    "dead": "`usher dead {}`",
    "held": "`usher deliveries --state held {}`, and `usher deliveries show ID` for what ends the hold",
    "Quarantining": "`usher quarantine {}`, and `usher quarantine show ID` for what one lacks",
    "ExpressionTooSlow": "write a cheaper expression",
    "TimesUntrusted": "`usher visits --reason TimesUntrusted {}`, and `usher visits show ID` for the time in one body",
    "quota": "`usher usage {}` for the visits of each day, and `quota` of the Tenant for its limit",
    "UnexpectedSource": "add the source to `allowedSources` if it is Purple's",
    "RetiredAddressUsed": "enter the present URL in the portal (the Secret LISTENER-url, or `usher url`)",
    "Silent": "ask the venue whether its Wi-Fi works, and look at the webhook in Purple's portal",
}

# Why a listener refuses every arrival -> what to do; for the other reasons, docs/reasons.md says it.
_AFTER_REFUSALS = {
    "SourceNotAllowed": "correct `allowedSources` if this source is Purple",
    "Unauthenticated": "enter the same credentials in the portal and in the Secret",
}


def next_steps(row: listings.Row) -> str:
    """Return what to do or look at next about a tenant's troubles."""
    steps = []
    for kind in tenant_troubles(row):
        if kind == "Refusing":
            step = _AFTER_REFUSALS.get(row["causes"].get(kind), "see Refused in docs/reasons.md")
            steps.append(f"{step} (Purple disables a webhook that fails for long)")
        elif kind in _GO_ON:
            steps.append(_GO_ON[kind].format(f"--tenant {row['name']}"))
    return f"Next: {'; '.join(steps)}." if steps else ""


def _print_troubles(client: AdminClient, row: listings.Row) -> None:
    """Print each trouble with its listener or destination, and the commands that go on from here."""
    path = overview.path_of(row)
    texts = [
        (listener["name"], ", ".join([*listeners.faults(listener), *_allowed_sources(listener)]))
        for listener in client.get("/api/listeners", tenant=path)["rows"]
        if listeners.is_listener_failing(listener)
    ]
    texts += [
        (destination["name"], destinations.trouble(destination))
        for destination in client.get("/api/destinations", tenant=path)["rows"]
        if destinations.is_destination_failing(destination)
    ]
    troubles = tenant_troubles(row)
    if not troubles:
        typer.echo("\nTroubles: none.")
        return
    if "quota" in troubles:
        texts.append(("tenant", troubles["quota"]))
    typer.echo("\nTroubles:")
    tables.print_texts(texts or [("", text) for text in troubles.values()])
    tables.print_text(next_steps(row))


def _allowed_sources(listener: listings.Row) -> list[str]:
    """Return a listener's ``allowedSources`` if it refuses arrivals because of them."""
    if listener["refusedReason"] != "SourceNotAllowed":
        return []
    allowed = listener["allowedSources"]
    return [f"allowedSources {' '.join(allowed['ranges'])} (policy {allowed['policy']})"]


def _print_retention(retention: listings.Row | None) -> None:
    """Print how long a tenant's data is kept; None: it is not in force any more."""
    if retention is None:
        return
    reaches = {
        "Bodies": (
            listings.counted(retention["bodyDays"], "day"),
            "`usher visits show --body`, replay and release reach",
        ),
        "Visits": (listings.counted(retention["visitDays"], "day"), "`usher find` and `usher visits` reach"),
        "Counts": (listings.counted(retention["meterMonths"], "month"), "`usher usage` reaches"),
        "Receipts of erasure": (listings.counted(retention["receiptDays"], "day"), "`usher person receipt` reaches"),
    }
    typer.echo()
    for what, (duration, commands) in reaches.items():
        tables.print_text(f"{what} are kept for {duration}: {commands} back so far.")
    backups = retention["backupDays"]
    stated = f"kept {listings.counted(backups, 'day')}" if backups else "not stated (--backup-days)"
    tables.print_text(f"Backups: {stated}.")
