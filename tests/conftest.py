"""Fixtures and options of all tests."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import loadscope

from support import leaks

# No test asserts the speed of an example, because test machines differ.
hypothesis.settings.register_profile("usher", deadline=None, stateful_step_count=40)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=10, stateful_step_count=40)
hypothesis.settings.load_profile("usher")


CLUSTER = "tests/cluster/"


class ClusterByFile(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Runs each file of the cluster's tests in one worker, and the tests in their order.

    Each worker starts its own API server for these files. Every other test runs in the next free worker. xdist's own
    `--dist loadgroup` does not work with pytest 9.2.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # it would put files with one test among the tests of other folders

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(CLUSTER) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ClusterByFile:
    """Run each file of the cluster's tests in one worker."""
    return ClusterByFile(config, log)


@pytest.hookimpl(trylast=True)  # after the plugin that shuffles the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the cluster's tests first, because they take longest, and so that their API servers end before the others.

    Of these, the files that share a platform are last. Its operator and the many objects that its tests leave would
    disturb and slow down the tests that run operators of their own in the same cluster.
    """
    sharing = {item.path for item in items if "platform" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (not item.nodeid.startswith(CLUSTER), item.path in sharing))


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
