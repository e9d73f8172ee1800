"""Incarnations: the gateway runs that own deliveries in lanes, by heartbeats on the database's clock.

A gateway whose last heartbeat is 60 s old counts as dead, and another one moves its deliveries to the backlog. It may
commit nothing after that, because each commit checks that its incarnation has not ended.

An outage of the database silences all gateways. So a gateway that starts, that was silent itself, or that sees that the
database's clock was set, ends no other one before it has given them the time to send a heartbeat.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg
import msgspec
import structlog

from usher_gateway.store.base import ApplyReplicas, Replicas
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import (
    CONNECT_SECONDS,
    UNAVAILABLE,
    Connection,
    Durability,
    NotDurableError,
    PostgresSession,
    describe,
    require_durable,
)

_log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 5.0  # Interval of the heartbeats
DEAD_SECONDS = 60.0  # A gateway without a heartbeat for this long counts as dead
LONGEST_ATTEMPT_SECONDS = 30.0  # The longest time limit of a destination

# A gateway starts attempts only for this long after its last heartbeat, so that they end before it counts as dead.
SEND_SECONDS = DEAD_SECONDS - LONGEST_ATTEMPT_SECONDS - HEARTBEAT_SECONDS

# A gateway that starts, or was silent itself, gives the others this long to send a heartbeat.
GRACE_SECONDS = DEAD_SECONDS

SLOTS = 64  # The most gateways on one database. Their slots make the row keys of all gateways different.
_FORGET_SECONDS = 600.0  # An ended incarnation is kept for this long, so that no other one gets its slot soon

_CLOCK_STEP_SECONDS = 5.0  # The database's clock was set if it is off by more than this since the last look

# End the incarnations without a heartbeat. One whose row is locked is left to the next try. One whose heartbeat is in
# the future has sent none since the clock was set back. The caller ends none if its own heartbeat, a moment ago, seems
# old: then the clock was set since, or the caller was suspended.
_END_DEAD = """
    update incarnations set ended_at = clock_timestamp() where number = any(array(select number from incarnations
        where ended_at is null and abs(extract(epoch from clock_timestamp() - beat_at)) > $1
        and not exists (select 1 from incarnations own where own.number = $2
            and abs(extract(epoch from clock_timestamp() - own.beat_at)) > $1 / 2)
        order by number for no key update skip locked))
"""

# Move a slice of what ended incarnations had claimed to the backlog; what is locked is left to the next try.
_TAKE_OVER = """
    update deliveries set waiting = true, owner = 0, due_at = least(due_at, $1)
    where key = any(array(select key from deliveries where state = 0 and hold <= 0 and not waiting and key =
        any(array(select key from deliveries where state = 0 and hold <= 0 and not waiting and owner =
            any(array(select number from incarnations where ended_at is not null)) limit $2))
        order by key for no key update skip locked))
"""

_TAKE_OVER_SLICE = 2_000

_FORGET = """
    delete from incarnations where ended_at < clock_timestamp() - make_interval(secs => $1)
    and not exists (select 1 from deliveries
        where state = 0 and hold <= 0 and not waiting and owner = incarnations.number)
"""
_FREE_SLOT = """
    select slot from generate_series(0, $1 - 1) slot where slot not in (select slot from incarnations)
    order by slot limit 1
"""
# The number is a time, so that a database that went back does not give out the number of a run that it lost. A gateway
# with that number would commit as the other one.
_BEGIN = """
    insert into incarnations (number, slot, beat_at)
    select greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint, (select max(number) + 1
        from incarnations)), $1, clock_timestamp()
    returning number
"""

_BEAT = """
    update incarnations set beat_at = clock_timestamp() where number = $1 and ended_at is null
    returning extract(epoch from beat_at)::float8
"""
_MEMBERS = "select number from incarnations where ended_at is null order by number"
# Replace the destinations that a gateway knows, so that others leave their deliveries to it.
TELL_DESTINATIONS = """
    insert into known_destinations (incarnation, destinations) select number, $2 from incarnations where number = $1
    on conflict (incarnation) do update set destinations = excluded.destinations
"""
# Return which destinations, among some, each other running gateway knows.
DESTINATIONS_OF_OTHERS = """
    select array(select key from unnest($2::text[]) key where key = any(k.destinations))
    from incarnations i left join known_destinations k on k.incarnation = i.number
    where i.ended_at is null and i.number <> $1
"""
_ANY_RUNS = """
    select exists (select 1 from incarnations
        where ended_at is null and abs(extract(epoch from clock_timestamp() - beat_at)) <= $1)
"""
# End a run, so that others take over its deliveries at once.
END = "update incarnations set ended_at = clock_timestamp() where number = $1 and ended_at is null"


class Incarnation(msgspec.Struct, frozen=True):
    """This gateway's run."""

    number: int
    slot: int


async def end_dead(connection: Connection, own: int | None = None) -> None:
    """End the incarnations without a heartbeat. The caller has given them GRACE_SECONDS, and has MIGRATION_LOCK.

    ``own``: number of the caller's incarnation, which has just sent a heartbeat; None: it has none.
    """
    await connection.execute(_END_DEAD, DEAD_SECONDS, own)


async def forget_ended(connection: Connection) -> None:
    """Forget the incarnations that ended long ago. Needs MIGRATION_LOCK."""
    await connection.execute(_FORGET, _FORGET_SECONDS)


async def take_over(connection: Connection, now: int) -> int:
    """Move what ended incarnations had claimed to the backlog, due at once; return how many deliveries."""
    total = 0
    while True:
        changed = await PostgresSession(connection).execute(_TAKE_OVER, now, _TAKE_OVER_SLICE)
        total += changed
        if changed < _TAKE_OVER_SLICE:
            return total


async def begin(connection: Connection) -> Incarnation | None:
    """Add this run; None if all slots are taken. Needs MIGRATION_LOCK."""
    slot = await connection.fetchval(_FREE_SLOT, SLOTS)
    if slot is None:
        return None
    return Incarnation(await connection.fetchval(_BEGIN, slot), slot)


async def beat(connection: Connection, incarnation: Incarnation) -> float | None:
    """Write a heartbeat; return its time by the database's clock, in seconds.

    None: this incarnation has ended, or the database does not know it.
    """
    seconds: float | None = await connection.fetchval(_BEAT, incarnation.number)
    return seconds


async def replicas_of(connection: Connection, incarnation: Incarnation) -> Replicas:
    """Return the gateways that share the limits: the runs that have not ended."""
    return Replicas(incarnation.number, tuple([number for (number,) in await connection.fetch(_MEMBERS)]))


async def any_runs(connection: Connection) -> bool:
    """Return whether an incarnation has sent a heartbeat lately."""
    return bool(await connection.fetchval(_ANY_RUNS, DEAD_SECONDS))


class _ClockLead(NamedTuple):
    """By how many seconds the database's clock is ahead of the event loop's time. A query shows it only roughly."""

    at_least: float
    at_most: float


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
    ) -> None:
        """``begun_at``: loop time before the statement that began the incarnation was sent."""
        self._pool = pool
        self.incarnation = incarnation
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._beat_at = begun_at
        """Loop time before the last confirmed heartbeat was sent; the first one is the incarnation's row."""
        self._ends_others_from = begun_at + GRACE_SECONDS
        """If this gateway sends a heartbeat after this loop time, it may end others."""
        self._clock_lead: _ClockLead | None = None
        self._clock_steady_from = begun_at
        """The database's clock was not set since this loop time, as far as this gateway has seen."""
        self._durability = durability
        self.undurable = ""
        """Why the last heartbeat found that the server could lose what it confirms; empty: it could not."""
        self.lost = lost  # Set when another gateway has ended this incarnation, or a restored database does not know it
        self.replicas = replicas
        self._apply_replicas: ApplyReplicas | None = None

    @property
    def is_lost(self) -> bool:
        """True if this incarnation has ended (``lost``)."""
        return self.lost.is_set()

    @property
    def may_attempt(self) -> bool:
        """False if an attempt that starts now could last until others take over its delivery."""
        return not self.is_lost and self._loop.time() - self._beat_at < SEND_SECONDS

    def note_clock(self, seconds: float, asked_at: float) -> None:
        """Note the time by the database's clock, to see when somebody sets it. ``asked_at``: loop time of the query."""
        before, current = self._clock_lead, _ClockLead(seconds - self._loop.time(), seconds - asked_at)
        self._clock_lead = current
        if before is None:
            return
        forward, back = current.at_least - before.at_most, before.at_least - current.at_most
        if max(forward, back) > _CLOCK_STEP_SECONDS:
            hint = "the clock of the database was set, or one of the two machines was paused"
            _log.warning("store_clock_set", seconds=round(max(forward, -back)), hint=hint)
            self._clock_steady_from = self._loop.time()
            self._ends_others_from = self._clock_steady_from + GRACE_SECONDS

    def is_clock_steady(self, seconds: float) -> bool:
        """Return whether this gateway has run for this time, and the database's clock was not set meanwhile."""
        return self._loop.time() - self._clock_steady_from >= seconds

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        """See ``Store``."""
        self._apply_replicas = apply
        apply(self.replicas)

    async def run(self) -> None:
        """Send heartbeats, and take over from dead gateways, until this incarnation is lost."""
        has_failed = False
        while not self.is_lost:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._send()
            except UNAVAILABLE as error:
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
        """Send one heartbeat, and take over dead gateways' deliveries."""
        await self._send()
        await self._take_over()

    async def _send(self) -> None:
        async with self._pool.acquire() as connection:
            await self._require_durable(connection)
            await self._beat(connection)

    async def _require_durable(self, connection: Connection) -> None:
        """Check the server again, because its settings can change. If they broke, no connection is used any more."""
        try:
            await require_durable(connection, self._durability)
        except NotDurableError as error:
            _log.error("store_durability_missed", reason=str(error))
            self.undurable = describe(error)
            await self._pool.expire_connections()
            raise
        self.undurable = ""

    async def _beat(self, connection: Connection) -> None:
        sent_at = self._loop.time()
        database_time = await beat(connection, self.incarnation)
        if database_time is None:
            self.lost.set()
            _log.error("store_ownership_lost", hint="Another gateway delivers what this one had. Restart this one.")
            return
        self.note_clock(database_time, sent_at)
        # Apply the shares before the heartbeat counts, because without one this gateway may have missed a change.
        self.replicas = await replicas_of(connection, self.incarnation)
        if self._apply_replicas is not None:
            self._apply_replicas(self.replicas)
        if not self.may_attempt:
            # The cause that silenced this gateway may have silenced the others, which come back now too.
            self._ends_others_from = sent_at + GRACE_SECONDS
        self._beat_at = max(self._beat_at, sent_at)  # an earlier heartbeat may be confirmed later

    async def _take_over(self) -> None:
        if self.is_lost:
            return
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection, connection.transaction():
            if await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.MIGRATION_LOCK):
                if self._beat_at >= self._ends_others_from:
                    await end_dead(connection, self.incarnation.number)
                await forget_ended(connection)
                recovered = await take_over(connection, self._now())
                if recovered:
                    _log.warning("deliveries_recovered", count=recovered)
