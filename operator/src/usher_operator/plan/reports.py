"""Programmed: whether every ready gateway runs the wanted document. Pure."""

import msgspec

from usher_gateway import model
from usher_operator.plan.conditions import ConditionBuilder, OperatorReason
from usher_operator.view import (
    AppliedDocument,
    ConditionType,
    GatewayReport,
    Key,
    ListenerReport,
    StatusCondition,
    View,
)

_Type = ConditionType

GRACE_MICROSECONDS = 30 * model.MICROSECONDS
"""Programmed turns False only after this: a rollout of gateways, or one that is slow, is no failure (design §7)."""


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


def programmed(view: View, key: Key, wanted: Wanted | None, builder: ConditionBuilder) -> Programmed:
    """The condition of one document. ``wanted``: None where there is no document."""
    if wanted is None:
        return Programmed(
            builder.pending(_Type.Programmed, "there is nothing to run yet: the other conditions say why")
        )
    before = builder.previous_if_current(_Type.Programmed)
    if view.gateways is None:
        return Programmed(before or _waiting(builder))
    problem = _problem(view.gateways, key, wanted.hash)
    if problem is None and wanted.is_last_good:
        message = "the last good configuration stays in force: the other conditions say what must be mended"
        return Programmed(builder.pending(_Type.Programmed, message))
    if problem is None:
        return Programmed(builder.true(_Type.Programmed, OperatorReason.Programmed))
    since = view.behind_since(key)
    until = (view.now if since is None else since) + GRACE_MICROSECONDS
    if view.now < until:
        return Programmed(before or _waiting(builder), is_behind=True, again_at=until)
    return Programmed(builder.false(_Type.Programmed, *problem), is_behind=True)


def _waiting(builder: ConditionBuilder) -> StatusCondition:
    return builder.pending(_Type.Programmed, "waiting for the gateways to run this configuration")


def _problem(gateways: tuple[GatewayReport, ...], key: Key, wanted: str) -> tuple[str, str] | None:
    """(reason, message) why not every gateway runs a document."""
    told = {one.name: one.applied.get(key) for one in gateways}
    for name, applied in told.items():
        if applied is not None and applied.hash != wanted and applied.rejected:
            return OperatorReason.GatewayRejected, f"gateway `{name}` must be able to run it: {applied.rejected}"
    running = [one.name for one in gateways if one.reachable and _hash(told[one.name]) == wanted]
    late = sorted(one.name for one in gateways if one.name not in running)
    if not gateways:
        return OperatorReason.GatewayUnavailable, "no gateway is ready: at least one must run and be ready"
    if not late:
        return None
    if not running:
        message = f"gateway `{late[0]}` must be reachable at its admin port and read the configuration; none runs it"
        return OperatorReason.GatewayUnavailable, message
    return OperatorReason.PartiallyProgrammed, f"gateway `{late[0]}` must run it too: others do"


def _hash(applied: AppliedDocument | None) -> str:
    return applied.hash if applied is not None else ""


QUARANTINED_SHARE = 0.05
"""Above this share of the arrivals of 15 minutes, Quarantining is told (design §7)."""

_Reason = OperatorReason

_NO_URL_YET = "there is no URL yet: the other conditions say why"
_NO_VISIT_YET = "no POST was answered here yet; paste the URL (Secret `{name}-url`) into the portal: Save and Validate"
_REFUSING = "what comes is refused: it must have the credentials and the source address that this listener asks for"
_SILENT = "nothing has come for `silence.afterSeconds`; Purple may have disabled the webhook: verify it in the portal"
_FAILED = "it failed many times in a row{}, and is tried once a minute: the system behind it must be mended"
_FORBIDDEN = "it failed many times in a row{}: who runs Usher must allow its address with `--allow-destination`"
_QUARANTINING = "over 5 % of what came in 15 minutes was quarantined; look with `usher quarantine`, mend, then release"
_MISMATCH = "bodies of another company come in; the portal's webhook, or the Tenant's `companyID`, must be mended"


def of_listener(view: View, path: str, builder: ConditionBuilder, *, has_url: bool) -> list[StatusCondition]:
    """Verified and Receiving; Quarantining and RoutesDegraded while they are so."""
    if view.gateways is None:
        types = (_Type.Verified, _Type.Receiving, _Type.Quarantining, _Type.RoutesDegraded)
        kept = [builder.carried_over(type_) for type_ in types]
        return [one for one in kept if one is not None]
    reports = [one.listeners[path] for one in view.gateways if path in one.listeners]
    advice = _NO_VISIT_YET.format(name=path.partition("/")[2]) if has_url else _NO_URL_YET
    found = [_verified(reports, builder, advice), _receiving(reports, builder, advice)]
    if any(one.quarantined_share > QUARANTINED_SHARE for one in reports):
        found.append(builder.true(_Type.Quarantining, _Reason.Quarantining, _QUARANTINING))
    return found + _degraded(reports, builder)


def of_destination(view: View, path: str, builder: ConditionBuilder) -> list[StatusCondition]:
    """Healthy."""
    reports = [one.destinations[path] for one in view.gateways or () if path in one.destinations]
    if not reports:
        kept = builder.carried_over(_Type.Healthy)
        return [kept] if kept else []
    if any(one.gone for one in reports):
        message = "it answered 410 Gone: `spec.http.url` must be one that takes visits"
        return [builder.false(_Type.Healthy, _Reason.Gone, message)]
    if any(one.circuit_open for one in reports):
        error = next((one.error for one in reports if one.circuit_open), "")
        message = (_FORBIDDEN if error == "AddressForbidden" else _FAILED).format(f" ({error})" if error else "")
        return [builder.false(_Type.Healthy, _Reason.CircuitOpen, message)]
    return [builder.true(_Type.Healthy, _Reason.Healthy)]


def _verified(reports: list[ListenerReport], builder: ConditionBuilder, advice: str) -> StatusCondition:
    before = builder.carried_over(_Type.Verified)
    if any(one.verified for one in reports) or (before is not None and before.status == "True"):
        return builder.true(_Type.Verified, _Reason.Verified)
    return builder.false(_Type.Verified, _Reason.NoVisitYet, advice)


def _receiving(reports: list[ListenerReport], builder: ConditionBuilder, advice: str) -> StatusCondition:
    words = {one.receiving for one in reports}
    if any(one.refusing for one in reports):
        return builder.false(_Type.Receiving, _Reason.Refusing, _REFUSING)
    if "Receiving" in words:
        return builder.true(_Type.Receiving, _Reason.Receiving)
    if "Silent" in words:
        return builder.false(_Type.Receiving, _Reason.Silent, _SILENT)
    before = builder.carried_over(_Type.Receiving)
    if before is not None and before.reason in {_Reason.Receiving, _Reason.Silent}:
        return before
    return builder.false(_Type.Receiving, _Reason.NoVisitYet, advice)


def _degraded(reports: list[ListenerReport], builder: ConditionBuilder) -> list[StatusCondition]:
    slow = sorted({route for one in reports for route in one.slow_routes})
    if slow:
        names = ", ".join(f"`{route}`" for route in slow)
        message = f"held, because their expressions are too slow: {names}; `when` or `transform` must be made simpler"
        return [builder.true(_Type.RoutesDegraded, _Reason.ExpressionTooSlow, message)]
    if any(one.company_mismatch for one in reports):
        return [builder.true(_Type.RoutesDegraded, _Reason.CompanyMismatch, _MISMATCH)]
    return []
