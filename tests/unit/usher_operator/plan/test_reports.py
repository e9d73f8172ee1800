"""Conditions from the gateways' reports: Programmed and the informational ones."""

import pytest

from support import plan_samples, planning
from support.planning import Cluster
from usher_gateway import documents, model
from usher_operator.plan import reports
from usher_operator.state.values import DegradedRoute, DestinationReport, HeldRoute, Key, ListenerReport, WriteFailure

KEY = Key("Listener", "default", "lobby")


def report(cluster: Cluster, **about: object) -> None:
    listener_report = ListenerReport(**about)  # type: ignore[arg-type]
    cluster.gateways_run_it(listeners={plan_samples.LISTENER: listener_report})


def addresses(cluster: Cluster) -> tuple[str, ...]:
    """Identifiers of the present addresses of the listener."""
    published = cluster.cache.published(KEY)
    assert published is not None
    assert isinstance(published.document, documents.ListenerDocument)
    return tuple(address.id for address in published.document.live_addresses)


def condition(cluster: Cluster, condition_type: str) -> tuple[str, str]:
    condition_of_listener = cluster.condition("Listener", plan_samples.LISTENER, condition_type)
    return condition_of_listener.status, condition_of_listener.reason


@pytest.mark.parametrize(("word", "status"), [("Receiving", "True"), ("Silent", "False")])
def test_restarted_gateway_does_not_reset_receiving_and_verified(cluster: Cluster, word: str, status: str) -> None:
    cluster.settle()
    report(cluster, receiving=word, verified_addresses=addresses(cluster))
    cluster.settle()
    report(cluster)
    assert condition(cluster, "Receiving") == (status, word)
    assert condition(cluster, "Verified") == ("True", "Verified")


@pytest.mark.parametrize(
    ("reason", "advises_a_try"),
    [("FilterError", True), ("TransformError", True), ("SecretNotFound", False)],
)
def test_hold_of_a_failed_expression_names_usher_try(cluster: Cluster, reason: str, advises_a_try: bool) -> None:
    cluster.settle()
    report(cluster, held_deliveries=(HeldRoute("crm", reason, "`body.tier`"),))
    cluster.settle()
    held = cluster.condition("Listener", plan_samples.LISTENER, "DeliveriesHeld")
    assert ("`usher try`" in held.message) is advises_a_try


def test_new_address_starts_verified_over(cluster: Cluster) -> None:
    cluster.settle()
    report(cluster, verified_addresses=addresses(cluster))
    cluster.settle()
    assert condition(cluster, "Verified") == ("True", "Verified")
    cluster.edit("Listener", plan_samples.LISTENER, token={"generation": 2})
    cluster.settle()
    assert condition(cluster, "Verified") == ("False", "NoVisitYet")
    report(cluster, verified_addresses=addresses(cluster))
    assert condition(cluster, "Verified") == ("True", "Verified")


def test_verified_waits_for_every_address_of_the_listener(cluster: Cluster) -> None:
    own = {"name": "own", "hostname": "www.example.org", "path": "/hook"}
    both = [own, {**own, "name": "old", "path": "/old"}]
    cluster.edit("Listener", plan_samples.LISTENER, addresses=both, authentication={"type": "None"})
    cluster.settle()
    report(cluster, verified_addresses=(documents.Address("www.example.org", "/hook").id,))
    assert condition(cluster, "Verified") == ("False", "NoVisitYet")
    assert "`https://www.example.org/old`" in cluster.condition("Listener", plan_samples.LISTENER, "Verified").message


def test_message_after_a_probe_names_the_next_step_at_the_portal(cluster: Cluster) -> None:
    cluster.settle()
    report(cluster, probed_addresses=addresses(cluster))
    message = cluster.condition("Listener", plan_samples.LISTENER, "Verified").message
    assert "add the webhook to a LogicFlow or journey" in message
    assert cluster.condition("Listener", plan_samples.LISTENER, "Receiving").message == message


def test_message_without_a_url_does_not_ask_to_paste_it(cluster: Cluster) -> None:
    cluster.set_gateways()
    assert "Secret `lobby-url`" in cluster.condition("Listener", plan_samples.LISTENER, "Verified").message
    cluster.add(plan_samples.listener("new"))
    cluster.edit("Listener", "default/new", listenerClassName="nope")
    for condition_type in ("Verified", "Receiving"):
        assert cluster.condition("Listener", "default/new", condition_type).message.startswith("there is no URL yet")


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("Unauthenticated", "(Unauthenticated): the webhook in the portal must have the credentials"),
        ("AuthenticationUnresolved", "(AuthenticationUnresolved): the Secret that the condition ResolvedRefs names"),
        ("RateLimited", "(RateLimited): Usher's page about reasons says what to do"),
    ],
)
def test_message_says_why_arrivals_are_refused(cluster: Cluster, reason: str, says: str) -> None:
    report(cluster, refusing=True, refused_reason=reason)
    assert says in cluster.condition("Listener", plan_samples.LISTENER, "Receiving").message


def test_refusing_ends_when_a_visit_is_accepted(cluster: Cluster) -> None:
    report(cluster, refusing=True)
    cluster.settle()
    assert condition(cluster, "Receiving") == ("False", "Refusing")
    report(cluster)
    assert condition(cluster, "Receiving") == ("False", "NoVisitYet")


def test_negative_conditions_disappear_when_they_end(cluster: Cluster) -> None:
    report(cluster, quarantining=True, degraded_routes=(DegradedRoute("crm", "ExpressionTooSlow"),))
    cluster.settle()
    report(cluster, quarantining=False)
    status = cluster.plan(KEY).status
    assert status is not None
    assert status.conditions.get("Quarantining") is None
    assert status.conditions.get("RoutesDegraded") is None


def test_status_stays_before_the_gateways_are_asked(cluster: Cluster) -> None:
    report(cluster, receiving="Receiving", verified_addresses=("any",), quarantining=True, company_mismatch=True)
    cluster.settle()
    previous_status = cluster.plan(KEY).status
    planned = cluster.restarted().plan(KEY)
    assert (planned.status, planned.is_behind) == (previous_status, False)


def test_destination_that_was_tried_before_a_restart_stays_healthy(cluster: Cluster) -> None:
    cluster.gateways_run_it(destinations={plan_samples.DESTINATION: DestinationReport(health="Healthy")})
    cluster.settle()
    cluster.gateways_run_it(destinations={plan_samples.DESTINATION: DestinationReport(health="NotTried")})
    assert cluster.condition("Destination", plan_samples.DESTINATION, "Healthy").reason == "Healthy"
    cluster.edit("Destination", plan_samples.DESTINATION, http={"url": "https://other.example.com/"})
    healthy = cluster.condition("Destination", plan_samples.DESTINATION, "Healthy")
    assert (healthy.status, healthy.reason) == ("Unknown", "NotTried")


def test_destination_without_reports_keeps_healthy(cluster: Cluster) -> None:
    gone = DestinationReport(health="Gone")
    cluster.gateways_run_it(destinations={plan_samples.DESTINATION: gone})
    cluster.settle()
    cluster.gateways_run_it()
    assert cluster.condition("Destination", plan_samples.DESTINATION, "Healthy").reason == "Gone"


@pytest.mark.parametrize(
    ("health", "error", "status", "says"),
    [
        ("CircuitOpen", "ServerError", 503, "many deliveries in a row failed (ServerError 503), so Usher tries one a"),
        (
            "Failing",
            "TLSNameMismatch",
            None,
            "failed (TLSNameMismatch), and Usher tries them again: the destination's certif",
        ),
        ("Failing", "Timeout", None, "the destination's system must be repaired"),
        (
            "AddressForbidden",
            "AddressForbidden",
            None,
            "`--allow-destination` (in the chart: `gateway.allowDestinations`)",
        ),
        (
            "NotTried",
            None,
            None,
            "yet; `usher destinations test default/crm` sends a sample visit, which this condition does not count",
        ),
    ],
)
def test_message_names_the_error_and_what_to_do(
    cluster: Cluster, health: str, error: str | None, status: int | None, says: str
) -> None:
    destination_report = DestinationReport(health=health, error=error, status=status)
    cluster.gateways_run_it(destinations={plan_samples.DESTINATION: destination_report})
    assert says in cluster.condition("Destination", plan_samples.DESTINATION, "Healthy").message


def programmed(cluster: Cluster) -> tuple[str, str]:
    return condition(cluster, "Programmed")


def a_gateway_falls_behind(cluster: Cluster) -> None:
    """Change the Tenant, so that the listener has another document with the same generation."""
    cluster.edit("Tenant", "default/acme", displayName="Acme Hotels")


def test_programmed_stays_true_for_the_grace_period(cluster: Cluster) -> None:
    a_gateway_falls_behind(cluster)
    cluster.settle()
    assert programmed(cluster) == ("True", "Programmed")
    cluster.now = planning.NOW + reports.GRACE_MICROSECONDS - 1
    assert programmed(cluster) == ("True", "Programmed")
    cluster.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(cluster) == ("False", "GatewayUnavailable")


def test_failed_write_is_named_once_the_grace_period_is_over(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, silence={"afterSeconds": 60})
    cluster.fail_writes(KEY, WriteFailure("apply /api/v1/…: 500 InternalError"))
    cluster.settle()
    assert programmed(cluster) == ("Unknown", "Pending")
    cluster.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(cluster) == ("False", "WriteFailed")
    assert "500 InternalError" in cluster.condition("Listener", plan_samples.LISTENER, "Programmed").message


def test_forbidden_write_is_forgotten_once_it_succeeded(cluster: Cluster) -> None:
    a_gateway_falls_behind(cluster)
    cluster.fail_writes(KEY, WriteFailure("apply /api/v1/…: 403 Forbidden", cause="Forbidden"))
    cluster.settle()
    assert programmed(cluster) == ("False", "WriteForbidden")
    cluster.fail_writes(KEY, None)
    assert programmed(cluster) == ("Unknown", "Pending")


def test_suspension_is_reported_once_the_gateways_apply_it(cluster: Cluster) -> None:
    def ready() -> list[tuple[str, str]]:
        cluster.settle()
        conditions = [
            cluster.condition("Listener", plan_samples.LISTENER, "Ready"),
            cluster.condition("Tenant", "default/acme", "Ready"),
        ]
        return [(ready_condition.status, ready_condition.reason) for ready_condition in conditions]

    cluster.edit("Tenant", "default/acme", state="Suspended")
    assert ready() == [("True", "Ready"), ("Unknown", "Pending")]
    cluster.gateways_run_it()
    assert ready() == [("True", "Suspended")] * 2
    cluster.edit("Tenant", "default/acme", state="Active")
    assert ready() == [("True", "Suspended"), ("Unknown", "Pending")]
    cluster.gateways_run_it()
    assert ready() == [("True", "Ready")] * 2


def test_waiting_plan_says_when_to_plan_again(cluster: Cluster) -> None:
    a_gateway_falls_behind(cluster)
    first = cluster.plan(KEY)
    assert (first.is_behind, first.again_at) == (True, planning.NOW + reports.GRACE_MICROSECONDS)
    cluster.apply(first)
    cluster.now = planning.NOW + 10 * model.MICROSECONDS
    assert cluster.plan(KEY).again_at == first.again_at
    assert first.again_at is not None
    cluster.now = first.again_at
    last = cluster.plan(KEY)
    assert (last.is_behind, last.again_at) == (True, None)


def test_unreachable_gateway_does_not_count_as_running_the_document(cluster: Cluster) -> None:
    cluster.gateways_run_it(reachable=False)
    cluster.settle()
    cluster.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(cluster) == ("False", "GatewayUnavailable")


@pytest.mark.parametrize(("others", "reason"), [((), "GatewayUnavailable"), (("gateway-1",), "PartiallyProgrammed")])
def test_gateway_that_refuses_the_token_must_be_restarted(
    cluster: Cluster, others: tuple[str, ...], reason: str
) -> None:
    refusing = cluster.gateway("gateway-0", reachable=False, refuses_token=True)
    cluster.set_gateways(refusing, *(cluster.gateway(name) for name in others))
    cluster.settle()
    cluster.now = planning.NOW + reports.GRACE_MICROSECONDS
    condition_of_listener = cluster.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (condition_of_listener.status, condition_of_listener.reason) == ("False", reason)
    assert condition_of_listener.message == (
        "gateway `gateway-0` must accept the operator's token: it reads Secret usher-admin-tokens only when it starts, "
        "so restart it"
    )


def test_last_good_document_is_not_programmed(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, fields={"occurredAtZone": "Mars/Olympus"})
    cluster.settle()
    cluster.gateways_run_it()
    condition_of_listener = cluster.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (condition_of_listener.status, condition_of_listener.reason) == ("Unknown", "Pending")
    assert "last good" in condition_of_listener.message
    assert not cluster.plan(KEY).is_behind
