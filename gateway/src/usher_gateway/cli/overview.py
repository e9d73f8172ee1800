"""``usher tenants``, ``usher destinations`` and ``usher listeners``: what a gateway runs, and how it does."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from usher_gateway.admin import listings
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    Limit,
    Namespace,
    OutputOption,
    Tenant,
    fail,
)
from usher_gateway.resources import conditions

_Failing = Annotated[bool, typer.Option("--failing", help="Only those that need a person: see the command's help.")]
_Silent = Annotated[bool, typer.Option("--silent", help="Only those that are silent for longer than they may be.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tenants", epilog="Example:  usher tenants --failing   or   usher tenants -o csv > tenants.csv")(
        list_tenants
    )
    app.command("listeners", epilog="Example:  usher listeners --tenant acme   or   usher listeners --silent -o json")(
        list_listeners
    )
    destinations = typer.Typer(no_args_is_help=True, help="Look at destinations; send a marked sample to one.")
    destinations.command(
        "list", epilog="Example:  usher destinations list --failing   or   usher destinations list -o json"
    )(list_destinations)
    destinations.command(
        "test",
        epilog="Example:  usher destinations test agency/crm   or   usher destinations test agency/crm --body my.json",
    )(send_sample)
    app.add_typer(destinations, name="destinations")


def select(rows: Iterable[listings.Row], *, namespace: str | None, tenant: str | None) -> list[listings.Row]:
    """Return the rows of a namespace and of a tenant, ``NAME`` or ``NAMESPACE/NAME``; unknown names end the command."""
    selected = list(rows)
    if tenant is not None and "/" in tenant:
        namespace, _, tenant = tenant.partition("/")
    if namespace is not None:
        _require("namespace", namespace, {row["namespace"] for row in selected})
        selected = [row for row in selected if row["namespace"] == namespace]
    if tenant is not None:
        _require("tenant", tenant, {name for row in selected for name in tenants_of(row)})
        selected = [row for row in selected if tenant in tenants_of(row)]
    return selected


def tenants_of(row: listings.Row) -> list[str]:
    """Return the tenants of a destination, the tenant of a listener, or a tenant's own name."""
    if "tenants" in row:
        return list(row["tenants"])
    return [str(row["tenant"] if "tenant" in row else row["name"])]


def first(rows: list[listings.Row], limit: int) -> list[listings.Row]:
    """Return the first rows, and say on standard error if there are more."""
    if len(rows) > limit:
        typer.echo(f"There are {len(rows)} rows, here are {limit}: raise --limit, or narrow the search.", err=True)
    return rows[:limit]


def nothing(what: str, *, failing: bool, silent: bool = False) -> str:
    """Return what an empty listing says: that none is as the flags ask, or that there is none at all."""
    asked = [word for word, is_asked in (("failing", failing), ("silent", silent)) if is_asked]
    return f"No {what} is {' and '.join(asked)}." if asked else f"No {what}s."


def _require(what: str, name: str, names: set[str]) -> None:
    if name not in names:
        fail(f"there is no {what} `{name}`", conditions.did_you_mean(name, names), USAGE)


# Tenants


def is_tenant_failing(row: listings.Row) -> bool:
    """Return whether somebody has to look at a tenant: something waits for a person, or is lost without one."""
    return bool(row["refusingListeners"] or row["held"] or row["dead"] or row["failingDestinations"])


def _listeners_of(row: listings.Row) -> str:
    silent = f", {row['silentListeners']} SILENT" if row["silentListeners"] else ""
    refusing = f", {row['refusingListeners']} REFUSING" if row["refusingListeners"] else ""
    return f"{listings.counted(row['listeners'], 'listener')}{silent}{refusing}"


def _held(row: listings.Row) -> str:
    return ", ".join([f"{count} held: {reason}" for reason, count in sorted(row["held"].items())])


def _quota(row: listings.Row) -> str:
    return "" if row["quotaUsed"] is None else f"quota {row['quotaUsed']:.0%}"


def _unless_zero(name: str, word: str) -> Callable[[listings.Row], str]:
    return lambda row: f"{row[name]} {word}" if row[name] else ""


def _labelled_time(name: str, label: str) -> Callable[[listings.Row], str]:
    cell = listings.time_cell(name)
    return lambda row: f"{label} {cell(row)}" if row.get(name) else ""


def path_of(row: listings.Row) -> str:
    """Return ``namespace/name`` of a row."""
    return f"{row['namespace']}/{row['name']}"


TENANT_COLUMNS: tuple[listings.Column, ...] = (
    ("TENANT", path_of),
    ("STATE", listings.text_cell("state")),
    ("LISTENERS", _listeners_of),
    ("TODAY", lambda row: listings.counted(row["today"]["visits"], "visit")),
    ("LAST ARRIVAL", _labelled_time("lastArrival", "last")),
    ("BACKLOG", _unless_zero("backlog", "waiting")),
    ("HELD", _held),
    ("DEAD", _unless_zero("dead", "dead")),
    ("QUOTA", _quota),
    ("FAILING", lambda row: ", ".join([f"{key} fails" for key in row["failingDestinations"]])),
)

_TENANT_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *TENANT_COLUMNS[:2],
    ("LISTENERS", listings.text_cell("listeners")),
    ("SILENT", listings.text_cell("silentListeners")),
    ("REFUSING", listings.text_cell("refusingListeners")),
    ("VISITS", lambda row: str(row["today"]["visits"])),
    ("LAST ARRIVAL", listings.time_cell("lastArrival")),
    ("BACKLOG", listings.text_cell("backlog")),
    ("HELD", lambda row: str(sum(row["held"].values()))),
    ("DEAD", listings.text_cell("dead")),
    ("QUOTA", listings.text_cell("quotaUsed")),
    ("FAILING", lambda row: ", ".join(row["failingDestinations"])),
)


def list_tenants(
    *,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    silent: _Silent = False,
    limit: Limit = 1_000,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the tenants with their listeners, visits of today (UTC), waiting, held and dead deliveries.

    --failing lists those with refusing listeners, failing destinations, held or dead deliveries.
    """
    rows = AdminClient(admin, data).get("/api/tenants")["rows"]
    rows = select(rows, namespace=namespace, tenant=tenant)
    rows = [row for row in rows if not failing or is_tenant_failing(row)]
    rows = [row for row in rows if not silent or row["silentListeners"]]
    empty = nothing("tenant", failing=failing, silent=silent)
    tables.print_rows(first(rows, limit), TENANT_COLUMNS, output, empty, _TENANT_CSV_COLUMNS)


# Destinations


def is_destination_failing(row: listings.Row) -> bool:
    """Return whether a destination does not take deliveries as it should."""
    return row.get("health") not in _NOT_FAILING or bool(row["dead"] or row["held"])


_NOT_FAILING = ("Healthy", "NotTried")


def _last_error(row: listings.Row) -> str:
    """Return what keeps a destination from taking deliveries: a missing Secret, or the last error and how often."""
    if row.get("unresolved"):
        return str(row["unresolved"])
    last = row.get("lastError")
    if not last:
        return ""
    status = f" {last['status']}" if last["status"] else ""
    times = f", {last['failures']} times" if last["failures"] > 1 else ""
    recovered = ", recovered" if last["recoveredAt"] else ""
    return f"{last['error']}{status}{times}, last {listings.time_cell('at')(last)}{recovered}"


def _of_last_error(head: str, name: str) -> listings.Column:
    cell = listings.time_cell(name) if head.endswith(" AT") else listings.text_cell(name)
    return head, lambda row: cell(row.get("lastError") or {})


DESTINATION_COLUMNS: tuple[listings.Column, ...] = (
    ("DESTINATION", path_of),
    ("STATE", listings.text_cell("state")),
    ("HEALTH", listings.text_cell("health")),
    ("LAST ERROR", _last_error),
    ("BACKLOG", _unless_zero("backlog", "waiting")),
    ("NEXT", _labelled_time("nextDueAt", "next")),
    ("HELD", _held),
    ("DEAD", _unless_zero("dead", "dead")),
    ("HOST", lambda row: str(row.get("host") or "")),
    ("TENANTS", lambda row: ", ".join(row["tenants"])),
)

_DESTINATION_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *DESTINATION_COLUMNS[:2],
    ("HEALTH", listings.text_cell("health")),
    ("CIRCUIT", listings.text_cell("circuit")),
    _of_last_error("ERROR", "error"),
    _of_last_error("STATUS", "status"),
    _of_last_error("FAILURES", "failures"),
    _of_last_error("FIRST FAILED AT", "since"),
    _of_last_error("LAST FAILED AT", "at"),
    _of_last_error("RECOVERED AT", "recoveredAt"),
    ("MISSING", listings.text_cell("unresolved")),
    ("HINT", listings.text_cell("hint")),
    ("BACKLOG", listings.text_cell("backlog")),
    ("NEXT", listings.time_cell("nextDueAt")),
    ("HELD", lambda row: str(sum(row["held"].values()))),
    ("DEAD", listings.text_cell("dead")),
    *DESTINATION_COLUMNS[-2:],
)


def list_destinations(
    *,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    limit: Limit = 1_000,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the destinations with their health, last errors, waiting, held and dead deliveries.

    --failing lists those whose last attempts failed, or that have a forbidden address, a missing Secret, or held or
    dead deliveries.
    """
    rows = AdminClient(admin, data).get("/api/destinations")["rows"]
    rows = select(rows, namespace=namespace, tenant=tenant)
    rows = [row for row in rows if not failing or is_destination_failing(row)]
    empty = nothing("destination", failing=failing)
    tables.print_rows(first(rows, limit), DESTINATION_COLUMNS, output, empty, _DESTINATION_CSV_COLUMNS)


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
    """Return whether a listener has a fault."""
    return bool(row["faults"])


def _fault_detail(fault: str, row: listings.Row) -> str:
    """Return more about a fault of a listener."""
    match fault:
        case "Refusing" if not row["missing"]:
            return row["refusedReason"] or ""
        case "AuthenticationUnresolved":
            return row["missing"] or ""
        case "Quarantining":
            return f"{row['quarantinedShare']:.0%}"
        case "ExpressionTooSlow":
            return ", ".join([degraded["route"] for degraded in row["degradedRoutes"]])
        case "DeliveriesHeld":
            return _held_routes(row)
        case "Unverified":
            return "no visit yet" if row["probedAddresses"] or row["lastArrival"] else "not probed yet"
    return ""


def _faults(row: listings.Row) -> str:
    details = [(fault, _fault_detail(fault, row)) for fault in row["faults"]]
    return ", ".join([f"{fault} ({detail})" if detail else fault for fault, detail in details])


_COUNTS = ("visits", "repeats", "redeliveries", "probes", "quarantined", "refused")
_SINGULAR = {"visits": "visit", "repeats": "repeat", "redeliveries": "redelivery", "probes": "probe"}


def _counts_today(row: listings.Row) -> str:
    """Return what a listener counted today, without zeros."""
    counts = row["today"]
    parts = [
        listings.counted(counts[name], _SINGULAR[name]) if name in _SINGULAR else f"{counts[name]} {name}"
        for name in _COUNTS
        if counts[name]
    ]
    return ", ".join(parts) or "nothing today"


def _held_routes(row: listings.Row) -> str:
    """Return the routes that hold deliveries, each with the reason."""
    return ", ".join([_held_route(held) for held in row["heldDeliveries"]])


def _held_route(held: listings.Row) -> str:
    missing = f" ({held['missing']})" if held["missing"] else ""
    return f"{held['route']}: {held['reason']}{missing}"


def _count_column(name: str) -> listings.Column:
    return name, lambda row: str(row["today"][name])


LISTENER_COLUMNS: tuple[listings.Column, ...] = (
    ("LISTENER", path_of),
    ("STATE", lambda row: str(row["state"])),
    ("TENANT", lambda row: f"tenant {row['tenant']}"),
    ("FAULTS", _faults),
    ("TODAY", _counts_today),
    ("LAST ARRIVAL", _labelled_time("lastArrival", "last")),
    ("ROUTES", lambda row: ", ".join([f"{route['name']} to {route['destination']}" for route in row["routes"]])),
    ("ADDRESSES", lambda row: ", ".join(row["addresses"])),
)

_LISTENER_CSV_COLUMNS: tuple[listings.Column, ...] = (
    *LISTENER_COLUMNS[:2],
    ("TENANT", listings.text_cell("tenant")),
    *[_count_column(name) for name in _COUNTS],
    ("LAST ARRIVAL", listings.time_cell("lastArrival")),
    ("RECEIVING", listings.text_cell("receiving")),
    ("FAULTS", lambda row: ", ".join(row["faults"])),
    ("REFUSED REASON", listings.text_cell("refusedReason")),
    ("MISSING", listings.text_cell("missing")),
    ("HELD", _held_routes),
    *LISTENER_COLUMNS[-2:],
)


def list_listeners(
    *,
    tenant: Tenant = None,
    namespace: Namespace = None,
    failing: _Failing = False,
    silent: _Silent = False,
    limit: Limit = 1_000,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List the listeners that the gateway runs, with their faults and their counts of today (UTC).

    --failing lists those with a fault: they refuse or quarantine arrivals, lack a Secret, are silent, got no visit yet,
    hold deliveries, or get visits of another company, with times that are not trusted, or at a retired URL. URLs are
    credentials, so the list shortens them; `usher url` prints whole ones.
    """
    rows = AdminClient(admin, data).get("/api/listeners")["rows"]
    rows = select(rows, namespace=namespace, tenant=tenant)
    rows = [row for row in rows if not failing or is_listener_failing(row)]
    rows = [row for row in rows if not silent or row["receiving"] == "Silent"]
    empty = nothing("listener", failing=failing, silent=silent)
    tables.print_rows(first(rows, limit), LISTENER_COLUMNS, output, empty, _LISTENER_CSV_COLUMNS)
