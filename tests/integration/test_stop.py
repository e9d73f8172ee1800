"""Start and stop: clean stops under load, and a process that is frozen."""

import asyncio
import contextlib
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway import app, model
from usher_gateway import settings as all_settings
from usher_gateway.delivery import dispatcher
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.ingest import server
from usher_gateway.simulator import receiver, receiving
from usher_gateway.store.sqlite import store as sqlite_store

STOP_SECONDS = 35  # The grace period of the chart's pods (45 s) without `preStopSeconds` (10 s)


def manifests(peer: receiver.Receiver, *more: str) -> list[gateways.Manifest]:
    names = ["crm", *more]
    routes = [gateways.route(name, name) for name in names]
    return [
        gateways.TENANT,
        gateways.listener("hook", routes),
        *[gateways.destination(name, f"{peer.url}/{name}", {"timeoutSeconds": 30}) for name in names],
    ]


# The program of a gateway that inherited this reaction to SIGHUP, because the tests themselves may run under nohup.
_WITH_SIGHUP = """
import signal
from usher_gateway import __main__
signal.signal(signal.SIGHUP, signal.{})
__main__.main()
"""


def signals_ignored(process: int) -> int:
    """The kernel's signal mask."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(status.partition("SigIgn:")[2].split()[0], 16)


class Load:
    """Posts continuously over 32 keep-alive connections, and remembers the acknowledged bodies."""

    PAUSE_SECONDS = 0.08
    """Pause of a connection after an answer: at most 400 posts a second in all, because a listener accepts 500."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = 0
        self.acknowledged: list[bytes] = []
        self.statuses: set[int] = set()

    async def run(self) -> None:
        await asyncio.gather(*[self._post() for _ in range(32)])

    async def _post(self) -> None:
        with contextlib.closing(gateways.Connection(self._port)) as connection:
            while True:
                self._number += 1
                await self._post_once(connection, gateways.visit(self._number))

    async def _post_once(self, connection: gateways.Connection, body: bytes) -> None:
        try:
            reply = await connection.post("/hook", body)
        except OSError:
            await asyncio.sleep(0.01)
            return
        self.statuses.add(reply.status)
        if reply.is_acknowledgement:
            self.acknowledged.append(body)
        await asyncio.sleep(self.PAUSE_SECONDS)


@pytest.mark.parametrize(("more", "limit_seconds"), [((), 9), (("hangs",), 30)])
async def test_stop_under_load_loses_no_acknowledged_visit(
    tmp_path: Path, peer: receiver.Receiver, more: tuple[str, ...], limit_seconds: float
) -> None:
    peer.set_behaviour("/hangs", receiving.Behaviour(kind="Hang"))
    async with gateways.Gateway(tmp_path, manifests(peer, *more)) as gateway:
        await gateway.start()
        load = Load(gateway.port)
        posting = asyncio.create_task(load.run())
        await waiting.wait_until(lambda: len(load.acknowledged) > 300)
        started = time.monotonic()
        assert await gateway.terminate(limit_seconds + 10) == 0
        assert time.monotonic() - started < limit_seconds
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        store = gateway.store
        assert load.statuses == {200}
        assert set(load.acknowledged) <= {body for (body,) in store.rows("select body from bodies")}
        assert "error" not in {line.partition('"level": "')[2][:5] for line in gateway.log.read_text().splitlines()}
        # Every open delivery was returned to the store, because the lanes no longer exist.
        assert store.open_deliveries() == store.count("deliveries where waiting = 1")
        await gateway.start()
        await waiting.wait_until(lambda: peer.counts("/crm").distinct == store.count("arrivals"), 60, "the rest")
        assert peer.counts("/crm").duplicates == 0


async def test_stop_with_a_locked_store_ends_in_time(tmp_path: Path, peer: receiver.Receiver) -> None:
    limits = server.ServerLimits(answer_seconds=2.0, header_seconds=1.5)
    with contextlib.closing(sqlite3.connect(":memory:")) as other:
        async with in_process.running(tmp_path, manifests(peer), limits, drain_seconds=10.0) as gateway:
            assert (await gateways.post(gateway.port, "/hook", gateways.visit(1))).is_acknowledgement
            other.execute("attach ? as store", (str(gateway.file),))
            other.execute("begin immediate")
            posting = asyncio.create_task(gateways.post(gateway.port, "/hook", gateways.visit(2)))
            await waiting.wait_until(lambda: gateway.gateway.pipeline.uncommitted)
            started = time.monotonic()
        assert time.monotonic() - started < STOP_SECONDS
        assert (await posting).status == 503
        other.execute("rollback")
    async with in_process.running(tmp_path, manifests(peer)) as gateway:
        assert (await gateways.post(gateway.port, "/hook", gateways.visit(2))).is_acknowledgement


async def test_sighup_stops_cleanly_and_nohup_ignores_it(tmp_path: Path, peer: receiver.Receiver) -> None:
    async with gateways.Gateway(tmp_path, manifests(peer)) as gateway:
        gateway.program = ["-c", _WITH_SIGHUP.format("SIG_DFL")]
        await gateway.start()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGHUP)
        assert await gateway.exit_code() == 0
        assert '"gateway_stopped"' in gateway.log_tail(1)
        gateway.program = ["-c", _WITH_SIGHUP.format("SIG_IGN")]
        await gateway.start()
        assert signals_ignored(gateway.process.pid) & 1 << (signal.SIGHUP - 1)
        assert await gateway.terminate() == 0


async def test_first_visit_after_a_start_is_accepted(tmp_path: Path, peer: receiver.Receiver) -> None:
    async with gateways.Gateway(tmp_path, manifests(peer)) as gateway:
        await gateway.launch()
        replies: list[gateways.Reply] = []

        async def is_answered() -> bool:
            with contextlib.suppress(OSError):
                replies.append(await gateways.post(gateway.port, "/hook", gateways.visit(1)))
            return bool(replies)

        await waiting.wait_until(is_answered, 60, "an answer")
        assert replies[0].is_acknowledgement


async def test_parts_start_and_stop_in_the_documented_order(
    tmp_path: Path, peer: receiver.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def watch(owner: Any, name: str, word: str, *, after: bool = False) -> None:
        original = getattr(owner, name)

        async def watched(*arguments: Any, **named: Any) -> Any:
            if not after:
                order.append(word)
            result = await original(*arguments, **named)
            if after:
                order.append(word)
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(sqlite_store.SqliteStore, "open", "store opened", after=True)
    watch(sqlite_store.SqliteStore, "close", "store closed", after=True)
    watch(app.Gateway, "_open_public_port", "public port opened", after=True)
    watch(server.PublicServer, "drain", "connections drained", after=True)
    watch(dispatcher.Dispatcher, "stop", "attempts ended", after=True)
    watch(DestinationClient, "close", "sender closed", after=True)
    async with in_process.running(tmp_path, manifests(peer)) as gateway:
        assert (await gateways.post(gateway.port, "/hook", gateways.visit(1))).is_acknowledgement
        assert order == ["store opened", "public port opened"]
        order.clear()
    assert order[:4] == ["connections drained", "attempts ended", "sender closed", "store closed"]


async def test_port_in_use_is_reported(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    async with in_process.running(tmp_path) as gateway:
        taken = all_settings.Endpoint("127.0.0.1", gateway.port)
        with pytest.raises(model.ConfigurationError, match=f"cannot listen on 127.0.0.1:{gateway.port}"):
            async with in_process.running(tmp_path / "second", listen=taken):
                pass


async def test_without_configuration_nothing_counts_as_removed(tmp_path: Path, peer: receiver.Receiver) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(kind="Hang"))
    async with gateways.Gateway(tmp_path, manifests(peer)) as gateway:
        await gateway.start()
        for number in range(5):
            assert (await gateways.post(gateway.port, "/hook", gateways.visit(number))).is_acknowledgement
        await gateway.kill()
        gateway.file.write_text("# nothing yet\n", "utf-8")
        await gateway.launch()

        async def is_waiting() -> bool:
            with contextlib.suppress(OSError):
                return (await gateways.post(gateway.port, "/hook", gateways.visit(99))).status == 503
            return False

        await waiting.wait_until(is_waiting, 60, "a gateway without a configuration")
        await asyncio.sleep(1.5)  # a look at the backlog comes once a second
        assert gateway.store.count("deliveries where state = 0 and hold = 0 and waiting = 1") == 5
        peer.set_behaviour("/crm", receiving.Behaviour())
        gateway.configure(manifests(peer))
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == 5, 60, "the delivery")
