"""A TCP proxy that passes on the answers of a server late."""

import asyncio
import contextlib
from typing import Self


class SlowProxy:
    """Listens on loopback for the time of an ``async with`` block."""

    def __init__(self, port: int) -> None:
        self.delay_seconds = 0.0
        """How late each answer is passed on."""
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for work in (self._pass_on(reader, server_writer, False), self._pass_on(server_reader, writer, True)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    if is_answer:
                        await asyncio.sleep(self.delay_seconds)
                    target.write(data)
                    await target.drain()
        finally:
            target.transport.abort()
