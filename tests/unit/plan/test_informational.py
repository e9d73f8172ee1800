"""What gateways say of listeners and destinations, when they say it anew after a restart, or not at all."""

import pytest

from support import views
from unit.plan import samples
from usher_operator import plan
from usher_operator.view import DestinationReport, Key, ListenerReport

KEY = Key("Listener", "default", "lobby")


def report(built: views.MemoryView, **about: object) -> None:
    one = ListenerReport(**about)  # type: ignore[arg-type]
    built.gateways_run_it(listeners={samples.LISTENER: one})


def told(built: views.MemoryView, type_: str) -> tuple[str, str]:
    found = built.condition("Listener", samples.LISTENER, type_)
    return found.status, found.reason


@pytest.mark.parametrize(("word", "status"), [("Receiving", "True"), ("Silent", "False")])
def test_a_gateway_that_just_started_does_not_unsay_what_was_received(word: str, status: str) -> None:
    built = samples.agency()
    report(built, receiving=word, verified=True)
    built.settle()
    report(built)
    assert told(built, "Receiving") == (status, word)
    assert told(built, "Verified") == ("True", "Verified")


def test_a_url_that_is_not_there_yet_is_not_to_be_pasted() -> None:
    built = samples.agency()
    built.set(gateways=())
    assert "Secret `lobby-url`" in built.condition("Listener", samples.LISTENER, "Verified").message
    built.add(samples.listener("new"))
    built.edit("Listener", "default/new", listenerClassName="nope")
    for type_ in ("Verified", "Receiving"):
        assert built.condition("Listener", "default/new", type_).message.startswith("there is no URL yet")


def test_one_gateway_that_receives_is_enough() -> None:
    built = samples.agency()
    words = ("Silent", "Receiving", "NoVisitYet")
    built.set(
        gateways=tuple(
            built.gateway(word, listeners={samples.LISTENER: ListenerReport(receiving=word)})  # type: ignore[arg-type]
            for word in words
        )
    )
    assert told(built, "Receiving") == ("True", "Receiving")


def test_refusing_ends_when_something_is_accepted() -> None:
    built = samples.agency()
    report(built, refusing=True)
    built.settle()
    assert told(built, "Receiving") == ("False", "Refusing")
    report(built)
    assert told(built, "Receiving") == ("False", "NoVisitYet")


def test_what_is_told_only_while_it_is_so_goes_when_it_is_over() -> None:
    built = samples.agency()
    report(built, quarantined_share=0.5, slow_routes=("crm",))
    built.settle()
    report(built, quarantined_share=0.05)
    status = plan.plan(built, KEY).status
    assert status is not None
    assert status.condition("Quarantining") is None
    assert status.condition("RoutesDegraded") is None


def test_informational_conditions_never_change_ready() -> None:
    built = samples.agency()
    report(built, refusing=True, quarantined_share=1.0, slow_routes=("crm",), company_mismatch=True)
    assert told(built, "Ready") == ("True", "Ready")


def test_without_reports_everything_stays_as_it_was_told() -> None:
    built = samples.agency()
    report(built, receiving="Receiving", verified=True, quarantined_share=1.0, company_mismatch=True)
    built.settle()
    before = plan.plan(built, KEY).status
    built.set(gateways=None)
    assert plan.plan(built, KEY).status == before


def test_a_destination_that_no_gateway_speaks_of_keeps_what_was_told() -> None:
    built = samples.agency()
    gone = DestinationReport(gone=True)
    built.gateways_run_it(destinations={samples.DESTINATION: gone})
    built.settle()
    built.gateways_run_it()
    assert built.condition("Destination", samples.DESTINATION, "Healthy").reason == "Gone"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("ServerError", "it failed many times in a row (ServerError), and is tried once a minute"),
        ("AddressForbidden", "must allow its address with `--allow-destination`"),
        ("", "it failed many times in a row, and is tried once a minute"),
    ],
)
def test_an_open_circuit_says_what_attempts_come_to(error: str, says: str) -> None:
    built = samples.agency()
    one = DestinationReport(circuit_open=True, error=error)
    built.gateways_run_it(destinations={samples.DESTINATION: one})
    assert says in built.condition("Destination", samples.DESTINATION, "Healthy").message
