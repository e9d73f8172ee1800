"""The configuration in force, and whether the gateway takes visits."""

import asyncio

from usher_gateway import documents, model


class RunState:
    """The configuration in force, and whether the gateway takes visits.

    app.py updates it; the admin port and the metrics read it.
    """

    def __init__(self) -> None:
        self.snapshot = documents.Snapshot({}, {})
        self.applied_at = 0  # When the snapshot came into force (microseconds); 0: not yet
        self.configured = asyncio.Event()  # Set when the first configuration is in force
        self.is_public_port_open = False
        self.is_draining = False
        self._in_force_since: dict[str, int] = {}  # Listener -> when it came into force (microseconds)

    def apply(self, snapshot: documents.Snapshot, now: int) -> None:
        """Note that a snapshot is in force."""
        self._in_force_since = {key: self._in_force_since.get(key, now) for key in snapshot.listeners}
        self.snapshot = snapshot
        self.applied_at = now
        self.configured.set()

    def is_silent(self, key: str, document: documents.ListenerDocument, last_accepted: int, now: int) -> bool:
        """Return whether a listener has been in force, and has accepted nothing, for longer than it may be silent.

        Args:
            key: the listener's ``namespace/name``.
            document: its document.
            last_accepted: when it accepted something last (microseconds); 0: never.
            now: the present time in microseconds.
        """
        since = last_accepted or self._in_force_since.get(key, now)
        return now - since >= document.silence_after_seconds * model.MICROSECONDS

    def open_public_port(self) -> None:
        """Note that the public port is open."""
        self.is_public_port_open = True

    def start_draining(self) -> None:
        """Note that the gateway is stopping and takes no more connections."""
        self.is_draining = True
