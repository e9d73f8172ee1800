"""A full, read-only, locked or damaged disk: 503 in time or a clear error at the start, never a 200 without storage."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway import model
from usher_gateway.ingest import server
from usher_gateway.simulator import receiver

IN_TIME_SECONDS = 8.5  # The gateway answers every arrival within 8 s

FILE = "usher.sqlite3"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        # The test needs a real full disk, because a fake one would prove nothing, and only root can mount one.
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=24m", "usher-test", folder):
        # Containers without CAP_SYS_ADMIN do not let root mount one either.
        pytest.skip("root may not mount a tmpfs here")
    yield folder
    unmount(folder)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], check=True)


class Poster:
    """Posts visits and records the numbers of the acknowledged ones."""

    def __init__(self, gateway: gateways.Gateway | in_process.RunningGateway, padding: int = 0) -> None:
        self._gateway, self._padding = gateway, "x" * padding
        self._number = 0
        self.acknowledged: set[int] = set()
        self.slowest = 0.0

    async def post(self) -> int:
        self._number += 1
        number = self._number
        reply = await gateways.post(self._gateway.port, "/wifi", gateways.visit(number, filling=self._padding))
        self.slowest = max(self.slowest, reply.seconds)
        if reply.is_acknowledgement:
            self.acknowledged.add(number)
        return reply.status

    async def post_until(self, status: int, seconds: float = 30) -> None:
        """Post visits, one at a time, until the answer has this status."""

        async def answered() -> bool:
            return await self.post() == status

        await waiting.wait_until(answered, seconds, f"an answer {status}")

    async def post_together(self, count: int) -> list[int]:
        return await asyncio.gather(*[self.post() for _ in range(count)])

    def check(self, peer: receiver.Receiver | None = None) -> None:
        """Check that the ledger has every acknowledged visit (each body has another user)."""
        store = self._gateway.store
        assert store.rows("pragma quick_check") == [("ok",)]
        bodies = [body for (body,) in store.rows("select body from bodies")]
        stored = {number for number in self.acknowledged if any(b'"number": %d}' % number in body for body in bodies)}
        assert stored == self.acknowledged
        if peer is not None:
            assert peer.counts("/crm").distinct == store.count("deliveries")


def fill(folder: Path, leave_bytes: int) -> Path:
    """Fill a file system until only this much space is free."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave_bytes)
    return ballast


async def test_full_disk_gives_503_in_time_and_a_kill_then_loses_no_acknowledged_visit(
    small_disk: Path, tmp_path: Path, peer: receiver.Receiver
) -> None:
    bounds = ["--accept-min-free-mib", "0", "--attempts-min-free-mib", "0"]
    gateway = gateways.Gateway(tmp_path, gateways.one_route(peer.url), *bounds, data=small_disk / "data")
    async with gateway:
        await gateway.start()
        poster = Poster(gateway, padding=30_000)
        assert set(await poster.post_together(20)) == {200}
        ballast = await filled(small_disk, poster)
        assert poster.slowest < IN_TIME_SECONDS
        ballast.unlink()
        await poster.post_until(200)
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
        poster.check(peer)

        ballast = await filled(small_disk, poster)
        await gateway.kill()
        await gateway.launch()
        with contextlib.suppress(TimeoutError):  # with a full disk it may start and answer 503, or fail to start
            assert await gateway.exit_code(3) in (1, 2)
        ballast.unlink()
        await gateway.close()
        await gateway.start()
        await poster.post_until(200)
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
        poster.check(peer)


async def filled(disk: Path, poster: Poster) -> Path:
    """Fill a disk until visits get 503; return the file that fills it."""
    ballast = fill(disk, leave_bytes=1_000_000)
    statuses: set[int] = set()
    while 503 not in statuses:
        statuses |= set(await poster.post_together(32))
    assert statuses <= {200, 503}
    return ballast


async def test_low_disk_gives_503_while_settling_continues(small_disk: Path, tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def answer(_: web.BaseRequest) -> web.Response:
        await may_answer.wait()
        return web.Response()

    async with test_utils.RawTestServer(answer) as destination:
        slow_route = gateways.one_route(str(destination.make_url("")), {"timeoutSeconds": 30})
        data = small_disk / "data"
        async with in_process.running(tmp_path, slow_route, data=data, accept_min_free_bytes=8 << 20) as gateway:
            poster = Poster(gateway)
            assert set(await poster.post_together(10)) == {200}
            ballast = fill(small_disk, leave_bytes=4_000_000)
            # No visit is posted meanwhile: each would take about 50 KB of what is left for settling.
            await waiting.wait_until(lambda: is_ready_but_refuses_visits(gateway), 60, "the notice of a low disk")
            assert gateway.store.open_deliveries() == 10
            may_answer.set()
            await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "settling on a nearly full disk")
            assert await poster.post() == 503
            assert poster.slowest < 6.0  # the gateway answers at once and not at the deadline
            assert await is_ready_but_refuses_visits(gateway)
            ballast.unlink()
            await poster.post_until(200)
            poster.check()


async def is_ready_but_refuses_visits(gateway: in_process.RunningGateway) -> bool:
    status, text = await gateway.readiness()
    return status == 200 and "visits get 503 (LowDisk)" in text


async def test_attempts_stop_below_their_bound_and_resume_above(
    small_disk: Path, tmp_path: Path, peer: receiver.Receiver
) -> None:
    manifests, data = gateways.one_route(peer.url), small_disk / "data"
    async with in_process.running(tmp_path, manifests, data=data, attempts_min_free_bytes=8 << 20) as gateway:
        poster = Poster(gateway)
        ballast = fill(small_disk, leave_bytes=4_000_000)

        async def is_kept() -> bool:
            delivered_before = gateway.store.count("deliveries where state = 1")
            assert await poster.post() == 200
            await asyncio.sleep(0.1)
            return gateway.store.count("deliveries where state = 1") == delivered_before

        await waiting.wait_until(is_kept, 60, "the stop of attempts")
        ballast.unlink()
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
        poster.check(peer)


# Locked, read-only

SHORT = server.ServerLimits(answer_seconds=2.0, header_seconds=1.5)


async def test_locked_file_delays_visits_at_most_to_the_deadline(tmp_path: Path, peer: receiver.Receiver) -> None:
    async with in_process.running(tmp_path, gateways.one_route(peer.url), SHORT) as gateway:
        poster = Poster(gateway)
        assert await poster.post() == 200
        with contextlib.closing(sqlite3.connect(gateway.file, isolation_level=None)) as other:
            other.execute("begin immediate")
            posting = asyncio.create_task(poster.post())
            assert (await asyncio.wait({posting}, timeout=0.5))[0] == set()
            other.execute("rollback")
            assert await posting == 200  # the lock ended in time
            other.execute("begin immediate")
            assert await poster.post_together(5) == [503] * 5
            await waiting.wait_until(lambda: is_not_ready(gateway, "commits fail"), 60, "a gateway that is not ready")
            other.execute("rollback")
        assert poster.slowest < SHORT.answer_seconds + 1
        await poster.post_until(200)
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
        poster.check(peer)


async def is_not_ready(gateway: in_process.RunningGateway, reason: str) -> bool:
    status, text = await gateway.readiness()
    return status == 503 and reason in text


async def start(folder: Path) -> None:
    """Start a gateway, let it accept a visit, and stop it."""
    async with in_process.running(folder, gateways.one_route("http://127.0.0.1:1")) as gateway:
        assert await Poster(gateway).post() == 200


async def test_missing_install_key_is_rejected_and_not_replaced(tmp_path: Path) -> None:
    await start(tmp_path)
    key = tmp_path / "data" / "install.key"
    key_bytes = key.read_bytes()
    key.unlink()
    with pytest.raises(model.UsherError, match="install key"):
        await start(tmp_path)
    assert not key.exists()
    key.write_bytes(key_bytes)
    await start(tmp_path)


# Deleted, moved or replaced under the gateway


async def test_nothing_is_acknowledged_while_a_file_is_away(tmp_path: Path, peer: receiver.Receiver) -> None:
    async with in_process.running(tmp_path, gateways.one_route(peer.url), SHORT) as gateway:
        poster = Poster(gateway)
        assert set(await poster.post_together(20)) == {200}
        for suffix, is_replaced in (("", False), ("", True), ("-wal", True), ("-shm", False)):
            file, away = gateway.file.with_name(f"{FILE}{suffix}"), tmp_path / "away"
            file.rename(away)
            if is_replaced:
                shutil.copy(away, file)
            assert set(await poster.post_together(20)) == {503}
            status, text = await gateway.readiness()
            assert (status, file.name in text) == (503, True)
            away.rename(file)
            await poster.post_until(200)
            assert (await gateway.readiness())[0] == 200
        assert poster.slowest < IN_TIME_SECONDS
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
        poster.check(peer)


async def test_idle_gateway_is_not_ready_while_its_folder_is_away(tmp_path: Path) -> None:
    async with in_process.running(tmp_path, gateways.one_route("http://127.0.0.1:1")) as gateway:
        data = gateway.file.parent
        assert (await gateway.readiness())[0] == 200
        data.rename(tmp_path / "away")
        assert (await gateway.readiness())[0] == 503
        (tmp_path / "away").rename(data)
        assert (await gateway.readiness())[0] == 200


def mount(*arguments: str | Path) -> bool:
    """Run mount(8) and return True if it succeeded."""
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


async def test_read_only_file_system_is_rejected_with_a_hint(tmp_path: Path) -> None:
    await start(tmp_path)
    data = tmp_path / "data"
    if os.geteuid() != 0 or not mount("--bind", data, data):
        # Permissions of the folder are not enough, because root can write anyway, and SQLite would raise another error.
        pytest.skip("a read-only mount needs root")
    try:
        assert mount("-o", "remount,bind,ro", data)
        with pytest.raises(model.UsherError, match="Read-only"):
            await start(tmp_path)
        assert mount("-o", "remount,bind,rw", data)
        await start(tmp_path)
    finally:
        unmount(data)
