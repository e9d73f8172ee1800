"""Words about replays, for the commands and the pages: what a replay selects, leaves out, and waits for."""

from collections.abc import Collection, Mapping, Sequence

from usher_gateway.admin import listings

# States of deliveries that a replay may select; its other results are skip reasons.
STATES = ("delivered", "dead", "cancelled")

# Why a replay leaves deliveries out. Source: `leftOut` in docs/api.md.
_LEFT_OUT = {
    "replayedBefore": "skipped before and replayed since",
    "withoutBody": "without a body, because its retention has ended",
    "oncePer": "by the oncePer rule of the route",
    "expired": "past the time limit",
    "suppressed": "of a suppressed person",
    "waiting": "waiting, sent without a replay",
    "held": "held until the cause of the hold ends",
    "paused": "of routes that are paused, in shadow mode, removed, or lead elsewhere now",
}


def left_out(counts: Mapping[str, int]) -> dict[str, str]:
    """Return name in ``leftOut`` -> what a replay leaves out for this reason, if it leaves anything out."""
    return {name: f"{listings.counted(count, 'delivery')} {_LEFT_OUT[name]}" for name, count in counts.items() if count}


def selection(row: listings.Row) -> str:
    """Return what a replay selects: first its results."""
    names = [f"{name} {value}" for name, value in row["selection"].items() if name != "results"]
    return ", ".join([*row["selection"]["results"], *names])


def waiting(row: listings.Row) -> int:
    """Return how many deliveries of a replay wait: the end of the replay cancels them."""
    return int(row["deliveries"].get("pending", 0) + row["deliveries"].get("held", 0))


def why_none(
    visits: Sequence[listings.Row], results: Collection[str], *, route: str | None, destination: str | None
) -> str:
    """Return why a replay has nothing to deliver and nothing to leave out.

    Args:
        visits: the newest ones of its selection, with their verdicts.
        results: that it selects; none: all that can be replayed.
        route: whose verdicts it selects.
        destination: whose verdicts it selects: ``namespace/name`` or ``name``.
    """
    if not visits:
        return "The selection has no visit."
    verdicts = [verdict for visit in visits for verdict in visit["verdicts"]]
    came_to = {
        listings.verdict_result(verdict)
        for verdict in verdicts
        if route in {None, verdict["route"]}
        and f"/{verdict['destination']}".endswith(f"/{destination or verdict['destination']}")
    }
    quarantined = {f"quarantined {visit['reason']}" for visit in visits if visit["reason"] and not visit["released"]}
    asked = [result if result in STATES else f"skipped {result}" for result in results]
    which = f"is {' or '.join(asked)}" if asked else "can be replayed"
    newest = ", ".join(sorted(came_to | quarantined)) or "visits without a route"
    release = " `usher quarantine release` reads quarantined arrivals again." if quarantined else ""
    return f"None of them {which}; the newest are: {newest}.{release}"
