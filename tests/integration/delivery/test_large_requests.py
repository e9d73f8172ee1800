"""Transforms that make large requests of small bodies, and a destination that hangs: memory is bounded."""

import asyncio
from pathlib import Path

from support import gateway as in_process
from support import gateways, peers, waiting

LENGTH = 200_000
LANE_BYTES = 10 * LENGTH  # A request counts twice, so one tenant has two of them at once
VISITS = 60


async def test_requests_of_one_tenant_take_a_bounded_part_of_the_memory(tmp_path: Path) -> None:
    may_answer = asyncio.Event()

    async def hold(peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.read(reader)
            await may_answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with peers.serving(hold) as peer:
        manifests = [
            gateways.TENANT,
            gateways.listener("hook", [gateways.route("crm", "crm", transform="[" + "body.text," * 100 + "1]")]),
            gateways.destination("crm", peer.url(), concurrency=VISITS),
        ]
        async with in_process.running(tmp_path, manifests, lane_bytes=LANE_BYTES) as gateway:
            scheduler = gateway.gateway.dispatcher.scheduler
            for number in range(VISITS):
                body = gateways.visit(number)[:-1] + b', "text": "%b"}' % (b"x" * (LENGTH // 100))
                assert (await gateways.post(gateway.port, "/hook", body)).is_acknowledgement
            await waiting.wait_until(lambda: len(peer.requests) == scheduler.in_flight > 0, 60, "attempts that hang")
            assert len(peer.requests) == 2

            may_answer.set()
            await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the delivery of everything")
            ids = [request.split(b"webhook-id: ")[1].split(b"\r\n")[0] for request in peer.requests]
            assert len(ids) == len(set(ids)) == VISITS
