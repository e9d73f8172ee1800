"""Each reason of each condition follows from one change to an agency without problems."""

import msgspec
import pytest

from support import plan_reasons, plan_samples, planning
from support.planning import Cluster
from usher_gateway import model
from usher_gateway.resources.conditions import Reason
from usher_operator.state.values import INFORMATIONAL_CONDITIONS, ConditionType, OperatorReason, ResourceStatus

TOKEN = model.url_token(planning.INSTALL_KEY, "default", "acme", "lobby", 0)


@pytest.mark.parametrize("case", plan_reasons.CASES, ids=lambda case: f"{case.type}-{case.reason}")
def test_each_cause_gives_its_reason_and_a_status_without_secrets(cluster: Cluster, case: plan_reasons.Case) -> None:
    case.happens(cluster)
    condition = cluster.condition(case.kind, case.path, case.type)
    assert (condition.status, condition.reason) == (case.status, case.reason)
    assert condition.observed_generation == cluster.raw(case.kind, case.path)["metadata"]["generation"]
    assert condition.message or case.status == "True", "a condition that is not True says what to do"
    statuses = {key: status for key in cluster.every_key() if (status := cluster.plan(key).status) is not None}
    assert TOKEN not in msgspec.json.encode(list(statuses.values())).decode()
    assert [key for key, status in statuses.items() if key.kind != "Tenant" and not is_ready_if_all_are(status)] == []


def is_ready_if_all_are(status: ResourceStatus) -> bool:
    """Return whether Ready is True exactly if every condition that it needs is."""
    ready = status.conditions.get("Ready")
    needed = [each for each in status.conditions.values() if each.type not in {"Ready", *INFORMATIONAL_CONDITIONS}]
    return ready is not None and (ready.status == "True") == all(condition.status == "True" for condition in needed)


def test_status_contains_no_credential_of_a_listener(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=plan_reasons.BASIC)
    text = msgspec.json.encode([cluster.plan(key).status for key in cluster.every_key()]).decode()
    assert "cHVycGxlOnB3" not in text
    assert TOKEN not in text


def test_each_reason_has_a_case() -> None:
    words = {str(operator_reason) for operator_reason in OperatorReason} | {str(reason) for reason in Reason}
    notices = {"ImplicitClass", "NoSecretInAddress", "ExpressionFails"}
    cases = {case.reason for case in plan_reasons.CASES} - {"ResolvedRefs"}
    assert words - notices == cases, "tests/support/plan_reasons.py has a case for each reason"


def test_each_condition_has_a_case() -> None:
    types = {str(condition_type) for condition_type in ConditionType}
    assert types == {case.type for case in plan_reasons.CASES}, "tests/support/plan_reasons.py has a case for each type"
