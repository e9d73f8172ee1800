"""Configuration from an API server that fails in every way it can: nothing is lost, nothing is served too long."""

import asyncio
import contextlib
import pathlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import structlog

from support import api_server
from unit.config import envelope_samples as samples
from usher_gateway import documents, envelopes, model
from usher_gateway.config import cluster_access, from_cluster, last_good, list_watch, published

LIMIT_SECONDS = 10.0
LIMITS = list_watch.Limits(
    page_rows=3,
    connect_seconds=1,
    page_seconds=1,
    stall_seconds=0.4,
    first_pause_seconds=0.02,
    longest_pause_seconds=0.1,
)


def wrap(document: envelopes.Document) -> envelopes.Envelope:
    return envelopes.wrap(document, "uid", samples.KEYS.document)


def bury(document: envelopes.Document) -> envelopes.Envelope:
    envelope = wrap(document)
    return envelopes.bury(envelope.kind, envelope.owner, 1, samples.SAID_AT, samples.KEYS.document)


class Follower:
    """Follows a source, and waits for what the test expects."""

    def __init__(self, source: from_cluster.ClusterSource) -> None:
        self.source = source
        self.snapshots: list[documents.Snapshot] = []
        self._states: dict[envelopes.Identity, published.State | None] = {}
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for snapshot in self.source.snapshots():
            self.snapshots.append(snapshot)

    @property
    def listeners(self) -> list[str]:
        """Names of the listeners that run."""
        return sorted(one.name for one in self.snapshots[-1].listeners.values()) if self.snapshots else []

    def states(self) -> dict[envelopes.Identity, published.State | None]:
        self._states |= self.source.take_touched()
        return self._states

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not holds():
                await asyncio.sleep(0.01)
                if self._task.done():
                    self._task.result()

    async def until_runs(self, *names: str) -> None:
        await self.until(lambda: self.snapshots and self.listeners == sorted(names))

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@contextlib.asynccontextmanager
async def following(
    server: api_server.ApiServer,
    data: pathlib.Path,
    limits: list_watch.Limits = LIMITS,
    cache_after_seconds: float = 10.0,
) -> AsyncIterator[Follower]:
    options = from_cluster.ClusterOptions(
        keys=samples.KEYS,
        access=cluster_access.Access(server=f"http://127.0.0.1:{server.port}", token=api_server.TOKEN),
        namespace=api_server.NAMESPACE,
        data=data,
        limits=limits,
        cache_after_seconds=cache_after_seconds,
        keep_pause_seconds=0.05,
    )
    follower = Follower(from_cluster.ClusterSource(options, _runs, lambda: time.time_ns() // 1000))
    try:
        yield follower
    finally:
        await follower.close()


def _runs(document: envelopes.Document) -> None:
    if isinstance(document, documents.Listener) and document.max_body_bytes == 1:
        raise ValueError("cannot be run")


@pytest.fixture
async def server() -> AsyncIterator[api_server.ApiServer]:
    async with api_server.serving() as found:
        yield found


async def test_all_pages_of_the_first_list_make_one_snapshot(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    names = [f"l{number}" for number in range(10)]
    for name in names:
        server.put(wrap(samples.listener(name)))
    async with following(server, tmp_path) as follower:
        await follower.until_runs(*names)
        assert len(follower.snapshots) == 1
        assert follower.source.status().origin == "cluster"
        assert len(server.lists) == 4
        assert {query["limit"] for query in server.lists} == {"3"}


async def test_an_empty_namespace_is_a_configuration(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: follower.snapshots)
        assert follower.snapshots == [documents.Snapshot({}, {})]


async def test_to_be_able_to_run_nothing_is_no_configuration(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    """With another install key all is rejected: every address would be answered 404."""
    foreign = envelopes.wrap(samples.listener("a"), "uid", samples.OTHER_KEYS.document)
    server.put(foreign)
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: follower.states().get(("Listener", "acme/a")))
        assert follower.snapshots == []
        told = follower.source.status().waits_for
        assert model.key_fingerprint(samples.KEYS.install) in told
        assert "USHER_INSTALL_KEY" in told
        server.put(wrap(samples.listener("a")))
        await follower.until_runs("a")
        assert follower.source.status().waits_for == ""


async def test_another_install_key_is_one_line_of_the_log_whatever_was_published(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    for name in ("a", "b", "c"):
        server.put(envelopes.wrap(samples.listener(name), "uid", samples.OTHER_KEYS.document))
    with structlog.testing.capture_logs() as logs:
        async with following(server, tmp_path) as follower:
            await follower.until(lambda: len(follower.source.status().rejected) == 3)
    told = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["rejected"]) for line in told] == [("install_key_differs", 3)]


async def test_what_keeps_a_gateway_from_its_first_configuration_is_told(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    server.put(wrap(msgspec.structs.replace(samples.listener("a"), max_body_bytes=1)))
    server.faults += [api_server.Answer(403)] * 1000
    async with following(server, tmp_path) as follower:
        assert "was not read yet" in follower.source.status().waits_for
        server.faults.clear()
        await follower.until(lambda: "no document" in follower.source.status().waits_for)


async def test_a_change_is_live_within_a_second(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        before = time.monotonic()
        server.put(wrap(samples.listener("b")))
        await follower.until_runs("a", "b")
        assert time.monotonic() - before < 1
        server.put(bury(samples.listener("a")))
        await follower.until_runs("b")


async def test_changes_that_come_together_are_applied_together(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        for number in range(200):
            server.put(wrap(samples.listener(f"l{number}")))
        await follower.until(lambda: len(follower.listeners) == 200)
        assert len(follower.snapshots) < 20


async def test_a_bad_document_is_rejected_and_the_last_good_one_runs_on(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    name = server.put(wrap(samples.listener("a")))
    identity: envelopes.Identity = ("Listener", "acme/a")
    good = documents.content_hash(samples.listener("a"), samples.KEYS.document)
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a")
        for data in ({}, {"config.json": "e30="}, envelopes.secret_data(wrap(samples.listener("a", max_body_bytes=1)))):
            server.put_raw(name, data, "acme/a")
            await follower.until(lambda: follower.source.status().rejected)
            await follower.until(lambda: (state := follower.states().get(identity)) and state.rejected)
            state = follower.states()[identity]
            assert state is not None
            assert state.hash == good
            server.put(wrap(samples.listener("a")))
            await follower.until(lambda: not follower.source.status().rejected)
        assert len(follower.snapshots) == 1


async def test_what_vanishes_runs_on_and_only_a_tombstone_removes(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    name = server.put(wrap(samples.listener("a")))
    server.put(wrap(samples.listener("b")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.delete(name)
        await follower.until(lambda: ("Listener", "acme/a") in follower.source.status().vanished)
        assert follower.listeners == ["a", "b"]
        server.put(bury(samples.listener("a")))
        await follower.until_runs("b")
        server.delete(name)
        server.bookmark()
        await follower.until(lambda: server.open_watches)
        assert not follower.source.status().vanished


async def test_what_vanishes_while_nobody_watches_runs_on_too(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    name = server.put(wrap(samples.listener("a")))
    server.put(wrap(samples.listener("b")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.delete(name)
        server.compact()
        await server.stop()
        await server.start()
        await follower.until(lambda: follower.source.status().vanished)
        assert follower.listeners == ["a", "b"]


async def test_nothing_is_lost_over_a_cut(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        listed = len(server.lists)
        for number in range(5):
            server.cut()
            await follower.until(lambda: not server.open_watches)
            server.put(wrap(samples.listener(f"b{number}")))
            await follower.until(lambda n=number: f"b{n}" in follower.listeners)  # type: ignore[misc]
        assert len(server.lists) == listed


async def test_a_version_that_is_too_old_is_listed_anew(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.watch_faults.append(api_server.Answer(410))
        server.cut()
        await follower.until(lambda: not server.open_watches)
        server.put(wrap(samples.listener("b")))
        server.put(bury(samples.listener("a")))
        server.compact()
        await follower.until_runs("b")
        assert len(server.lists) >= 2


async def test_a_list_whose_pages_expire_is_begun_anew(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    for number in range(10):
        server.put(wrap(samples.listener(f"l{number}")))
    server.faults += [None, None, api_server.Answer(410)]
    async with following(server, tmp_path) as follower:
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
async def test_a_server_that_fails_is_asked_again(
    server: api_server.ApiServer, tmp_path: pathlib.Path, fault: api_server.Answer
) -> None:
    server.put(wrap(samples.listener("a")))
    server.faults += [fault, fault]
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a")
        server.watch_faults += [fault, fault]
        server.cut()
        await follower.until(lambda: not server.open_watches)
        server.put(wrap(samples.listener("b")))
        await follower.until_runs("a", "b")
        assert not server.faults
        assert not server.watch_faults
        assert not follower.source.status().vanished


async def test_a_server_that_says_when_is_not_asked_before(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    server.put(wrap(samples.listener("a")))
    server.faults.append(api_server.Answer(429, headers={"Retry-After": "1"}))
    before = time.monotonic()
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a")
        assert time.monotonic() - before >= 1
        assert len(server.lists) == 2


async def test_a_server_that_ends_every_watch_is_not_asked_in_a_circle(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    server.put(wrap(samples.listener("a")))
    server.watch_faults += [api_server.Answer(200)] * 1000
    async with following(server, tmp_path) as follower:
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
async def test_lies_on_a_watch_do_no_harm(server: api_server.ApiServer, tmp_path: pathlib.Path, line: bytes) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.say(line)
        await follower.until(lambda: len(server.lists) >= 2)
        server.put(wrap(samples.listener("b")))
        await follower.until_runs("a", "b")


async def test_a_document_of_a_megabyte_is_followed(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.put(wrap(samples.destination("large", headers=(("X-Large", "x" * 900_000),))))
        await follower.until(lambda: "acme/large" in follower.snapshots[-1].destinations)
        assert len(server.lists) == 1


async def test_a_page_that_is_too_long_is_asked_for_in_smaller_ones(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    for number in range(8):
        server.put(wrap(samples.destination(f"d{number}", headers=(("X-Large", "x" * 30_000),))))
    limits = list_watch.Limits(page_rows=8, page_bytes=100_000)
    async with following(server, tmp_path, limits) as follower:
        await follower.until(lambda: follower.snapshots and len(follower.snapshots[-1].destinations) == 8)


async def test_a_watch_on_which_nothing_comes_is_begun_anew(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: len(server.watches) >= 3)
        assert len(server.lists) == 1


async def test_a_bookmark_moves_the_version_on(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(lambda: server.open_watches)
        server.version += 50
        server.bookmark()
        heard = follower.source.status().heard_at
        await follower.until(lambda: follower.source.status().heard_at > heard)
        server.cut()
        await follower.until(lambda: server.watches[-1]["resourceVersion"] == str(server.version))


async def test_a_token_is_read_anew(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(wrap(samples.listener("a")))
    token = tmp_path / "token"
    token.write_text("old")
    options = from_cluster.ClusterOptions(
        keys=samples.KEYS,
        access=cluster_access.Access(server=f"http://127.0.0.1:{server.port}", token_file=token),
        namespace=api_server.NAMESPACE,
        data=tmp_path,
        limits=LIMITS,
    )
    follower = Follower(from_cluster.ClusterSource(options, _runs, lambda: 1))
    try:
        await follower.until(lambda: server.lists)
        token.write_text(api_server.TOKEN)
        await follower.until_runs("a")
    finally:
        await follower.close()


# the cache


async def test_without_the_server_a_gateway_starts_from_its_cache(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    for name in ("a", "b", "c"):
        server.put(wrap(samples.listener(name)))
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a", "b", "c")
        server.put(bury(samples.listener("c")))
        await follower.until_runs("a", "b")
    await server.stop()
    async with following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs("a", "b")
        assert follower.source.status().origin == "cache"
        server.put(wrap(samples.listener("d")))
        server.put(bury(samples.listener("a")))
        await server.start()
        await follower.until_runs("b", "d")
        assert follower.source.status().origin == "cluster"


@pytest.mark.parametrize("fault", [api_server.Answer(hangs=True), api_server.Answer(503)])
async def test_a_server_that_does_not_list_is_as_good_as_none(
    server: api_server.ApiServer, tmp_path: pathlib.Path, fault: api_server.Answer
) -> None:
    last_good.write(tmp_path, [wrap(samples.listener("a"))], samples.KEYS.cache)
    server.faults += [fault] * 1000
    async with following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs("a")
        assert follower.source.status().origin == "cache"


async def test_at_a_stop_the_newest_set_is_kept_though_an_older_one_is_being_written(
    server: api_server.ApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = last_good.write

    def slow_write(*arguments: Any) -> None:
        if not is_writing.is_set():
            is_writing.set()
            assert may_go_on.wait(LIMIT_SECONDS)
        write(*arguments)

    monkeypatch.setattr(last_good, "write", slow_write)
    server.put(wrap(samples.listener("a")))
    async with following(server, tmp_path) as follower:
        await follower.until(is_writing.is_set)
        server.put(wrap(samples.listener("b")))
        await follower.until_runs("a", "b")
        closing = asyncio.create_task(follower.close())
        await asyncio.wait({closing}, timeout=0.1)
        assert not closing.done()
        may_go_on.set()
        await closing
    kept = last_good.read(tmp_path, samples.KEYS.cache)
    assert kept is not None
    assert sorted(one.owner.name for one in kept) == ["a", "b"]


async def test_a_server_that_answers_goes_before_the_cache(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    last_good.write(tmp_path, [wrap(samples.listener("a"))], samples.KEYS.cache)
    server.put(wrap(samples.listener("a", late_after_seconds=7)))
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a")
        assert follower.snapshots[0].listeners["acme/a"].late_after_seconds == 7
        assert follower.source.status().origin == "cluster"


async def test_what_vanished_while_the_gateway_was_down_is_served_on(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    last_good.write(tmp_path, [wrap(samples.listener("a"))], samples.KEYS.cache)
    server.put(wrap(samples.listener("b")))
    async with following(server, tmp_path) as follower:
        await follower.until_runs("a", "b")
        assert list(follower.source.status().vanished) == [("Listener", "acme/a")]


@pytest.mark.parametrize("content", [b"", b"garbage", b"usher-config-cache 1\n" + b"x" * 100])
async def test_a_cache_that_cannot_be_read_is_ignored(
    server: api_server.ApiServer, tmp_path: pathlib.Path, content: bytes
) -> None:
    (tmp_path / last_good.FILE_NAME).write_bytes(content)
    server.put(wrap(samples.listener("b")))
    async with following(server, tmp_path) as follower:
        await follower.until_runs("b")
        await follower.until(lambda: last_good.read(tmp_path, samples.KEYS.cache) if _is_ours(tmp_path) else None)


def _is_ours(data: pathlib.Path) -> bool:
    return (data / last_good.FILE_NAME).stat().st_size > 200


async def test_a_cache_of_another_install_key_is_ignored(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    last_good.write(tmp_path, [wrap(samples.listener("a"))], samples.OTHER_KEYS.cache)
    server.put(wrap(samples.listener("b")))
    async with following(server, tmp_path) as follower:
        await follower.until_runs("b")


async def test_a_cache_that_cannot_be_written_stops_nothing(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    server.put(wrap(samples.listener("a")))
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    async with following(server, no_folder / "data") as follower:
        await follower.until_runs("a")
        server.put(wrap(samples.listener("b")))
        await follower.until_runs("a", "b")
