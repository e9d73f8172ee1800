"""The tests of alerts and boards need Prometheus."""

import pytest

from prometheus import debian


@pytest.fixture(scope="session", autouse=True)
def prometheus_programs() -> None:
    """Skip on machines that have no Prometheus and are not Debian, whose packages the tests use."""
    try:
        debian.programs()
    except debian.NotDebianError as error:
        # Only promtool and Prometheus can judge rules, and only Debian's packages have them without a download.
        pytest.skip(str(error))
