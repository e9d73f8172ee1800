"""Finds free ports for programs that start later."""

import contextlib
import fcntl
import functools
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Linux gives ports from 32768 on to outgoing connections, which could take a port before the program listens.
_BELOW_EPHEMERAL = range(20_000, 32_000)
_BLOCK = 250  # Each test process has a block of ports, so that none takes a port that another has found


class _Block:
    """A block of ports that belongs to this process until it ends: it holds a lock on one byte of a file."""

    def __init__(self) -> None:
        path = Path(tempfile.gettempdir()) / f"usher-ports-{os.getuid()}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # open until the process ends
        numbers = list(range(len(_BELOW_EPHEMERAL) // _BLOCK))
        random.SystemRandom().shuffle(numbers)
        own = next(filter(self._lock, numbers), None)
        if own is None:
            raise OSError(f"{len(numbers)} other processes have all ports between 20000 and 32000")
        self.ports: Iterator[int] = itertools.cycle(_BELOW_EPHEMERAL[own * _BLOCK :][:_BLOCK])

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True


_own_block = functools.cache(_Block)


def free() -> int:
    """Return a port of 127.0.0.1 without a listener.

    Raises:
        OSError: 100 ports in a row were taken, or other processes have all ports.
    """
    for port in itertools.islice(_own_block().ports, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("100 ports in a row are taken")


def several(count: int) -> list[int]:
    """Return this many different free ports."""
    free_ports: set[int] = set()
    while len(free_ports) < count:
        free_ports.add(free())
    return list(free_ports)
