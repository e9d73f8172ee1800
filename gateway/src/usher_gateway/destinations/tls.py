"""TLS contexts of destinations: the system's authorities, or a destination's own authority and client certificate."""

import asyncio
import collections
import contextvars
import ssl
import tempfile
import time
from collections.abc import Callable

import msgspec

from usher_gateway import documents
from usher_gateway.metered_tls import CURVES, client_context

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
    context = client_context(tls.authority if tls is not None else "", curve)
    context.note = note_seconds.get
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
