"""Finds free ports for programs that start later."""

import contextlib
import functools
import itertools
import os
import random
import re
import socket
from collections.abc import Iterator

# Linux gives ports from 32768 on to outgoing connections, which could take a port before the program listens.
_BELOW_EPHEMERAL = range(20_000, 32_000)


_WORKERS = 8  # How many test workers get separate ports, so that one does not take a port that another has found


@functools.cache
def _own() -> Iterator[int]:
    """Return an endless iterator over this worker's ports that starts at a random one."""
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _WORKERS
    own = _BELOW_EPHEMERAL[worker::_WORKERS]
    first = random.SystemRandom().randrange(len(own))
    return itertools.cycle([*own[first:], *own[:first]])


def free() -> int:
    """Return a port of 127.0.0.1 without a listener.

    Raises:
        OSError: 100 ports in a row were taken.
    """
    for port in itertools.islice(_own(), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free between 20000 and 32000")


def several(count: int) -> list[int]:
    """Return this many different free ports."""
    free_ports: set[int] = set()
    while len(free_ports) < count:
        free_ports.add(free())
    return list(free_ports)
