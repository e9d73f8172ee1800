"""What every source of configuration has in common: a stream of snapshots, and what it says of itself."""

from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

import msgspec

from usher_gateway import config_secret, documents
from usher_gateway.config import published
from usher_gateway.resources import conditions

Origin = Literal["files", "cluster", "cache"]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of what is in force."""

    origin: Origin | None
    """Where the configuration in force came from; None: there is none yet."""
    rejected: tuple[conditions.Problem, ...] = ()
    """What keeps something from being in force as it is written."""
    waits_for: str = ""
    """Where nothing is in force yet: why, and what to do."""
    vanished: Mapping[config_secret.Identity, int] = {}
    """What is served on though it just went, and since when (microseconds)."""
    removals_halted: str | None = None
    """What confirms removals that wait for a person."""
    everything_read: bool = True
    """Whether all that is written could be told."""
    heard_at: int = 0
    """When the source was reached last (microseconds); 0: never, or it is always at hand."""


class Source(Protocol):
    """Files or a cluster."""

    def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """The first snapshot as soon as there is anything to run, then one per change.

        Asking for the next one says that the last one runs.
        """

    def status(self) -> Status:
        """How the source stands."""

    def take_touched(self) -> dict[config_secret.Identity, published.State | None]:
        """How each document stands that may stand otherwise than at the last call; None: removed."""
