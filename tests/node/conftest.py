"""The fixtures of `make test-node`: one image and one node for the run, and a release for each module."""

import contextlib
from collections.abc import Generator, Iterator

import pytest

from local_cluster import kubectl as kubectls
from local_cluster import node, programs
from support import clusters, figures, images, releases, sites, webhooks


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests measured."""
    if figures.LINES:
        terminalreporter.section("measured")
    for line in figures.LINES:
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a release did when one of its tests failed."""
    report = yield
    release = getattr(item, "funcargs", {}).get("release")
    if report.failed and report.when != "teardown" and isinstance(release, releases.Release):
        report.sections.append(("release", release.describe()))
    return report


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[images.Builder, images.Image]]:
    builder = images.Builder(tmp_path_factory.mktemp("buildah"))
    try:
        yield builder, builder.build()
    finally:
        builder.remove()


@pytest.fixture(scope="session")
def image(built: tuple[images.Builder, images.Image]) -> images.Image:
    """The image of this checkout."""
    return built[1]


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sites.Site]:
    """The cluster of this run: a local node with the image, or the cluster of KUBECONFIG."""
    folder = tmp_path_factory.mktemp("site")
    kubeconfig = clusters.given()
    if kubeconfig is not None:
        image = sites.given_image()
        if image is None:
            # A node of that cluster runs the chart, and it can only fetch what a registry has.
            pytest.skip(f"set {sites.IMAGE} to an image of this checkout that the cluster can fetch")
        given = sites.Site(kubectls.Kubectl(programs.kubectl(), kubeconfig, folder / "cache"), image, folder, None)
        # The tests install the definitions, and delete them at the end.
        assert not given.exists("customresourcedefinition", "listeners.usher.dev"), f"{kubeconfig} has Usher already"
        yield given
        return
    builder, _ = request.getfixturevalue("built")
    with node.running() as local:
        local.load(builder.archive(folder / "usher.tar"))
        yield sites.Site(local.kubectl, images.NAME, folder, local)


@pytest.fixture(scope="module")
def release(site: sites.Site, request: pytest.FixtureRequest) -> Iterator[releases.Release]:
    """Usher, installed from nothing, with destinations in the cluster allowed.

    A module with ``VOLUME_MEGABYTES`` gets a volume of that size, on a local node.
    """
    ready = releases.Release(site)
    try:
        megabytes = getattr(request.module, "VOLUME_MEGABYTES", None)
        seconds = ready.install(releases.ALLOW_CLUSTER, megabytes=megabytes)
        figures.add(f"helm install to ready: {seconds:.0f} s")
        yield ready
    finally:
        ready.remove()


@pytest.fixture
def webhook(release: releases.Release) -> Iterator[webhooks.Webhook]:
    """A listener behind an Ingress with a certificate, ready for visits."""
    with contextlib.ExitStack() as stack:
        new_webhook = webhooks.Webhook(release)
        stack.callback(new_webhook.remove)
        new_webhook.create()
        new_webhook.wait_ready()
        yield new_webhook
