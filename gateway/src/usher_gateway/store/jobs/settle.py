"""Settling: writes the outcomes of attempts, each only if its gateway still owns the delivery."""

from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.books import SETTLED
from usher_gateway.store.encodings import ATTEMPTS_BYTES, pack_attempt
from usher_gateway.store.session import Statement, columns
from usher_gateway.store.transaction import Transaction

# Settle deliveries, if they are pending with the attempts that the settlements name, and still this gateway's.
# PostgreSQL first locks the rows in key order, as all jobs do.
_SETTLE = Statement(
    postgresql="""
        with new as (select * from unnest($1::bigint[], $2::integer[], $3::smallint[], $4::smallint[], $5::boolean[],
            $6::integer[], $7::bigint[], $8::bigint[], $9::smallint[], $10::smallint[], $11::text[], $12::bytea[])
            as new (key, before, state, hold, waiting, attempts, due_at, settled_at, cancel, status, error, answer)),
        own as materialized (select key from deliveries
            where key = any($1::bigint[]) and owner = $13 order by key for no key update)
        update deliveries d set state = new.state, hold = new.hold, waiting = new.waiting, attempts = new.attempts,
            due_at = new.due_at, settled_at = new.settled_at, cancel = new.cancel, status = new.status,
            error = new.error, answer = new.answer
        from own join new on new.key = own.key
        where d.key = own.key and d.state = 0 and d.attempts = new.before and d.owner = $13
        returning d.key, d.route
    """,
    sqlite="""
        update deliveries set state = new.state, hold = new.hold, waiting = new.waiting, attempts = new.attempts,
            due_at = new.due_at, settled_at = new.settled_at, cancel = new.cancel, status = new.status,
            error = new.error, answer = new.answer
        from unnest($1::bigint[], $2::integer[], $3::smallint[], $4::smallint[], $5::boolean[], $6::integer[],
            $7::bigint[], $8::bigint[], $9::smallint[], $10::smallint[], $11::text[], $12::bytea[])
            as new (key, before, state, hold, waiting, attempts, due_at, settled_at, cancel, status, error, answer)
        where deliveries.key = new.key and deliveries.state = 0 and deliveries.attempts = new.before
        returning deliveries.key, deliveries.route
    """,
)

# Append attempts' records to deliveries' logs, and cut the oldest ones.
_APPEND_ATTEMPTS = Statement(
    postgresql=f"""
        insert into attempts as old (delivery, log) select * from unnest($1::bigint[], $2::bytea[])
        on conflict (delivery) do update set log = substring(old.log || excluded.log
            from greatest(1, length(old.log) + length(excluded.log) - {ATTEMPTS_BYTES} + 1))
    """,  # noqa: S608 - a number
    sqlite=f"""
        insert into attempts (delivery, log) select * from unnest($1::bigint[], $2::bytea[]) where true
        on conflict (delivery) do update set log = substr(cast(log || excluded.log as blob), -{ATTEMPTS_BYTES})
    """,  # noqa: S608 - a number
)


async def settle(transaction: Transaction, settlements: Sequence[model.Settlement]) -> None:
    """Write outcomes. A delivery with several settlements in the batch is settled in several rounds, in their order."""
    rounds: list[dict[int, model.Settlement]] = []
    earlier: dict[int, int] = {}
    for settlement in settlements:
        number = earlier.get(settlement.key, 0)
        earlier[settlement.key] = number + 1
        if number == len(rounds):
            rounds.append({})
        rounds[number][settlement.key] = settlement
    for settlements_by_key in rounds:
        await _settle_round(transaction, settlements_by_key)


async def _settle_round(transaction: Transaction, settlements: dict[int, model.Settlement]) -> None:
    rows = [_outcome(settlements[key]) for key in sorted(settlements)]
    settled = await transaction.session.fetch(_SETTLE, *columns(rows, 12), transaction.owner)
    routes: dict[tuple[int, model.Counter], list[int]] = {}  # By time, to the quarter of an hour, and counter
    logs: list[tuple[int, bytes]] = []
    for key, route in settled:
        settlement = settlements[key]
        slot = model.slot_of(settlement.at)
        counter = SETTLED[settlement.settled_as][1]
        if counter:
            routes.setdefault((slot, counter), []).append(route)
        if settlement.attempts > settlement.attempts_before:
            routes.setdefault((slot, model.Counter.attempts), []).append(route)
            logs.append((key, pack_attempt(settlement)))
    for (slot, counter), counted in routes.items():
        await transaction.meter_routes(counted, slot * model.MICROSECONDS, counter)
    if logs:
        await transaction.session.execute(_APPEND_ATTEMPTS, *columns(sorted(logs), 2))


def _outcome(settlement: model.Settlement) -> tuple[object, ...]:
    in_backlog = settlement.settled_as is model.SettledAs.Retry
    is_held = settlement.settled_as is model.SettledAs.Held
    hold = int(settlement.hold or 0)
    return (
        settlement.key,
        settlement.attempts_before,
        int(SETTLED[settlement.settled_as][0]),
        hold if is_held else -hold,
        in_backlog,
        settlement.attempts,
        settlement.at if is_held else settlement.due_at,
        0 if in_backlog or is_held else settlement.at,
        int(settlement.cancel or 0),
        settlement.status,
        settlement.error,
        settlement.answer or None,
    )
