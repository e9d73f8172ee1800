"""Lines of the log about single things: each while they are few, sums where they are many."""

import structlog

from usher_operator import events
from usher_operator.view import Key, ObjectRef, StatusCondition

KEY = Key("Listener", "agency", "lobby")
REF = ObjectRef("networking.k8s.io/v1", "Ingress", "usher-system", "a")


def test_each_is_told_while_they_are_few() -> None:
    told = events.EventLogger(lambda: 0.0)
    with structlog.testing.capture_logs() as logs:
        told.published(KEY, is_new=True)
        told.published(KEY, is_new=False)
        told.removed(KEY)
        told.applied(REF)
        told.deleted(REF)
        told.ready(KEY, StatusCondition("Ready", "False", "TenantNotFound", "Tenant `a` must exist", 1))
        told.sum_up()
    assert [line["event"] for line in logs] == [
        "document_published",
        "document_published",
        "document_removed",
        "child_applied",
        "child_deleted",
        "ready_changed",
    ]
    assert [line["change"] for line in logs[:2]] == ["new", "edited"]
    assert (logs[5]["resource"], logs[5]["reason"], logs[5]["log_level"]) == ("agency/lobby", "TenantNotFound", "info")


def test_many_are_summed_up_and_told_again_in_the_next_window() -> None:
    now = [0.0]
    told = events.EventLogger(lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for _ in range(5_000):
            told.published(KEY, is_new=True)
            told.ready(KEY, StatusCondition("Ready", "True", "Ready", "", 1))
        told.sum_up()
        now[0] = events.WINDOW_SECONDS
        told.removed(KEY)
        told.sum_up()
    assert len(logs) == events.MOST_LINES + 2
    assert logs[-2] == {
        "event": "more_of_the_same",
        "log_level": "info",
        "documents_published": 5_000 - events.MOST_LINES // 2,
        "ready_true": 5_000 - events.MOST_LINES // 2,
    }
    assert logs[-1]["event"] == "document_removed"
