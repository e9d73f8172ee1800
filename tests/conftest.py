"""For all tests: what the program logs is watched for people."""

from collections.abc import Iterator

import pytest

from support import privacy


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
