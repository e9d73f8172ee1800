"""The set-up and the faults of a listener, in sentences."""

import datetime
from typing import Any

import pytest

from usher_gateway.pages import listener
from usher_gateway.words import states

NOW = datetime.datetime(2026, 11, 30, 12, 0, 0, tzinfo=datetime.UTC)

SOURCE_REFUSED = (
    "Every arrival from 192.0.2.7 is refused, because `allowedSources` does not have this source (SourceNotAllowed)."
)


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of ``GET /api/listeners`` without a fault."""
    return {
        "namespace": "agency",
        "tenant": "acme",
        "name": "lobby",
        "faults": [],
        "addressIds": ["one"],
        "verifiedAddresses": ["one"],
        "lastProbe": None,
        "lastArrival": "2026-11-30T11:00:00Z",
        "refusedReason": None,
        "refusedSince": None,
        "missing": None,
        "unexpectedSource": "192.0.2.7",
        "otherCompany": "9",
        "companyID": "7",
        "quarantinedShare": 0.25,
        "quarantinedReason": "NoUser",
        "quarantinedSource": "192.0.2.9",
        "silentAfterSeconds": 86_400,
        "heldDeliveries": [],
        "degradedRoutes": [{"route": "crm", "reason": "ExpressionTooSlow"}],
    } | changes


@pytest.mark.parametrize(
    ("changes", "check", "visits"),
    [
        ({"verifiedAddresses": []}, "Waiting for the portal's check.", "Waiting for the first visit."),
        (
            {"verifiedAddresses": [], "lastProbe": "2026-11-30T11:59:48Z"},
            "The portal's check arrived 12 s ago.",
            "Waiting for the first visit.",
        ),
        (
            {"addressIds": ["one", "two"]},
            "Waiting for the portal's check.",
            "Visits arrived at 1 of 2 URLs. Waiting for the first visit at the others.",
        ),
    ],
)
def test_listener_without_a_visit_at_each_url_waits(changes: dict[str, Any], check: str, visits: str) -> None:
    assert listener.progress(row(**changes), NOW) == (check, visits, True)


@pytest.mark.parametrize(
    ("changes", "sentence", "step"),
    [
        (
            {"faults": ["Refusing", "Unverified"], "refusedReason": "SourceNotAllowed"},
            SOURCE_REFUSED,
            "Correct `allowedSources` if this source is Purple's.",
        ),
        (
            {"faults": ["AuthenticationUnresolved", "Unverified"], "missing": "Secret purple must exist"},
            "The credentials are missing: Secret purple must exist.",
            "Create or correct the Secret.",
        ),
    ],
)
def test_listener_that_refuses_everything_says_so_and_waits_for_no_check(
    changes: dict[str, Any], sentence: str, step: str
) -> None:
    assert listener.progress(row(verifiedAddresses=[], **changes), NOW) == (sentence, step, True)


def test_listener_with_a_visit_at_each_url_waits_for_nothing() -> None:
    assert not listener.progress(row(), NOW).is_waiting


@pytest.mark.parametrize(
    ("fault", "changes", "sentence"),
    [
        (
            "Refusing",
            {"refusedReason": "Unauthenticated", "refusedSince": "2026-11-30T11:50:00Z"},
            "Every arrival is refused for 10 min, because its credentials are missing or wrong (Unauthenticated).",
        ),
        (
            "Refusing",
            {"refusedReason": "SourceNotAllowed"},
            SOURCE_REFUSED,
        ),
        (
            "AuthenticationUnresolved",
            {"missing": "Secret keys needs user"},
            "The credentials are missing: Secret keys needs user.",
        ),
        ("CompanyMismatch", {}, "Visits of another company arrive here (9 instead of 7)."),
        ("Quarantining", {}, "25% of the arrivals of the last 15 minutes are no valid visits (NoUser)."),
        ("ExpressionTooSlow", {}, "An expression is too slow, so its route holds all deliveries (crm)."),
        ("TimesUntrusted", {}, "Many bodies have a time without an offset, or far in the future."),
        (
            "UnexpectedSource",
            {},
            "Arrivals come from outside `allowedSources`, and are let in (the last one from 192.0.2.7).",
        ),
        ("RetiredAddressUsed", {}, "Purple still posts to a URL that an edit took out of service."),
        ("Silent", {}, "No arrival for 60 min; at most 24 h would be usual."),
        ("Silent", {"silentAfterSeconds": 120}, "No arrival for 60 min; at most 2 min would be usual."),
    ],
)
def test_fault_has_a_sentence_and_a_next_step(fault: str, changes: dict[str, Any], sentence: str) -> None:
    (shown,) = listener.fault_sentences(row(faults=[fault], **changes), NOW)
    assert shown.sentence == sentence
    assert shown.step


def test_each_held_route_is_a_fault() -> None:
    held = [
        {"route": "crm", "reason": "SecretNotFound", "missing": "Secret keys"},
        {"route": "mail", "reason": "DestinationPaused", "missing": ""},
    ]
    sentences = [
        fault.sentence for fault in listener.fault_sentences(row(faults=["DeliveriesHeld"], heldDeliveries=held), NOW)
    ]
    assert sentences == [
        "Route crm holds deliveries, because a Secret of the destination is missing (Secret keys).",
        "Route mail holds deliveries, because the destination is paused.",
    ]


def test_every_fault_has_its_own_sentence() -> None:
    for fault in set(states.ListenerFault) - {"Unverified", "DeliveriesHeld"}:
        (shown,) = listener.fault_sentences(row(faults=[fault]), NOW)
        assert shown.sentence != f"{fault}."


def test_quarantine_of_what_is_no_visit_proposes_no_release_and_leads_to_the_list() -> None:
    (fault,) = listener.fault_sentences(row(faults=["Quarantining"], quarantinedReason="NotObject"), NOW)
    assert fault.step == (
        "They cannot be released, because their bodies are not visits. "
        "Find out who sends them: the last one came from 192.0.2.9."
    )
    assert fault.path == "/ui/visits?tenant=agency/acme&listener=lobby&countedAs=quarantined"
