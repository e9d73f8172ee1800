"""One HTTPS request to a hostname: whether its answer has a gateway's header.

The peer may be anybody's, so the operator reads little from its answer: heads of up to ``_MAX_HEAD_BYTES``, and nothing
behind the final one.
"""

import asyncio
import re
import socket
import ssl
from typing import NamedTuple

from usher_gateway import documents, metered_tls

_MAX_HEAD_BYTES = 16 * 1024
_MAX_INTERIM_HEADS = 8

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: |\r)")
_GATEWAY_HEADER = re.compile(rb"\r\n%s:" % re.escape(documents.ROUTE_CHECK_HEADER.encode()), re.IGNORECASE)


class RouteAnswer(NamedTuple):
    """A hostname's answer to the route check."""

    status: int
    is_of_gateway: bool


class NoConnectionError(Exception):
    """There is no connection in time, or no route to the address."""


class NoAnswerError(Exception):
    """The connection ended without an answer that can be read."""


class Contexts:
    """TLS contexts for each curve, with and without verification."""

    def __init__(self, authority: str = "") -> None:
        """``authority``: certificates in PEM that are trusted; ``""``: the system's."""
        self.verifying = [metered_tls.client_context(authority, curve) for curve in metered_tls.CURVES]
        self.trusting_all = [metered_tls.client_context(authority, curve) for curve in metered_tls.CURVES]
        for context in self.trusting_all:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


async def ask(
    hostname: str, address: str, port: int, contexts: list[metered_tls.MeteredContext], connect_seconds: float
) -> RouteAnswer:
    """Ask the gateway behind a hostname. The caller limits the total time.

    Raises:
        ssl.SSLCertVerificationError: the certificate is not trusted.
        ssl.SSLError: the peer does not speak TLS.
        NoConnectionError, ConnectionRefusedError: there is no connection.
        OSError: the peer closed the connection during the TLS handshake.
        NoAnswerError: there is no answer.
    """
    for context in contexts:
        connected = await _connect(address, port, connect_seconds)
        try:
            reader, writer = await asyncio.open_connection(
                sock=connected, ssl=context, server_hostname=hostname, limit=_MAX_HEAD_BYTES
            )
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError:
            if context is contexts[-1]:
                raise
            continue  # the peer may lack the curve
        try:
            head = f"GET {documents.ROUTE_CHECK_PATH} HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode("ascii"))
            return await _read_answer(reader)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            raise NoAnswerError from None
        finally:
            writer.transport.abort()
    raise AssertionError("there is at least one context")


async def _connect(address: str, port: int, seconds: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connecting = socket.socket(family, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(connecting, (address, port))
    except ConnectionRefusedError:
        connecting.close()
        raise
    except OSError:  # a TimeoutError is one
        connecting.close()
        raise NoConnectionError from None
    except asyncio.CancelledError:
        connecting.close()
        raise
    return connecting


async def _read_answer(reader: asyncio.StreamReader) -> RouteAnswer:
    for _ in range(_MAX_INTERIM_HEADS):
        head = await reader.readuntil(b"\r\n\r\n")
        line = _STATUS_LINE.match(head)
        if line is None:
            raise NoAnswerError
        status = int(line[1])
        if status >= 200:
            return RouteAnswer(status, _GATEWAY_HEADER.search(head) is not None)
    raise NoAnswerError
