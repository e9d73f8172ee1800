"""Programmed: whether every ready gateway runs the wanted document. Pure."""

import msgspec

from usher_gateway import model
from usher_operator import conditions
from usher_operator.view import AppliedDocument, ConditionType, GatewayReport, Key, StatusCondition, View

GRACE_MICROSECONDS = 30 * model.MICROSECONDS
"""Programmed turns False only after this: a rollout of gateways, or one that is slow, is no failure (design §7)."""

_TYPE = ConditionType.Programmed


class Programmed(msgspec.Struct, frozen=True):
    """The condition, and what has to be remembered."""

    condition: StatusCondition
    is_behind: bool = False
    again_at: int | None = None


class Wanted(msgspec.Struct, frozen=True):
    """What gateways should run."""

    hash: str
    is_last_good: bool = False
    """Whether this is an older document that stays in force, because the newest is not valid."""


def tell(view: View, key: Key, wanted: Wanted | None, teller: conditions.Teller) -> Programmed:
    """The condition of one document. ``wanted``: None where there is no document."""
    if wanted is None:
        return Programmed(teller.pending(_TYPE, "there is nothing to run yet: the other conditions say why"))
    before = teller.still(_TYPE)
    if view.gateways is None:
        return Programmed(before or _waiting(teller))
    problem = _problem(view.gateways, key, wanted.hash)
    if problem is None and wanted.is_last_good:
        message = "the last good configuration stays in force: the other conditions say what must be mended"
        return Programmed(teller.pending(_TYPE, message))
    if problem is None:
        return Programmed(teller.true(_TYPE, conditions.Reason.Programmed))
    since = view.behind_since(key)
    until = (view.now if since is None else since) + GRACE_MICROSECONDS
    if view.now < until:
        return Programmed(before or _waiting(teller), is_behind=True, again_at=until)
    return Programmed(teller.false(_TYPE, *problem), is_behind=True)


def _waiting(teller: conditions.Teller) -> StatusCondition:
    return teller.pending(_TYPE, "waiting for the gateways to run this configuration")


def _problem(gateways: tuple[GatewayReport, ...], key: Key, wanted: str) -> tuple[str, str] | None:
    """(reason, message) why not every gateway runs a document."""
    told = {one.name: one.applied.get(key) for one in gateways}
    for name, applied in told.items():
        if applied is not None and applied.hash != wanted and applied.rejected:
            return conditions.Reason.GatewayRejected, f"gateway `{name}` must be able to run it: {applied.rejected}"
    running = [one.name for one in gateways if one.reachable and _hash(told[one.name]) == wanted]
    late = sorted(one.name for one in gateways if one.name not in running)
    if not gateways:
        return conditions.Reason.GatewayUnavailable, "no gateway is ready: at least one must run and be ready"
    if not late:
        return None
    if not running:
        message = f"gateway `{late[0]}` must be reachable at its admin port and read the configuration; none runs it"
        return conditions.Reason.GatewayUnavailable, message
    return conditions.Reason.PartiallyProgrammed, f"gateway `{late[0]}` must run it too: others do"


def _hash(applied: AppliedDocument | None) -> str:
    return applied.hash if applied is not None else ""
