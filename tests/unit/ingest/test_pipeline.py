from typing import Any

import pytest

from support.quarantine_samples import MENDED, NOW, listener, stored
from usher_gateway import documents, model
from usher_gateway.ingest import body
from usher_gateway.ingest.pipeline import identify_body, rebuild_arrival
from usher_gateway.ingest.registry import Match


def anew(arrival: model.Arrival, now: int = NOW, **changes: Any) -> model.Arrival:
    rebuilt = rebuild_arrival(listener(**changes), arrival, now)
    assert isinstance(rebuilt, model.Arrival)
    return rebuilt


def test_corrected_listener_plans_a_quarantined_arrival() -> None:
    rebuilt = anew(stored())
    assert (rebuilt.key, rebuilt.received_at, rebuilt.quarantine) == (42, NOW, None)
    assert [plan.skip for plan in rebuilt.if_visit] == [None, None]
    assert len(rebuilt.person_keys) == 2


def test_released_arrival_is_stale_when_the_route_limit_has_passed() -> None:
    assert [plan.skip for plan in anew(stored(), NOW + model.HOUR).if_visit] == [None, model.SkipReason.Stale]


@pytest.mark.parametrize(
    ("changes", "fields", "reason"),
    [
        ({}, documents.DEFAULT_FIELDS, "NoUser"),
        ({"body": b"{"}, MENDED, "NotJSON"),
        ({"body": b"[]"}, MENDED, "NotObject"),
        ({"body": b"{}"}, MENDED, "NoUser"),
        ({"body": b"x" * (300 * 1024)}, MENDED, "Truncated"),
        ({"quarantine": model.QuarantineReason.Truncated}, MENDED, "Truncated"),
        ({"quarantine": model.QuarantineReason.Unstorable}, MENDED, "Unstorable"),
    ],
)
def test_arrival_that_still_is_not_a_visit_returns_the_reason(
    changes: dict[str, Any], fields: Any, reason: str
) -> None:
    rebuilt = rebuild_arrival(listener(fields=fields), stored(**changes), NOW)
    assert rebuilt is model.QuarantineReason[reason]


def test_released_loop_keeps_its_hops() -> None:
    assert anew(stored(quarantine=model.QuarantineReason.Loop, hops=2)).hops == 2


def test_released_arrival_of_a_suspended_tenant_is_held() -> None:
    paused = documents.TenantDocument("acme", state="Suspended")
    assert anew(stored(), tenant=paused).if_visit[0].hold is model.HoldReason.TenantSuspended


@pytest.mark.parametrize(
    ("company", "check", "quarantine", "other_company"),
    [
        (b"77", "Warn", None, ""),
        (b"78", "Warn", None, "78"),
        (b'"ada@example.com"', "Warn", None, "another"),
        (b"78", "Off", None, ""),
        (b"78", "Quarantine", model.QuarantineReason.CompanyMismatch, ""),
    ],
)
def test_built_arrival_says_whether_it_is_of_another_company(
    company: bytes, check: Any, quarantine: model.QuarantineReason | None, other_company: str
) -> None:
    tenant = documents.TenantDocument("acme", company_id="77", company_check=check)
    content = b'{"user":{"id":1,"venue":{"company":{"id":%s}}}}' % company
    of_acme = listener(tenant=tenant, fields=documents.DEFAULT_FIELDS)
    address = documents.Address("hooks.test", "/x")
    parsed = body.parse(content, "")
    arrival, _ = identify_body(Match(of_acme, address, "an-id"), {}, content, parsed, NOW)
    assert (arrival.quarantine, arrival.other_company) == (quarantine, other_company)
    assert of_acme.counters.company_mismatches == 0
