"""TLS contexts of destinations: the system's authorities, or a destination's own authority and client certificate.

A peer must not choose how long a handshake takes, because handshakes run on the event loop. So a context offers no
Diffie-Hellman group over a prime field: such groups have up to 10,000 bits, and a handshake with one takes 0.1 to 0.9 s
instead of 1 ms. Python offers no list of groups without them, but one curve. A client tries another curve if a peer
does not have the first (``CURVES``). A chain of certificates under an authority of the destination's own can still take
half a second, so a step of a handshake that takes ``_LONGEST_STEP_SECONDS`` ends it.
"""

import asyncio
import collections
import contextvars
import ssl
import tempfile
import time
from collections.abc import Callable

import msgspec

from usher_gateway import documents
from usher_gateway.metered_tls import MeteredContext

# The curves of a context, the most common first. Every peer with TLS 1.3 must have the first one (RFC 8446 §9.1).
CURVES = ("prime256v1", "secp384r1", "X25519")

# Python's own choice without DHE.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!SHA1:!AESCCM"

_LONGEST_STEP_SECONDS = 0.1  # CPU time. Ordinary steps take 1 ms, or 7 ms with a client's RSA key of 4,096 bits.

_MAX_CONTEXTS = 256  # Most contexts in memory; one with the system's authorities takes about half a megabyte

note_seconds: contextvars.ContextVar[Callable[[float], None]] = contextvars.ContextVar(
    "notes the CPU time of TLS", default=lambda _: None
)
"""Set in the task that connects; see ``MeteredTls.note``."""


def client_tls(tls: documents.Tls | None = None, curve: str = CURVES[0]) -> ssl.SSLContext:
    """Return a context that verifies host names and wants TLS 1.2 or later.

    Raises:
        ssl.SSLError, ValueError, OSError: a certificate or key cannot be used.
    """
    context = MeteredContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_ecdh_curve(curve)
    context.note, context.longest_handshake = note_seconds.get, _LONGEST_STEP_SECONDS
    if tls is not None and tls.authority:
        context.load_verify_locations(cadata=tls.authority)
    else:
        context.load_default_certs()
    if tls is not None and tls.chain:
        # ssl reads a key only from a file, which only this user may read and which ends here
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{tls.key}\n{tls.chain}\n")
            file.flush()
            context.load_cert_chain(file.name)
    return context


class TlsContexts:
    """The contexts of destinations. Equal settings share one for each curve."""

    def __init__(self, default: ssl.SSLContext | None) -> None:
        """``default``: for destinations without settings, whatever the curve; None: the system's authorities."""
        self._given = default
        self._defaults: dict[str, ssl.SSLContext] = {}
        self._contexts: collections.OrderedDict[tuple[documents.Tls, str], ssl.SSLContext] = collections.OrderedDict()
        self._making = asyncio.Lock()

    async def get(self, tls: documents.Tls | None, curve: str) -> ssl.SSLContext:
        """Return a context; make it beside the event loop if it is not there. Raises what ``client_tls`` does.

        The CPU time to make it goes to ``note_seconds``.
        """
        if tls is None:
            return await self._default(curve)
        key = (msgspec.structs.replace(tls, server_name=""), curve)
        async with self._making:
            context = self._contexts.get(key)
            if context is None:
                context = self._contexts[key] = await asyncio.to_thread(_measured, tls, curve)
                if len(self._contexts) > _MAX_CONTEXTS:
                    self._contexts.popitem(last=False)
            self._contexts.move_to_end(key)
        return context

    async def _default(self, curve: str) -> ssl.SSLContext:
        if self._given is not None:
            return self._given
        if curve not in self._defaults:
            async with self._making:
                if curve not in self._defaults:
                    self._defaults[curve] = await asyncio.to_thread(client_tls, None, curve)
        return self._defaults[curve]


def _measured(tls: documents.Tls, curve: str) -> ssl.SSLContext:
    started = time.thread_time()
    try:
        return client_tls(tls, curve)
    finally:
        note_seconds.get()(time.thread_time() - started)
