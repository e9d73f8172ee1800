"""A real Kubernetes API server for the tests of this folder: one per run, and a new namespace per test.

`make test KUBECONFIG=…` uses any cluster; without it, the tests build and start a control plane.
"""

import contextlib
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from local_cluster import foreign, programs
from support import agencies, api, clusters, dry_run, faulty_proxy, installs, leaks

FOLDER = Path(__file__).parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane before the first test, outside of every test's time limit."""
    if clusters.given() is not None or not any(FOLDER in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        programs.control_plane()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of operators and gateways to the report of a failed test, because a race seldom fails twice."""
    report = yield
    if report.failed and report.when == "call" and FOLDER in item.path.parents:
        report.sections += installs.logs_of_running()
    return report


@pytest.fixture(scope="session", autouse=True)
def no_program_wrote_a_secret() -> Iterator[None]:
    """Fail at the end of the run if a log, an Event, a condition, metrics or a report contained a secret."""
    yield
    assert leaks.SECRETS.take_found() == []


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """The API server of this worker with its administrator's account, to prepare and read objects.

    It ends with the last test of this folder, because an idle one takes 7 % of a core. Programs under test use accounts
    with the shipped permissions.
    """
    with clusters.cluster(tmp_path_factory.mktemp("cluster")) as ready:
        yield ready


@pytest.fixture(scope="package")
def definitions(cluster: clusters.Cluster) -> clusters.Cluster:
    """The cluster with the custom resource definitions of the Gateway API, cert-manager and Usher."""
    for each in foreign.ALL:
        cluster.define_missing(each)
    cluster.define(clusters.own_definitions())
    return cluster


@pytest.fixture
async def server(cluster: clusters.Cluster) -> AsyncIterator[api.Api]:
    """A client of the API server for frequent reads, because each start of kubectl takes 0.1 s."""
    async with api.connected(cluster.endpoint, cluster.token) as ready:
        yield ready


@pytest.fixture
async def make_namespace(server: api.Api) -> AsyncIterator[installs.Namespaces]:
    """Create new namespaces: ``await make_namespace("agency", label="value")``."""
    async with installs.namespaces(server) as make:
        yield make


@pytest.fixture
async def namespace(make_namespace: installs.Namespaces) -> str:
    """The name of a new namespace."""
    return await make_namespace()


@pytest.fixture
async def judge(definitions: clusters.Cluster) -> AsyncIterator[dry_run.Server]:
    """A client that asks the API server what it would do with a document."""
    async with dry_run.Server(definitions) as ready:
        yield ready


@pytest.fixture
async def proxy(cluster: clusters.Cluster, tmp_path: Path) -> AsyncIterator[faulty_proxy.Proxy]:
    """A proxy in front of the API server that fails on command."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    async with faulty_proxy.running(cluster.endpoint, folder) as ready:
        yield ready


@pytest.fixture
async def install(
    definitions: clusters.Cluster, server: api.Api, make_namespace: installs.Namespaces, tmp_path: Path
) -> AsyncIterator[installs.Install]:
    """An install of Usher with the shipped permissions; a missing permission fails the test."""
    async with installs.installed(definitions, server, make_namespace, tmp_path) as ready:
        yield ready
        await installs.assert_no_right_was_missing(ready)


@pytest.fixture(scope="module")
def restorable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Restorable]:
    """A cluster that only one module uses, because its etcd is restored."""
    if clusters.given() is not None:
        # A restore replaces all data of a cluster, so nobody's own cluster is used for it.
        pytest.skip("only the etcd of a local cluster can be restored")
    with clusters.restorable(tmp_path_factory.mktemp("restorable")) as ready:
        yield ready


@pytest.fixture
async def restorable_namespaces(restorable: clusters.Restorable) -> AsyncIterator[installs.Namespaces]:
    """Create new namespaces in the restorable cluster."""
    own = restorable.cluster
    async with api.connected(own.endpoint, own.token) as server, installs.namespaces(server) as make:
        yield make


@pytest.fixture
async def restorable_install(
    restorable: clusters.Restorable, restorable_namespaces: installs.Namespaces, tmp_path: Path
) -> AsyncIterator[installs.Install]:
    """An install in the restorable cluster. Requests may be refused: a starting API server does not know all roles."""
    make = restorable_namespaces
    async with installs.installed(restorable.cluster, make.server, make, tmp_path) as install:
        yield install


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def platform(
    definitions: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[agencies.Platform]:
    """Operator, gateway and class of one install, which the tests of this worker share (`agencies.SHARED`)."""
    async with agencies.running_platform(definitions, tmp_path_factory.mktemp("platform")) as ready:
        yield ready


@pytest.fixture
def make_agency(platform: agencies.Platform) -> agencies.Make:
    """Create agencies, each in a new namespace. They stay until the platform ends, to save time."""

    async def begin(**labels: str) -> agencies.Agency:
        return agencies.Agency(platform, await platform.make_namespace("agency", labels))

    return begin


@pytest_asyncio.fixture(loop_scope="package")
async def agency(make_agency: agencies.Make) -> agencies.Agency:
    return await make_agency()
