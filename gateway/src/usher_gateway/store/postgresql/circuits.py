"""The circuits that are open at all gateways: one row per destination, with the next trial on the database's clock.

Of all gateways that want to make a trial, one gets its row: the update moves the trial to the future, and the others
skip the row. Gateways lock the rows in the order of the destinations.
"""

import itertools
from collections.abc import Collection, Sequence

from usher_gateway.store.base import CircuitChange, CircuitEvent, OpenCircuit, TrialTimes
from usher_gateway.store.postgresql.connections import Connection

_FORGET_SECONDS = 86_400.0
"""A circuit that has been without a trial for this long is forgotten: its destination gets no deliveries."""

_OPEN = """
    insert into circuits as old (destination, trial_at, claimed_by, error)
    select number, clock_timestamp() + make_interval(secs => $2), 0, $4 from destinations
    where key = $1 and $3::bigint > 0
    on conflict (destination) do update set
        trial_at = greatest(old.trial_at, excluded.trial_at), error = excluded.error
"""
_FAIL = """
    update circuits set error = $4, trial_at = greatest(clock_timestamp() + make_interval(secs => $2),
        case when claimed_by <> $3 then trial_at end)
    where destination = (select number from destinations where key = $1)
"""
"""Move the next trial. Only the gateway that claimed the last one may move it to an earlier time."""

_CLOSE = "delete from circuits where destination = (select number from destinations where key = $1)"

_CLAIM = """
    with claimed as (update circuits
        set trial_at = clock_timestamp() + make_interval(secs => $2), claimed_by = $3
        where destination = any(array(select destination from circuits
            where trial_at not between clock_timestamp() and clock_timestamp() + make_interval(secs => $2)
            and destination in (select number from destinations where key = any($1::text[]))
            for no key update skip locked))
        returning destination)
    select key from claimed join destinations on number = destination
"""
"""Claim the trials that are due. One that is too far away is due too, because the server's clock was set back."""

_OPEN_CIRCUITS = """
    select key, error, extract(epoch from trial_at - clock_timestamp())::float8
    from circuits join destinations on number = destination
"""
_FORGET = """
    delete from circuits where destination = any(array(select destination from circuits
        where trial_at < clock_timestamp() - make_interval(secs => $1) for update skip locked))
"""


async def exchange(
    connection: Connection,
    gateway: int,
    changes: Sequence[CircuitChange],
    trials: Collection[str],
    times: TrialTimes,
) -> list[OpenCircuit]:
    """Write what changed at a gateway, claim trials for it, and return all circuits that are open.

    In a transaction, unless it writes nothing.
    """
    ordered = sorted(changes, key=lambda one: one.destination)
    for event, same in itertools.groupby(ordered, key=lambda one: one.event):  # one round trip for each run of changes
        if event is CircuitEvent.Closed:
            await connection.executemany(_CLOSE, [(change.destination,) for change in same])
        else:
            values = [(change.destination, times.every_seconds, gateway, change.error) for change in same]
            await connection.executemany(_OPEN if event is CircuitEvent.Opened else _FAIL, values)
    claimed: set[str] = set()
    after = times.every_seconds + times.claim_seconds
    if trials:
        claimed = {key for (key,) in await connection.fetch(_CLAIM, sorted(trials), after, gateway)}
    rows = await connection.fetch(_OPEN_CIRCUITS)
    if any(seconds < -_FORGET_SECONDS for _, _, seconds in rows):
        await connection.execute(_FORGET, _FORGET_SECONDS)
    return [
        OpenCircuit(key, error, seconds if seconds <= after else 0.0, key in claimed) for key, error, seconds in rows
    ]
