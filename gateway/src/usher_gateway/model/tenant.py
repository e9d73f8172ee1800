"""Whom an arrival belongs to."""

import msgspec


class ListenerName(msgspec.Struct, frozen=True, order=True):
    """The full name of a listener with its tenant: the key under which everything is metered.

    ``namespace`` is the isolation boundary (agency or company); ``tenant`` and ``listener`` are names inside it.
    """

    namespace: str
    tenant: str
    listener: str

    @property
    def key(self) -> str:
        """``namespace/listener``: names of listeners are unique inside a namespace."""
        return f"{self.namespace}/{self.listener}"
