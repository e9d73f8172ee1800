from typing import Any

import pytest

from usher_gateway import documents, model
from usher_gateway.ingest import body
from usher_gateway.ingest.counters import ArrivalCounters
from usher_gateway.ingest.evaluation_limits import CpuBudgets
from usher_gateway.ingest.pipeline import build_arrival, identify_body, rebuild_arrival
from usher_gateway.ingest.registry import LiveListener, Match

NOW = 1_764_072_000 * model.MICROSECONDS
HOUR = 3600 * model.MICROSECONDS
KEYS = model.derive_keys(bytes(32))
BODY = b'{"visitor":{"ref":7},"email":"jane@example.com"}'
MENDED = {"user": ("/visitor/ref",), "email": ("/email",)}


class Silent:
    def expression_failed(self, listener: str, route: str, code: str) -> None:
        raise AssertionError((listener, route, code))

    def expression_held(self, listener: str, route: str) -> None:
        raise AssertionError((listener, route))


def listener(**changes: Any) -> LiveListener:
    routes = (documents.Route("crm", "agency/crm"), documents.Route("late", "agency/crm", deliver_within_seconds=60))
    values: dict[str, Any] = {
        "namespace": "agency",
        "name": "lobby",
        "tenant": documents.TenantDocument("acme"),
        "addresses": (),
        "routes": routes,
        "fields": documents.DEFAULT_FIELDS | MENDED,
    }
    destination = documents.DestinationDocument("agency", "crm", "https://crm.example")
    return LiveListener(
        documents.ListenerDocument(**(values | changes)),
        destinations={destination.key: destination},
        keys=KEYS,
        expressions=Silent(),
        counters=ArrivalCounters(),
        budgets=CpuBudgets(),
        now=0.0,
    )


def stored(**changes: Any) -> model.Arrival:
    values: dict[str, Any] = {
        "listener": model.ListenerName("agency", "acme", "lobby"),
        "received_at": NOW,
        "visit_time": NOW,
        "time_trusted": False,
        "late": False,
        "fingerprint": bytes(16),
        "visitor_key": bytes(16),
        "person_keys": (),
        "body": BODY,
        "content_type": b"application/json",
        "hops": 0,
        "body_days": 0,
        "window": 0,
        "redelivery": 0,
        "if_visit": (),
        "if_repeat": (),
        "quarantine": model.QuarantineReason.NoUser,
        "key": 42,
    }
    return model.Arrival(**(values | changes))


def anew(arrival: model.Arrival, now: int = NOW, **changes: Any) -> model.Arrival:
    found = rebuild_arrival(listener(**changes), arrival, now)
    assert isinstance(found, model.Arrival)
    return found


def test_corrected_listener_plans_a_quarantined_arrival() -> None:
    found = anew(stored())
    assert (found.key, found.received_at, found.quarantine) == (42, NOW, None)
    assert [plan.skip for plan in found.if_visit] == [None, None]
    assert len(found.person_keys) == 2


def test_released_arrival_is_stale_when_the_route_limit_has_passed() -> None:
    assert [plan.skip for plan in anew(stored(), NOW + HOUR).if_visit] == [None, model.SkipReason.Stale]


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
    found = rebuild_arrival(listener(fields=fields), stored(**changes), NOW)
    assert found is model.QuarantineReason[reason]


def test_released_loop_keeps_its_hops() -> None:
    assert anew(stored(quarantine=model.QuarantineReason.Loop, hops=2)).hops == 2


def test_released_arrival_of_a_suspended_tenant_is_held() -> None:
    paused = documents.TenantDocument("acme", state="Suspended")
    assert anew(stored(), tenant=paused).if_visit[0].hold is model.HoldReason.TenantSuspended


@pytest.mark.parametrize(
    ("company", "check", "quarantine", "mismatch"),
    [
        (b"77", "Warn", None, False),
        (b"78", "Warn", None, True),
        (b"78", "Off", None, False),
        (b"78", "Quarantine", model.QuarantineReason.CompanyMismatch, False),
    ],
)
def test_built_arrival_says_whether_it_is_of_another_company(
    company: bytes, check: Any, quarantine: model.QuarantineReason | None, mismatch: bool
) -> None:
    tenant = documents.TenantDocument("acme", company_id="77", company_check=check)
    content = b'{"user":{"id":1,"venue":{"company":{"id":%s}}}}' % company
    of_acme = listener(tenant=tenant, fields=documents.DEFAULT_FIELDS)
    address = documents.Address("hooks.test", "/x")
    parsed = body.parse(content, "")
    identified = identify_body(of_acme, {}, content, parsed, NOW)
    found = build_arrival(Match(of_acme, address, "an-id"), {}, content, parsed, NOW, NOW, identified=identified)
    assert (found.quarantine, found.company_mismatch) == (quarantine, mismatch)
    assert of_acme.counters.company_mismatches == 0
