"""For all tests: what the program logs is watched for people; which worker runs which."""

from collections.abc import Iterator
from typing import Any

import pytest

from support import privacy, schedule


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.ClusterTogether:
    return schedule.ClusterTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def nothing_personal_is_told() -> Iterator[None]:
    """Fails the run, in each worker for itself, if a person was in a log, in metrics or in an error's text."""
    yield from privacy.watching()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what plan() wants anew into golden/*.yaml")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether recorded results are to be written anew."""
    return bool(request.config.getoption("--update-golden"))
