"""Fixtures of the operator's tests."""

import pytest

from support import plan_samples
from support.planning import Cluster


@pytest.fixture
def cluster() -> Cluster:
    """An agency whose plans are applied and that one gateway runs."""
    return plan_samples.agency()
