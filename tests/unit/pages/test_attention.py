"""Sentences about the troubles of a tenant."""

import datetime
from typing import Any

import pytest

from usher_gateway.pages import attention

NOW = datetime.datetime(2026, 11, 30, 12, 0, 0, tzinfo=datetime.UTC)


def row(**changes: Any) -> dict[str, Any]:
    """Return a row of ``GET /api/tenants`` without a trouble."""
    return {
        "faults": {},
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


@pytest.mark.parametrize(
    "fault",
    [
        *("Refusing", "AuthenticationUnresolved", "CompanyMismatch", "Quarantining", "ExpressionTooSlow"),
        *("TimesUntrusted", "UnexpectedSource", "RetiredAddressUsed", "Silent"),
    ],
)
def test_each_fault_of_listeners_has_a_sentence_and_a_next_step(fault: str) -> None:
    ((sentence, step),) = attention.needs_of_tenant(row(faults={fault: 1}), {}, NOW)
    assert sentence.endswith(".")
    assert step.endswith(".")


def test_all_needs_are_listed_and_the_most_urgent_is_the_sentence_of_the_overview() -> None:
    quota = {"visitsPerMonth": 60, "whenExceeded": "Hold"}
    tenant = row(dead=2, quota=quota, quotaUsed=0.95, faults={"Silent": 1})
    needs = attention.needs_of_tenant(tenant, {}, NOW)
    assert [sentence for sentence, _ in needs] == [
        "2 deliveries failed for good.",
        "95% of this month's visits are used; over the quota further deliveries are held.",
        "No arrival for 60 min.",
    ]
    shown = attention.of_tenant(tenant, {}, NOW)
    assert shown.sentence == "2 deliveries failed for good. Also: quota 95%, silent."
    assert shown.is_urgent


@pytest.mark.parametrize(
    ("held", "need"),
    [
        (
            {"FilterError": 1},
            ("1 delivery is held, because the route's filter `when` failed.", "A correction of the filter ends that."),
        ),
        (
            {"FilterError": 1, "QuotaExceeded": 2},
            ("3 deliveries are held (FilterError and QuotaExceeded).", "See what ends each hold."),
        ),
    ],
)
def test_hold_for_one_reason_says_what_ends_it(held: dict[str, int], need: tuple[str, str]) -> None:
    assert attention.needs_of_tenant(row(held=held), {}, NOW) == [need]


def test_tenant_without_a_trouble_needs_nothing() -> None:
    assert attention.needs_of_tenant(row(), {}, NOW) == []
    assert attention.of_tenant(row(), {}, NOW).sentence == "Nothing to do. Last arrival 60 min ago."


def test_nothing_is_lost_is_said_only_if_nothing_died() -> None:
    failing = {"failingDestinations": ["agency/crm"]}
    ((_, step),) = attention.needs_of_tenant(row(**failing), {}, NOW)
    assert step == "Ask who runs crm; nothing is lost meanwhile."
    (_, step), _ = attention.needs_of_tenant(row(**failing, dead=1), {}, NOW)
    assert step == "Ask who runs crm."
