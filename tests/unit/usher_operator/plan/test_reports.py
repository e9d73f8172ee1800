"""Conditions from the gateways' reports: Programmed and the informational ones."""

import pytest

from support import plan_samples, planning
from support.planning import Cluster
from usher_gateway import documents, model
from usher_operator.plan import reports
from usher_operator.view import DestinationReport, Key, ListenerReport, WriteFailure

KEY = Key("Listener", "default", "lobby")


def report(built: Cluster, **about: object) -> None:
    listener_report = ListenerReport(**about)  # type: ignore[arg-type]
    built.gateways_run_it(listeners={plan_samples.LISTENER: listener_report})


def addresses(built: Cluster) -> tuple[str, ...]:
    """Identifiers of the present addresses of the listener."""
    published = built.cache.published(KEY)
    assert published is not None
    assert isinstance(published.document, documents.ListenerDocument)
    return tuple(address.id for address in published.document.live_addresses)


def condition(built: Cluster, condition_type: str) -> tuple[str, str]:
    condition_of_listener = built.condition("Listener", plan_samples.LISTENER, condition_type)
    return condition_of_listener.status, condition_of_listener.reason


@pytest.mark.parametrize(("word", "status"), [("Receiving", "True"), ("Silent", "False")])
def test_restarted_gateway_does_not_reset_receiving_and_verified(word: str, status: str) -> None:
    built = plan_samples.agency()
    built.settle()
    report(built, receiving=word, verified_addresses=addresses(built))
    built.settle()
    report(built)
    assert condition(built, "Receiving") == (status, word)
    assert condition(built, "Verified") == ("True", "Verified")


def test_new_address_starts_verified_over() -> None:
    built = plan_samples.agency()
    built.settle()
    report(built, verified_addresses=addresses(built))
    built.settle()
    assert condition(built, "Verified") == ("True", "Verified")
    built.edit("Listener", plan_samples.LISTENER, token={"generation": 2})
    built.settle()
    assert condition(built, "Verified") == ("False", "NoVisitYet")
    report(built, verified_addresses=addresses(built))
    assert condition(built, "Verified") == ("True", "Verified")


def test_verified_waits_for_every_address_of_the_listener() -> None:
    built = plan_samples.agency()
    own = {"name": "own", "hostname": "www.example.org", "path": "/hook"}
    both = [own, {**own, "name": "old", "path": "/old"}]
    built.edit("Listener", plan_samples.LISTENER, addresses=both, authentication={"type": "None"})
    built.settle()
    report(built, verified_addresses=(documents.Address("www.example.org", "/hook").id,))
    assert condition(built, "Verified") == ("False", "NoVisitYet")
    assert "`https://www.example.org/old`" in built.condition("Listener", plan_samples.LISTENER, "Verified").message


def test_message_after_a_probe_names_the_next_step_at_the_portal() -> None:
    built = plan_samples.agency()
    built.settle()
    report(built, probed_addresses=addresses(built))
    message = built.condition("Listener", plan_samples.LISTENER, "Verified").message
    assert "add the webhook to a LogicFlow or journey" in message
    assert built.condition("Listener", plan_samples.LISTENER, "Receiving").message == message


def test_message_without_a_url_does_not_ask_to_paste_it() -> None:
    built = plan_samples.agency()
    built.set_gateways()
    assert "Secret `lobby-url`" in built.condition("Listener", plan_samples.LISTENER, "Verified").message
    built.add(plan_samples.listener("new"))
    built.edit("Listener", "default/new", listenerClassName="nope")
    for condition_type in ("Verified", "Receiving"):
        assert built.condition("Listener", "default/new", condition_type).message.startswith("there is no URL yet")


def test_one_receiving_gateway_is_enough_for_receiving() -> None:
    built = plan_samples.agency()
    words = ("Silent", "Receiving", "NoVisitYet")
    built.set_gateways(
        *(
            built.gateway(word, listeners={plan_samples.LISTENER: ListenerReport(receiving=word)})  # type: ignore[arg-type]
            for word in words
        )
    )
    assert condition(built, "Receiving") == ("True", "Receiving")


def test_refusing_ends_when_a_visit_is_accepted() -> None:
    built = plan_samples.agency()
    report(built, refusing=True)
    built.settle()
    assert condition(built, "Receiving") == ("False", "Refusing")
    report(built)
    assert condition(built, "Receiving") == ("False", "NoVisitYet")


def test_negative_conditions_disappear_when_they_end() -> None:
    built = plan_samples.agency()
    report(built, quarantined_share=0.5, slow_routes=("crm",))
    built.settle()
    report(built, quarantined_share=0.05)
    status = built.plan(KEY).status
    assert status is not None
    assert status.condition("Quarantining") is None
    assert status.condition("RoutesDegraded") is None


def test_conditions_stay_without_reports() -> None:
    built = plan_samples.agency()
    report(built, receiving="Receiving", verified_addresses=("any",), quarantined_share=1.0, company_mismatch=True)
    built.settle()
    previous_status = built.plan(KEY).status
    assert built.restarted().plan(KEY).status == previous_status


def test_destination_that_was_tried_before_a_restart_stays_healthy() -> None:
    built = plan_samples.agency()
    built.gateways_run_it(destinations={plan_samples.DESTINATION: DestinationReport(tried=True)})
    built.settle()
    built.gateways_run_it(destinations={plan_samples.DESTINATION: DestinationReport(tried=False)})
    assert built.condition("Destination", plan_samples.DESTINATION, "Healthy").reason == "Healthy"
    built.edit("Destination", plan_samples.DESTINATION, http={"url": "https://other.example.com/"})
    healthy = built.condition("Destination", plan_samples.DESTINATION, "Healthy")
    assert (healthy.status, healthy.reason) == ("Unknown", "NotTried")


def test_destination_without_reports_keeps_healthy() -> None:
    built = plan_samples.agency()
    gone = DestinationReport(gone=True)
    built.gateways_run_it(destinations={plan_samples.DESTINATION: gone})
    built.settle()
    built.gateways_run_it()
    assert built.condition("Destination", plan_samples.DESTINATION, "Healthy").reason == "Gone"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("ServerError", "many deliveries in a row failed (ServerError), so Usher tries one a minute"),
        ("", "many deliveries in a row failed, so Usher tries one a minute"),
    ],
)
def test_open_circuit_message_names_the_error(error: str, says: str) -> None:
    built = plan_samples.agency()
    destination_report = DestinationReport(circuit_open=True, error=error)
    built.gateways_run_it(destinations={plan_samples.DESTINATION: destination_report})
    assert says in built.condition("Destination", plan_samples.DESTINATION, "Healthy").message


def test_forbidden_address_is_reported_before_the_first_attempt() -> None:
    built = plan_samples.agency()
    built.gateways_run_it(destinations={plan_samples.DESTINATION: DestinationReport(error="AddressForbidden")})
    healthy = built.condition("Destination", plan_samples.DESTINATION, "Healthy")
    assert (healthy.status, healthy.reason) == ("False", "AddressForbidden")
    assert "must allow the address with `--allow-destination`" in healthy.message


def programmed(built: Cluster) -> tuple[str, str]:
    return condition(built, "Programmed")


def a_gateway_falls_behind(built: Cluster) -> None:
    """Change the Tenant, so that the listener has another document with the same generation."""
    built.edit("Tenant", "default/acme", displayName="Acme Hotels")


def test_edit_is_pending_until_the_gateways_run_it() -> None:
    built = plan_samples.agency()
    built.edit("Listener", plan_samples.LISTENER, silence={"afterSeconds": 60})
    built.settle()
    assert programmed(built) == ("Unknown", "Pending")
    built.gateways_run_it()
    assert programmed(built) == ("True", "Programmed")


def test_programmed_stays_true_for_the_grace_period() -> None:
    built = plan_samples.agency()
    a_gateway_falls_behind(built)
    built.settle()
    assert programmed(built) == ("True", "Programmed")
    built.now = planning.NOW + reports.GRACE_MICROSECONDS - 1
    assert programmed(built) == ("True", "Programmed")
    built.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(built) == ("False", "GatewayUnavailable")


def test_failed_write_is_named_once_the_grace_period_is_over() -> None:
    built = plan_samples.agency()
    built.edit("Listener", plan_samples.LISTENER, silence={"afterSeconds": 60})
    built.fail_writes(KEY, WriteFailure("apply /api/v1/…: 500 InternalError"))
    built.settle()
    assert programmed(built) == ("Unknown", "Pending")
    built.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(built) == ("False", "GatewayUnavailable")
    assert "500 InternalError" in built.condition("Listener", plan_samples.LISTENER, "Programmed").message


def test_forbidden_write_is_forgotten_once_it_succeeded() -> None:
    built = plan_samples.agency()
    a_gateway_falls_behind(built)
    built.fail_writes(KEY, WriteFailure("apply /api/v1/…: 403 Forbidden", is_forbidden=True))
    built.settle()
    assert programmed(built) == ("False", "WriteForbidden")
    built.fail_writes(KEY, None)
    assert programmed(built) == ("Unknown", "Pending")


def test_suspension_is_reported_once_the_gateways_apply_it() -> None:
    built = plan_samples.agency()

    def ready() -> list[tuple[str, str]]:
        built.settle()
        conditions = [
            built.condition("Listener", plan_samples.LISTENER, "Ready"),
            built.condition("Tenant", "default/acme", "Ready"),
        ]
        return [(ready_condition.status, ready_condition.reason) for ready_condition in conditions]

    built.edit("Tenant", "default/acme", state="Suspended")
    assert ready() == [("True", "Ready"), ("Unknown", "Pending")]
    built.gateways_run_it()
    assert ready() == [("True", "Suspended")] * 2
    built.edit("Tenant", "default/acme", state="Active")
    assert ready() == [("True", "Suspended"), ("Unknown", "Pending")]
    built.gateways_run_it()
    assert ready() == [("True", "Ready")] * 2


def test_waiting_plan_says_when_to_plan_again() -> None:
    built = plan_samples.agency()
    a_gateway_falls_behind(built)
    first = built.plan(KEY)
    assert (first.is_behind, first.again_at) == (True, planning.NOW + reports.GRACE_MICROSECONDS)
    built.apply(first)
    built.now = planning.NOW + 10 * model.MICROSECONDS
    assert built.plan(KEY).again_at == first.again_at
    assert first.again_at is not None
    built.now = first.again_at
    last = built.plan(KEY)
    assert (last.is_behind, last.again_at) == (True, None)


def test_status_stays_before_the_gateways_are_asked() -> None:
    built = plan_samples.agency()
    previous_status = built.plan(KEY).status
    planned = built.restarted().plan(KEY)
    assert (planned.status, planned.is_behind) == (previous_status, False)


def test_unreachable_gateway_does_not_count_as_running_the_document() -> None:
    built = plan_samples.agency()
    built.gateways_run_it(reachable=False)
    built.settle()
    built.now = planning.NOW + reports.GRACE_MICROSECONDS
    assert programmed(built) == ("False", "GatewayUnavailable")


@pytest.mark.parametrize(("others", "reason"), [((), "GatewayUnavailable"), (("gateway-1",), "PartiallyProgrammed")])
def test_gateway_that_refuses_the_token_must_be_restarted(others: tuple[str, ...], reason: str) -> None:
    built = plan_samples.agency()
    refusing = built.gateway("gateway-0", reachable=False, refuses_token=True)
    built.set_gateways(refusing, *(built.gateway(name) for name in others))
    built.settle()
    built.now = planning.NOW + reports.GRACE_MICROSECONDS
    condition_of_listener = built.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (condition_of_listener.status, condition_of_listener.reason) == ("False", reason)
    assert condition_of_listener.message == (
        "gateway `gateway-0` must accept the operator's token: it reads Secret usher-admin-tokens only when it starts, "
        "so restart it"
    )


def test_last_good_document_is_not_programmed() -> None:
    built = plan_samples.agency()
    built.edit("Listener", plan_samples.LISTENER, fields={"occurredAtZone": "Mars/Olympus"})
    built.settle()
    built.gateways_run_it()
    condition_of_listener = built.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (condition_of_listener.status, condition_of_listener.reason) == ("Unknown", "Pending")
    assert "last good" in condition_of_listener.message
    assert not built.plan(KEY).is_behind
