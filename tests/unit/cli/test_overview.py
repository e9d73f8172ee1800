"""The text of the listings `usher tenants`, `destinations` and `listeners`, without a gateway."""

from unittest import mock

import pytest

from support.command_line import COMMANDS
from usher_gateway.cli import admin_client, destinations, listeners, overview, tables, tenants
from usher_gateway.words import listings, troubles
from usher_gateway.words.states import DestinationHealth


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "No tenants."),
        (["failing"], "No tenant is failing."),
        (["failing", "silent"], "No tenant is failing and silent."),
    ],
)
def test_empty_listing_repeats_what_was_asked(asked: list[str], said: str) -> None:
    assert overview.nothing("tenant", asked) == said


def test_listener_in_trouble_says_why() -> None:
    row = {
        "state": "Paused",
        "faults": [
            *("Refusing", "CompanyMismatch", "DeliveriesHeld", "Quarantining", "ExpressionTooSlow", "TimesUntrusted"),
            *("Silent", "Unverified"),
        ],
        "faultsSince": {
            "Refusing": "2026-11-29T12:00:00.000Z",
            "CompanyMismatch": "2026-11-29T11:20:00.000Z",
            "Quarantining": "2026-11-29T11:30:00.000Z",
            "TimesUntrusted": "2026-11-29T11:40:00.000Z",
            "ExpressionTooSlow": None,
        },
        "otherCompany": "8",
        "companyID": "7",
        "companyMismatches": 5,
        "refusedReason": "Unauthenticated",
        "refusedSince": "2026-11-29T12:00:00.000Z",
        "missing": None,
        "quarantinedShare": 0.33,
        "quarantinedReason": "NotJSON",
        "untrustedTimesShare": 0.4,
        "untrustedTimeReason": "NoOffset",
        "quarantinedSource": "192.0.2.7",
        "heldDeliveries": [
            {"route": "crm", "reason": "SecretNotFound", "missing": "Secret token", "since": "2026-11-29T11:10:00Z"}
        ],
        "degradedRoutes": [{"route": "mail", "reason": "ExpressionTooSlow"}],
        "lastArrival": "2026-11-29T09:00:00.000Z",
        "silentAfterSeconds": 7200,
        "warnings": ["`spec.routes[0].when`: fails with NoSuchField"],
    }
    troubles = dict(listeners.LISTENER_COLUMNS)["TROUBLES"]
    assert troubles(row) == (
        "Paused, Refusing Unauthenticated since 11-29 12:00:00, "
        "CompanyMismatch 8 instead of 7 (5 arrivals) since 11-29 11:20:00, "
        "crm held: Secret token since 11-29 11:10:00, "
        "Quarantining 33% NotJSON from 192.0.2.7 since 11-29 11:30:00, "
        "ExpressionTooSlow mail, TimesUntrusted 40% NoOffset since 11-29 11:40:00, "
        "Silent since 11-29 09:00:00 (it may be so for 2h), warning: `spec.routes[0].when`: fails with NoSuchField"
    )


def test_number_of_deliveries_is_not_parted_from_its_state() -> None:
    row: listings.Row = {"health": "Healthy", "state": "Active", "lastError": None, "held": {}}
    row |= {"backlog": 750, "dead": 3}
    for width in range(8, 20):
        assert "750 wait," in tables.wrapped(destinations.trouble(row), width)[0]


@pytest.mark.parametrize(
    ("limit", "is_terminal", "rows"), [(None, True, 50), (None, False, 606), (7, True, 7), (7, False, 7)]
)
def test_list_without_limit_has_a_page_in_a_terminal_and_all_elsewhere(
    limit: int | None, is_terminal: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", mock.Mock(isatty=lambda: is_terminal))
    assert admin_client.row_limit(limit, 606) == rows


# Text of the help -> the health of such a destination.
FAILING = {
    "whose last attempts failed": ("Failing", "CircuitOpen", "TokenFailed", "Gone"),
    "have a forbidden address": ("AddressForbidden",),
    "a missing Secret": ("SecretNotFound",),
}


def test_help_of_the_list_of_destinations_says_which_ones_are_failing() -> None:
    said = " ".join(COMMANDS["destinations list"].help.split())
    assert [words for words in (*FAILING, "or dead deliveries") if words not in said] == []
    named = {health for each in FAILING.values() for health in each}
    listed = {
        health
        for health in DestinationHealth
        if destinations.is_destination_failing({"health": health, "dead": 0, "held": {}})
    }
    assert named == listed
    assert destinations.is_destination_failing({"health": "Healthy", "dead": 1})
    assert not destinations.is_destination_failing({"health": "Healthy", "dead": 0, "held": {"FormatError": 1}})


def test_tenant_that_gets_visits_of_another_company_is_failing() -> None:
    row = {
        "dead": 0,
        "faults": {"CompanyMismatch": 1, "Quarantining": 2},
        "causes": {"Quarantining": "33%"},
        "quotaUsed": None,
        "failingDestinations": [],
        "held": {},
        "state": "Active",
    }
    assert troubles.is_tenant_failing(row)
    assert tenants._tenant_troubles(row) == "other company, quarantines 33% (2)"


@pytest.mark.parametrize(
    ("faults", "is_failing"), [(["Unverified"], False), (["Silent", "Unverified"], True), ([], False)]
)
def test_listener_that_waits_for_its_first_visit_is_not_failing(faults: list[str], *, is_failing: bool) -> None:
    assert listeners.is_listener_failing({"faults": faults}) is is_failing
