import resource

import pytest

from usher_gateway import process


@pytest.mark.parametrize(
    ("limit", "planned"),
    [(65_536, (10_000, 2_000, 4_000)), (8192, (4096, 512, 2048)), (1024, (512, 64, 256)), (256, (128, 16, 64))],
)
def test_connections_leave_descriptors_for_everything_else(limit: int, planned: tuple[int, int, int]) -> None:
    assert process.plan_descriptors(limit, process.DescriptorPlan(10_000, 2_000, 4_000)) == planned


@pytest.mark.parametrize(
    ("mebibytes", "attempts"), [(16, 64), (256, 512), (512, 1024), (2048, 4096), (64 * 1024, 4096)]
)
def test_attempts_in_flight_depend_on_the_memory(mebibytes: int, attempts: int) -> None:
    assert process.attempts_for_memory(mebibytes * 1024 * 1024) == attempts


def test_memory_of_the_process_is_found() -> None:
    assert process.memory_bytes() > 64 * 1024 * 1024


def test_reserving_descriptors_raises_the_soft_limit() -> None:
    previous_limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, previous_limits[1]), previous_limits[1]))
        planned = process.reserve_descriptors(100, 10, 20)
        assert planned.connections <= 100
        assert planned.attempts <= 20
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(642, previous_limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, previous_limits)
