import resource

import pytest

from usher_gateway import process


@pytest.mark.parametrize(
    ("soft", "hard", "planned"),
    [
        (1024, 1_048_576, (16_512, 10_000, 2_000, 4_000)),
        (65_536, 65_536, (65_536, 10_000, 2_000, 4_000)),
        (1024, 8192, (8192, 4096, 2000, 1584)),
        (1024, 1024, (1024, 512, 96, 128)),
        (256, 256, (256, 128, 24, 32)),
    ],
)
def test_connections_leave_descriptors_for_everything_else(
    soft: int, hard: int, planned: tuple[int, int, int, int]
) -> None:
    plan = process.plan_descriptors(soft, hard, connections=10_000, idle=2_000, attempts=4_000)
    assert plan == process.DescriptorPlan(*planned)


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
