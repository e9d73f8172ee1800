"""Keep this run's ownership of its deliveries: heartbeats, and taking over from gateways that stopped sending them."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from usher_gateway.store.base import ApplyReplicas, Replicas
from usher_gateway.store.postgresql import incarnations, schema
from usher_gateway.store.postgresql.connections import (
    CONNECT_SECONDS,
    UNAVAILABLE,
    Connection,
    Durability,
    NotDurableError,
    describe,
    require_durable,
)
from usher_gateway.store.postgresql.incarnations import DEAD_SECONDS, HEARTBEAT_SECONDS, SEND_SECONDS, Incarnation

_log = structlog.get_logger(__name__)

_HASTEN_SECONDS = 60.0
"""How often deliveries are looked for that a wrong clock lets wait for too long."""

_JOINING_SECONDS = 1.0
"""Interval of the heartbeats while this gateway waits for its shares, or others for this one."""


class Ownership:
    """Sends heartbeats, and knows whether this gateway may start attempts."""

    def __init__(
        self,
        *,
        pool: "asyncpg.Pool[Any]",
        incarnation: Incarnation,
        begun_at: float,
        replicas: Replicas,
        durability: Durability,
        lost: asyncio.Event,
        now: Callable[[], int],
        connected: Callable[[str], None],
    ) -> None:
        """``connected`` gets the identity of the server at each heartbeat.

        ``begun_at``: loop time before the statement that began the incarnation was sent.
        """
        self._pool = pool
        self.incarnation = incarnation
        self._now = now
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._beat_at = begun_at
        """Loop time before the last confirmed heartbeat was sent; the first one is the row of the incarnation."""
        self._judges_from = 0.0
        """Loop time from which on this gateway may declare others dead."""
        self._hastens_from = 0.0
        """Loop time of the next look for due times that are too far ahead."""
        self._durability = durability
        self.undurable = ""
        """Why the last heartbeat found that the server could lose what it confirms; empty: it could not."""
        self.lost = lost
        """Set when another gateway has ended this incarnation, or a restored database does not know it."""
        self.replicas = replicas
        self._apply_replicas: ApplyReplicas | None = None
        self._seen = incarnation.number
        """The newest run for which this gateway has made room; its heartbeats tell the others."""

    @property
    def is_lost(self) -> bool:
        """True if this incarnation has ended (``lost``)."""
        return self.lost.is_set()

    @property
    def may_attempt(self) -> bool:
        """False if an attempt that starts now could last until others take over its delivery."""
        return not self.is_lost and self._loop.time() - self._beat_at < SEND_SECONDS

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        """See ``Store``."""
        self._apply_replicas = apply
        apply(self.replicas)

    async def run(self) -> None:
        """Send heartbeats, and take over from dead gateways, until this incarnation is lost."""
        has_failed = False
        while not self.is_lost:
            await asyncio.sleep(HEARTBEAT_SECONDS if self._is_settled else _JOINING_SECONDS)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._send()
            except UNAVAILABLE as error:
                # The database may have been away for all gateways: first they get the time to send a heartbeat.
                self._judges_from = self._loop.time() + DEAD_SECONDS
                _log.warning("heartbeat_failed", error=describe(error))
                has_failed = True
                continue
            if has_failed:
                _log.info("heartbeat_resumed")
                has_failed = False
            try:
                await self._take_over()
            except UNAVAILABLE as error:
                _log.warning("takeover_failed", error=describe(error))

    async def beat(self) -> None:
        """Send one heartbeat, and take over the deliveries of dead gateways."""
        await self._send()
        await self._take_over()

    @property
    def _is_settled(self) -> bool:
        """True if this gateway has its shares, and has made room for all others."""
        return self.replicas.has_joined and self._seen >= self.replicas.newest

    async def _send(self) -> None:
        async with self._pool.acquire() as connection:
            await self._require_durable(connection)
            previously_seen = self._seen
            await self._beat(connection)
            if self._seen > previously_seen:
                await self._beat(connection)  # the new gateway waits for this

    async def _require_durable(self, connection: Connection) -> None:
        """Check the server again, because its settings can change. If they broke, no connection is used any more."""
        try:
            self._connected(await require_durable(connection, self._durability))
        except NotDurableError as error:
            _log.error("store_durability_missed", reason=str(error))
            self.undurable = describe(error)
            await self._pool.expire_connections()
            raise
        self.undurable = ""

    async def _beat(self, connection: Connection) -> None:
        sent_at = self._loop.time()
        if not await incarnations.beat(connection, self.incarnation, self._seen):
            self.lost.set()
            _log.error("store_ownership_lost", hint="Another gateway delivers what this one had. Restart this one.")
            return
        members = await incarnations.members(connection)
        # Apply the shares before the heartbeat counts, because without one this gateway may have missed a change.
        self.replicas = incarnations.replicas_of(self.incarnation, members, has_joined=self.replicas.has_joined)
        if self._apply_replicas is None or self._apply_replicas(self.replicas):
            self._seen = self.replicas.newest
        self._beat_at = sent_at

    async def _take_over(self) -> None:
        if self.is_lost or self._beat_at < self._judges_from:
            return
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection, connection.transaction():
            if await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.MIGRATION_LOCK):
                await incarnations.end_dead(connection)
                recovered = await incarnations.take_over(connection, self._now())
                if recovered:
                    _log.warning("deliveries_recovered", count=recovered)
        await self._hasten_wrong()

    async def _hasten_wrong(self) -> None:
        """Correct the times of a gateway whose clock is or was wrong, once a minute."""
        if self._loop.time() < self._hastens_from:
            return
        self._hastens_from = self._loop.time() + _HASTEN_SECONDS
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
            hastened = await incarnations.hasten_wrong(connection, self._now())
        if hastened:
            self._hastens_from = 0.0  # there may be more
            _log.warning("due_times_corrected", count=hastened, hint="A gateway's clock is or was wrong: check NTP.")
