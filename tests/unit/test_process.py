import resource

import pytest

from usher_gateway import process


@pytest.mark.parametrize(
    ("soft", "hard", "planned"),
    [
        (1024, 1_048_576, (13_024, 10_000, 2_000)),
        (65_536, 65_536, (65_536, 10_000, 2_000)),
        (1024, 4096, (4096, 2048, 1024)),
        (1024, 1024, (1024, 512, 128)),
        (256, 256, (256, 128, 32)),
    ],
)
def test_connections_leave_descriptors_for_everything_else(soft: int, hard: int, planned: tuple[int, int, int]) -> None:
    assert process.plan_descriptors(soft, hard, 10_000, 2_000) == process.DescriptorPlan(*planned)


def test_reserving_descriptors_raises_the_soft_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        planned = process.reserve_descriptors(100, 10)
        assert planned.connections <= 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(1134, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
