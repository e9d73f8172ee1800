"""Conditions that follow from what gateways report. Pure.

``Programmed`` says whether every ready gateway runs the wanted document. The informational conditions tell a person
what to do and are never part of Ready. A gateway counts from its own start; where it knows less than an earlier report,
the stored condition stays.
"""

from collections.abc import Sequence

import msgspec

from usher_gateway import documents, model
from usher_operator.plan.common import ConditionBuilder, WantedDocument, blocked_write
from usher_operator.state.values import (
    AppliedDocument,
    ConditionType,
    DestinationReport,
    GatewayReport,
    Key,
    ListenerReport,
    OperatorReason,
    StatusCondition,
)
from usher_operator.state.view import View

_Type = ConditionType
_Reason = OperatorReason

# Delay before Programmed turns False, because a rollout of gateways or a slow gateway is not a failure.
GRACE_MICROSECONDS = 30 * model.MICROSECONDS

NO_GATEWAY_READY = "no gateway is ready: at least one must run and be ready"
_NO_URL_YET = "there is no URL yet; the other conditions say why"
_NOT_PROBED_YET = (
    "no POST to {url} was answered yet; paste the URL (Secret `{name}-url`) into the portal and choose Save and "
    "Validate"
)
_NO_VISIT_YET = (
    "the portal's check of {url} was answered; add the webhook to a LogicFlow or journey and wait for the first visit"
)
_NOT_TRIED = (
    "nothing was sent to `spec.http.url` yet; `usher destinations test {path}` sends a sample visit, which this "
    "condition does not count"
)
_REFUSING = "requests are refused ({reason}): {remedy}"
_REFUSED_REMEDIES = {
    "Unauthenticated": "the webhook in the portal must have the credentials that `spec.authentication` asks for",
    "AuthenticationUnresolved": "the Secret that the condition ResolvedRefs names must exist",
    "SourceNotAllowed": "`spec.allowedSources` must have the addresses of the sender",
}
_SEE_REASONS = "Usher's page about reasons says what to do"
_SILENT = (
    "no request has arrived for `silence.afterSeconds`; Purple may have disabled the webhook: verify it in the portal"
)
# Reason -> message. The first reason that a gateway reports is the condition's.
_UNHEALTHY = {
    _Reason.Gone: "the destination answered 410 Gone: `spec.http.url` must be a URL that accepts visits",
    _Reason.AddressForbidden: "the gateway sends nothing to the address of `spec.http.url`: Usher's administrator must "
    "allow the address with `--allow-destination` (in the chart: `gateway.allowDestinations`)",
    _Reason.SecretNotFound: "deliveries wait for a Secret, which the condition ResolvedRefs names",
    _Reason.TokenFailed: "the gateway gets no token ({error}): `spec.http.authentication.oauth2` must name a token "
    "endpoint that answers, and credentials that it accepts",
    _Reason.CircuitOpen: "many deliveries in a row failed ({error}), so Usher tries one a minute: {remedy}",
    _Reason.Failing: "the last deliveries failed ({error}), and Usher tries them again: {remedy}",
}
# Error -> what must be done about it, if it is more than to repair the destination's system.
_REMEDIES = {
    "TLSAuthorityUnknown": "`spec.http.tls.authoritySecretRef` must name the authority of the destination's "
    "certificate, if the gateways' system does not trust it",
    "TLSNameMismatch": "the destination's certificate must have the name of the URL, or that of "
    "`spec.http.tls.serverName`",
    "TLSDateInvalid": "the destination's certificate has ended or is not valid yet, and must be renewed",
    "Unauthorized": "the destination must accept the credentials that `spec.http` names",
    "Forbidden": "the destination must accept the credentials that `spec.http` names",
    "NotFound": "`spec.http.url` must be a URL that accepts visits",
}
_REPAIR = "the destination's system must be repaired"
_QUARANTINING = (
    "over 5 % of the arrivals of 15 minutes were quarantined; look at them with `usher quarantine list`, correct the "
    "cause, then release them"
)
_RETIRED = (
    "an edit retired {}; it ends after the class's `retiredAddressDays` without a request; the portal must have {}"
)
_RETIRED_USED = "requests still arrive at {}, which an edit retired; the portal must have {} before the old URL ends"
_MAX_NAMED = 3
_HELD = (
    "deliveries of these routes wait until the cause of the hold ends: {}; "
    "`usher deliveries list --state held` lists them"
)
_TRY_CORRECTION = "; `usher try` shows what a corrected expression would do with the stored visits"
_EXPRESSION_FAILED = (model.HoldReason.FilterError.name, model.HoldReason.TransformError.name)
_UNTRUSTED = (
    "over a tenth of the bodies of the last 15 minutes have a time without an offset or over 2 minutes in the future, "
    "so that such a visit counts as fresh whatever its age; "
    "`fields.occurredAtZone` must name the time zone of such times, for example `occurredAtZone: Europe/London`"
)
_OF_LISTENER = (
    _Type.Verified,
    _Type.Receiving,
    _Type.Quarantining,
    _Type.RoutesDegraded,
    _Type.DeliveriesHeld,
    _Type.TimesUntrusted,
)
_MISMATCH = "bodies of another company arrive; the portal's webhook or the Tenant's `companyID` must be corrected"


class Programmed(msgspec.Struct, frozen=True):
    """The condition Programmed, and the plan fields that belong to it."""

    condition: StatusCondition
    is_behind: bool = False
    again_at: int | None = None


def programmed(view: View, key: Key, document: WantedDocument | None, builder: ConditionBuilder) -> Programmed:
    """The condition Programmed for one document. ``document``: None if there is none."""
    if document is None:
        return Programmed(
            builder.pending(_Type.Programmed, "there is no document to run; the other conditions say why")
        )
    failure = view.write_failure(key)
    if blocked := blocked_write(failure):
        return Programmed(builder.from_state(_Type.Programmed, blocked))
    previous = builder.previous_if_current(_Type.Programmed)
    if previous is not None and previous.reason in {_Reason.WriteForbidden, _Reason.WriteConflict}:
        previous = None  # it could be written now
    if view.reports.ready is None:
        return Programmed(previous or _waiting(builder))
    problem = _problem(view.reports.ready, key, document.hash)
    if failure is not None:
        problem = _Reason.WriteFailed, f"an object of this resource could not be written: {failure.error}"
    if problem is None and document.is_last_good:
        return Programmed(builder.pending(_Type.Programmed, document.why_last_good))
    if problem is None:
        return Programmed(builder.true(_Type.Programmed, _Reason.Programmed))
    since = view.behind_since(key)
    until = (view.now if since is None else since) + GRACE_MICROSECONDS
    if view.now < until:
        return Programmed(previous or _waiting(builder), is_behind=True, again_at=until)
    return Programmed(builder.false(_Type.Programmed, *problem), is_behind=True)


def _waiting(builder: ConditionBuilder) -> StatusCondition:
    return builder.pending(_Type.Programmed, "waiting for the gateways to run this configuration")


def _problem(gateways: tuple[GatewayReport, ...], key: Key, document_hash: str) -> tuple[str, str] | None:
    """(reason, message) why not every gateway runs a document; None if every gateway runs it."""
    applied = {gateway.name: gateway.applied.get(key) for gateway in gateways}
    for name, document in applied.items():
        if document is not None and document.hash != document_hash and document.rejected:
            return _Reason.GatewayRejected, f"gateway `{name}` must be able to run it: {document.rejected}"
    running = [
        gateway.name for gateway in gateways if gateway.reachable and _hash(applied[gateway.name]) == document_hash
    ]
    late = sorted(gateway.name for gateway in gateways if gateway.name not in running)
    if not gateways:
        return _Reason.GatewayUnavailable, NO_GATEWAY_READY
    if not late:
        return None
    refusing = sorted(gateway.name for gateway in gateways if gateway.refuses_token)
    if refusing:
        message = (
            f"gateway `{refusing[0]}` must accept the operator's token: it reads Secret usher-admin-tokens only "
            "when it starts, so restart it"
        )
        return _Reason.PartiallyProgrammed if running else _Reason.GatewayUnavailable, message
    if not running:
        message = (
            f"no gateway runs this configuration: gateway `{late[0]}` must be reachable at its admin port and read the "
            "configuration"
        )
        return _Reason.GatewayUnavailable, message
    return _Reason.PartiallyProgrammed, f"gateway `{late[0]}` must run this configuration too; other gateways do"


def _hash(applied: AppliedDocument | None) -> str:
    return applied.hash if applied is not None else ""


def of_listener(
    view: View,
    path: str,
    builder: ConditionBuilder,
    addresses: Sequence[documents.Address],
    *,
    is_unchanged: bool,
) -> list[StatusCondition]:
    """Verified and Receiving; the conditions that exist only while they are True, except AddressRetired.

    The user has to paste the addresses' URLs into the portal. ``is_unchanged``: True if the stored conditions are
    about the same addresses.
    """
    if view.reports.ready is None:
        return builder.carried_over(*_OF_LISTENER)
    reports = [gateway.listeners[path] for gateway in view.reports.ready if path in gateway.listeners]
    verified = {address for report in reports for address in report.verified_addresses}
    waiting = [address for address in addresses if address.id not in verified]
    previous = builder.previous_if_current(_Type.Verified)
    was_verified = is_unchanged and previous is not None and previous.status == "True"
    next_step = _next_step(reports, path, waiting or addresses)
    parts = [
        builder.true(_Type.Verified, _Reason.Verified)
        if was_verified or (addresses and not waiting)
        else builder.false(_Type.Verified, _Reason.NoVisitYet, next_step),
        _receiving(reports, builder, next_step),
    ]
    if any(report.quarantining for report in reports):
        parts.append(builder.true(_Type.Quarantining, _Reason.Quarantining, _QUARANTINING))
    return parts + _degraded(reports, builder) + _held(reports, builder) + _untrusted(reports, builder)


def reachable(view: View, hostnames: Sequence[str], builder: ConditionBuilder) -> list[StatusCondition]:
    """The condition Reachable, about hostnames that should lead to a gateway."""
    checks = [view.reachability(hostname) for hostname in hostnames]
    problems = [check.problem for check in checks if check is not None and check.problem]
    if problems:
        return [builder.false(_Type.Reachable, _Reason.Unreachable, problems[0])]
    if None in checks:
        return builder.carried_over(_Type.Reachable)
    if not any(check.is_checked for check in checks if check is not None):
        return []
    return [builder.true(_Type.Reachable, _Reason.Reachable)]


def of_destination(view: View, path: str, builder: ConditionBuilder) -> list[StatusCondition]:
    """The condition Healthy."""
    reports: list[DestinationReport] = [
        gateway.destinations[path] for gateway in view.reports.ready or () if path in gateway.destinations
    ]
    if not reports:
        return builder.carried_over(_Type.Healthy)
    by_health = {report.health: report for report in reports}
    for reason, message in _UNHEALTHY.items():
        if reason in by_health:
            report = by_health[reason]
            remedy = _REMEDIES.get(report.error or "", _REPAIR)
            error = " ".join(str(part) for part in (report.error, report.status) if part)
            return [builder.false(_Type.Healthy, reason, message.format(error=error, remedy=remedy))]
    if _Reason.Healthy in by_health:
        return [builder.true(_Type.Healthy, _Reason.Healthy)]
    previous = builder.previous_if_current(_Type.Healthy)
    if previous is not None and previous.reason == _Reason.Healthy:
        return [previous]
    return [builder.unknown(_Type.Healthy, _Reason.NotTried, _NOT_TRIED.format(path=path))]


def address_retired(
    view: View, path: str, document: documents.ListenerDocument, builder: ConditionBuilder
) -> list[StatusCondition]:
    """AddressRetired, while the document has a retired address."""
    retired, live = document.retired_addresses, document.live_addresses
    if not retired:
        return []
    more = f" and {len(retired) - _MAX_NAMED} more" if len(retired) > _MAX_NAMED else ""
    old = ", ".join(f"`{documents.shorten_url(address.url)}`" for address in retired[:_MAX_NAMED]) + more
    new = f"`{documents.shorten_url(live[0].url)}`" if live else "a URL that the other conditions let it have"
    used = any(
        gateway.listeners[path].retired_arrivals for gateway in view.reports.ready or () if path in gateway.listeners
    )
    if used:
        return [builder.true(_Type.AddressRetired, _Reason.RetiredAddressUsed, _RETIRED_USED.format(old, new))]
    return [builder.true(_Type.AddressRetired, _Reason.AddressRetired, _RETIRED.format(old, new))]


def _next_step(reports: list[ListenerReport], path: str, addresses: Sequence[documents.Address]) -> str:
    """Say what a person has to do at the portal for the first of these addresses."""
    if not addresses:
        return _NO_URL_YET
    probed = {address for report in reports for address in report.probed_addresses}
    not_probed = [address for address in addresses if address.id not in probed]
    url = f"`{documents.shorten_url((not_probed or addresses)[0].url)}`"
    text = _NOT_PROBED_YET if not_probed else _NO_VISIT_YET
    return text.format(url=url, name=path.partition("/")[2])


def _receiving(reports: list[ListenerReport], builder: ConditionBuilder, next_step: str) -> StatusCondition:
    states = {report.receiving for report in reports}
    refused = [report.refused_reason or "" for report in reports if report.refusing]
    if refused:
        message = _REFUSING.format(reason=refused[0], remedy=_REFUSED_REMEDIES.get(refused[0], _SEE_REASONS))
        return builder.false(_Type.Receiving, _Reason.Refusing, message)
    if "Receiving" in states:
        return builder.true(_Type.Receiving, _Reason.Receiving)
    if "Silent" in states:
        return builder.false(_Type.Receiving, _Reason.Silent, _SILENT)
    for previous in builder.carried_over(_Type.Receiving):
        if previous.reason in {_Reason.Receiving, _Reason.Silent}:
            return previous
    return builder.false(_Type.Receiving, _Reason.NoVisitYet, next_step)


def _held(reports: list[ListenerReport], builder: ConditionBuilder) -> list[StatusCondition]:
    routes = sorted({route for report in reports for route in report.held_deliveries})
    if not routes:
        return []
    names = ", ".join(
        f"`{held_route.route}` ({held_route.reason}: {held_route.missing})"
        if held_route.missing
        else f"`{held_route.route}` ({held_route.reason})"
        for held_route in routes[:_MAX_NAMED]
    )
    more = " and others" if len(routes) > _MAX_NAMED else ""
    advice = _TRY_CORRECTION if any(held_route.reason in _EXPRESSION_FAILED for held_route in routes) else ""
    return [builder.true(_Type.DeliveriesHeld, _Reason.DeliveriesHeld, _HELD.format(names + more) + advice)]


def _untrusted(reports: list[ListenerReport], builder: ConditionBuilder) -> list[StatusCondition]:
    if not any(report.times_untrusted for report in reports):
        return []
    return [builder.true(_Type.TimesUntrusted, _Reason.TimesUntrusted, _UNTRUSTED)]


def _degraded(reports: list[ListenerReport], builder: ConditionBuilder) -> list[StatusCondition]:
    degraded = {route for report in reports for route in report.degraded_routes}
    slow = sorted({route.route for route in degraded if route.reason == _Reason.ExpressionTooSlow})
    if slow:
        names = ", ".join(f"`{route}`" for route in slow)
        message = (
            f"deliveries of routes {names} are held because their expressions are too slow; "
            "`when` or `transform` must be simpler"
        )
        return [builder.true(_Type.RoutesDegraded, _Reason.ExpressionTooSlow, message)]
    if any(report.company_mismatch for report in reports):
        return [builder.true(_Type.RoutesDegraded, _Reason.CompanyMismatch, _MISMATCH)]
    return []
