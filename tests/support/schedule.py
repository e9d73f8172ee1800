"""Which worker runs which test (`pytest -n`)."""

from xdist.scheduler import loadscope

CLUSTER = "tests/cluster/"


class ClusterTogether(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """All tests of the cluster in one worker, one after the other, first: they share a server, and some break it.

    Every other test runs wherever there is time. xdist's own groups (`xdist_group`) do not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return CLUSTER if nodeid.startswith(CLUSTER) else nodeid
