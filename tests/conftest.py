"""Fixtures and options of all tests."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from support import leaks, schedule

# No test asserts the speed of an example, because test machines differ.
hypothesis.settings.register_profile("usher", deadline=None, stateful_step_count=40)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10, stateful_step_count=40)
hypothesis.settings.load_profile("usher")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.ClusterByFile:
    """Run each file of the cluster's tests in one worker."""
    return schedule.ClusterByFile(config, log)


@pytest.hookimpl(trylast=True)  # after the plugin that shuffles the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the cluster's tests first."""
    schedule.cluster_first(items)


@pytest.fixture(scope="session", autouse=True)
def no_personal_data_was_written() -> Iterator[None]:
    """Fail at the end of a worker's run if a log, metrics or an error's text contained personal data."""
    yield from leaks.personal_data_in_logs()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records expected results."""
    parser.addoption("--update-golden", action="store_true", help="write the results of plan() to golden/*.yaml")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True if this run records expected results instead of comparing with them."""
    return bool(request.config.getoption("--update-golden"))
