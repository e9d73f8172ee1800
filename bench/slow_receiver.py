"""Receive deliveries of many tenants. The first ones get their answers late; the delays of the others are measured.

`POST /in/NUMBER` takes the delivery of a tenant. `POST /measure?seconds=SECONDS` delays the answers to the first
tenants by that time from now on, returns what was measured since the previous call, and starts over.
"""

import asyncio
import datetime
import sys
import time

import uvloop
from aiohttp import web


class Receiver:
    """The settings and the measurements of one receiver."""

    def __init__(self, slow: int) -> None:
        self._slow = slow
        self._seconds = 0.0
        self._delays: list[float] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Take a delivery."""
        if int(request.match_info["number"]) < self._slow:
            await asyncio.sleep(self._seconds)
        else:
            received = datetime.datetime.fromisoformat(request.headers["usher-received-at"]).timestamp()
            self._delays.append(time.time() - received)
        return web.Response()

    async def measure(self, request: web.Request) -> web.Response:
        """Return the delays from the gateway's receipt to this receiver, and start over."""
        ordered, self._delays = sorted(self._delays) or [0.0], []
        self._seconds = float(request.query["seconds"])
        return web.json_response(
            {
                "count": len(ordered),
                "p50_ms": ordered[len(ordered) // 2] * 1000,
                "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
            }
        )


async def _serve(port: int, slow: int) -> None:
    receiver = Receiver(slow)
    application = web.Application()
    application.router.add_post("/in/{number}", receiver.receive)
    application.router.add_post("/measure", receiver.measure)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
