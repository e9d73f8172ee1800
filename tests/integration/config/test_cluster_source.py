"""A gateway follows an API server that fails in many ways. It loses no change, and removes no document by mistake."""

import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from support import api_server, config_samples, followers
from usher_gateway import config_secret, documents
from usher_gateway.config import cluster
from usher_gateway.kube import access, client

Following = followers.Follower[cluster.ClusterSource]


@pytest.fixture
async def follower(server: api_server.ApiServer, tmp_path: Path) -> AsyncIterator[Following]:
    """Watches a server that has the listener ``a``."""
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path) as watching:
        await watching.until(lambda: server.open_watches)
        yield watching


async def test_pages_of_the_first_list_make_one_snapshot(server: api_server.ApiServer, tmp_path: Path) -> None:
    names = [f"l{number}" for number in range(10)]
    for name in names:
        server.put(followers.wrap(config_samples.listener(name)))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs(*names)
        assert len(follower.snapshots) == 1
        assert follower.source.status().origin == "cluster"
        assert len(server.lists) == 4
        assert {query["limit"] for query in server.lists} == {"3"}


async def test_other_install_key_is_logged_once_for_all_documents(server: api_server.ApiServer, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        server.put(config_secret.envelope_of(config_samples.listener(name), "uid", config_samples.OTHER_KEYS.document))
    with structlog.testing.capture_logs() as logs:
        async with followers.following(server, tmp_path) as follower:
            await follower.until(lambda: len(follower.source.status().rejected) == 3)
    told = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["rejected"]) for line in told] == [("install_key_mismatch_found", 3)]


async def test_change_is_in_force_within_a_second(server: api_server.ApiServer, follower: Following) -> None:
    seconds, names = [], ["a"]
    for name in ("b", "c", "d", "e", "f"):
        names.append(name)
        published_at = time.monotonic()
        server.put(followers.wrap(config_samples.listener(name)))
        await follower.until_runs(*names)
        seconds.append(time.monotonic() - published_at)
    assert statistics.median(seconds) < 1  # others may use the cores of the test machine for a moment
    server.put(followers.tombstone(config_samples.listener("a")))
    await follower.until_runs(*names[1:])


async def test_simultaneous_changes_share_snapshots(server: api_server.ApiServer, tmp_path: Path) -> None:
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        for number in range(200):
            server.put(followers.wrap(config_samples.listener(f"l{number}")))
        await follower.until(lambda: len(follower.listeners) == 200)
        assert len(follower.snapshots) < 100


async def test_document_that_vanishes_during_an_outage_stays(server: api_server.ApiServer, tmp_path: Path) -> None:
    name = server.put(followers.wrap(config_samples.listener("a")))
    server.put(followers.wrap(config_samples.listener("b")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.delete(name)
        server.compact()
        await server.stop()
        await server.start()
        await follower.until(lambda: follower.source.status().vanished)
        assert follower.listeners == ["a", "b"]


async def test_cut_watch_continues_without_a_new_list(server: api_server.ApiServer, follower: Following) -> None:
    listed = len(server.lists)
    for number in range(5):
        server.cut()
        await follower.until(lambda: not server.open_watches)
        server.put(followers.wrap(config_samples.listener(f"b{number}")))
        await follower.until(lambda n=number: f"b{n}" in follower.listeners)  # type: ignore[misc]
    assert len(server.lists) == listed


async def test_expired_watch_is_followed_by_a_new_list(server: api_server.ApiServer, follower: Following) -> None:
    server.watch_faults.append(api_server.Answer(410))
    server.cut()
    await follower.until(lambda: not server.open_watches)
    server.put(followers.wrap(config_samples.listener("b")))
    server.put(followers.tombstone(config_samples.listener("a")))
    server.compact()
    await follower.until_runs("b")
    assert len(server.lists) >= 2


async def test_list_with_expired_pages_starts_again(server: api_server.ApiServer, tmp_path: Path) -> None:
    for number in range(10):
        server.put(followers.wrap(config_samples.listener(f"l{number}")))
    server.faults += [None, None, api_server.Answer(410)]
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: len(follower.listeners) == 10)
        assert len(follower.snapshots) == 1
        assert ["continue" in query for query in server.lists] == [False, True, True, False, True, True, True]


@pytest.mark.parametrize(
    "fault",
    [
        api_server.Answer(500),
        api_server.Answer(503, headers={"Retry-After": "0"}),
        api_server.Answer(401),
        api_server.Answer(403),
        api_server.Answer(302, headers={"Location": "http://127.0.0.1:1/"}),
        api_server.Answer(200, b"<html>a proxy's page</html>"),
        api_server.Answer(200, b'{"kind":"SecretList","metadata":{},"items":[]}'),
        api_server.Answer(200, b""),
        api_server.Answer(hangs=True),
    ],
)
async def test_failed_request_is_retried(
    server: api_server.ApiServer, tmp_path: Path, fault: api_server.Answer
) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.faults += [fault, fault]
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        server.watch_faults += [fault, fault]
        server.cut()
        await follower.until(lambda: not server.open_watches)
        server.put(followers.wrap(config_samples.listener("b")))
        await follower.until_runs("a", "b")
        assert not server.faults
        assert not server.watch_faults
        assert not follower.source.status().vanished


async def test_retry_after_is_respected(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.faults.append(api_server.Answer(429, headers={"Retry-After": "1"}))
    started_at = time.monotonic()
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        assert time.monotonic() - started_at >= 1
        assert len(server.lists) == 2


async def test_watches_that_end_at_once_are_backed_off(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    server.watch_faults += [api_server.Answer(200)] * 1000
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        began, asked = time.monotonic(), len(server.watches)
        await follower.until(lambda: time.monotonic() - began >= 1)
        assert len(server.watches) - asked < 40


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b'{"type":"ADDED","object":{}}\n',
        b"{" + b"x" * 5_000_000,
        b'{"type":"ERROR","object":{"code":410}}\n',
    ],
)
async def test_unreadable_event_is_followed_by_a_new_list(
    server: api_server.ApiServer, follower: Following, line: bytes
) -> None:
    server.say(line)
    await follower.until(lambda: len(server.lists) >= 2)
    server.put(followers.wrap(config_samples.listener("b")))
    await follower.until_runs("a", "b")


async def test_document_of_a_megabyte_is_applied(server: api_server.ApiServer, tmp_path: Path) -> None:
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.put(followers.wrap(config_samples.destination("large", headers=(("X-Large", "x" * 900_000),))))
        await follower.until(lambda: follower.snapshots and "acme/large" in follower.snapshots[-1].destinations)
        assert len(server.lists) == 1


async def test_stalled_watch_is_restarted_without_a_new_list(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: len(server.watches) >= 3)
        assert len(server.lists) == 1


async def test_bookmark_advances_the_version(server: api_server.ApiServer, follower: Following) -> None:
    server.version += 50
    server.bookmark()
    heard = follower.source.status().heard_at
    await follower.until(lambda: follower.source.status().heard_at > heard)
    server.cut()
    await follower.until(lambda: server.watches[-1]["resourceVersion"] == str(server.version))


async def test_restored_server_is_read_again(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    backup = server.back_up()
    server.put(followers.wrap(config_samples.listener("a", max_body_bytes=9)))
    server.put(followers.wrap(config_samples.listener("new")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.restore(backup)
        await follower.until(lambda: follower.snapshots[-1].listeners["acme/a"] == config_samples.listener("a"))
        assert follower.listeners == ["a", "new"]  # a document without a Secret stays in force
        server.put(followers.wrap(config_samples.listener("after")))
        await follower.until_runs("a", "after", "new")


async def test_check_finds_what_the_watch_missed(server: api_server.ApiServer, tmp_path: Path) -> None:
    """The restored server wrote so much that its versions are past those that the gateway knows."""
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path, check_seconds=0.2) as follower:
        await follower.until(lambda: server.open_watches)
        server.forget_watches()
        server.put(followers.wrap(config_samples.listener("a", max_body_bytes=9)))
        server.put(followers.wrap(config_samples.listener("b")))
        await follower.until_runs("a", "b")
        assert follower.snapshots[-1].listeners["acme/a"].max_body_bytes == 9
        lists, checks = len(server.lists), len(server.checks)
        await follower.until(lambda: len(server.checks) > checks + 3)
        assert len(server.lists) == lists


async def test_check_without_a_difference_counts_as_heard(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path, check_seconds=0.05) as follower:
        await follower.until(lambda: server.open_watches)
        heard = follower.source.status().heard_at
        await follower.until(lambda: follower.source.status().heard_at > heard)


async def test_rejected_token_is_read_again(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    token = tmp_path / "token"
    token.write_text("old")
    options = cluster.ClusterOptions(
        keys=config_samples.KEYS, namespace=api_server.NAMESPACE, data=tmp_path, timing=followers.TIMING
    )

    def load(_: bool) -> access.ApiConnection:
        return access.ApiConnection(
            server=f"http://127.0.0.1:{server.port}", authorization=f"Bearer {token.read_text()}"
        )

    reader = client.Client(access.Access(load), limits=followers.LIMITS)
    follower = followers.Follower(cluster.ClusterSource(options, client=reader, check=followers.can_run, now=lambda: 1))
    try:
        await follower.until(lambda: server.lists)
        token.write_text(api_server.TOKEN)
        await follower.until_runs("a")
    finally:
        await follower.close()


def costly(name: str, routes: int = 16) -> documents.ListenerDocument:
    """Build a listener whose expressions take about 0.05 s each to compile."""
    chain = "<".join(["1"] * 400)
    transforms = [f"['{name}{number}', {chain}]" for number in range(routes)]
    each = tuple(documents.Route(f"r{number}", "crm", transform=text) for number, text in enumerate(transforms))
    return config_samples.listener(name, namespace="noisy", routes=each)


async def test_costly_expressions_of_one_namespace_delay_no_other(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        for number in range(10):
            server.put(followers.wrap(costly(f"costly{number}")))
        routes = (documents.Route("crm", "crm", when="visit.email == 'new'"),)
        server.put(followers.wrap(config_samples.listener("a", routes=routes)))
        server.put(followers.wrap(config_samples.listener("b")))
        await follower.until(lambda: "b" in follower.listeners)
        await follower.until(lambda: follower.snapshots[-1].listeners["acme/a"].routes == routes)
        assert "costly9" not in follower.listeners


async def test_newest_version_of_a_waiting_document_counts(server: api_server.ApiServer, tmp_path: Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        for name in ("first", "edited", "removed"):
            server.put(followers.wrap(costly(name, routes=4)))
        edited = config_samples.listener("edited", namespace="noisy")
        server.put(followers.wrap(edited))
        server.put(followers.tombstone(config_samples.listener("removed", namespace="noisy")))
        await follower.until_runs("a", "edited", "first")
        assert follower.snapshots[-1].listeners["noisy/edited"] == edited
        assert not any("noisy/removed" in snapshot.listeners for snapshot in follower.snapshots)


async def test_hostnames_that_moved_are_never_with_two_tenants_while_a_list_is_read(
    server: api_server.ApiServer, tmp_path: Path
) -> None:
    names = [f"l{number}" for number in range(20)]

    def put_at(hosts: list[str], changes: str) -> None:
        chain = "<".join(["1"] * 400)
        for name, host in zip(names, hosts, strict=True):
            routes = (documents.Route("crm", "crm", when=f"'{name}{changes}' == '' && {chain}"),)
            tenant, addresses = documents.TenantDocument(name), (documents.Address(f"{host}.example", "/hook"),)
            document = config_samples.listener(name, tenant=tenant, addresses=addresses, routes=routes)
            server.put(followers.wrap(document))

    put_at(names, "")
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs(*names)
        server.put(followers.wrap(config_samples.listener("a")))
        await follower.until(lambda: "a" in follower.listeners)
        heard_at = follower.source.status().heard_at
        server.put(followers.wrap(config_samples.listener("b")))  # its snapshot comes while the list is read
        await follower.until(lambda: follower.source.status().heard_at != heard_at)
        server.watch_faults.append(api_server.Answer(410))
        server.cut()
        put_at(names[1:] + names[:1], "moved")
        server.compact()
        await follower.until(
            lambda: follower.snapshots[-1].listeners[f"acme/{names[-1]}"].own_hostnames == {f"{names[0]}.example"}
        )
    for snapshot in follower.snapshots:
        places = [address.place for listener in snapshot.listeners.values() for address in listener.addresses]
        assert len(places) == len(set(places))
