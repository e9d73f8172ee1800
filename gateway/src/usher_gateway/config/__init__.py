"""Where configuration comes from: the interface of its sources, files and a cluster, and the values they return."""

from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

import msgspec

from usher_gateway import config_secret, documents
from usher_gateway.resources import conditions

Origin = Literal["files", "cluster", "cache"]


class DocumentStatus(msgspec.Struct, frozen=True):
    """One document's status."""

    hash: str | None  # Hash of the document in force; None: there is none
    rejected: str | None = None  # Why a newer version is not in force
    vanished: bool = False  # Its Secret disappeared without a tombstone


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration source's status."""

    origin: Origin | None  # Where the configuration in force came from; None: there is none yet
    rejected: tuple[conditions.Problem, ...] = ()  # Problems that keep something from being in force as written
    waits_for: str = ""  # If nothing is in force yet: why, and what to do
    is_empty: bool = False  # Nothing is in force yet because the source was read and has nothing, as in a new install
    vanished: Mapping[config_secret.Identity, int] = {}
    """Documents in force whose Secret disappeared, and since when (microseconds)."""
    vanished_documents: Mapping[config_secret.Identity, config_secret.Envelope] = {}
    """These documents, with their owners."""
    removals_halted: str | None = None  # The digest that confirms removals that wait for a person
    everything_read: bool = True  # False if a part of the files could not be read
    heard_at: int = 0  # When the source last answered (microseconds); 0: never, or it is always available


class Source(Protocol):
    """Files or a cluster."""

    def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """The first snapshot as soon as there is a configuration, then one per change.

        Asking for the next snapshot says that the previous one is in force.
        """

    def status(self) -> SourceStatus:
        """The status now."""

    def take_touched(self) -> dict[config_secret.Identity, DocumentStatus | None]:
        """The status of each document that may have changed since the last call; None: removed."""
