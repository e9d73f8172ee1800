"""How `pytest -n` distributes the tests over its workers."""

from xdist.scheduler import loadscope

CLUSTER = "tests/cluster/"


class ClusterByFile(loadscope.LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Runs each file of the cluster's tests in one worker, and these files first, because they take longest.

    Each worker starts its own API server for them. Every other test runs in the next free worker. xdist's own
    `--dist loadgroup` does not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(CLUSTER) else nodeid
