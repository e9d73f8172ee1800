"""Describes a delivery's next step in sentences for people. Pure."""

import datetime
from collections.abc import Mapping
from typing import NamedTuple

from usher_gateway import model
from usher_gateway.words.listings import SHORT_ID, Row, counted, error_words
from usher_gateway.words.states import NOT_FAILING, DestinationHealth

# Why a delivery is held, and what ends that: docs/reasons.md, Held.
HOLDS: Mapping[model.HoldReason, tuple[str, str]] = {
    model.HoldReason.TenantSuspended: ("the tenant is suspended", "`state: Active` of the Tenant"),
    model.HoldReason.ListenerSuspended: ("the listener is suspended", "`state: Active` of the Listener"),
    model.HoldReason.TokenHeld: ("it came to an old URL with `action: Hold`", "`action: Accept`"),
    model.HoldReason.QuotaExceeded: ("the tenant is over its quota", "A higher quota, or the next month,"),
    model.HoldReason.FilterError: ("the route's filter `when` failed", "A correction of the filter"),
    model.HoldReason.TransformError: ("the route's transform failed", "A correction of the expression"),
    model.HoldReason.ExpressionTooSlow: ("an expression is too slow", "A cheaper expression"),
    model.HoldReason.DestinationNotFound: ("the tenant has no such destination", "Adding it within 7 days"),
    model.HoldReason.DestinationPaused: ("the destination is paused", "`state: Active` of the Destination"),
    model.HoldReason.SecretNotFound: ("a Secret of the destination is missing", "Adding or correcting it"),
    model.HoldReason.FormatError: ("the transformed value does not fit the format", "A correction of the expression"),
}


class Step(NamedTuple):
    """A delivery's next event."""

    text: str
    command: str | None = None
    """The command in the text, which changes that; None: there is none."""


def next_step(
    delivery: Row,
    destination: Mapping[str, object] | None,
    now: int,
    held_detail: str = "",
    body_days: int = 0,
    when: str = "",
) -> Step:
    """Return what happens next with a delivery, and when.

    Args:
        delivery: a ``GET /api/deliveries`` row.
        destination: its ``GET /api/destinations`` row; None if it is not in force.
        now: microseconds.
        body_days: how long the tenant's bodies are kept; 0 if it is not known.
        held_detail: which Secret a held delivery waits for, or how its expression failed; ``""`` if it is not known.
        when: its route's filter as it is now; ``""`` if it has none or is not in force.
    """
    identifier = delivery["id"][:SHORT_ID]
    match delivery["state"]:
        case "delivered":
            return Step("It was delivered. Nothing follows.")
        case "dead":
            command, but = f"usher dead redrive {identifier} --yes", _may_die_again(destination)
            return Step(f"It is dead: no attempt follows. `{command}` starts again{but}.", command)
        case "cancelled":
            command = f"usher deliveries redrive {identifier} --state cancelled --yes"
            is_suppressed = delivery["cancelled"] == model.CancelReason.Suppressed.name
            but = ", but only after `usher person unsuppress`" if is_suppressed else ""
            text = f"It was cancelled ({delivery['cancelled']}): no attempt follows. `{command}` takes that back{but}."
            return Step(text, command)
    if delivery["held"]:
        cause, end = HOLDS[model.HoldReason[delivery["held"]]]
        detail = f" ({held_detail})" if held_detail else ""
        if delivery["held"] == model.HoldReason.FilterError.name and when:
            detail += f": `{when}`"
        return Step(
            f"It is held since {moment(delivery['heldSince'])} because {cause}{detail}. {end} ends that; a retry does "
            f"not.{_held_until(delivery, body_days)}"
        )
    if destination is None:
        return Step("Its destination is not in force any more: it will be held with the reason DestinationNotFound.")
    step = _waiting(delivery, destination, now)
    return step._replace(text=f"{step.text} {_end(delivery, destination)}")


def destination_warning(key: str, destination: Mapping[str, object], count: int) -> str:
    """Return that a destination takes no deliveries now; empty if it does.

    Args:
        key: ``namespace/name``.
        destination: its ``GET /api/destinations`` row.
        count: deliveries that would go there.
    """
    health = destination.get("health")
    if health in NOT_FAILING:
        return ""
    error = " ".join([str(destination[name]) for name in ("error", "status") if destination.get(name)])
    why = ", ".join(filter(None, (str(health or destination["state"]), str(destination.get("unresolved") or error))))
    effect = "it waits until the destination takes it" if count == 1 else "they wait until it takes some"
    if destination["isRejecting"]:
        effect = "it fails for good again" if count == 1 else "they fail for good again"
    elif health == DestinationHealth.Failing:
        effect = f"{'it' if count == 1 else 'they'} may fail again"
    return f"{counted(count, 'delivery')} would go to {key}, which fails now ({why}): {effect}."


def sent_again(replayed: Row) -> Step:
    """Return what happens next with a dead delivery whose visit a replay sent again. ``replayed``: its new delivery."""
    command = f"usher deliveries show {replayed['id'][:SHORT_ID]}"
    return Step(f"It is dead. A replay sent the visit again ({replayed['state']}): `{command}` shows that.", command)


def _may_die_again(destination: Mapping[str, object] | None) -> str:
    """Return that a dead delivery would not fare better now, if its destination fails or is gone."""
    if destination is None:
        return ", but its destination is not in force any more"
    if destination["health"] in NOT_FAILING:
        return ""
    end = "it dies again" if destination["isRejecting"] else "it may die again"
    return f", but its destination fails now ({destination['health']}{_last_error(destination)}): {end}"


def _held_until(delivery: Row, body_days: int) -> str:
    """Return when a held delivery is lost, if that is known."""
    if delivery["expiresAt"] is not None:
        return f" It expires at {moment(delivery['expiresAt'])}."
    if not body_days:
        return ""
    ends_at = datetime.datetime.fromisoformat(delivery["createdAt"]) + datetime.timedelta(days=body_days)
    return f" It is cancelled when its body's retention ends, about {ends_at.date()}."


def _waiting(delivery: Row, destination: Mapping[str, object], now: int) -> Step:
    """Return what a pending delivery waits for."""
    if destination["circuit"] == "Open":
        error = _last_error(destination)
        return Step(
            f"It waits, because its destination fails{error}: Usher tries one delivery a minute there, the next at "
            f"{moment(destination['nextTrialAt'])}. If that succeeds, the others follow."
        )
    due_at = delivery["dueAt"]
    if due_at is not None and due_at > model.format_time(now):
        command = f"usher deliveries retry {delivery['id'][:SHORT_ID]} --yes"
        return Step(f"Its next attempt is due at {moment(due_at)}; `{command}` starts it now.", command)
    return Step("It is due, and waits for a free slot of its destination, or an attempt runs.")


def _last_error(destination: Mapping[str, object]) -> str:
    last = destination["lastError"]
    if not isinstance(last, Mapping) or last["recoveredAt"]:
        return ""
    return f" with {error_words(last)} since {moment(last['since'])}"


def _end(delivery: Row, destination: Mapping[str, object]) -> str:
    """Return when a pending delivery is given up."""
    gives_up_at = retried_until(delivery, destination)
    if delivery["expiresAt"] is not None and delivery["expiresAt"] <= gives_up_at:
        return f"It expires at {moment(delivery['expiresAt'])}."
    return f"Usher gives up at {moment(gives_up_at)}."


def retried_until(delivery: Row, destination: Mapping[str, object]) -> str:
    """Return when a pending delivery's retries end, as JSON has it."""
    started_at = datetime.datetime.fromisoformat(delivery["startedAt"])
    ends_at = started_at + datetime.timedelta(seconds=int(str(destination["retryMaxAgeSeconds"])))
    return model.format_time(round(ends_at.timestamp() * 1_000) * 1_000)


def moment(text: object) -> str:
    """Return a JSON time as people read it: UTC, to the second."""
    return f"{str(text)[:19].replace('T', ' ')} UTC"
