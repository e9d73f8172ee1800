"""``usher listeners``: the listeners that a gateway runs, and their faults."""

import typer

from usher_gateway.cli import overview, tables
from usher_gateway.words import listings, states


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example:  usher listeners --tenant acme   or   usher listeners --silent -o json"
    app.command("listeners", epilog=example)(overview.list_command(_LISTENERS))


def is_listener_failing(row: listings.Row) -> bool:
    """Return whether a listener has a fault, apart from waiting for its first visit."""
    return bool(set(row["faults"]) - {"Unverified"})


def _fault_detail(fault: str, row: listings.Row) -> str:
    """Return more about a listener's fault."""
    match fault:
        case "Refusing" if not row["missing"]:
            source = f" from {row['unexpectedSource']}" if row["refusedReason"] == "SourceNotAllowed" else ""
            return f"{row['refusedReason']} since {listings.short_time_cell('refusedSince')(row)}{source}"
        case "AuthenticationUnresolved":
            return row["missing"] or ""
        case "Quarantining":
            reason = f" {row['quarantinedReason']}" if row["quarantinedReason"] else ""
            source = f" from {row['quarantinedSource']}" if row["quarantinedSource"] else ""
            return f"{row['quarantinedShare']:.0%}{reason}{source}"
        case "TimesUntrusted":
            return f"{row['untrustedTimesShare']:.0%} {row['untrustedTimeReason'] or ''}".rstrip()
        case "UnexpectedSource":
            return str(row["unexpectedSource"])
        case "CompanyMismatch":
            count = f" ({listings.counted(row['companyMismatches'], 'arrival')})" if row["companyMismatches"] else ""
            return f"{row['otherCompany']} instead of {row['companyID']}{count}" if row["otherCompany"] else ""
        case "Silent":
            last = f"since {listings.short_time_cell('lastArrival')(row)} " if row["lastArrival"] else ""
            return f"{last}(it may be so for {tables.duration(row['silentAfterSeconds'])})"
        case "ExpressionTooSlow":
            return ", ".join([degraded["route"] for degraded in row["degradedRoutes"]])
        case "Unverified":
            return "no visit yet" if row["probedAddresses"] or row["lastArrival"] else "not probed yet"
    return ""


def faults(row: listings.Row) -> list[str]:
    """Return a listener's faults with their causes, the most urgent first."""
    texts: list[str] = []
    for fault in row["faults"]:
        if fault == "DeliveriesHeld":
            texts += [_held_words(held_route) for held_route in row["heldDeliveries"]]
        else:
            texts.append(" ".join(filter(None, (fault, _fault_detail(fault, row), _since(fault, row)))))
    return texts


def _since(fault: str, row: listings.Row) -> str:
    """Return since when a listener has a fault, if its detail does not say it."""
    is_known = row["faultsSince"].get(fault) and fault not in {"Refusing", "Silent"}
    return f"since {listings.short_time_cell(fault)(row['faultsSince'])}" if is_known else ""


def _held_words(held_route: listings.Row) -> str:
    """Return which route holds deliveries, why, and since when."""
    since = f" since {listings.short_time_cell('since')(held_route)}" if held_route["since"] else ""
    return f"{held_route['route']} held: {held_route['missing'] or held_route['reason']}{since}"


def _listener_troubles(row: listings.Row) -> str:
    """Return what needs a person, the worst first; ``Unverified`` only if there is nothing else."""
    state = [] if row["state"] == "Active" else [str(row["state"])]
    urgent = [fault for fault in row["faults"] if fault != "Unverified"]
    warnings = [f"warning: {warning}" for warning in row["warnings"]]
    return ", ".join([*state, *faults(row | {"faults": urgent if urgent or warnings else row["faults"]}), *warnings])


LISTENER_COLUMNS: tuple[listings.Column, ...] = (
    ("LISTENER", overview.path_of),
    ("VISITS", overview.today_cell("visits")),
    ("TROUBLES", _listener_troubles),
    ("LAST (UTC)", overview.last_arrival_cell),
    ("QUARANTINED", overview.today_cell("quarantined")),
    ("TENANT", listings.text_cell("tenant")),
    ("ROUTES", lambda row: ", ".join([f"{route['name']} to {route['destination']}" for route in row["routes"]])),
    ("ADDRESSES", lambda row: ", ".join(row["addresses"])),
)

_FAULTS = [*states.ListenerFault]  # The most urgent first

_LISTENERS = overview.Overview(
    path="/api/listeners",
    noun="listener",
    help="""List the listeners that the gateway runs, with their faults and their counts of today (UTC).

    --failing lists those with a fault: they refuse or quarantine arrivals, lack a Secret, are silent, hold deliveries,
    or get visits of another company, with times that are not trusted, from other sources, or at a retired URL. The
    most urgent come first. A listener that waits for its first visit (Unverified) is not one of them. The list
    shortens the tokens of URLs, which are credentials; `usher url` prints whole URLs.
    """,
    columns=LISTENER_COLUMNS,
    states={
        "failing": is_listener_failing,
        "silent": lambda row: row["receiving"] == "Silent",
        "unused": lambda row: row["lastArrival"] is None,
    },
    essential=3,
    urgency=lambda row: min(map(_FAULTS.index, row["faults"]), default=len(_FAULTS)),
)
