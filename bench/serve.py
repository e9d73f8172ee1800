"""Run a gateway that makes no attempts, to measure ingest alone: deliveries go into lanes as usual and stay there."""

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from usher_gateway import app, logs, process, settings

_LANE_BYTES = 16 * 1024**3  # All deliveries of a run stay in memory: none is given back to the store


async def _serve(file: str, listen: str, admin: str, data: str, store: str | None = None) -> None:
    gateway = app.Gateway(
        settings.Settings(
            files=(Path(file),),
            data=Path(data),
            store=store,
            listen=settings.parse_endpoint(listen),
            admin=settings.parse_endpoint(admin),
            max_attempts=0,
            lane_bytes=_LANE_BYTES,
        ),
        dict(os.environ),
    )
    app.handle_signals(gateway)
    await asyncio.shield(gateway.run())


if __name__ == "__main__":
    logs.configure(level="error")
    process.collect_garbage_rarely()
    uvloop.run(_serve(*sys.argv[1:6]))
