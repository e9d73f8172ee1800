"""A replica decides by the record in the Lease and by how long it has not changed, never by the times in it."""

from typing import Any

import pytest

from usher_operator.run import leader


def record(holder: str = "other", version: str = "1", duration: float = 15) -> leader.LeaseRecord:
    return leader.LeaseRecord(holder, duration, 0, version)


@pytest.fixture
def observed() -> leader.ObservedLease:
    return leader.ObservedLease("me")


OWN, OTHER, RENEWED, RELEASED = record("me"), record(), record(version="2"), record("")


@pytest.mark.parametrize(
    ("seen", "now", "decision"),
    [
        pytest.param([(None, 0)], 0, ("Create", 0), id="absent lease is created"),
        pytest.param([(OWN, 10)], 12, ("Wait", 13), id="own name after a restore of etcd, another replica leads"),
        pytest.param([(OWN, 10)], 25, ("Take", 0), id="own name, unchanged for its duration"),
        pytest.param([(RELEASED, 0)], 0, ("Take", 0), id="released lease is taken at once"),
        pytest.param([(OTHER, 10)], 12, ("Wait", 13), id="lease of another replica is waited for"),
        pytest.param([(OTHER, 10), (OTHER, 20)], 24, ("Wait", 1), id="reading it again changes nothing"),
        pytest.param([(OTHER, 10), (OTHER, 20)], 25, ("Take", 0), id="unchanged for its duration"),
        pytest.param([(OTHER, 10), (RENEWED, 24)], 26, ("Wait", 13), id="a change restarts the wait"),
    ],
)
def test_standby_decides_by_how_long_the_lease_has_not_changed(
    observed: leader.ObservedLease,
    seen: list[tuple[leader.LeaseRecord | None, float]],
    now: float,
    decision: tuple[Any, float],
) -> None:
    for seen_record, seen_at in seen:
        observed.see(seen_record, seen_at)
    assert observed.decide(now, is_leader=False) == leader.LeaseDecision(*decision)


def test_own_lease_is_renewed(observed: leader.ObservedLease) -> None:
    observed.see(OWN, 0)
    assert observed.decide(1000, is_leader=True).action == "Renew"


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
