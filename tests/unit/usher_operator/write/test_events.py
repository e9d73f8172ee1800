"""Events report changed conditions at once, and nothing twice."""

import msgspec
import pytest

from support.operator_parts import record_of, status_of
from usher_operator.state.values import ConditionStatus, Key, StatusCondition
from usher_operator.write import events

KEY = Key("Listener", "agency", "lobby")


def condition(
    status: ConditionStatus, reason: str = "TenantNotFound", condition_type: str = "Ready"
) -> StatusCondition:
    return StatusCondition(condition_type, status, reason, "", 1)


READY = condition("True", "Ready")
PENDING = condition("Unknown", "Pending")
WRONG = condition("False")
ISSUING = condition("False", "Pending")
UNASSIGNED = condition("False", "AddressNotAssigned")
UNREADY = condition("False", "ListenersNotReady")


@pytest.mark.parametrize(
    ("previous", "now", "reasons"),
    [
        (READY, WRONG, ["TenantNotFound"]),
        (READY, UNASSIGNED, ["AddressNotAssigned"]),
        (PENDING, READY, ["Ready"]),
        (WRONG, READY, ["Ready"]),
        (READY, PENDING, []),
        (WRONG, PENDING, []),
        (None, READY, []),
        (None, PENDING, []),
        (None, ISSUING, []),
        (None, UNASSIGNED, []),
        (PENDING, UNASSIGNED, []),
        (PENDING, ISSUING, []),
        (None, WRONG, ["TenantNotFound"]),
        (PENDING, WRONG, ["TenantNotFound"]),
        (ISSUING, condition("False", "Failed"), ["Failed"]),
        (None, UNREADY, ["ListenersNotReady"]),
        (READY, UNREADY, ["ListenersNotReady"]),
        (WRONG, condition("False", "SecretNotFound"), ["SecretNotFound"]),
        (WRONG, WRONG, []),
        (None, condition("False", "NoVisitYet", "Receiving"), []),
        (None, condition("True", "Quarantining", "Quarantining"), ["Quarantining"]),
        (READY, condition("False", "X", "Accepted"), []),
    ],
)
def test_changed_condition_is_reported_at_once(
    previous: StatusCondition | None, now: StatusCondition, reasons: list[str]
) -> None:
    reported = events.conditions_to_report(status_of(now), record_of(*([previous] if previous else [])))
    assert [changed.reason for changed in reported] == reasons


@pytest.mark.parametrize(
    ("previous", "now", "message"),
    [
        (None, WRONG, "Ready is False"),
        (READY, WRONG, "Ready is False (was True)"),
        (WRONG, READY, "Ready is True (was False, TenantNotFound)"),
        (PENDING, READY, "Ready is True (was Unknown, Pending)"),
        (WRONG, condition("False", "SecretNotFound"), "Ready is False (was TenantNotFound)"),
        (
            READY,
            StatusCondition("Ready", "False", "TenantNotFound", "Tenant `acme` must exist", 1),
            "Ready is False (was True): Tenant `acme` must exist",
        ),
    ],
)
def test_report_says_what_changed_and_why(previous: StatusCondition | None, now: StatusCondition, message: str) -> None:
    (changed,) = events.conditions_to_report(status_of(now), record_of(*([previous] if previous else [])))
    assert events.event_of(KEY, "uid", changed, "now")["message"] == message


REFUSED = "port 443 of `a.example` (`192.0.2.1`) refuses connections: the Ingress controller must run"


@pytest.mark.parametrize(
    ("previous", "now", "reported"),
    [
        (REFUSED, "`a.example` answers 502: a gateway must be ready", True),
        (REFUSED, REFUSED.replace("192.0.2.1", "198.51.100.17"), False),
        ("`a.example` answers 502: a gateway must", "`a.example` answers 503: a gateway must", False),
    ],
)
def test_other_cause_of_an_unreachable_hostname_is_reported(previous: str, now: str, reported: bool) -> None:
    stored = StatusCondition("Reachable", "False", "Unreachable", previous, 1)
    changed = events.conditions_to_report(status_of(msgspec.structs.replace(stored, message=now)), record_of(stored))
    assert [condition.message for condition in changed] == (
        [f"Reachable is still False, for another cause: {now}"] if reported else []
    )


def test_other_message_of_another_condition_is_not_reported() -> None:
    stored = StatusCondition("Ready", "False", "TenantNotFound", "Tenant `acme` must exist", 1)
    other = msgspec.structs.replace(stored, message="Tenant `globex` must exist")
    assert events.conditions_to_report(status_of(other), record_of(stored)) == []


def test_event_is_a_warning_if_a_person_must_act_or_a_condition_ended() -> None:
    event = events.event_of(KEY, "uid", WRONG, "now")
    assert (event["type"], event["metadata"]["namespace"]) == ("Warning", "agency")
    assert event["involvedObject"]["uid"] == "uid"
    event_types = [
        events.event_of(KEY, "uid", posted, "now")["type"] for posted in (UNASSIGNED, PENDING, ISSUING, READY)
    ]
    assert event_types == ["Warning", "Normal", "Normal", "Normal"]
    slow = condition("True", "ExpressionTooSlow", "RoutesDegraded")
    assert events.event_of(KEY, "uid", slow, "now")["type"] == "Warning"


WARNED = StatusCondition("Accepted", "True", "Accepted", "`spec.routes[0].when`: fails", 1)


@pytest.mark.parametrize(
    ("previous", "now", "messages"),
    [
        (None, WARNED, ["Accepted is True with a warning: `spec.routes[0].when`: fails"]),
        (
            msgspec.structs.replace(WARNED, message=""),
            WARNED,
            ["Accepted is True with a warning: `spec.routes[0].when`: fails"],
        ),
        (WARNED, msgspec.structs.replace(WARNED, observed_generation=2), []),
        (WARNED, msgspec.structs.replace(WARNED, message=""), []),
    ],
)
def test_new_warning_gets_a_warning_event(
    previous: StatusCondition | None, now: StatusCondition, messages: list[str]
) -> None:
    reported = events.conditions_to_report(status_of(now), record_of(*([previous] if previous else [])))
    assert [changed.message for changed in reported] == messages
    assert all(events.event_of(KEY, "uid", changed, "")["type"] == "Warning" for changed in reported)
