"""``usher tenants``, ``usher destinations`` and ``usher listeners``: what a gateway runs, and how it does."""

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from usher_gateway.admin import listings
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Cursor,
    Data,
    DocumentOutput,
    Limit,
    ListingCommand,
    ListingGroup,
    Namespace,
    OutputOption,
    Tenant,
    fail,
    print_next_page,
    row_limit,
)

_Failing = Annotated[bool, typer.Option("--failing", help="Only those that need a person: see the command's help.")]
_Silent = Annotated[bool, typer.Option("--silent", help="Only those that are silent for longer than they may be.")]
_Unused = Annotated[bool, typer.Option("--unused", help="Only those where no arrival was accepted yet.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    example = "Example:  usher tenants list --failing   or   usher tenants -o csv > tenants.csv"
    tenants = typer.Typer(cls=ListingGroup, help="Look at tenants.", epilog=LIST_IS_IMPLIED)
    tenants.command("list", epilog=example)(list_tenants)
    tenants.command("show", epilog="Example:  usher tenants show agency/acme")(show_tenant)
    app.add_typer(tenants, name="tenants")
    example = "Example:  usher listeners --tenant acme   or   usher listeners --silent -o json"
    app.command("listeners", cls=ListingCommand, epilog=example)(list_listeners)
    text = "Look at destinations; send a marked sample to one."
    destinations = typer.Typer(cls=ListingGroup, help=text, epilog=LIST_IS_IMPLIED)
    example = "Example:  usher destinations list --failing   or   usher destinations -o json"
    destinations.command("list", epilog=example)(list_destinations)
    destinations.command(
        "test",
        epilog="Example:  usher destinations test agency/crm   or   usher destinations test agency/crm --body my.json",
    )(send_sample)
    app.add_typer(destinations, name="destinations")


@dataclasses.dataclass(frozen=True)
class Overview:
    """A list of all objects of a kind that a gateway runs."""

    path: str
    """Of the endpoint."""
    noun: str
    columns: tuple[listings.Column, ...]
    csv_columns: tuple[listings.Column, ...]
    states: Mapping[str, Callable[[listings.Row], bool]]
    """Name of a flag that selects rows -> whether it selects a row."""
    urgency: Callable[[listings.Row], int] = lambda _: 0
    """The rank of a row in a list of those that need a person."""


def _print_page(
    context: typer.Context,
    overview: Overview,
    rows: list[listings.Row],
    flags: Mapping[str, bool],
    *,
    limit: int | None,
    cursor: str | None,
    output: tables.OutputFormat,
) -> None:
    """Print the rows that the flags select, as many as ``limit`` says; then totals of all of them.

    ``cursor``: the name of the last row of the previous page.
    """
    asked = [flag for flag, is_asked in flags.items() if is_asked]
    counts = {flag: sum(map(overview.states[flag], rows)) for flag in flags if flag not in asked}
    rows = [row for row in rows if all(overview.states[flag](row) for flag in asked)]
    rows = sorted(rows, key=lambda row: (overview.urgency(row) if "failing" in asked else 0, path_of(row)))
    names = [path_of(row) for row in rows]
    page = rows[names.index(cursor) + 1 :] if cursor in names else rows
    shown = page[: row_limit(limit, len(page))]
    tables.print_rows(shown, overview.columns, output, nothing(overview.noun, asked), overview.csv_columns)
    parts = [f"{count} {flag} (--{flag})" for flag, count in counts.items() if count]
    total = ", ".join([listings.counted(len(rows), overview.noun), *_delivery_totals(rows)])
    if parts:
        total += f"; of all {', '.join(parts)}" if asked else f"; {', '.join(parts)}"
    if len(page) > len(shown):
        print_next_page(context, f"{len(shown)} of {total}", path_of(shown[-1]))
    elif output == "text" and rows:
        typer.echo(total, err=True)


def _delivery_totals(rows: Sequence[listings.Row]) -> list[str]:
    """Return how many deliveries of tenants or destinations wait, are held and are dead, without zeros."""
    totals = {
        "waiting": sum(row.get("backlog", 0) for row in rows),
        "held": sum(sum(row.get("held", {}).values()) for row in rows),
        "dead": sum(row.get("dead", 0) for row in rows),
    }
    return [listings.counted(count, f"{state} delivery") for state, count in totals.items() if count]


def nothing(what: str, asked: Sequence[str]) -> str:
    """Return what an empty listing says: that none is as the flags ask, or that there is none at all."""
    return f"No {what} is {' and '.join(asked)}." if asked else f"No {what}s."


# Tenants


_QUOTA_NEAR = 0.9
"""From this share of its quota on, a tenant is in trouble; the alert QuotaNear has the same."""

_LISTENER_TROUBLES = {
    "Refusing": "refuses all",
    "AuthenticationUnresolved": "lacks a Secret",
    "CompanyMismatch": "other company's visits",
    "Quarantining": "quarantines",
    "ExpressionTooSlow": "slow expression",
    "TimesUntrusted": "untrusted times",
    "RetiredAddressUsed": "retired URL used",
    "Silent": "silent",
}
"""Fault of a listener -> how the troubles of its tenant name it."""

_URGENT_FIRST = (
    *("Refusing", "AuthenticationUnresolved", "CompanyMismatch", "destinations", "dead", "held", "Quarantining"),
    *("ExpressionTooSlow", "TimesUntrusted", "quota", "RetiredAddressUsed", "Silent"),
)
_NOT_URGENT = {"RetiredAddressUsed", "Silent"}
"""Troubles that do not make a tenant failing: a hotel may be closed."""


def tenant_troubles(row: listings.Row) -> dict[str, str]:
    """Return what needs a person, the most urgent first: the kind of trouble and its words."""
    words = {
        fault: f"{_LISTENER_TROUBLES[fault]} ({count})" if count > 1 else _LISTENER_TROUBLES[fault]
        for fault, count in row["faults"].items()
        if fault in _LISTENER_TROUBLES
    }
    if row["failingDestinations"]:
        names = [name.rpartition("/")[2] for name in row["failingDestinations"]]
        words["destinations"] = f"{' and '.join(names)} {'fails' if len(names) == 1 else 'fail'}"
    if row["held"]:
        words["held"] = f"{sum(row['held'].values())} held ({' and '.join(sorted(row['held']))})"
    if row["dead"]:
        words["dead"] = f"{row['dead']} dead"
    if (row["quotaUsed"] or 0.0) > _QUOTA_NEAR:
        words["quota"] = f"quota {row['quotaUsed']:.0%}"
    return {kind: words[kind] for kind in _URGENT_FIRST if kind in words}


def is_tenant_failing(row: listings.Row) -> bool:
    """Return whether somebody has to look at a tenant: something waits for a person, or is lost without one."""
    return bool(tenant_troubles(row).keys() - _NOT_URGENT)


def urgency(row: listings.Row) -> int:
    """Return the rank of a tenant's most urgent trouble; 0 is the most urgent."""
    return next((_URGENT_FIRST.index(kind) for kind in tenant_troubles(row)), len(_URGENT_FIRST))


def path_of(row: listings.Row) -> str:
    """Return ``namespace/name`` of a row."""
    return f"{row['namespace']}/{row['name']}"


def _today(name: str) -> Callable[[listings.Row], str]:
    """Return a cell function for a count of today (UTC)."""
    return lambda row: str(row["today"][name])


def _minute_cell(name: str) -> Callable[[listings.Row], str]:
    """Return a cell function for a time (UTC, to the minute)."""
    cell = listings.time_cell(name)
    return lambda row: cell(row)[:16]


def _unless_zero(name: str) -> Callable[[listings.Row], str]:
    return lambda row: str(row[name] or "")


def _held_reasons(row: listings.Row) -> str:
    return ", ".join([f"{count} {reason}" for reason, count in row["held"].items()])


def _tenant_troubles(row: listings.Row) -> str:
    state = [] if row["state"] == "Active" else [row["state"]]
    return ", ".join([*state, *tenant_troubles(row).values()])


_TENANT_COLUMNS: tuple[listings.Column, ...] = (
    ("TENANT", path_of),
    ("VISITS", _today("visits")),
    ("WAIT", _unless_zero("backlog")),
    ("TROUBLES", _tenant_troubles),
    ("QUOTA", lambda row: "" if row["quotaUsed"] is None else f"{row['quotaUsed']:.0%}"),
    ("LAST ARRIVAL", _minute_cell("lastArrival")),
    ("LISTENERS", listings.text_cell("listeners")),
)

_TENANT_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *listings.fields("namespace", "name", "state", "listeners", "silentListeners", "refusingListeners"),
    *[(f"today{name.capitalize()}", _today(name)) for name in ("visits", "quarantined", "refused")],
    *listings.fields("lastArrival", "backlog", "oldestInBacklog"),
    ("held", _held_reasons),
    *listings.fields("dead", "quotaUsed"),
    ("quotaVisitsPerMonth", lambda row: str((row["quota"] or {}).get("visitsPerMonth", ""))),
    *listings.fields("timeZone"),
    ("troubles", _tenant_troubles),
    ("faults", lambda row: ", ".join([f"{count} {fault}" for fault, count in row["faults"].items()])),
    ("failingDestinations", lambda row: ", ".join(row["failingDestinations"])),
)

_TENANTS = Overview(
    path="/api/tenants",
    noun="tenant",
    columns=_TENANT_COLUMNS,
    csv_columns=_TENANT_CSV_COLUMNS,
    states={
        "failing": is_tenant_failing,
        "silent": lambda row: bool(row["silentListeners"]),
        "unused": lambda row: row["lastArrival"] is None,
    },
    urgency=urgency,
)


def list_tenants(
    *,
    context: typer.Context,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    silent: _Silent = False,
    unused: _Unused = False,
    limit: Limit = None,
    cursor: Cursor = None,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the tenants with their troubles, visits of today (UTC) and waiting deliveries.

    --failing lists those with listeners that refuse or quarantine arrivals, lack a Secret, get another company's visits
    or times that are not trusted, with failing destinations, held or dead deliveries, or over 90 % of their quota; the
    most urgent first.
    """
    rows = AdminClient(admin, data).get(_TENANTS.path, namespace=namespace, tenant=tenant)["rows"]
    _print_page(
        context,
        _TENANTS,
        rows,
        {"failing": failing, "silent": silent, "unused": unused},
        limit=limit,
        cursor=cursor,
        output=output,
    )


_TenantName = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a tenant.", metavar="TENANT")]

_SHORTEST_KEPT_DAYS = 8
"""How long an arrival is kept at least: docs/security.md, Personal data."""


def show_tenant(name: _TenantName, output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Show one tenant: its troubles, its quota, how long its data is kept, and how far back commands reach."""
    rows = AdminClient(admin, data).get(_TENANTS.path, tenant=name)["rows"]
    if len(rows) != 1:
        fail(f"there are {len(rows)} tenants `{name}`", "name one as NAMESPACE/NAME", USAGE)
    (row,) = rows
    if output != "text":
        tables.print_rows([row], [(field, tables.machine_cell(field)) for field in row], output, "")
        return
    today = {name: count for name, count in row["today"].items() if count and isinstance(count, int)}
    tables.print_facts(row | {"today": today})
    troubles = ", ".join(tenant_troubles(row).values())
    tables.print_text(f"\nTroubles: {troubles or 'none'}.")
    retention = row["retention"]
    if retention is not None:
        kept_days = max(retention["bodyDays"], _SHORTEST_KEPT_DAYS)
        reaches = {
            "Bodies": (f"{retention['bodyDays']} days", "`usher visits show --body`, replay and release reach"),
            "Visits": (f"{kept_days} days", "`usher find` and `usher visits` reach"),
            "Counts": (f"{retention['meterMonths']} months", "`usher usage` reaches"),
        }
        for what, (kept, commands) in reaches.items():
            tables.print_text(f"{what} are kept for {kept}: {commands} back so far.")


# Destinations


def is_destination_failing(row: listings.Row) -> bool:
    """Return whether a destination does not take deliveries as it should."""
    return is_not_taking(row) or bool(row["dead"] or row["held"])


def is_not_taking(row: listings.Row) -> bool:
    """Return whether attempts at a destination fail or cannot be made, also because it is not in force."""
    return row.get("health") not in _NOT_FAILING


_NOT_FAILING = ("Healthy", "NotTried")


def last_error(row: listings.Row) -> str:
    """Return what keeps a destination from taking deliveries: a missing Secret, or the last error and how often."""
    if row.get("unresolved"):
        return str(row["unresolved"])
    last = row.get("lastError")
    if not last:
        return ""
    status = f" {last['status']}" if last["status"] else ""
    since = listings.short_time_cell("since")(last)
    times = f", {last['failures']} times since {since}" if last["failures"] > 1 else ""
    recovered = ", recovered" if last["recoveredAt"] else ""
    return f"{last['error']}{status}{times}, last {listings.short_time_cell('at')(last)}{recovered}"


def _short_error(row: listings.Row) -> str:
    """Return what keeps a destination from taking deliveries, in few characters."""
    last = row.get("lastError")
    if row.get("unresolved") or not last:
        return str(row.get("unresolved") or "")
    recovered = " (recovered)" if last["recoveredAt"] else ""
    return f"{last['error']}{' ' + str(last['status']) if last['status'] else ''}{recovered}"


def _failing_for(row: listings.Row) -> str:
    """Return how long a destination has failed."""
    last = row.get("lastError")
    if not last or last["recoveredAt"]:
        return ""
    since = datetime.datetime.fromisoformat(last["since"])
    return tables.duration((datetime.datetime.now(datetime.UTC) - since).total_seconds())


def _deliveries_cell(row: listings.Row) -> str:
    counts = {"wait": row["backlog"], "held": sum(row["held"].values()), "dead": row["dead"]}
    return ", ".join([f"{count} {state}" for state, count in counts.items() if count])


def _of_last_error(name: str) -> listings.Column:
    cell = listings.text_cell(name)
    return f"lastError{name[:1].upper()}{name[1:]}", lambda row: cell(row.get("lastError") or {})


def _health(row: listings.Row) -> str:
    """Return the health of a destination, or the state of one that is not active."""
    return str(row.get("health") or "") if row["state"] == "Active" else str(row["state"])


DESTINATION_COLUMNS: tuple[listings.Column, ...] = (
    ("DESTINATION", path_of),
    ("HEALTH", _health),
    ("FOR", _failing_for),
    ("LAST ERROR", _short_error),
    ("NEXT TRY", lambda row: listings.time_cell("nextDueAt")(row)[11:]),
    ("DELIVERIES", _deliveries_cell),
    ("HELD BECAUSE", lambda row: ", ".join(sorted(row["held"]))),
    ("HOST", listings.text_cell("host")),
    ("TENANTS", lambda row: ", ".join(row["tenants"])),
)

_DESTINATION_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *listings.fields("namespace", "name", "state", "health", "circuit"),
    *[_of_last_error(name) for name in ("error", "status", "failures", "since", "at", "recoveredAt")],
    *listings.fields("unresolved", "hint", "backlog", "nextDueAt"),
    ("held", _held_reasons),
    *listings.fields("dead", "host"),
    ("tenants", lambda row: ", ".join(row["tenants"])),
)

_DESTINATIONS = Overview(
    path="/api/destinations",
    noun="destination",
    columns=DESTINATION_COLUMNS,
    csv_columns=_DESTINATION_CSV_COLUMNS,
    states={"failing": is_destination_failing},
)


def list_destinations(
    *,
    context: typer.Context,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    limit: Limit = None,
    cursor: Cursor = None,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the destinations with their health, last errors, waiting, held and dead deliveries.

    --failing lists those whose last attempts failed, or that have a forbidden address, a missing Secret, or held or
    dead deliveries.
    """
    rows = AdminClient(admin, data).get(_DESTINATIONS.path, namespace=namespace, tenant=tenant)["rows"]
    _print_page(context, _DESTINATIONS, rows, {"failing": failing}, limit=limit, cursor=cursor, output=output)


_Name = Annotated[str, typer.Argument(help="NAMESPACE/NAME of a destination.", metavar="DESTINATION")]
_Listener = Annotated[str | None, typer.Option(help="Use a route of this listener.")]
_Route = Annotated[str | None, typer.Option(help="Use the route with this name.")]
_Body = Annotated[
    pathlib.Path | None, typer.Option(help="Send this body instead of the sample.", exists=True, dir_okay=False)
]


def send_sample(
    name: _Name,
    *,
    listener: _Listener = None,
    route: _Route = None,
    body: _Body = None,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Send a sample visit to a destination, and show the request and the answer; exit 1 if it is not delivered.

    It takes the way of a visit: transform, format and signature of a route, by default the first one that leads there.
    The header `usher-test: true` marks it. Nothing is stored or counted. Values that may be credentials are not shown.
    """
    question: dict[str, object] = {"destination": name}
    question |= {key: value for key, value in (("listener", listener), ("route", route)) if value is not None}
    if body is not None:
        question["body"] = body.read_text("utf-8", errors="replace")
    answer = AdminClient(admin, data, operate=True).post("/api/destinations/test", question)
    if output == "json":
        tables.print_json(answer)
    else:
        _print_sample(answer)
    raise typer.Exit(0 if answer["outcome"] == "Delivered" else WRONG)


def _print_sample(answer: listings.Row) -> None:
    request = answer["request"]
    typer.echo(f"{request['method']} {request['url']}")
    for header, value in request["headers"]:
        typer.echo(f"{header}: {value}")
    typer.echo(f"\n{request['body'].rstrip()}\n")
    if answer["route"] is None:
        typer.echo("No route leads to this destination yet, so no transform of a route was tried.")
    missing = "no access token" if answer["error"].startswith("Token") else "no answer"
    status = f"status {answer['status']}" if answer["status"] else missing
    typer.echo(f"{status} after {answer['milliseconds']} ms: {_OUTCOMES[answer['outcome']]}{_because(answer['error'])}")
    if answer["hint"]:
        typer.echo(f"Hint: {answer['hint']}.")
    if answer["rule"]:
        failed = f"cannot be evaluated: {answer['ruleError']}" if answer["ruleError"] else "decided"
        typer.echo(f"Rule {answer['rule']} of http.answers {failed}.")
    if answer["answer"]:
        typer.echo(answer["answer"].rstrip())


_OUTCOMES = {
    "Delivered": "a visit would be delivered",
    "Retry": "a visit would be tried again",
    "Dead": "a visit would be dead at once",
}


def _because(error: str) -> str:
    return f" ({error})" if error else ""


# Listeners


def is_listener_failing(row: listings.Row) -> bool:
    """Return whether a listener has a fault, apart from waiting for its first visit."""
    return bool(set(row["faults"]) - {"Unverified"})


def _fault_detail(fault: str, row: listings.Row) -> str:
    """Return more about a fault of a listener."""
    match fault:
        case "Refusing" if not row["missing"]:
            return f"{row['refusedReason']} since {listings.short_time_cell('refusedSince')(row)}"
        case "AuthenticationUnresolved":
            return row["missing"] or ""
        case "Quarantining":
            return f"{row['quarantinedShare']:.0%}"
        case "CompanyMismatch":
            return f"{row['otherCompany']} instead of {row['companyID']}" if row["otherCompany"] else ""
        case "ExpressionTooSlow":
            return ", ".join([degraded["route"] for degraded in row["degradedRoutes"]])
        case "DeliveriesHeld":
            return _held_routes(row)
        case "Unverified":
            return "no visit yet" if row["probedAddresses"] or row["lastArrival"] else "not probed yet"
    return ""


def _faults(row: listings.Row) -> list[str]:
    details = [(fault, _fault_detail(fault, row)) for fault in row["faults"]]
    return [f"{fault} ({detail})" if detail else fault for fault, detail in details]


_COUNTS = ("visits", "repeats", "redeliveries", "probes", "quarantined", "refused")


def _held_routes(row: listings.Row) -> str:
    """Return the routes that hold deliveries, each with the reason."""
    return ", ".join([_held_route(held) for held in row["heldDeliveries"]])


def _held_route(held: listings.Row) -> str:
    missing = f" ({held['missing']})" if held["missing"] else ""
    return f"{held['route']}: {held['reason']}{missing}"


def _listener_troubles(row: listings.Row) -> str:
    """Return what needs a person, the worst first."""
    state = [] if row["state"] == "Active" else [str(row["state"])]
    return ", ".join([*state, *_faults(row)])


def _routes_cell(row: listings.Row) -> str:
    return ", ".join([f"{route['name']} to {route['destination']}" for route in row["routes"]])


def _addresses_cell(row: listings.Row) -> str:
    return ", ".join(row["addresses"])


LISTENER_COLUMNS: tuple[listings.Column, ...] = (
    ("LISTENER", path_of),
    ("VISITS", _today("visits")),
    ("TROUBLES", _listener_troubles),
    ("LAST ARRIVAL", _minute_cell("lastArrival")),
    ("QUARANTINED", _today("quarantined")),
    ("TENANT", listings.text_cell("tenant")),
    ("ROUTES", _routes_cell),
    ("ADDRESSES", _addresses_cell),
)

_LISTENER_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *listings.fields("namespace", "tenant", "name", "state"),
    *[(f"today{name.capitalize()}", _today(name)) for name in _COUNTS],
    *listings.fields("lastArrival", "receiving"),
    ("faults", lambda row: ", ".join(row["faults"])),
    *listings.fields("refusedReason", "refusedSince", "missing", "quarantinedShare", "companyMismatches"),
    ("heldDeliveries", _held_routes),
    ("routes", _routes_cell),
    ("addresses", _addresses_cell),
)

_LISTENERS = Overview(
    path="/api/listeners",
    noun="listener",
    columns=LISTENER_COLUMNS,
    csv_columns=_LISTENER_CSV_COLUMNS,
    states={
        "failing": is_listener_failing,
        "silent": lambda row: row["receiving"] == "Silent",
        "unused": lambda row: row["lastArrival"] is None,
    },
)


def list_listeners(
    *,
    context: typer.Context,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    silent: _Silent = False,
    unused: _Unused = False,
    limit: Limit = None,
    cursor: Cursor = None,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the listeners that the gateway runs, with their faults and their counts of today (UTC).

    --failing lists those with a fault: they refuse or quarantine arrivals, lack a Secret, are silent, hold deliveries,
    or get visits of another company, with times that are not trusted, or at a retired URL. A listener that waits for
    its first visit (Unverified) is not one of them. URLs are credentials, so the list shortens them; `usher url` prints
    whole ones.
    """
    rows = AdminClient(admin, data).get(_LISTENERS.path, namespace=namespace, tenant=tenant)["rows"]
    _print_page(
        context,
        _LISTENERS,
        rows,
        {"failing": failing, "silent": silent, "unused": unused},
        limit=limit,
        cursor=cursor,
        output=output,
    )
