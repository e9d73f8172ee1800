"""TLS contexts of destinations: the system's authorities, or a destination's own authority and client certificate."""

import asyncio
import collections
import ssl
import tempfile

from usher_gateway import documents

_MAX_CONTEXTS = 256  # Most contexts in memory; one with the system's authorities takes about half a megabyte


def client_tls(tls: documents.Tls | None = None) -> ssl.SSLContext:
    """Return a context that verifies host names and wants TLS 1.2 or later.

    Raises:
        ssl.SSLError, ValueError, OSError: a certificate or key cannot be used.
    """
    context = ssl.create_default_context(cadata=(tls and tls.authority) or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None and tls.chain:
        # ssl reads a key only from a file, which only this user may read and which ends here
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{tls.key}\n{tls.chain}\n")
            file.flush()
            context.load_cert_chain(file.name)
    return context


class TlsContexts:
    """The contexts of destinations with TLS settings of their own. Equal settings share one."""

    def __init__(self) -> None:
        self._contexts: collections.OrderedDict[documents.Tls, ssl.SSLContext] = collections.OrderedDict()

    async def get(self, tls: documents.Tls) -> ssl.SSLContext:
        """Return a context; make it beside the event loop if it is not there. Raises what ``client_tls`` does."""
        context = self._contexts.get(tls)
        if context is None:
            context = self._contexts[tls] = await asyncio.to_thread(client_tls, tls)
            if len(self._contexts) > _MAX_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(tls)
        return context
