"""Accept a batch of arrivals inside the writer's transaction: look up facts, decide, write rows.

For the writer's thread only.
"""

from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.acceptance import DELIVERY_COLUMNS, ArrivalRows, Row
from usher_gateway.store.copy import COLUMNS
from usher_gateway.store.decide import DedupeFacts, KnownContent
from usher_gateway.store.encodings import FLAG_UNACKNOWLEDGED
from usher_gateway.store.jobs import suppressions
from usher_gateway.store.jobs.creation import EXISTING_MARKS
from usher_gateway.store.session import columns
from usher_gateway.store.sqlite.recent_index import short_key
from usher_gateway.store.sqlite.transaction import PAIR, Transaction, insert_rows

_ADD_ARRIVALS = f"insert into arrivals ({COLUMNS['arrivals']})"
_ARRIVAL = f"({','.join('?' * 14)})"
_ADD_BODIES = f"insert into bodies ({COLUMNS['bodies']})"
_BODY = "(?,?,?,?)"
_ADD_DELIVERIES = f"insert into deliveries ({DELIVERY_COLUMNS}, waiting)"
_DELIVERY = f"({'?,' * 10}0)"  # In a lane or held
_ADD_MARKS = f"insert into once_marks ({COLUMNS['once_marks']})"

# Find one visit time per visitor inside a window.
_SIGHTING_IN_WINDOW = """
    select w.visitor, (select visit_time from sightings s
        where s.visitor = w.visitor and visit_time > after and visit_time < before limit 1)
    from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as w (visitor, after, before)
"""

# Find contents' first acceptances, by 64 bits of the fingerprint.
_PRINTS = "select print, arrival from prints where print = any($1::bigint[])"

# Get whole fingerprints, to confirm what _PRINTS found.
_FINGERPRINTS = "select key, received_at, flags, fingerprint from arrivals where key = any($1::bigint[])"


class Acceptance(ArrivalRows):
    """Accepts the arrivals of one batch."""

    def __init__(self, transaction: Transaction, arrivals: Sequence[model.Arrival], now: int) -> None:
        super().__init__(arrivals, transaction, now)
        self._transaction = transaction
        self._session = transaction.session

    async def run(self) -> tuple[list[model.Accepted], list[Row]]:
        """Write all rows; return the results, and the arrivals' rows for the recent index."""
        self.leave_out(await suppressions.among(self._session, self.persons()))
        new_marks = self.decide(await self._facts())
        self._insert(new_marks)
        return self.results, self.arrival_rows

    def _insert(self, new_marks: set[bytes]) -> None:
        connection = self._transaction.connection
        insert_rows(connection, _ADD_ARRIVALS, _ARRIVAL, self.arrival_rows)
        insert_rows(connection, _ADD_BODIES, _BODY, self.body_rows)
        insert_rows(connection, _ADD_DELIVERIES, _DELIVERY, self.delivery_rows)
        if new_marks:
            insert_rows(connection, _ADD_MARKS, PAIR, self.marks(new_marks))

    async def _facts(self) -> DedupeFacts:
        """Look up in the recent index first, and in the tables what that lacks."""
        contents: dict[bytes, KnownContent] = {}
        sightings: dict[bytes, list[int]] = {}
        missing_contents: dict[int, bytes] = {}
        visitors: dict[int, bytes] = {}
        missing_windows: list[tuple[int, int, int]] = []
        once_keys: set[bytes] = set()
        recent_index = self._transaction.recent_index
        for arrival in self.arrivals:
            content = recent_index.content_of(arrival.fingerprint)
            if content is not None:
                contents[arrival.fingerprint] = content
            else:
                missing_contents[short_key(arrival.fingerprint)] = arrival.fingerprint
            if arrival.window and arrival.quarantine is None:
                after, before = arrival.visit_time - arrival.window, arrival.visit_time + arrival.window
                time = recent_index.sighting_between(arrival.visitor_key, after, before)
                if time is not None:
                    sightings.setdefault(arrival.visitor_key, []).append(time)
                else:
                    short = short_key(arrival.visitor_key)
                    visitors[short] = arrival.visitor_key
                    missing_windows.append((short, after, before))
            if arrival.has_marks:
                once_keys.update(plan.once_key for plan in (*arrival.if_visit, *arrival.if_repeat) if plan.once_key)
        await self._find_contents(missing_contents, contents)
        await self._find_sightings(missing_windows, visitors, sightings)
        marks = {mark for (mark,) in await self._session.fetch(EXISTING_MARKS, sorted(once_keys))}
        return DedupeFacts(contents, sightings, marks)

    async def _find_contents(self, missing: dict[int, bytes], contents: dict[bytes, KnownContent]) -> None:
        candidates = {arrival: missing[short] for short, arrival in await self._session.fetch(_PRINTS, sorted(missing))}
        for key, received_at, flags, fingerprint in await self._session.fetch(_FINGERPRINTS, sorted(candidates)):
            if fingerprint == candidates[key]:
                contents[fingerprint] = KnownContent(key, received_at, bool(flags & FLAG_UNACKNOWLEDGED))

    async def _find_sightings(
        self, windows: list[tuple[int, int, int]], visitors: dict[int, bytes], sightings: dict[bytes, list[int]]
    ) -> None:
        """Find one sighting per window, because a visitor may have hundreds of thousands, and commits wait for this."""
        for short, time in await self._session.fetch(_SIGHTING_IN_WINDOW, *columns(sorted(windows), 3)):
            if time is not None:
                sightings.setdefault(visitors[short], []).append(time)
