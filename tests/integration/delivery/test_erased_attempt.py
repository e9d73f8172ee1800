"""A person is erased while an attempt connects to a destination: the attempt sends nothing afterwards."""

import asyncio
import socket
from pathlib import Path

from support import gateway as in_process
from support import gateways, peers, waiting


async def test_visit_erased_while_its_attempt_connects_is_never_sent(tmp_path: Path) -> None:
    authority = peers.Authority(tmp_path)
    tls = authority.serving("127.0.0.1")
    received: list[bytes] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as destination:  # it connects, and its handshake waits
        http = {"tls": {"authoritySecretRef": {"name": "authority", "key": "ca"}}, "timeoutSeconds": 30}
        url = f"https://127.0.0.1:{destination.getsockname()[1]}"
        manifests = [*gateways.one_route(url, http), gateways.secret("authority", ca=authority.file.read_text())]
        async with in_process.running(tmp_path, manifests) as gateway:
            scheduler = gateway.gateway.dispatcher.scheduler
            assert (await gateways.post(gateway.port, "/wifi", gateways.visit(1))).is_acknowledgement
            await waiting.wait_until(lambda: scheduler.in_flight == 1, 60, "the attempt")
            await gateway.ask("POST", "/api/persons/erase", value="v1@example.org", field="email")

            async def is_erased() -> bool:
                erasures = await gateway.ask("GET", "/api/persons/erasures")
                return [row["status"] for row in erasures["rows"]] == ["completed"]

            await waiting.wait_until(is_erased, 20, "the erasure")
            assert scheduler.in_flight == 1
            async with await asyncio.start_server(receive, sock=destination, ssl=tls):
                await waiting.wait_until(lambda: scheduler.in_flight == 0, 60, "its end")
    assert not any(received)
