"""Ports for programs that are only started later: nobody may take them until then."""

import contextlib
import functools
import itertools
import os
import random
import re
import socket
from collections.abc import Iterator

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""From 32768 on Linux gives ports to connections that go out; one of those may have it when the program listens."""


_WORKERS = 8
"""Workers of one run that have ports of their own: what one has found, another must not take before it is used."""


@functools.cache
def _own() -> Iterator[int]:
    """This worker's ports, from a random one on, over and over."""
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _WORKERS
    own = _BELOW_EPHEMERAL[worker::_WORKERS]
    first = random.SystemRandom().randrange(len(own))
    return itertools.cycle([*own[first:], *own[:first]])


def free() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    Raises:
        OSError: none was found.
    """
    for port in itertools.islice(_own(), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free between 20000 and 32000")


def several(count: int) -> list[int]:
    """So many different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free())
    return list(found)
