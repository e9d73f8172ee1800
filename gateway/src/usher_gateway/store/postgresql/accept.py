"""Accept a batch of arrivals inside a transaction: lock and read their keys, decide, write rows.

Gateways may accept equal arrivals at the same moment. So the statements that read the keys also write them: each
inserts the keys that are new, and locks and returns the rows of those that exist. A second gateway waits there until
the first has committed, and then sees its rows. All gateways write keys in the same order (content, visitors, marks;
each sorted), so they cannot wait for each other in a circle.
"""

from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.acceptance import DELIVERY_COLUMNS, ArrivalRows
from usher_gateway.store.copy import COLUMNS
from usher_gateway.store.decide import DedupeFacts, KnownContent
from usher_gateway.store.encodings import FLAG_UNACKNOWLEDGED, split_person_keys
from usher_gateway.store.jobs import suppressions
from usher_gateway.store.jobs.changes import DELETE_MARKS
from usher_gateway.store.jobs.creation import ADD_MARKS
from usher_gateway.store.names import LACKS_NONE
from usher_gateway.store.postgresql.connections import Transaction
from usher_gateway.store.session import columns

# Visit times that are kept for one visitor. Only windows under ten minutes can reach it within a week.
MOST_TIMES = 1_000

# Insert, lock and return contents and visitors: all contents before the first visitor. Contents whose 200 was not sent
# are marked. A new visitor gets one visit time. Columns of a content: fingerprint, arrival, received at,
# unacknowledged, null. Of a visitor: visitor, batch, null, null, times.
_LOCK_KEYS = """
    with content as (
        insert into prints (fingerprint, arrival, received_at, unacknowledged)
        select * from unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::boolean[])
        on conflict (fingerprint) do update set
            arrival = case when excluded.unacknowledged then excluded.arrival else prints.arrival end,
            received_at = case when excluded.unacknowledged then excluded.received_at else prints.received_at end,
            unacknowledged = prints.unacknowledged or excluded.unacknowledged
        returning fingerprint, arrival, received_at, unacknowledged),
    sighting as (
        insert into sightings (visitor, batch, times)
        select visitor, $7, array[time] from unnest($5::bytea[], $6::bigint[]) as new (visitor, time)
        on conflict (visitor) do update set batch = sightings.batch
        returning visitor, batch, times)
    select fingerprint, arrival, received_at, unacknowledged, null::bigint[] from content
    union all select visitor, batch, null, null, times from sighting
"""

# Replace a content's arrival by a later one, because the earlier one is too old to prove a redelivery.
_REPLACE_CONTENTS = """
    update prints set arrival = new.arrival, received_at = new.received_at, unacknowledged = false
    from unnest($1::bytea[], $2::bigint[], $3::bigint[]) as new (fingerprint, arrival, received_at)
    where prints.fingerprint = new.fingerprint
"""

# Replace the visit times of visitors.
_SET_TIMES = """
    update sightings set times = new.times
    from (select visitor, array_agg(time order by time) times
        from unnest($1::bytea[], $2::bigint[]) as one (visitor, time) group by visitor) new
    where sightings.visitor = new.visitor
"""

# Take back visitors from whom no visit was accepted.
_DROP_VISITORS = "delete from sightings where visitor = any($1::bytea[])"

# Insert all arrivals' rows, and the commit's row, in one statement. The commit's row is left out if the
# database lacks a name of the arrivals, or if this incarnation has ended.
_INSERT = f"""
    with
    arrival as (
        insert into arrivals ({COLUMNS["arrivals"]})
        select * from unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[],
            $7::smallint[], $8::smallint[], $9::smallint[], $10::integer[], $11::bytea[], $12::bytea[], $13::bytea[],
            $14::bytea[])),
    body as (
        insert into bodies ({COLUMNS["bodies"]})
        select * from unnest($15::bigint[], $16::integer[], $17::bytea[], $18::bytea[])),
    person as (
        insert into persons (person, arrival)
        select * from unnest($19::bytea[], $20::bigint[]) on conflict do nothing),
    delivery as (
        insert into deliveries ({DELIVERY_COLUMNS}, waiting, owner)
        select *, false, case when hold = 0 then $31::bigint else 0 end
        from unnest($21::bigint[], $22::bytea[], $23::bigint[], $24::bigint[], $25::bigint[], $26::smallint[],
            $27::bigint[], $28::bigint[], $29::bigint[], $30::bigint[])
            as new ({DELIVERY_COLUMNS}))
    insert into commits (incarnation, number, counts)
    select number, $32, $33 from incarnations where number = $31 and ended_at is null
    and {LACKS_NONE.format("$34", "$35")}
    returning number
"""  # noqa: S608 - names of columns, and numbered values

_MARK_UNACKNOWLEDGED = f"""
    update arrivals set flags = flags | {FLAG_UNACKNOWLEDGED} where key = any($1::bigint[]) returning key
"""  # noqa: S608


class Acceptance(ArrivalRows):
    """Accepts the arrivals of one batch, and marks unacknowledged ones."""

    def __init__(
        self, transaction: Transaction, arrivals: Sequence[model.Arrival], unacknowledged: Sequence[model.Arrival]
    ) -> None:
        super().__init__(arrivals, transaction, transaction.now)
        self._transaction = transaction
        self._connection = transaction.connection
        self._unacknowledged = unacknowledged
        self._contents: dict[bytes, int] = {}  # Fingerprint -> the arrival that the database has for it now
        self._first_times: dict[bytes, int] = {}  # Visitor key -> the visit time of its first arrival in the batch
        self._visitors: dict[bytes, tuple[bool, int]] = {}
        """Visitor key -> whether this batch inserted it, and how many visit times its row has."""
        self._own_marks: set[bytes] = set()  # Marks that this batch inserted

    async def run(self) -> list[model.Accepted]:
        """Write all rows; return the results."""
        self.leave_out(await suppressions.among(self._transaction.session, self.persons()))
        if self._unacknowledged:
            await self._note_unacknowledged()
        contents, sightings = await self._lock_keys()
        if not self.arrivals:
            return self.results
        facts = DedupeFacts(contents, sightings, await self._add_marks())
        new_marks = self.decide(facts)
        await self._insert()
        await self._replace_contents(facts)
        await self._write_visitors(facts)
        unused = self._own_marks - new_marks
        if unused:
            await self._connection.execute(DELETE_MARKS, sorted(unused))
        return self.results

    # Content and visitors

    async def _lock_keys(self) -> tuple[dict[bytes, KnownContent], dict[bytes, list[int]]]:
        """Return what the database knew about the contents, and which visit times it knew for the visitors."""
        contents, visitors = self._content_rows(), self._visitor_rows()
        known_contents, known_times = {}, {}
        batch = self.keys[0] if self.keys else 0
        values = (*columns(list(contents.values()), 4), *columns(visitors, 2), batch)
        for key, number, received_at, unacknowledged, times in await self._connection.fetch(_LOCK_KEYS, *values):
            if times is None:  # a content
                self._contents[key] = number
                if number != contents[key][1] or unacknowledged:  # else this batch has inserted it
                    known_contents[key] = KnownContent(number, received_at, unacknowledged)
            elif number == batch:  # a visitor that this batch has inserted
                self._visitors[key] = (True, 1)
            else:
                self._visitors[key] = (False, len(times))
                known_times[key] = times
        return known_contents, known_times

    def _content_rows(self) -> dict[bytes, tuple[bytes, int, int, bool]]:
        """Return each content's row, sorted."""
        rows: dict[bytes, tuple[bytes, int, int, bool]] = {}
        for arrival, key in zip(self.arrivals, self.keys, strict=True):
            fingerprint = arrival.fingerprint
            if fingerprint not in rows:
                rows[fingerprint] = (fingerprint, key, arrival.received_at, False)
        for arrival in self._unacknowledged:
            rows[arrival.fingerprint] = (arrival.fingerprint, arrival.key, arrival.received_at, True)
        return dict(sorted(rows.items()))

    def _visitor_rows(self) -> list[tuple[bytes, int]]:
        """Return each visitor with its first visit time, sorted."""
        times = self._first_times
        for arrival in self.arrivals:
            if arrival.quarantine is None:
                times.setdefault(arrival.visitor_key, arrival.visit_time)
        return sorted(times.items())

    async def _note_unacknowledged(self) -> None:
        """Mark arrivals, and leave out those that were erased meanwhile, so that their contents stay forgotten."""
        transaction = self._transaction
        keys = sorted(arrival.key for arrival in self._unacknowledged)
        marked = {key for (key,) in await self._connection.fetch(_MARK_UNACKNOWLEDGED, keys)}
        self._unacknowledged = [arrival for arrival in self._unacknowledged if arrival.key in marked]
        for arrival in self._unacknowledged:
            listener, slot = transaction.listener(arrival.listener), model.slot_of(arrival.received_at)
            transaction.meter(listener, slot, model.Counter.unacknowledged)

    async def _replace_contents(self, facts: DedupeFacts) -> None:
        rows = [
            (fingerprint, content.arrival, content.received_at)
            for fingerprint in sorted(self._contents)
            if (content := facts.contents[fingerprint]).arrival != self._contents[fingerprint]
        ]
        if rows:
            await self._connection.execute(_REPLACE_CONTENTS, *columns(rows, 3))

    async def _write_visitors(self, facts: DedupeFacts) -> None:
        """Add the visit times that the decisions found, and take back the visitors without any."""
        changed: list[tuple[bytes, int]] = []
        dropped: list[bytes] = []
        for visitor, (is_new, stored) in sorted(self._visitors.items()):
            times = facts.sightings.get(visitor, [])
            if not times:
                dropped += [visitor] if is_new else []
            elif len(times) > stored or (is_new and times[0] != self._first_times[visitor]):
                changed += [(visitor, time) for time in sorted(times)[-MOST_TIMES:]]
        if dropped:
            await self._connection.execute(_DROP_VISITORS, dropped)
        if changed:
            await self._connection.execute(_SET_TIMES, *columns(changed, 2))

    # Once per

    async def _add_marks(self) -> set[bytes]:
        candidates = {
            plan.once_key
            for arrival in self.arrivals
            if arrival.has_marks
            for plan in (*arrival.if_visit, *arrival.if_repeat)
            if plan.once_key
        }
        if not candidates:
            return set()
        new_marks = await self._connection.fetch(ADD_MARKS, *columns(self.marks(candidates), 2))
        self._own_marks = {mark for (mark,) in new_marks}
        return candidates - self._own_marks

    # Rows

    async def _insert(self) -> None:
        persons = sorted(
            {(person, row[0]) for row in self.arrival_rows for person in split_person_keys(row[12])}  # type: ignore[arg-type]
        )
        transaction = self._transaction
        number = await self._connection.fetchval(
            _INSERT,
            *columns(self.arrival_rows, 14),
            *columns(self.body_rows, 4),
            *columns(persons, 2),
            *columns(self.delivery_rows, 10),
            transaction.owner,
            transaction.number,
            transaction.packed_meters(),
            *transaction.used.columns(),
        )
        transaction.has_commit_row = number is not None
