"""The chart with PostgreSQL: several gateways, of which one may stop or die while visits arrive."""

import json
import secrets
import time
from collections.abc import Iterator

import pytest

from local_cluster import isolation, node_files
from local_cluster import kubectl as kubectls
from postgresql.server import PostgresServer
from support import figures, gaps, releases, sites, webhooks

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

REPLICAS = 3
# The statement that docs/which-store.md shows.
GRANTS = """
alter default privileges for role tables_owner in schema public
    grant select, insert, update, delete on tables to tables_user;
"""


@pytest.fixture(scope="module")
def database(site: sites.Site) -> Iterator[PostgresServer]:
    """A PostgreSQL server on the machine of the node, which pods reach at the node's address."""
    if site.local is None:
        pytest.skip("the database of these tests runs next to the local node")
    with PostgresServer(is_durable=True, settings={"listen_addresses": f"127.0.0.1,{isolation.ADDRESS}"}) as server:
        yield server


@pytest.fixture(scope="module")
def release(site: sites.Site, database: PostgresServer) -> Iterator[releases.Release]:
    """Usher with three gateways on a database whose address is in a Secret, as CloudNativePG writes it."""
    ready = releases.Release(site, "deployment")
    site.make_namespace(ready.namespace)
    give_address(ready, database, "app", "app")
    database.execute("create database app owner app")
    try:
        seconds = ready.install(
            releases.ALLOW_CLUSTER,
            "--set=store.type=PostgreSQL,store.postgresql.secret.name=app",
            f"--set=store.postgresql.port={database.port},gateway.replicaCount={REPLICAS}",
        )
        figures.add(f"helm install with {REPLICAS} gateways on PostgreSQL to ready: {seconds:.0f} s")
        yield ready
    finally:
        ready.remove()


def give_address(release: releases.Release, server: PostgresServer, role: str, database: str) -> None:
    """Create a role that may connect from pods, and a Secret of its name with the address of its database."""
    password = secrets.token_hex(16)
    server.require_password(role, password, attributes="", clients=node_files.PODS)
    uri = f"postgresql://{role}:{password}@{isolation.ADDRESS}:{server.port}/{database}"
    metadata = {"name": role.replace("_", "-"), "namespace": release.namespace}
    release.site.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"uri": uri}})


def gateways(release: releases.Release) -> list[str]:
    """Return the names of the gateways' pods, without those that stop."""
    pods = [pod["metadata"] for pod in release.pods("gateway")]
    return [metadata["name"] for metadata in pods if "deletionTimestamp" not in metadata]


def test_visits_through_several_gateways_reach_the_receiver_and_the_books_are_equal(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    assert len(gateways(release)) == REPLICAS
    sent = webhook.start_visits(400, rate=40).wait()
    assert sent["retries"] == 0
    webhook.assert_books_equal(sent)


def test_rollout_of_the_gateways_refuses_no_visit(release: releases.Release, webhook: webhooks.Webhook) -> None:
    previous_pods = {pod["metadata"]["uid"] for pod in release.pods("gateway")}

    def is_replaced() -> bool:
        pods = release.pods("gateway")
        return len(pods) == REPLICAS and previous_pods.isdisjoint(pod["metadata"]["uid"] for pod in pods)

    started, sent = time.monotonic(), []
    with gaps.GapMeter(webhook.url(), webhooks.authority(webhook.site)) as meter:
        release.kubectl("rollout", "restart", release.gateway)
        while not is_replaced():
            sent.append(webhook.start_visits(400, rate=40).wait())
        seconds = time.monotonic() - started
    requests = sum(report["sent"] for report in sent)
    failed = requests - sum(report["answered_well"] for report in sent)
    slowest = max(report["latency"]["max"] for report in sent)
    figures.add(
        f"{REPLICAS} gateways replaced in {seconds:.0f} s at 40 visits/s: {failed} of {requests} requests failed,"
        f" slowest {slowest:.1f} s; no good answer to a probe for {meter.longest_seconds:.1f} s"
    )
    assert failed == 0
    assert meter.longest_seconds == 0
    release.wait_ready()
    counts = webhook.assert_books_equal(*sent)
    assert counts["duplicates"] == 0


def test_drain_takes_one_gateway_at_a_time_and_refuses_no_visit(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    first, second, _ = gateways(release)
    sender = webhook.start_visits(800, rate=40)
    webhook.wait_visits(100)
    evict(release, first)
    with pytest.raises(kubectls.KubectlError, match="disruption budget"):
        evict(release, second)
    sent = sender.wait()
    failed = sent["sent"] - sent["answered_well"]
    figures.add(f"1 of {REPLICAS} gateways evicted at 40 visits/s: {failed} of {sent['sent']} requests failed")
    assert failed == 0
    release.wait_ready()
    webhook.assert_books_equal(sent)


def evict(release: releases.Release, pod: str) -> None:
    """Ask for the end of a pod as `kubectl drain` does."""
    metadata = {"name": pod, "namespace": release.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"
    release.site.kubectl.run("create", f"--raw={path}", "--filename=-", stdin=json.dumps(eviction))


def test_killed_gateway_of_several_loses_no_visit(release: releases.Release, webhook: webhooks.Webhook) -> None:
    sender = webhook.start_visits(1000, rate=40)
    webhook.wait_visits(100)
    release.kill_one_gateway()
    sent = sender.wait()
    figures.add(f"1 of {REPLICAS} gateways killed at 40 visits/s: {sent['retries']} of {sent['sent']} requests failed")
    release.wait_ready()
    # after 60 s without a heartbeat, the others take over what the killed one had to deliver
    webhook.wait_delivered(limit_seconds=180)
    webhook.assert_books_equal(sent)


def test_gateways_without_rights_to_migrate_run_on_the_tables_of_the_hook(
    release: releases.Release, database: PostgresServer, webhook: webhooks.Webhook
) -> None:
    give_address(release, database, "tables_owner", "hooked")
    give_address(release, database, "tables_user", "hooked")
    database.execute("create database hooked owner tables_owner")
    database.execute(GRANTS, "hooked")
    good = json.loads(release.helm("history", releases.NAME, "--output=json"))[-1]["revision"]
    names = "store.postgresql.secret.name=tables-user,store.postgresql.migrationSecret.name=tables-owner"
    try:
        release.upgrade("--reuse-values", f"--set=store.postgresql.migrations=Hook,{names}")
        webhook.wait_ready()
        webhook.assert_books_equal(webhook.start_visits(100).wait())
        owners = database.rows("select distinct tableowner from pg_tables where schemaname = 'public'", "hooked")
        assert [owner for (owner,) in owners] == ["tables_owner"]
        assert not release.site.exists("job", f"{releases.NAME}-migration", f"--namespace={release.namespace}")
    finally:
        release.rollback(good)
