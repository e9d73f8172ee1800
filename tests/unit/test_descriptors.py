import resource

import pytest

from usher_gateway import descriptors


@pytest.mark.parametrize(
    ("soft", "hard", "planned"),
    [
        (1024, 1_048_576, (11_024, 10_000)),
        (65_536, 65_536, (65_536, 10_000)),
        (1024, 4096, (4096, 3072)),
        (1024, 1024, (1024, 512)),
        (256, 256, (256, 128)),
    ],
)
def test_connections_leave_descriptors_for_the_rest(soft: int, hard: int, planned: tuple[int, int]) -> None:
    assert descriptors.plan(soft, hard, 10_000) == planned


def test_the_process_gets_what_it_may_have() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        fitting = descriptors.reserve(100)
        assert fitting <= 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(1124, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
