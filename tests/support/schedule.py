"""How `pytest -n` distributes the tests over its workers."""

from typing import Any

import pytest
from xdist.scheduler import loadscope

CLUSTER = "tests/cluster/"


def cluster_first(items: list[pytest.Item]) -> None:
    """Put the cluster's tests first, because they take longest, and so that their API servers end before the others.

    Of these, the files that share a platform are last. Its operator and the many objects that its tests leave would
    disturb and slow down the tests that run operators of their own in the same cluster.
    """
    sharing = {item.path for item in items if "platform" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: (not item.nodeid.startswith(CLUSTER), item.path in sharing))


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
