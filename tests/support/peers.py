"""Peers on loopback that answer with raw bytes, valid or not."""

import asyncio
import contextlib
import datetime
import ipaddress
import pathlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Handler = Callable[["Peer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A peer, with its connections, the complete requests it read, and the bytes it could write."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.connections = 0
        self.requests: list[bytes] = []
        self.written = 0
        self.seen = asyncio.Event()  # Set when a complete request was read

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/hook?a=1"

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        request = head + await reader.readexactly(length)
        self.requests.append(request)
        self.seen.set()
        return request


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Run a peer. Its connections end with it."""
    peer, tasks = Peer(), set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(peer, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(*chunks: bytes, pause_seconds: float = 0.0, keep: bool = True) -> Handler:
    """Answer each request with these bytes. With ``keep``, the connection stays open for the next one."""

    async def handle(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.read(reader)
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
            if not keep:
                return

    return handle


async def hanging(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and never answer."""
    await peer.read(reader)
    await asyncio.Event().wait()


async def resetting(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request and reset the connection."""
    await peer.read(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def flooding(head: bytes, chunk: bytes, limit: int) -> Handler:
    """Answer with ``head`` and then repeat ``chunk``, up to ``limit`` bytes."""

    async def handle(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.read(reader)
        writer.write(head)
        while peer.written < limit:
            writer.write(chunk)
            await writer.drain()
            peer.written += len(chunk)

    return handle


class Authority:
    """A certificate authority for tests. It writes its certificate, and one with its key for peers, to ``folder``."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.file, self.peer_file = folder / "authority.pem", folder / "peer.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])
        self._certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None), 30)
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def trusting(self) -> ssl.SSLContext:
        """Return a client context that trusts only this authority."""
        context = ssl.create_default_context(cafile=self.file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def serving(self, *names: str, days: int = 30) -> ssl.SSLContext:
        """Return a server context with a certificate for these names. Negative ``days`` make it expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
        certificate = self._sign(subject, key.public_key(), alternatives, days)
        self.peer_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.peer_file)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType, days: int
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
