"""Sample arrivals, plans and settlements for the tests of the store."""

import hashlib
from collections.abc import Sequence
from typing import Any

from usher_gateway import model
from usher_gateway.store.base import MarkOf

SECOND = model.MICROSECONDS
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_764_072_000 * SECOND
LOBBY = model.ListenerName("agency", "acme", "lobby")
POOL = model.ListenerName("agency", "acme", "pool")
BAR = model.ListenerName("agency", "globex", "bar")


def no_holds(_: model.RouteDefinition) -> Sequence[model.HoldReason]:
    return ()


def no_marks(_: model.RouteDefinition) -> MarkOf | None:
    return None


def everything(_: object) -> bool:
    return True


def digest(text: str, size: int = 16) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def route(name: str = "crm", listener: model.ListenerName = LOBBY, destination: str = "agency/crm") -> Any:
    return model.RouteDefinition(listener, name, destination)


CRM = route()
MAILER = route("welcome", destination="agency/mailer")


def plan(definition: model.RouteDefinition = CRM, **changes: Any) -> model.RoutePlan:
    return model.RoutePlan(definition, **changes)


def skip(reason: model.SkipReason, definition: model.RouteDefinition = CRM) -> model.RoutePlan:
    return model.RoutePlan(definition, skip=reason)


REPEAT = skip(model.SkipReason.Repeat)


def arrival(content: str = "a", at: int = NOW, **changes: Any) -> model.Arrival:
    """Return an arrival with one route; its visitor and person depend on the content. ``changes`` override fields."""
    values: dict[str, Any] = {
        "listener": LOBBY,
        "received_at": at,
        "visit_time": at,
        "time_trusted": False,
        "late": False,
        "fingerprint": digest(f"content {content}"),
        "visitor_key": digest(f"visitor {content}"),
        "person_keys": (digest(f"person {content}", 8),),
        "body": f'{{"user":{{"id":"{content}"}}}}'.encode(),
        "content_type": b"application/json",
        "hops": 0,
        "body_days": 30,
        "window": HOUR,
        "redelivery": 12_600 * SECOND,
        "if_visit": (plan(),),
        "if_repeat": (REPEAT,),
    }
    values |= changes
    plans = (*values["if_visit"], *values["if_repeat"])
    values = {"body_size": len(values["body"]), "has_marks": any(plan.once_key for plan in plans)} | values
    return model.Arrival(**values)


def quarantined(content: str = "q", at: int = NOW, **changes: Any) -> model.Arrival:
    values: dict[str, Any] = {"quarantine": model.QuarantineReason.NoUser, "if_visit": (), "if_repeat": ()}
    return arrival(content, at, **(values | changes))


def settlement(delivery: model.Delivery, settled_as: model.SettledAs, at: int = NOW, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "key": delivery.key,
        "settled_as": settled_as,
        "at": at,
        "attempts_before": delivery.attempts,
        "attempts": delivery.attempts + 1,
    }
    return model.Settlement(**(values | changes))
