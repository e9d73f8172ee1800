"""Words about replays, for the commands and the pages: what a replay selects, leaves out, and waits for."""

from collections.abc import Mapping

from usher_gateway.words import listings

# Delivery states that a replay may select; its other results are skip reasons.
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


def left_out(counts: Mapping[str, int]) -> list[str]:
    """Return what a replay leaves out, by reason. ``counts``: ``leftOut`` from the API."""
    return [f"{listings.counted(count, 'delivery')} {_LEFT_OUT[name]}" for name, count in counts.items() if count]


def selection(row: listings.Row) -> str:
    """Return what a replay selects: first its results."""
    names = [f"{name} {value}" for name, value in row["selection"].items() if name != "results"]
    return ", ".join([*row["selection"]["results"], *names])


def waiting(row: listings.Row) -> int:
    """Return how many deliveries from a replay wait: ending the replay cancels them."""
    return int(row["deliveries"].get("pending", 0) + row["deliveries"].get("held", 0))
