"""What the admin port needs of a gateway: the composition root fills it in."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import prometheus_client

from usher_gateway.admin import tokens
from usher_gateway.ingest import find
from usher_gateway.store.base import Store

State = Mapping[str, object]
"""Plain values, ready for JSON: no secrets, no personal data."""


class AdminContext(msgspec.Struct, frozen=True):
    """The parts of a running gateway that the admin port shows or changes. Every call is cheap but the store's."""

    store: Store
    now: Callable[[], int]
    """The gateway's clock, microseconds."""
    tokens: tokens.Tokens
    registry: prometheus_client.CollectorRegistry
    ready: Callable[[], list[str]]
    """Why the gateway is not ready; empty if it is."""
    config_state: Callable[[str | None], State]
    """What ``/api/config`` answers to a cursor; None: everything."""
    listeners: Callable[[], Mapping[str, find.LiveListener]]
    """The listeners in force, by ``namespace/name``."""
    listeners_state: Callable[[], Mapping[str, State]]
    """By ``namespace/name``: ``applied``, ``receiving``, ``lastArrival``, ``verifiedSince`` and the like."""
    destinations_state: Callable[[], Mapping[str, State]]
    """By ``namespace/name``: ``state``, ``host`` (never the URL: it may hold a secret), ``circuit`` and the like."""
    releasing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    """Held while quarantined arrivals are released: each is counted in one answer."""
