"""Answers and deliveries are not delayed if the log's reader stalls or disappears, or its disk is full."""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import certificates, gateways, tls_wire, waiting, wire
from usher_gateway import logs
from usher_gateway.simulator import receiver, receiving

VISITS = 100


@pytest.fixture
def peer(peer: receiver.Receiver) -> receiver.Receiver:
    """A destination that rejects every delivery, so that each one is dead at once and logs a line."""
    peer.set_behaviour("/crm", receiving.Behaviour(status=400))
    return peer


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full after a few lines."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def manifests(peer: receiver.Receiver) -> list[gateways.Manifest]:
    return [
        gateways.TENANT,
        *(gateways.listener(f"hook{number}", [gateways.route("crm", "crm")]) for number in range(VISITS)),
        gateways.destination("crm", f"{peer.url}/crm"),
    ]


async def answered_in_time(gateway: gateways.Gateway) -> None:
    """Post so many visits that the lines of their dead deliveries do not fit into the pipe.

    Each is for another listener, because lines of one listener that repeat are left out.
    """
    connection = gateways.Connection(gateway.port)
    for number in range(VISITS):
        reply = await connection.post(f"/hook{number}", gateways.visit(number))
        assert reply.is_acknowledgement
        assert reply.seconds < 8
    connection.close()
    await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 2") == VISITS, 60, "the dead")


async def test_stalled_log_reader_delays_nothing_and_can_resume(
    tmp_path: Path, peer: receiver.Receiver, pipe: tuple[int, int]
) -> None:
    async with gateways.Gateway(tmp_path, manifests(peer)) as gateway:
        gateway.stderr = pipe[1]
        await gateway.start()
        await answered_in_time(gateway)
        told = os.read(pipe[0], 65_536)
        os.set_blocking(pipe[0], False)

        def is_all_told() -> bool:
            nonlocal told
            with contextlib.suppress(BlockingIOError):
                told += os.read(pipe[0], 65_536)
            return told.count(b"delivery_died") == VISITS

        await waiting.wait_until(is_all_told, 60, "every line, once it is read")


async def test_permanently_stalled_log_reader_does_not_delay_a_stop(
    tmp_path: Path, peer: receiver.Receiver, pipe: tuple[int, int]
) -> None:
    async with gateways.Gateway(tmp_path, manifests(peer)) as gateway:
        gateway.stderr = pipe[1]
        await gateway.start()
        await answered_in_time(gateway)
        assert await gateway.terminate() == 0
        assert gateway.store.open_deliveries() == 0


async def test_missing_log_reader_and_full_disk_only_lose_counted_lines(
    tmp_path: Path, peer: receiver.Receiver, pipe: tuple[int, int]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    for number, end in enumerate((pipe[1], full)):
        (tmp_path / str(number)).mkdir()
        async with gateways.Gateway(tmp_path / str(number), manifests(peer)) as gateway:
            gateway.stderr = end
            await gateway.launch()
            os.close(end)
            if end == pipe[1]:
                os.close(pipe[0])
            await gateway.wait_ready()
            await answered_in_time(gateway)
            answer = await wire.exchange(gateway.admin, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            lost = answer.raw.decode().partition("\nusher_log_lines_lost_total ")[2].partition("\n")[0]
            assert float(lost) >= VISITS
            assert await gateway.terminate() == 0


# the writer alone


def read_lines(end: int, last: str) -> list[str]:
    """Read a pipe up to and including a line."""
    told = b""
    while last.encode() not in told:
        told += os.read(end, 65_536)
    return told.decode().splitlines()


@pytest.mark.parametrize("is_blocking", [True, False])
def test_lines_beyond_the_buffer_are_counted_and_others_stay_in_order(pipe: tuple[int, int], is_blocking: bool) -> None:
    os.set_blocking(pipe[1], is_blocking)
    most_bytes, line_bytes, lines = 10_000, 10, 5_000
    told: list[int] = []

    def tell_loss(count: int) -> None:
        told.append(count)
        writer.write_line("lost")

    writer = logs.start_writer(pipe[1], tell_loss, most_bytes)
    for number in range(lines):
        writer.write_line(f"{number:09}")
    assert not writer.drain(0.01)
    lost = writer.lines_lost
    assert lines - lost <= (most_bytes + 4_096) // line_bytes + 1
    written = read_lines(pipe[0], "lost")
    assert told == [lost]
    assert [int(line) for line in written[:-1]] == sorted({int(line) for line in written[:-1]})
    assert len(written) - 1 == lines - lost
    assert writer.drain(5)


def test_cut_off_line_does_not_damage_the_next(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from usher_gateway import logs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = logs.start_writer(sys.stdout.fileno(), lambda count: None)
for limit, line in ((15, "first"), (15, "is cut off"), (15, "does not fit"), (100, "whole")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    writer.write_line(line)
    assert writer.drain(10)
assert writer.lines_lost == 2
"""
    file = tmp_path / "log"
    with file.open("wb") as log:
        subprocess.run([sys.executable, "-c", program], stdout=log, check=True, timeout=30)
    assert file.read_text().splitlines() == ["first", "is cut of", "whole"]


def test_program_without_standard_error_writes_its_log_nowhere_else(tmp_path: Path) -> None:
    program = """
import structlog
from usher_gateway import logs
other = open("other", "wb", buffering=0)
assert other.fileno() == 2
logs.configure()
structlog.get_logger().error("not here")
assert logs.drain()
"""
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
    assert not (tmp_path / "other").read_bytes()


async def test_odd_names_in_tls_handshakes_stall_nothing_and_are_not_logged(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    certificate = certificates.make("gateway", gateways.HOST)
    cert, key = certificates.write(tmp_path, *certificate)
    flags = ("--tls-cert", str(cert), "--tls-key", str(key))
    context = certificates.trusting(certificate[0])
    async with gateways.Gateway(tmp_path, [gateways.TENANT, gateways.listener("hook", [])], *flags) as gateway:
        gateway.stderr = pipe[1]
        await gateway.launch()

        async def acknowledged() -> bool:
            with contextlib.suppress(OSError):
                async with wire.connect(gateway.port, context, gateways.HOST) as connection:
                    await connection.send(wire.request("/hook", gateways.visit(1), host=gateways.HOST))
                    return (await connection.answer()).acknowledges
            return False

        await waiting.wait_until(acknowledged, 60, "an answer")
        for _ in range(VISITS):
            async with tls_wire.connect(gateway.port, context) as client:
                await client.send([client.hello().replace(b"localhost", b"\xff" * 9)])
                assert await client.reader.read() == b""
        async with asyncio.timeout(8):
            assert await acknowledged()
        told = os.read(pipe[0], 65_536)
        assert told.count(b"exception_ignored") == 1
        assert b"xff" not in told
