"""Accepts the connections of the public port.

The event loop's own server accepts one connection per turn. In a flood a turn takes 20 ms, so that new connections
would wait for half a minute behind those of the flood. The acceptor takes many at once.

A TLS connection counts from its acceptance. asyncio's own TLS server shows a connection only after its handshake, so
that unfinished handshakes could use up the descriptors and the memory of the process.
"""

import contextlib
import socket
import ssl
from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.ingest.server import Connection, PublicServer

_BACKLOG = 1_024

_ACCEPTED_AT_ONCE = 64  # Connections accepted in one turn of the event loop. Opening one takes about 0.1 ms.
_PAUSE_SECONDS = 0.1  # How long to wait if the process has no descriptor left


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host. Raises: OSError."""
    resolved = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in resolved)
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            listening = socket.create_server(address, family=family, backlog=_BACKLOG)
            sockets.append(listening)
            listening.setblocking(False)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return sockets


class Acceptor:
    """Accepts connections for the public port until it is closed."""

    def __init__(self, server: PublicServer, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> None:
        """Begin to accept. ``context``: for TLS; None: plain HTTP."""
        self.sockets = sockets
        self._server = server
        self._context = context
        self._is_closed = False
        for listening in sockets:
            server.loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Stop accepting. Open connections stay."""
        self._is_closed = True
        for listening in self.sockets:
            self._server.loop.remove_reader(listening)
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # the client has left
                continue
            except OSError:  # no descriptor is left
                self._server.loop.remove_reader(listening)
                self._server.loop.call_later(_PAUSE_SECONDS, self._resume, listening)
                return
            accepted.setblocking(False)
            self._open(accepted, str(address[0]) if address else "")

    def _resume(self, listening: socket.socket) -> None:
        if not self._is_closed:
            self._server.loop.add_reader(listening, self._accept, listening)

    def _open(self, accepted: socket.socket, address: str) -> None:
        """Open a connection. Over TLS it counts from now on, otherwise from `Connection.connection_made`."""
        server, connection = self._server, self._server()
        if self._context is not None and not server.admit_handshake(connection, address):
            server.count_refused(model.RefusedReason.QueueFull)
            accepted.close()
            return
        connection.opening = server.loop.create_task(self._connect(connection, accepted))

    async def _connect(self, connection: Connection, accepted: socket.socket) -> None:
        server = self._server
        seconds = server.limits.header_seconds if self._context is not None else None
        try:
            with contextlib.suppress(OSError):  # the client gave up, was too slow, or does not speak TLS
                await server.loop.connect_accepted_socket(
                    lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=seconds
                )
        finally:
            connection.opening = None
            server.handshakes.remove(connection)
            if connection.transport is None:
                server.forget(connection)
                accepted.close()
