"""How `pytest -n` distributes the tests over its workers."""

from xdist.scheduler import loadscope

CLUSTER = "tests/cluster/"


class ClusterTogether(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Runs all tests of the cluster in one worker, in order and first, because they share a server and some break it.

    Every other test runs in the next free worker. xdist's own groups (`xdist_group`) do not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return CLUSTER if nodeid.startswith(CLUSTER) else nodeid
