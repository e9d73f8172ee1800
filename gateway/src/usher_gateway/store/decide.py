"""The decision inside the accepting transaction: visit, repeat or redelivery, and each route's final verdict. Pure.

Every engine first looks up the facts about a whole batch and then calls decide() for each arrival in turn. decide()
adds the facts that an arrival creates, so that later arrivals in the batch see them.
"""

import msgspec

from usher_gateway import model


class KnownContent(msgspec.Struct, gc=False):
    """Content that was accepted before."""

    arrival: int
    """Row key of its first acceptance, or of the last arrival with it whose 200 was not sent."""
    received_at: int
    unacknowledged: bool


class ArrivalDecision(msgspec.Struct, frozen=True, gc=False):
    """An arrival's kind, with one final plan per route in force (none for redeliveries and quarantined ones)."""

    counted_as: model.CountedAs
    verdicts: tuple[model.RoutePlan, ...] = ()


class DedupeFacts(msgspec.Struct):
    """The store's knowledge about a batch's keys. decide() adds the results of its decisions."""

    contents: dict[bytes, KnownContent]
    """By fingerprint."""
    sightings: dict[bytes, list[int]]
    """Visitor key -> visit times of accepted visits: for each arrival one inside its window, if there is any."""
    once_marks: set[bytes]


_REDELIVERY = ArrivalDecision(model.CountedAs.Redelivery)
_QUARANTINED = ArrivalDecision(model.CountedAs.Quarantined)


def decide(arrival: model.Arrival, facts: DedupeFacts) -> ArrivalDecision:
    """Decide one arrival and add the consequences to the facts."""
    content = facts.contents.get(arrival.fingerprint)
    if content is not None and _is_redelivery(arrival, content):
        return _REDELIVERY
    if content is None or arrival.received_at - content.received_at >= arrival.redelivery:
        facts.contents[arrival.fingerprint] = KnownContent(arrival.key, arrival.received_at, unacknowledged=False)
    if arrival.quarantine is not None:
        return _QUARANTINED
    if _is_repeat(arrival, facts):
        return _decided(model.CountedAs.Repeat, arrival.if_repeat, arrival, facts)
    facts.sightings.setdefault(arrival.visitor_key, []).append(arrival.visit_time)
    return _decided(model.CountedAs.Visit, arrival.if_visit, arrival, facts)


def _is_redelivery(arrival: model.Arrival, content: KnownContent) -> bool:
    age = arrival.received_at - content.received_at
    if content.unacknowledged or arrival.time_trusted or _was_trusted(arrival, content):
        return age < model.REDELIVERY_KEEP
    return model.REDELIVERY_NOT_BEFORE <= age < arrival.redelivery


def _was_trusted(arrival: model.Arrival, content: KnownContent) -> bool:
    """Return True if the time in the body was not too far in the future when this content first came.

    The clock was set back since then.
    """
    return 0 < arrival.future_time <= content.received_at + model.TRUSTED_AHEAD


def _is_repeat(arrival: model.Arrival, facts: DedupeFacts) -> bool:
    times = facts.sightings.get(arrival.visitor_key)
    return times is not None and any(abs(arrival.visit_time - time) < arrival.window for time in times)


def _decided(
    counted_as: model.CountedAs, plans: tuple[model.RoutePlan, ...], arrival: model.Arrival, facts: DedupeFacts
) -> ArrivalDecision:
    if arrival.is_over_quota or arrival.has_marks:
        plans = tuple([_verdict(plan, facts, arrival.is_over_quota) for plan in plans])
    return ArrivalDecision(counted_as, plans)


def _verdict(plan: model.RoutePlan, facts: DedupeFacts, is_over_quota: bool) -> model.RoutePlan:
    if plan.skip is not None:
        return plan
    if plan.once_key:
        if plan.once_key in facts.once_marks:
            return msgspec.structs.replace(plan, skip=model.SkipReason.OncePer)
        facts.once_marks.add(plan.once_key)
    if is_over_quota and plan.hold is None:
        return msgspec.structs.replace(plan, hold=model.HoldReason.QuotaExceeded)
    return plan
