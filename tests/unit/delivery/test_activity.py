"""A destination's last error, and when it counts as failing."""

import pytest

from support import delivery_samples
from usher_gateway import model
from usher_gateway.delivery import activity
from usher_gateway.delivery.circuit import OPENS_AFTER
from usher_gateway.delivery.outcome import DELIVERED, Outcome
from usher_gateway.store.base import DestinationActivity

SECOND = model.MICROSECONDS
NOW = delivery_samples.RECEIVED_AT
CRM = delivery_samples.destination()
MOVED = delivery_samples.destination(url="https://moved.example/in")
FRESH = DestinationActivity(url_digest=b"")
PROVEN = activity.succeeded(FRESH, NOW)


def failure(error: str) -> Outcome:
    return Outcome(model.SettledAs.Retry, error)


@pytest.fixture
def recorder() -> activity.ActivityRecorder:
    return activity.ActivityRecorder(key=b"k" * 32)


def test_failures_in_a_row_keep_when_what_and_how_often() -> None:
    failed = activity.failed(activity.failed(PROVEN, "Timeout", 0, NOW), "ServerError", 503, NOW + SECOND)
    assert (failed.error, failed.status, failed.failures) == ("ServerError", 503, 2)
    assert (failed.failing_since, failed.failed_at, failed.recovered_at) == (NOW, NOW + SECOND, 0)
    recovered = activity.succeeded(failed, NOW + 2 * SECOND)
    assert (recovered.error, recovered.failures, recovered.recovered_at) == ("ServerError", 2, NOW + 2 * SECOND)
    again = activity.failed(recovered, "Reset", 0, NOW + 3 * SECOND)
    assert (again.failures, again.failing_since, again.recovered_at) == (1, NOW + 3 * SECOND, 0)


def test_steady_success_changes_nothing() -> None:
    assert activity.succeeded(PROVEN, NOW + SECOND) is PROVEN


@pytest.mark.parametrize(
    ("before", "error", "seconds", "expected"),
    [
        (FRESH, "Timeout", 0, True),
        (FRESH, "Rejected", 0, True),
        (PROVEN, "Timeout", 0, False),
        (PROVEN, "Timeout", 30, True),
        (PROVEN, "Rejected", 3_600, False),
        (PROVEN, "Gone", 0, True),
        (PROVEN, "AddressForbidden", 0, True),
    ],
)
def test_one_failure_is_enough_unless_it_may_pass(
    before: DestinationActivity, error: str, seconds: int, expected: bool
) -> None:
    failed = activity.failed(before, error, 0, NOW)
    assert activity.is_failing(failed, NOW + seconds * SECOND) is expected
    assert not activity.is_failing(activity.succeeded(failed, NOW), NOW + seconds * SECOND)


def test_row_of_rejected_visits_is_a_failing_destination() -> None:
    rejected = PROVEN
    for _ in range(OPENS_AFTER):
        assert not activity.is_failing(rejected, NOW)
        rejected = activity.failed(rejected, "Rejected", 422, NOW)
    assert activity.is_failing(rejected, NOW)


def test_untried_destination_is_not_tried() -> None:
    assert not activity.is_tried(FRESH)
    assert activity.is_tried(activity.failed(FRESH, "Timeout", 0, NOW))
    assert activity.is_tried(PROVEN)


def test_only_changes_are_saved(recorder: activity.ActivityRecorder) -> None:
    recorder.note(CRM, DELIVERED, 200, NOW)
    assert recorder.take_unsaved() == {"agency/crm": recorder.of(CRM)}
    recorder.note(CRM, DELIVERED, 200, NOW)
    assert recorder.take_unsaved() == {}
    recorder.note(CRM, failure("Timeout"), 0, NOW)
    assert recorder.take_unsaved()["agency/crm"].failures == 1
    recorder.save_again(["agency/crm"])
    assert recorder.take_unsaved()["agency/crm"].failures == 1


def test_saved_activity_counts_for_the_same_url_only(recorder: activity.ActivityRecorder) -> None:
    recorder.note(CRM, failure("Timeout"), 0, NOW)
    saved = recorder.take_unsaved()
    for document, failures in ((CRM, 1), (MOVED, 0)):
        later = activity.ActivityRecorder(key=b"k" * 32)
        later.merge(saved)
        assert later.of(document).failures == failures


def test_changed_url_and_removal_start_over(recorder: activity.ActivityRecorder) -> None:
    recorder.note(CRM, failure("Timeout"), 0, NOW)
    assert recorder.of(MOVED).failures == 0
    recorder.note(MOVED, failure("Timeout"), 0, NOW)
    recorder.keep_only([])
    assert recorder.take_unsaved() == {}
    assert recorder.of(MOVED).failures == 0


def test_forbidden_address_is_forgotten_by_a_restart(recorder: activity.ActivityRecorder) -> None:
    """Because the administrator may have allowed it."""
    recorder.note(CRM, failure("AddressForbidden"), 0, NOW)
    later = activity.ActivityRecorder(key=b"k" * 32)
    later.merge(recorder.take_unsaved())
    assert not activity.is_tried(later.of(CRM))


def test_newest_activity_of_several_gateways_counts(recorder: activity.ActivityRecorder) -> None:
    others = activity.ActivityRecorder(key=b"k" * 32)
    others.note(CRM, failure("Timeout"), 0, NOW)
    recorder.of(CRM)
    recorder.merge(others.take_unsaved())
    assert recorder.of(CRM).error == "Timeout"
    recorder.note(CRM, DELIVERED, 200, NOW + SECOND)
    others.merge(recorder.take_unsaved())
    assert others.of(CRM).recovered_at == NOW + SECOND
    others.note(CRM, failure("Reset"), 0, NOW + 2 * SECOND)
    others.merge({CRM.key: recorder.of(CRM)})
    assert others.of(CRM).error == "Reset"
