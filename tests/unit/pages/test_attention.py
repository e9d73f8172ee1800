"""Sentences about the troubles of a tenant."""

import datetime
from typing import Any

import pytest

from usher_gateway import model
from usher_gateway.pages import attention
from usher_gateway.words import story, troubles

NOW = datetime.datetime(2026, 11, 30, 12, 0, 0, tzinfo=datetime.UTC)


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of ``GET /api/tenants`` without a trouble."""
    return {
        "namespace": "agency",
        "name": "acme",
        "faults": {},
        "firstFaults": {},
        "causes": {},
        "failingDestinations": [],
        "backlog": 0,
        "oldestInBacklog": None,
        "held": {},
        "dead": 0,
        "quota": None,
        "quotaUsed": None,
        "lastArrival": "2026-11-30T11:00:00Z",
        "today": {"quarantined": 3, "refused": 5},
    } | changes


@pytest.mark.parametrize("fault", troubles.LISTENER_TROUBLES)
def test_each_fault_of_listeners_leads_to_the_listener_or_the_list(fault: str) -> None:
    first = {"listener": "agency/lobby", "reason": None, "since": None}
    (need,) = attention.needs_of_tenant(row(faults={fault: 1}, firstFaults={fault: first}), NOW)
    is_of_a_list = fault == "Quarantining"
    lists = "/ui/visits?tenant=agency/acme&countedAs=quarantined"
    assert need.path == (lists if is_of_a_list else "/ui/listeners/agency/lobby")


def test_all_needs_are_listed_and_the_most_urgent_is_the_sentence_of_the_overview() -> None:
    quota = {"visitsPerMonth": 60, "whenExceeded": "Hold"}
    tenant = row(dead=2, held={"QuotaExceeded": 1_200}, quota=quota, quotaUsed=0.95, faults={"Silent": 1})
    needs = attention.needs_of_tenant(tenant, NOW)
    assert [need.sentence for need in needs] == [
        "2 deliveries failed for good.",
        "1,200 deliveries are held, because the tenant is over its quota.",
        "95% of this month's visits are used; over the quota further deliveries are held.",
        "No arrival for 60 min.",
    ]
    shown = attention.of_tenant(tenant, NOW)
    assert shown.sentence == "2 deliveries failed for good. Also: 1,200 held (QuotaExceeded), quota 95%, silent."
    assert shown.need == needs[0]


@pytest.mark.parametrize(
    ("held", "need"),
    [
        (
            {"FilterError": 1},
            ("1 delivery is held, because the route's filter `when` failed.", "A correction of the filter ends that."),
        ),
        (
            {"FilterError": 1, "QuotaExceeded": 1_200},
            ("1,201 deliveries are held (FilterError and QuotaExceeded).", "See what ends each hold."),
        ),
    ],
)
def test_hold_for_one_reason_says_what_ends_it(held: dict[str, int], need: tuple[str, str]) -> None:
    (shown,) = attention.needs_of_tenant(row(held=held), NOW)
    assert (shown.sentence, shown.step) == need
    assert shown.path == "/ui/tenants/agency/acme#waiting-heading"


def _failing(*names: str) -> dict[str, Any]:
    rows = [{"name": name, "isRejecting": False, "lastError": None, "hint": None} for name in names]
    return {"failingDestinations": list(names), "destinations": rows}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"faults": {"Quarantining": 1}, "today": {"quarantined": 1}}, "1 arrival of today is no valid visit."),
        ({"faults": {"Quarantining": 1}, "today": {"quarantined": 2}}, "2 arrivals of today are no valid visits."),
        ({**_failing("agency/crm"), "backlog": 1}, "crm fails with an error; 1 delivery waits."),
        ({**_failing("agency/crm"), "backlog": 2}, "crm fails with an error; 2 deliveries wait."),
        (_failing("agency/crm", "agency/db"), "crm fails with an error. 1 other destination fails too."),
        (_failing("agency/crm", "agency/db", "agency/x"), "crm fails with an error. 2 other destinations fail too."),
    ],
)
def test_sentence_agrees_with_its_number(changes: dict[str, Any], sentence: str) -> None:
    first = {"Quarantining": {"listener": "agency/lobby", "reason": None, "since": None}}
    (need,) = attention.needs_of_tenant(row(**changes, firstFaults=first), NOW)
    assert need.sentence == sentence


def test_tenant_without_a_trouble_needs_nothing() -> None:
    assert attention.needs_of_tenant(row(), NOW) == []
    assert attention.of_tenant(row(), NOW).sentence == "Nothing to do. Last arrival 60 min ago."


def test_nothing_is_lost_is_said_only_if_nothing_died() -> None:
    crm = {"name": "agency/crm", "isRejecting": False, "lastError": None, "hint": None}
    failing = {"failingDestinations": ["agency/crm"], "destinations": [crm]}
    (need,) = attention.needs_of_tenant(row(**failing), NOW)
    assert need.step == "Ask who runs crm; nothing is lost meanwhile."
    need, _ = attention.needs_of_tenant(row(**failing, dead=1), NOW)
    assert need.step == "Ask who runs crm."


def test_destination_that_rejects_is_not_said_to_be_tried_again() -> None:
    last = {"error": "Rejected", "status": 400, "since": "2026-11-30T11:00:00Z"}
    mailer = {"name": "agency/mailer", "isRejecting": True, "lastError": last, "hint": None}
    tenant = row(failingDestinations=["agency/mailer"], destinations=[mailer], backlog=3)
    (need,) = attention.needs_of_tenant(tenant, NOW)
    assert need.sentence == "mailer answers 400 for 60 min: it rejects deliveries, and they fail for good."
    assert (need.step, need.path) == ("Ask who runs mailer.", "/ui/destinations/agency/mailer")
    assert need.since == "2026-11-30T11:00:00Z"


@pytest.mark.parametrize("reason", model.QuarantineReason)
def test_release_is_proposed_only_where_it_is_possible(reason: model.QuarantineReason) -> None:
    step = attention.quarantine_step(reason.name, "192.0.2.7")
    assert (step.lower().endswith("release them.")) is (reason in story.RELEASABLE)
    assert ("Find out who sends them: the last one came from 192.0.2.7." in step) is (reason not in story.RELEASABLE)


def test_tenant_that_only_refuses_has_accepted_nothing_yet() -> None:
    tenant = row(lastArrival=None, today={"refused": 1_302})
    assert attention.of_tenant(tenant, NOW).sentence == "Nothing accepted yet; 1,302 refused today."
    assert attention.nothing_yet(row() | {"today": {"refused": 0}}) == "No arrival yet."
