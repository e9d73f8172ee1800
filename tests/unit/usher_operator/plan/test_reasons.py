"""Each reason of each condition follows from one change to an agency without problems."""

import msgspec
import pytest

from support import plan_reasons, plan_samples, planning
from support.planning import Cluster
from usher_gateway import model
from usher_gateway.resources.conditions import Reason
from usher_operator.view import INFORMATIONAL_CONDITIONS, ConditionType, OperatorReason


@pytest.mark.parametrize("case", plan_reasons.CASES, ids=lambda case: f"{case.type}-{case.reason}")
def test_each_cause_gives_its_reason(cluster: Cluster, case: plan_reasons.Case) -> None:
    case.happens(cluster)
    condition = cluster.condition(case.kind, case.path, case.type)
    assert (condition.status, condition.reason) == (case.status, case.reason)
    assert condition.observed_generation == _generation(cluster, case)
    assert condition.message or case.status == "True", "a condition that is not True says what to do"


def _generation(cluster: Cluster, case: plan_reasons.Case) -> int:
    generation: int = cluster.raw(case.kind, case.path)["metadata"]["generation"]
    return generation


def test_each_reason_has_a_case() -> None:
    words = {str(operator_reason) for operator_reason in OperatorReason} | {str(reason) for reason in Reason}
    notices = {"ImplicitClass", "NoSecretInAddress", "ExpressionFails"}
    cases = {case.reason for case in plan_reasons.CASES} - {"ResolvedRefs"}
    assert words - notices == cases, "tests/support/plan_reasons.py has a case for each reason"


def test_each_condition_has_a_case() -> None:
    types = {str(condition_type) for condition_type in ConditionType}
    assert types == {case.type for case in plan_reasons.CASES}, "tests/support/plan_reasons.py has a case for each type"


@pytest.mark.parametrize("case", plan_reasons.CASES, ids=lambda case: f"{case.type}-{case.reason}")
def test_ready_is_true_only_if_every_needed_condition_is(cluster: Cluster, case: plan_reasons.Case) -> None:
    case.happens(cluster)
    for key in cluster.every_key():
        status = cluster.plan(key).status
        if status is None or key.kind == "Tenant":
            continue
        ready = status.condition("Ready")
        assert ready is not None
        needed = [
            condition
            for condition in status.conditions.values()
            if condition.type not in INFORMATIONAL_CONDITIONS and condition is not ready
        ]
        assert (ready.status == "True") == all(condition.status == "True" for condition in needed)


@pytest.mark.parametrize("case", plan_reasons.CASES, ids=lambda case: f"{case.type}-{case.reason}")
def test_status_contains_no_secret_and_no_whole_url(cluster: Cluster, case: plan_reasons.Case) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=plan_reasons.BASIC)
    case.happens(cluster)
    token = model.url_token(planning.INSTALL_KEY, "default", "acme", "lobby", 0)
    for key in cluster.every_key():
        status = cluster.plan(key).status
        text = msgspec.json.encode(status).decode()
        assert token not in text
        assert "cHVycGxlOnB3" not in text
