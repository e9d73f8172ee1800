"""The frequent statements use indexes, also with many deliveries behind one dead destination."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import databases, engines
from usher_gateway.store import names
from usher_gateway.store.jobs import changes, claims, creation, listings, meters, replays, retention, settle
from usher_gateway.store.postgresql import accept, incarnations, prune, writer

ROWS = 20_000
# Two thirds of the deliveries wait, nearly all of them for one destination.
FILL = f"""
    insert into destinations values (1, 'agency/dead'), (2, 'agency/crm');
    insert into listeners select key, 'agency', 'acme', key::text from generate_series(1, {ROWS}) key;
    insert into routes select key, key, 2, 'crm', ''::bytea from generate_series(1, {ROWS}) key;
    insert into incarnations (number, slot, beat_at, ended_at) values (1, 63, now(), now());
    insert into arrivals select key, ''::bytea, 1, key, key, 1, 0, 0, 0, 10, sha256(int8send(key)),
        sha256(int8send(key)), int8send(key), ''::bytea from generate_series(1, {ROWS}) key;
    insert into bodies select key, 20000 + key / 1000, ''::bytea, 'body'::bytea from generate_series(1, {ROWS}) key;
    insert into prints select fingerprint, key, 0, false from arrivals;
    insert into sightings select visitor, 0, array[key] from arrivals;
    insert into persons select persons, key from arrivals;
    insert into once_marks select sha256(int8send(key)), key from generate_series(1, {ROWS}) key;
    insert into deliveries (key, id, arrival, route, destination, hold, waiting, owner, due_at, created_at, started_at,
            expires_at, state)
        select key, ''::bytea, key, 1, 1 + (key % 1000 = 0)::integer, case when key % 50 = 0 then 1 else 0 end,
            key % 50 > 0 and key % 3 > 0, 0, key, key, key, 0, case when key % 50 > 0 and key % 3 = 0 then 1 else 0 end
        from generate_series(1, {ROWS}) key;
    insert into attempts select key, ''::bytea from generate_series(1, {ROWS}) key;
    analyze;
"""

STATEMENTS = {
    "accept: contents and visitors": accept._LOCK_KEYS,
    "accept: replace contents": accept._REPLACE_CONTENTS,
    "accept: visit times": accept._SET_TIMES,
    "accept: marks": creation.ADD_MARKS,
    "accept: insert": accept._INSERT,
    "commit": writer._INSERT_COMMIT,
    "visits of a month": meters._VISITS,
    "names: listeners": names._ADD_LISTENERS,
    "names: routes": names._ADD_ROUTES,
    "settle": settle._SETTLE.postgresql,
    "claim: lock": claims._LOCK_DUE,
    "claim: load": claims._LOAD,
    "claim: take": claims._CLAIM,
    "defer": claims._DEFER,
    "due destinations": claims._DUE_DESTINATIONS,
    "held: cancel": claims._LOCK_HELD,
    "held: release": claims._UNHOLD.format(hold="0"),
    "held: expire": claims._LOCK_EXPIRED,
    "hasten": claims._HASTEN,
    "late": claims._LATE,
    "late and forbidden": claims._LATE_FORBIDDEN,
    "take over": incarnations._TAKE_OVER,
    "persons": listings._ARRIVALS_OF_PERSON.postgresql,
    "redrive": changes._REDRIVABLE,
    "cancel": claims._CANCEL,
    "replay: verdicts": replays._VERDICTS,
    "replay: first deliveries": replays._FIRST_DELIVERIES,
    "replay: later deliveries": replays._LATER_DELIVERIES,
    "replay: count": replays._COUNT,
    "replay: count due": replays._COUNT_DUE,
    "prune: find": retention._EXPIRED,
    "prune: empty": retention._EMPTY,
    "prune: undelivered": retention._UNDELIVERED,
    "prune: lock undelivered": retention._LOCK_UNDELIVERED,
    "prune: contents": prune._FORGET_CONTENTS,
    "prune: lock visitors": prune._LOCK_VISITORS,
    "prune: visitors": prune._FORGET_VISITORS,
    "prune: visit times": prune._FORGET_TIMES,
    "prune: rows": prune._FORGET,
}
LARGE = (
    "arrivals",
    "bodies",
    "deliveries",
    "prints",
    "sightings",
    "persons",
    "once_marks",
    "attempts",
    "listeners",
    "routes",
)


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[str]:
    engine = engines.Postgresql()
    bench = engines.Bench(engine, tmp_path / "data")
    await bench.open()
    name = databases.name_of(bench.place)
    databases.server().execute(FILL, name)
    yield name
    await bench.store.close()
    engine.forget(bench.place)


async def test_frequent_statements_scan_no_large_table(filled: str) -> None:
    """Plans for any values, as prepared statements get them after some uses.

    A walk over a whole primary key with a filter counts as a scan.
    """
    scans = {}
    server = databases.server()
    server.execute("set plan_cache_mode = force_generic_plan", filled)
    for name, statement in STATEMENTS.items():
        server.execute(f"prepare tried as {statement}", filled)
        values = max([int(number) for number in re.findall(r"\$(\d+)", statement)], default=0)
        call = f"tried({', '.join(['null'] * values)})" if values else "tried"
        plan = "\n".join(row[0] for row in server.rows(f"explain execute {call}", filled))
        server.execute("deallocate tried", filled)
        whole = re.findall(r"Seq Scan on (\w+)|Index Scan using \w+_pkey on (\w+)[^\n]*\n\s+Filter", plan)
        if any(table in LARGE for tables in whole for table in tables):
            scans[name] = plan
    assert scans == {}
