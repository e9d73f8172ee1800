"""TLS connections that limit and measure what a peer makes the event loop do below HTTP.

A peer must not choose how long a handshake takes, because handshakes run on the event loop. So `client_context` offers
no Diffie-Hellman group over a prime field: such groups have up to 10,000 bits, and a handshake with one takes 0.1 to
0.9 s instead of 1 ms. Python cannot list groups without them, only one curve. A client tries another curve if a
peer does not have the first (``CURVES``). A certificate chain under an authority that the peer chose can still
take half a second, so a handshake step that takes ``_LONGEST_STEP_SECONDS`` ends it.

OpenSSL processes all bytes that are there in one call, also messages that carry no data, such as TLS 1.3's KeyUpdate:
27 bytes that take 10 us. HTTP limits see only data. So ``MeteredTls`` passes bytes to OpenSSL in pieces, and
ends a connection that received too many bytes without data. It counts bytes, so that a slow machine ends none.
"""

import ssl
import time
from collections.abc import Callable
from typing import Any

# The curves of a client's context, the most common first. Every peer with TLS 1.3 must have that (RFC 8446 §9.1). Not
# X25519, which Python 3.11.2 of Debian 12 does not accept here.
CURVES = ("prime256v1", "secp384r1")

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!SHA1:!AESCCM"  # Python's own choice without DHE

_LONGEST_STEP_SECONDS = 0.1  # CPU time. Ordinary steps take 1 ms, or 7 ms with a client's RSA key of 4,096 bits.

_PIECE_BYTES = 4 * 1024

# How many bytes a connection may receive beyond its data. A record shows its data only when it is complete, after up to
# 16 KiB, and after the handshake a server sends up to a few KiB of session tickets.
_MAX_OVERHEAD_BYTES = 24 * 1024

_REQUEST_BYTES = 2 * 1024  # How many of them each request takes off
_RECORD_BYTES = 40  # How many each record with data takes off, which is its header and padding
_DATA_SHARE = 4  # Bytes of data that take off one more


def _note_nothing(seconds: float) -> None:
    del seconds


class MeteredTls(ssl.SSLObject):
    """A TLS connection. ``MeteredContext`` makes it."""

    note: Callable[[float], None] = staticmethod(_note_nothing)
    """Called with the CPU seconds that each handshake step, and each reading, took."""
    longest_handshake = 0.0
    """CPU seconds in one step after which a handshake fails; 0: without a limit."""
    _arrived: ssl.MemoryBIO
    _taken: ssl.MemoryBIO
    _overhead_bytes = 0.0

    def attach(self, arrived: ssl.MemoryBIO, taken: ssl.MemoryBIO) -> None:
        """Move the peer's bytes from ``arrived``, where the event loop puts them, to ``taken``, OpenSSL's input."""
        self._arrived, self._taken = arrived, taken

    def begin_request(self) -> None:
        """Note that a request begins, which may bring its own overhead."""
        self._overhead_bytes = max(0.0, self._overhead_bytes - _REQUEST_BYTES)

    def do_handshake(self) -> None:
        """Part of SSLObject; the event loop calls it for each piece that the peer sends."""
        self._taken.write(self._arrived.read())
        started = time.thread_time()
        try:
            super().do_handshake()
        finally:
            seconds = time.thread_time() - started
            self.note(seconds)
        if 0 < self.longest_handshake < seconds:
            raise ssl.SSLError("the handshake takes too long")

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Part of SSLObject: return decrypted bytes, or their number if they are put into ``buffer``.

        Raises:
            ssl.SSLError: too many bytes came without data.
        """
        started = time.thread_time()
        try:
            return self._read(len, buffer)
        finally:
            self.note(time.thread_time() - started)

    def _read(self, length: int, buffer: Any) -> Any:
        while True:
            try:
                data = super().read(length, buffer)
            except ssl.SSLWantReadError:
                piece = self._arrived.read(_PIECE_BYTES)
                if not piece:
                    raise
                self._overhead_bytes += len(piece)
                if self._overhead_bytes > _MAX_OVERHEAD_BYTES:
                    raise ssl.SSLError("too many bytes without data") from None
                self._taken.write(piece)
                continue
            count = len(data) if buffer is None else int(data)
            self._overhead_bytes = max(0.0, self._overhead_bytes - _RECORD_BYTES - count * (1 + 1 / _DATA_SHARE))
            return data

    def pending(self) -> int:
        """Part of SSLObject; uvloop reads while there is something to read."""
        return super().pending() + self._taken.pending

    def unwrap(self) -> None:
        """Part of SSLObject."""
        self._taken.write(self._arrived.read())
        super().unwrap()


class MeteredContext(ssl.SSLContext):
    """A context whose connections are metered."""

    sslobject_class = MeteredTls
    note: Callable[[], Callable[[float], None]] = staticmethod(lambda: _note_nothing)
    """Returns a new connection's ``MeteredTls.note``; called in the task that connects."""
    longest_handshake = 0.0
    """See ``MeteredTls``."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """Part of SSLContext; the event loop calls it for each connection."""
        taken = ssl.MemoryBIO()
        connection = super().wrap_bio(taken, *args, **options)
        assert isinstance(connection, MeteredTls)
        connection.attach(incoming, taken)
        connection.note, connection.longest_handshake = self.note(), self.longest_handshake
        return connection


def client_context(authority: str, curve: str) -> MeteredContext:
    """Return a context that verifies host names and wants TLS 1.2 or later.

    Args:
        authority: certificates in PEM; ``""``: the system's authorities.
        curve: one of ``CURVES``.

    Raises:
        ssl.SSLError, ValueError: a certificate cannot be used.
    """
    context = MeteredContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_ecdh_curve(curve)
    context.longest_handshake = _LONGEST_STEP_SECONDS
    if authority:
        context.load_verify_locations(cadata=authority)
    else:
        context.load_default_certs()
    return context
