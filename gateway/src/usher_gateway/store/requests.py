"""Shared code of the engines for changes that people request. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from usher_gateway import model, timing
from usher_gateway.store.base import MarkOf, ReplayReport

SLICE = 100
"""Deliveries that one job creates or changes; arrivals wait for it (docs/performance.md)."""

Holds = dict[int, Sequence[model.HoldReason]]
"""Route number -> the reasons that hold its deliveries now (``store.base.HoldsOf``)."""

SkippedVerdict = tuple[int, int, int]
"""(arrival, route number, skip reason) of a skipped verdict."""

OnceMarks = Mapping[tuple[int, int], tuple[bytes, int]]
"""(arrival, route number) -> mark of the route's once-per rule, and the instant from which it may be deleted."""

NOT_TRIED = "NotTried"
"""The reason that a preview gives for pending deliveries without an attempt."""

ENDED = frozenset({model.DeliveryState.Dead.name.lower(), model.DeliveryState.Cancelled.name.lower()})
NOT_RELEASABLE = (model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable)


class ReplayCandidate(NamedTuple):
    """A skipped verdict as a replay finds it in the store."""

    arrival: int
    route: int
    reason: int
    flags: int
    """Of the arrival."""
    has_body: bool
    is_replayed: bool

    @property
    def can_be_replayed(self) -> bool:
        """True unless an earlier replay or retention came first."""
        return self.has_body and not self.is_replayed


def choose_replays(
    candidates: Iterable[ReplayCandidate], marks: OnceMarks, taken: set[bytes], report: ReplayReport
) -> list[ReplayCandidate]:
    """Return the verdicts that a replay delivers, and count all of them in a report.

    ``taken``: the once-per marks that exist. Those of the returned verdicts are added.
    """
    chosen: dict[tuple[int, int], ReplayCandidate] = {}
    for candidate in candidates:
        verdict = candidate.arrival, candidate.route
        mark, _ = marks.get(verdict, (b"", 0))
        if candidate.is_replayed or verdict in chosen:
            report.replayed_before += 1
        elif not candidate.has_body:
            report.without_body += 1
        elif mark in taken:
            report.once_per += 1
        else:
            chosen[verdict] = candidate
            reason = model.SkipReason(candidate.reason).name
            report.reasons[reason] = report.reasons.get(reason, 0) + 1
            if mark:
                taken.add(mark)
    return list(chosen.values())


async def make_marks(
    skipped: Collection[SkippedVerdict], arrivals: Iterable[model.Arrival], rules: Mapping[int, MarkOf]
) -> OnceMarks:
    """Return the once-per marks of skipped verdicts. ``rules``: how to make them, by route number."""
    turns = timing.EventLoopTurns()
    marks = {}
    routes: dict[int, list[int]] = {}
    for key, route, _ in skipped:
        if route in rules:
            routes.setdefault(key, []).append(route)
    for arrival in arrivals:
        for route in routes[arrival.key]:
            marks[arrival.key, route] = rules[route](arrival)
            await turns.give_way()
    return marks


def reason_name(hold: int, cancel: int, error: str) -> str:
    """Return the reason by which a preview counts a delivery."""
    if hold:
        return model.HoldReason(hold).name
    return model.CancelReason(cancel).name if cancel else error or NOT_TRIED
