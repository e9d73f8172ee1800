"""A gateway uses the configuration cache only while the API server does not answer."""

import asyncio
import pathlib
import threading
from typing import Any

import pytest

from support import api_server, config_samples, followers
from usher_gateway import config_secret, documents, expressions, model
from usher_gateway.config import cache
from usher_gateway.expressions import turns


def write_cache(data: pathlib.Path, *envelopes: config_secret.Envelope, keys: model.Keys = config_samples.KEYS) -> None:
    cache.write(data, list(envelopes), keys.cache)


async def test_gateway_starts_from_its_cache_during_an_outage(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    for name in ("a", "b", "c"):
        server.put(followers.wrap(config_samples.listener(name)))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a", "b", "c")
        server.put(followers.tombstone(config_samples.listener("c")))
        await follower.until_runs("a", "b")
    await server.stop()
    async with followers.following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs("a", "b")
        assert follower.source.status().origin == "cache"
        server.put(followers.wrap(config_samples.listener("d")))
        server.put(followers.tombstone(config_samples.listener("a")))
        await server.start()
        await follower.until_runs("b", "d")
        assert follower.source.status().origin == "cluster"


async def test_unknown_address_may_be_new_while_the_api_server_is_silent(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    """A gateway answers 503 there, and 404 only while it knows every address."""
    server.put(followers.wrap(config_samples.listener("a")))
    server.put_mark(listeners=1)
    async with followers.following(server, tmp_path, check_seconds=0.05, silence_seconds=2.0) as follower:
        await follower.until(lambda: follower.snapshots and follower.snapshots[-1].is_complete)
        await server.stop()
        await follower.until(lambda: not follower.snapshots[-1].is_complete)
        await server.start()
        await follower.until(lambda: follower.snapshots[-1].is_complete)
        await server.stop()
    async with followers.following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs("a")
        assert not follower.snapshots[-1].is_complete
        await server.start()
        await follower.until(lambda: follower.snapshots[-1].is_complete)


async def test_gateway_that_lacks_a_counted_listener_is_not_complete(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    """Somebody deleted a document while no operator runs, and the gateway starts without a cache."""
    server.put(followers.wrap(config_samples.listener("a")))
    server.put(followers.tombstone(config_samples.listener("b")))
    server.put(followers.wrap(config_samples.destination()))
    server.put_mark(listeners=2)
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        assert not follower.snapshots[-1].is_complete
        server.put(followers.wrap(config_samples.listener("c")))
        await follower.until_runs("a", "c")
        assert follower.snapshots[-1].is_complete


async def test_part_of_a_first_list_is_no_cache(
    server: api_server.ApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list whose filters take long is in force only as a whole."""
    for name in ("a", "b", "c"):
        server.put(followers.wrap(config_samples.listener(name)))
    prepare, may_end = turns.ExpressionTurns.prepare, asyncio.Event()
    prepared = 0

    async def slow_prepare(*arguments: Any, **options: Any) -> None:
        nonlocal prepared
        prepared += 1
        if prepared > 1:
            await may_end.wait()
        await prepare(*arguments, **options)

    monkeypatch.setattr(turns.ExpressionTurns, "prepare", slow_prepare)
    async with followers.following(server, tmp_path, cache_after_seconds=0.05) as follower:
        await follower.until(lambda: prepared == 2)
        await asyncio.sleep(0.2)  # the gateway would use a cache now
        assert (follower.snapshots, follower.source.status().origin) == ([], None)
        may_end.set()
        await follower.until_runs("a", "b", "c")
        assert len(follower.snapshots) == 1


async def test_filters_of_the_cache_are_compiled_in_turns_before_the_check(
    server: api_server.ApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_compiled: dict[str, bool] = {}

    def check(document: config_secret.Document) -> None:
        assert isinstance(document, documents.ListenerDocument)
        is_compiled[document.name] = expressions.is_compiled(document.routes[0].when, "when")

    monkeypatch.setattr(followers, "can_run", check)
    names = [f"cached{number}" for number in range(3)]
    routes = {name: (documents.Route("r", "acme/crm", when=f"visit.email == '{name}'"),) for name in names}
    cached = [followers.wrap(config_samples.listener(name, routes=routes[name])) for name in names]
    write_cache(tmp_path, *cached)
    server.faults += [api_server.Answer(503)] * 1000
    async with followers.following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs(*names)
    assert is_compiled == dict.fromkeys(names, True)


@pytest.mark.parametrize("fault", [api_server.Answer(hangs=True), api_server.Answer(503)])
async def test_gateway_starts_from_its_cache_if_lists_fail(
    server: api_server.ApiServer, tmp_path: pathlib.Path, fault: api_server.Answer
) -> None:
    write_cache(tmp_path, followers.wrap(config_samples.listener("a")))
    server.faults += [fault] * 1000
    async with followers.following(server, tmp_path, cache_after_seconds=0.2) as follower:
        await follower.until_runs("a")
        assert follower.source.status().origin == "cache"


async def test_stop_writes_the_newest_set_after_an_unfinished_write(
    server: api_server.ApiServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = cache.write

    def slow_write(*arguments: Any) -> None:
        if not is_writing.is_set():
            is_writing.set()
            assert may_go_on.wait(followers.LIMIT_SECONDS)
        write(*arguments)

    monkeypatch.setattr(cache, "write", slow_write)
    server.put(followers.wrap(config_samples.listener("a")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until(is_writing.is_set)
        server.put(followers.wrap(config_samples.listener("b")))
        await follower.until_runs("a", "b")
        closing = asyncio.create_task(follower.close())
        await asyncio.wait({closing}, timeout=0.1)
        assert not closing.done()
        may_go_on.set()
        await closing
    kept = cache.read(tmp_path, config_samples.KEYS.cache)
    assert sorted(envelope.owner.name for envelope in kept) == ["a", "b"]


async def test_list_takes_precedence_over_the_cache(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    write_cache(tmp_path, followers.wrap(config_samples.listener("a")))
    server.put(followers.wrap(config_samples.listener("a", late_after_seconds=7)))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a")
        assert follower.snapshots[0].listeners["acme/a"].late_after_seconds == 7
        assert follower.source.status().origin == "cluster"


async def test_document_that_vanished_while_stopped_stays_in_force(
    server: api_server.ApiServer, tmp_path: pathlib.Path
) -> None:
    write_cache(tmp_path, followers.wrap(config_samples.listener("a")))
    server.put(followers.wrap(config_samples.listener("b")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("a", "b")
        assert list(follower.source.status().vanished) == [("Listener", "acme/a")]


async def test_unreadable_cache_is_ignored_and_replaced(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    """Such as that of another install key. The unit tests of the cache try every damage."""
    write_cache(tmp_path, followers.wrap(config_samples.listener("a")), keys=config_samples.OTHER_KEYS)
    unreadable = (tmp_path / cache.FILE_NAME).read_bytes()
    server.put(followers.wrap(config_samples.listener("b")))
    async with followers.following(server, tmp_path) as follower:
        await follower.until_runs("b")
        await follower.until(lambda: (tmp_path / cache.FILE_NAME).read_bytes() != unreadable)
        kept = cache.read(tmp_path, config_samples.KEYS.cache)
        assert [envelope.owner.name for envelope in kept] == ["b"]


async def test_failed_cache_write_stops_nothing(server: api_server.ApiServer, tmp_path: pathlib.Path) -> None:
    server.put(followers.wrap(config_samples.listener("a")))
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    async with followers.following(server, no_folder / "data") as follower:
        await follower.until_runs("a")
        server.put(followers.wrap(config_samples.listener("b")))
        await follower.until_runs("a", "b")
