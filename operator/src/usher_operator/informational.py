"""Conditions that tell a person to act, from what gateways report; never part of Ready. Pure.

Where gateways know less than what was told before (they count from their own start), that is told on.
"""

from usher_operator import conditions
from usher_operator.view import ConditionType, ListenerReport, StatusCondition, View

QUARANTINED_SHARE = 0.05
"""Above this share of the arrivals of 15 minutes, Quarantining is told (design §7)."""

_Type = ConditionType
_Reason = conditions.Reason

_NO_URL_YET = "there is no URL yet: the other conditions say why"
_NO_VISIT_YET = "no POST was answered here yet; paste the URL (Secret `{name}-url`) into the portal: Save and Validate"
_REFUSING = "what comes is refused: it must have the credentials and the source address that this listener asks for"
_SILENT = "nothing has come for `silence.afterSeconds`; Purple may have disabled the webhook: verify it in the portal"
_FAILED = "it failed many times in a row{}, and is tried once a minute: the system behind it must be mended"
_FORBIDDEN = "it failed many times in a row{}: who runs Usher must allow its address with `--allow-destination`"
_QUARANTINING = "over 5 % of what came in 15 minutes was quarantined; look with `usher quarantine`, mend, then release"
_MISMATCH = "bodies of another company come in; the portal's webhook, or the Tenant's `companyID`, must be mended"


def of_listener(view: View, path: str, teller: conditions.Teller, *, has_url: bool) -> list[StatusCondition]:
    """Verified and Receiving; Quarantining and RoutesDegraded while they are so."""
    if view.gateways is None:
        types = (_Type.Verified, _Type.Receiving, _Type.Quarantining, _Type.RoutesDegraded)
        kept = [teller.again(type_) for type_ in types]
        return [one for one in kept if one is not None]
    reports = [one.listeners[path] for one in view.gateways if path in one.listeners]
    advice = _NO_VISIT_YET.format(name=path.partition("/")[2]) if has_url else _NO_URL_YET
    found = [_verified(reports, teller, advice), _receiving(reports, teller, advice)]
    if any(one.quarantined_share > QUARANTINED_SHARE for one in reports):
        found.append(teller.true(_Type.Quarantining, _Reason.Quarantining, _QUARANTINING))
    return found + _degraded(reports, teller)


def of_destination(view: View, path: str, teller: conditions.Teller) -> list[StatusCondition]:
    """Healthy."""
    reports = [one.destinations[path] for one in view.gateways or () if path in one.destinations]
    if not reports:
        kept = teller.again(_Type.Healthy)
        return [kept] if kept else []
    if any(one.gone for one in reports):
        message = "it answered 410 Gone: `spec.http.url` must be one that takes visits"
        return [teller.false(_Type.Healthy, _Reason.Gone, message)]
    if any(one.circuit_open for one in reports):
        error = next((one.error for one in reports if one.circuit_open), "")
        message = (_FORBIDDEN if error == "AddressForbidden" else _FAILED).format(f" ({error})" if error else "")
        return [teller.false(_Type.Healthy, _Reason.CircuitOpen, message)]
    return [teller.true(_Type.Healthy, _Reason.Healthy)]


def _verified(reports: list[ListenerReport], teller: conditions.Teller, advice: str) -> StatusCondition:
    before = teller.again(_Type.Verified)
    if any(one.verified for one in reports) or (before is not None and before.status == "True"):
        return teller.true(_Type.Verified, _Reason.Verified)
    return teller.false(_Type.Verified, _Reason.NoVisitYet, advice)


def _receiving(reports: list[ListenerReport], teller: conditions.Teller, advice: str) -> StatusCondition:
    words = {one.receiving for one in reports}
    if any(one.refusing for one in reports):
        return teller.false(_Type.Receiving, _Reason.Refusing, _REFUSING)
    if "Receiving" in words:
        return teller.true(_Type.Receiving, _Reason.Receiving)
    if "Silent" in words:
        return teller.false(_Type.Receiving, _Reason.Silent, _SILENT)
    before = teller.again(_Type.Receiving)
    if before is not None and before.reason in {_Reason.Receiving, _Reason.Silent}:
        return before
    return teller.false(_Type.Receiving, _Reason.NoVisitYet, advice)


def _degraded(reports: list[ListenerReport], teller: conditions.Teller) -> list[StatusCondition]:
    slow = sorted({route for one in reports for route in one.slow_routes})
    if slow:
        names = ", ".join(f"`{route}`" for route in slow)
        message = f"held, because their expressions are too slow: {names}; `when` or `transform` must be made simpler"
        return [teller.true(_Type.RoutesDegraded, _Reason.ExpressionTooSlow, message)]
    if any(one.company_mismatch for one in reports):
        return [teller.true(_Type.RoutesDegraded, _Reason.CompanyMismatch, _MISMATCH)]
    return []
