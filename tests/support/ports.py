"""Ports for programs that are only started later: nobody may take them until then."""

import contextlib
import random
import socket

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""From 32768 on Linux gives ports to connections that go out; one of those may have it when the program listens."""


def free() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    Raises:
        OSError: none was found.
    """
    for port in random.SystemRandom().sample(_BELOW_EPHEMERAL, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free between 20000 and 32000")


def several(count: int) -> list[int]:
    """So many different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free())
    return list(found)
