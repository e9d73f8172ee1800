"""A replica decides by the record in the Lease and by how long it has not changed, never by the times in it."""

import pytest

from usher_operator import leader


def record(holder: str = "other", version: str = "1", duration: float = 15) -> leader.LeaseRecord:
    return leader.LeaseRecord(holder, duration, 0, version)


@pytest.fixture
def observed() -> leader.ObservedLease:
    return leader.ObservedLease("me")


def test_absent_lease_is_created(observed: leader.ObservedLease) -> None:
    observed.see(None, 0)
    assert observed.decide(0, is_leader=False).action == "Create"


def test_own_lease_is_renewed(observed: leader.ObservedLease) -> None:
    observed.see(record("me"), 0)
    assert observed.decide(1000, is_leader=True).action == "Renew"


def test_standby_waits_for_a_lease_with_its_own_name(observed: leader.ObservedLease) -> None:
    """A restore of etcd put the name back, and another replica still leads."""
    observed.see(record("me"), 10)
    assert observed.decide(12, is_leader=False) == leader.LeaseDecision("Wait", 13)
    assert observed.decide(25, is_leader=False).action == "Take"


def test_released_lease_is_taken_at_once(observed: leader.ObservedLease) -> None:
    observed.see(record(""), 0)
    assert observed.decide(0, is_leader=False).action == "Take"


def test_lease_of_another_replica_is_waited_for(observed: leader.ObservedLease) -> None:
    observed.see(record(), 10)
    assert observed.decide(12, is_leader=False) == leader.LeaseDecision("Wait", 13)


def test_lease_unchanged_for_its_duration_is_taken(observed: leader.ObservedLease) -> None:
    observed.see(record(), 10)
    observed.see(record(), 20)
    assert observed.decide(24.9, is_leader=False).action == "Wait"
    assert observed.decide(25, is_leader=False).action == "Take"


def test_changed_lease_restarts_the_wait(observed: leader.ObservedLease) -> None:
    observed.see(record(), 10)
    observed.see(record(version="2"), 24)
    assert observed.decide(26, is_leader=False) == leader.LeaseDecision("Wait", 13)


@pytest.mark.parametrize("minutes_off", [-60, -1, 0, 1, 60])
def test_decision_ignores_the_times_in_the_lease(observed: leader.ObservedLease, minutes_off: int) -> None:
    """The times in the record are not read."""
    raw = {
        "metadata": {"resourceVersion": "7"},
        "spec": {
            "holderIdentity": "other",
            "leaseDurationSeconds": 15,
            "leaseTransitions": 3,
            "renewTime": f"2027-01-31T{12 + minutes_off // 60:02}:{minutes_off % 60:02}:00.000000Z",
        },
    }
    observed.see(leader.read_lease(raw), 0)
    assert observed.record == leader.LeaseRecord("other", 15, 3, "7")
    assert observed.decide(14, is_leader=False).action == "Wait"
    assert observed.decide(15, is_leader=False).action == "Take"


def test_lease_without_a_spec_has_no_holder() -> None:
    assert leader.read_lease({"metadata": {"resourceVersion": "1"}}) == leader.LeaseRecord(resource_version="1")
