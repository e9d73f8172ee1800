"""Tells what happened to one arrival, in order, in sentences for people made from stored rows. Pure."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord
from usher_gateway.words.listings import Row, counted
from usher_gateway.words.next_step import HOLDS, Step, moment


class StoryEvent(msgspec.Struct, frozen=True):
    """One thing that happened."""

    at: str
    """RFC 3339."""
    text: str
    visit: str | None = None
    """The id of the earlier visit that the text names."""


class NextStep(msgspec.Struct, frozen=True):
    """One delivery's next step."""

    delivery: str
    """Its id; ``""``: the text is about the arrival."""
    route: str
    text: str
    command: str | None
    """The command in the text, which changes that; None: there is none."""


class Story(msgspec.Struct, frozen=True):
    """An arrival's events, the oldest first, and each delivery's next step."""

    events: list[StoryEvent]
    next: list[NextStep]


@dataclasses.dataclass(frozen=True)
class DeliveryPart:
    """A delivery of the arrival, with what the store and the gateway know about it."""

    row: Row
    """The row as ``GET /api/deliveries`` has it."""
    attempts: Sequence[AttemptRecord]
    """The last ones, the oldest first."""
    next: Step


# Reasons that a correction at the listener or the sender removes: docs/reasons.md, Quarantined.
RELEASABLE = {
    model.QuarantineReason.NoUser,
    model.QuarantineReason.CompanyMismatch,
    model.QuarantineReason.Loop,
}

_ARRIVED = {
    "Visit": "A visit arrived at {listener} ({bodyBytes} bytes)",
    "Repeat": "A repeat arrived at {listener}: the same visitor came inside the dedupe window{window}{earlier}",
    "Redelivery": "A redelivery arrived at {listener}: Purple sent again what Usher had{earlier}",
    "Quarantined": "An arrival at {listener} was set aside as {reason}",
}

_SKIPPED = {
    model.SkipReason.Filter: "its filter was false",
    model.SkipReason.OncePer: "its oncePer rule had let one of this visitor through in this period",
    model.SkipReason.Stale: "the visit was older than the route's deliverWithinSeconds",
    model.SkipReason.Repeat: "it takes no repeats",
    model.SkipReason.Paused: "it was paused",
    model.SkipReason.Shadow: "it is in shadow mode, which sends nothing",
}


def tell(
    arrival: Row,
    verdicts: Iterable[tuple[model.RouteDefinition, model.SkipReason | None]],
    deliveries: Sequence[DeliveryPart],
    earlier: Row | None = None,
    window_seconds: int | None = None,
) -> Story:
    """Return an arrival's story.

    Args:
        arrival: a row from ``GET /api/visits``.
        verdicts: each route as it was at the arrival, and why it created no delivery.
        deliveries: all deliveries from the arrival, also from a release or a replay.
        earlier: the visit that a repeat repeats, if it is known; a row from ``GET /api/visits``.
        window_seconds: the dedupe window that the listener has now; None: the listener is not in force.
    """
    received_at = arrival["receivedAt"]
    arrived, *unusual = _arrived(arrival, earlier, window_seconds)
    events = [StoryEvent(received_at, arrived, earlier["id"] if earlier else None)]
    events += [StoryEvent(received_at, text) for text in (*unusual, *map(_verdict, verdicts))]
    for part in deliveries:
        events += _delivery_events(part)
    steps = [NextStep(part.row["id"], part.row["route"], *part.next) for part in deliveries]
    if arrival["countedAs"] == model.CountedAs.Quarantined.name and not arrival["released"]:
        steps.append(NextStep("", "", *_of_quarantined(arrival)))
    return Story(sorted(events, key=lambda event: event.at), steps)


def _arrived(arrival: Row, earlier: Row | None, window_seconds: int | None) -> Iterator[str]:
    """Yield how an arrival came, and what was unusual about it."""
    listener = f"{arrival['namespace']}/{arrival['listener']}"
    again = f", after visit {earlier['id']} of {moment(earlier['visitTime'])}" if earlier else ""
    window = f" ({window_seconds} s now)" if window_seconds else ""
    text = _ARRIVED[arrival["countedAs"]]
    yield f"{text.format_map(arrival | {'listener': listener, 'earlier': again, 'window': window})}."
    if arrival["timeTrusted"]:
        late = ", so it is late" if arrival["late"] else ""
        yield f"The visitor authenticated at {moment(arrival['visitTime'])}{late}."
    elif arrival["countedAs"] != model.CountedAs.Quarantined.name:
        yield "The body has no time that Usher trusts, so the time of the arrival counts."
    if arrival["isOtherCompany"]:
        company = arrival["otherCompany"]
        yield f"The body names another company than the tenant{f': {company}' if company else ''}."
    if arrival["unacknowledged"]:
        yield "Purple was gone before the answer, so it sends this again."
    if arrival["released"]:
        yield "A person released it later."
    if not arrival["bodyKept"]:
        yield "Its body has been deleted since, because its retention ended."


def _of_quarantined(arrival: Row) -> Step:
    """Return what can be done with a quarantined arrival that was not released."""
    answered = "" if arrival["unacknowledged"] else " Purple got its 200, so it does not send this again."
    if arrival["reason"] in {reason.name for reason in RELEASABLE}:
        command = f"usher quarantine release {arrival['id']} --yes"
        return Step(f"It can be released after a correction: `{command}` reads it again.{answered}", command)
    return Step(
        "It cannot be released, because its body is not a visit. Find out who sends such bodies: "
        f"`usher listeners --tenant {arrival['namespace']}/{arrival['tenant']}` has the address that sent the last "
        f"one.{answered}"
    )


def _verdict(verdict: tuple[model.RouteDefinition, model.SkipReason | None]) -> str:
    route, skip = verdict
    if skip is None:
        return f"Route {route.route}: a delivery to {route.destination}."
    expression = f": `{route.when}`" if skip is model.SkipReason.Filter and route.when else ""
    return f"Route {route.route}: skipped, because {_SKIPPED[skip]}{expression}."


def _delivery_events(part: DeliveryPart) -> Iterator[StoryEvent]:
    """Yield what happened with a delivery after its verdict."""
    row = part.row
    destination, about = row["destination"], f"Route {row['route']}"
    if row["origin"] != model.Origin.Accepted.name:
        by = f" by replay {row['replay']}" if row["replay"] else ""
        yield StoryEvent(row["createdAt"], f"{about}: {row['origin'].lower()}{by}, a delivery to {destination}.")
    if row["attempts"] > len(part.attempts) and part.attempts:
        first = model.format_time(part.attempts[0].at)
        count = row["attempts"] - len(part.attempts)
        earlier = f"{counted(count, 'earlier attempt')} {'is' if count == 1 else 'are'} not kept one by one"
        yield StoryEvent(first, f"{about}: {earlier}.")
    for attempt in part.attempts:
        answer = f"answered {attempt.status}" if attempt.status else "gave no answer"
        error = f" ({attempt.error})" if attempt.error and attempt.error != "Status" else ""
        text = f"{about}: {destination} {answer} after {attempt.milliseconds} ms{error}."
        yield StoryEvent(model.format_time(attempt.at), text)
    if row["held"]:
        cause, _ = HOLDS[model.HoldReason[row["held"]]]
        yield StoryEvent(row["heldSince"], f"{about}: the delivery is held, because {cause} ({row['held']}).")
    if row["settledAt"]:
        cancelled = f" ({row['cancelled']})" if row["cancelled"] else ""
        yield StoryEvent(row["settledAt"], f"{about}: the delivery was {_SETTLED[row['state']]}{cancelled}.")


_SETTLED = {"delivered": "delivered", "dead": "given up: it is dead", "cancelled": "cancelled"}
