"""Replays: deliveries that a person asks for again, created in small steps.

A replay is a row. Each step reads the row, finds the next verdicts, and creates their deliveries in a transaction that
also moves the row's place on. So a replay goes on after a crash, any gateway can take the next step, and nobody takes a
step twice. The walk goes from the newest arrival down, as a listing's does.
"""

import collections
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from usher_gateway import model, timing
from usher_gateway.store.base import MarkOf, Replay, ReplayReport, ReplayRequest, ReplayState
from usher_gateway.store.encodings import first_hold
from usher_gateway.store.jobs import changes, creation, scopes, suppressions
from usher_gateway.store.session import Row, Session, columns, newest
from usher_gateway.store.transaction import Transaction

KEPT_DAYS = 750  # How long a replay that has ended stays: about as long as meters
LISTED = 100  # How many replays a list has, the newest ones

# Replays of a tenant, or of the tenants of one limited token, that have not ended. Each may name 1,000 visits.
MOST_RUNNING = 100

# Replays that a limited token may start in 30 days.
MOST_RECENT = 1_000
_RECENT = 30 * model.DAY

_PAGE = 100  # Running replays that are read at a time

# A replay pauses while this many of its deliveries are due, because new visits wait behind them.
WAITING_AT_MOST = 200

SAMPLE = 5  # Verdicts that a preview shows
STEP = 100  # Deliveries that one step creates; arrivals wait for it

# The result of a verdict whose delivery waits or is held. A replay leaves it out.
PENDING = model.DeliveryState.Pending.name.lower()

_GONE = "gone"  # The result of a verdict whose delivery does not exist any more. No replay selects it.

_NO_DELIVERY = (0, 0, 0, 0)

_VERDICTS = "select key, verdicts from arrivals where key = any($1::bigint[])"
_ARRIVALS = """
    select a.key, a.id, a.received_at, a.flags, b.body is not null from arrivals a left join bodies b on b.key = a.key
    where a.key = any($1::bigint[])
"""
_FIRST_DELIVERIES = "select key, state, expires_at, hold from deliveries where key = any($1::bigint[])"
_LATER_DELIVERIES = """
    select d.arrival, r.listener, r.name, d.key, d.state, d.expires_at, d.hold
    from deliveries d join routes r on r.number = d.route where d.origin > 0 and d.arrival = any($1::bigint[])
"""
_ROUTES = "select number, listener, name from routes where number = any($1::bigint[])"

_REPLAYS = "select key, id, request, state, created_at, ended_at, place, next_at, report from replays"
_RUNNING = f"{_REPLAYS} where state = {ReplayState.Running:d} and key > $1 order by key limit {_PAGE}"
_COUNT_OF_REQUESTER = """
    select state, created_at >= $2, count(*) from replays where requester = $1 group by state, created_at >= $2
"""
_LOCK = "select state, place from replays where key = $1 for no key update"
_COUNT = """
    select replay, state, hold > 0, count(*) from deliveries
    where replay = any($1::bigint[]) group by replay, state, hold > 0
"""
_COUNT_DUE = """
    select count(*) from (select 1 from deliveries where replay = $1 and state = 0 and hold <= 0 limit $2) due
"""
_INSERT = """
    insert into replays (key, id, request, state, created_at, ended_at, place, next_at, report, requester)
    values ($1, $2, $3, $4, $5, 0, '', $5, $6, $7)
"""
_MOVE = "update replays set place = $2, next_at = $3, report = $4, state = $5, ended_at = $6 where key = $1"
_SET_STATE = "update replays set state = $3, ended_at = $4, next_at = $5 where key = $1 and state = $2"
_DELETE_OLD = """
    delete from replays
    where key in (select key from replays where ended_at > 0 and ended_at < $1 order by key limit $2)
"""


class Verdict(NamedTuple):
    """A route's verdict on an arrival."""

    arrival: int
    route: int
    skip: int
    """The skip reason; 0: it created a delivery."""
    delivery: int
    """Key of that delivery, or 0."""


class Candidate(NamedTuple):
    """A verdict, and what it came to."""

    verdict: Verdict
    visit: bytes
    """The arrival's id."""
    received_at: int
    flags: int
    has_body: bool
    result: str
    """The state that the route's newest delivery for this arrival has, or without one the skip reason."""
    has_delivery: bool
    expires_at: int
    """When that delivery ended, in microseconds."""
    hold: int
    """Hold of that delivery; negative: it was cancelled while its filter could not decide."""
    is_suppressed: bool
    """True if the arrival's person is suppressed."""

    @property
    def skipped_for(self) -> str:
        """The verdict's skip reason; ``""`` if it created a delivery."""
        return model.SkipReason(self.verdict.skip).name if self.verdict.skip else ""

    def is_selected(self, request: ReplayRequest) -> bool:
        """Return whether a replay selects the verdict, by what it was or by what it came to."""
        return not request.results.isdisjoint({self.result, self.skipped_for})


# (arrival, route) -> mark of the route's once-per rule, and the instant from which it may be deleted.
Marks = Mapping[tuple[int, int], tuple[bytes, int]]


class RouteFacts(NamedTuple):
    """The present answers for the routes in a step's verdicts."""

    marks: Marks
    """The marks of the skipped verdicts whose route has a once-per rule."""
    paused: Collection[int]
    """The numbers of the routes that are paused or in shadow mode."""

    def mark_of(self, candidate: Candidate) -> bytes:
        """Return the once-per mark that a delivery of a candidate takes; ``b""`` if it takes none."""
        place = (candidate.verdict.arrival, candidate.verdict.route)
        return b"" if candidate.has_delivery else self.marks.get(place, (b"", 0))[0]


async def next_verdicts(
    session: Session, request: ReplayRequest, cursor: str | None, *, arrivals: int, most: int
) -> tuple[list[Verdict], str | None]:
    """Return the verdicts that a replay selects among the next arrivals, and the cursor behind them.

    Args:
        session: reads a snapshot.
        request: what the replay selects.
        cursor: where the last call ended; None: at the newest arrival.
        arrivals: how many to look at.
        most: verdicts to return, but at least one arrival's.
    """
    scope = await scopes.arrivals_scope(session, request.where)
    keys, below = await scopes.newest(session, scope, cursor, arrivals)
    packed = dict(await session.fetch(_VERDICTS, keys))
    verdicts = [
        Verdict(key, *verdict)
        for key in keys
        if key in packed
        for verdict in scopes.matching_verdicts(packed[key], scope.routes, None)
    ]
    selected = [
        candidate.verdict for candidate in await candidates(session, verdicts) if candidate.is_selected(request)
    ]
    step: list[Verdict] = []
    for _, group in itertools.groupby(selected, lambda verdict: verdict.arrival):
        of_arrival = list(group)
        if step and len(step) + len(of_arrival) > most:
            return step, scopes.cursor_of(step[-1].arrival)
        step += of_arrival
    return step, scopes.cursor_of(below)


async def candidates(session: Session, verdicts: Sequence[Verdict]) -> list[Candidate]:
    """Return verdicts with what they came to, in the same order; without those whose arrival or route is gone.

    Deliveries belong to the same route if its name is equal, because an edit gives a route another number.
    """
    arrivals = {
        row[0]: row for row in await session.fetch(_ARRIVALS, sorted({verdict.arrival for verdict in verdicts}))
    }
    names = {
        number: (listener, name)
        for number, listener, name in await session.fetch(_ROUTES, sorted({verdict.route for verdict in verdicts}))
    }
    first_keys = sorted([verdict.delivery for verdict in verdicts if verdict.delivery])
    first = {key: (key, *rest) for key, *rest in await session.fetch(_FIRST_DELIVERIES, first_keys)}
    newest: dict[tuple[int, int, str], tuple[int, ...]] = {}
    for arrival, listener, name, *delivery in await session.fetch(_LATER_DELIVERIES, sorted(arrivals)):
        place = (arrival, listener, name)
        newest[place] = max(newest.get(place, _NO_DELIVERY), tuple(delivery))
    suppressed = await suppressions.suppressed_arrivals(session, arrivals)
    return [
        _candidate(
            verdict,
            arrivals[verdict.arrival],
            max(
                newest.get((verdict.arrival, *names[verdict.route]), _NO_DELIVERY),
                first.get(verdict.delivery, _NO_DELIVERY),
            ),
            is_suppressed=verdict.arrival in suppressed,
        )
        for verdict in verdicts
        if verdict.arrival in arrivals and verdict.route in names
    ]


def _candidate(verdict: Verdict, arrival: Row, delivery: tuple[int, ...], *, is_suppressed: bool) -> Candidate:
    """``delivery``: the newest one's key, state, time limit and hold, or `_NO_DELIVERY`."""
    _, visit, received_at, flags, has_body = arrival
    key, state, expires_at, hold = delivery
    result = _GONE
    if key:
        result = model.DeliveryState(state).name.lower()
    elif verdict.skip:
        result = model.SkipReason(verdict.skip).name
    return Candidate(
        verdict,
        visit=bytes(visit),
        received_at=received_at,
        flags=flags,
        has_body=bool(has_body),
        result=result,
        has_delivery=bool(key),
        expires_at=expires_at,
        hold=hold,
        is_suppressed=is_suppressed,
    )


def reason_left_out(
    candidate: Candidate, request: ReplayRequest, facts: RouteFacts, taken: Collection[bytes], now: int
) -> str:
    """Return why a replay leaves out a selected verdict: a count in `ReplayReport`; ``""``: it delivers it."""
    if candidate.result not in request.results:
        return "replayed_before"
    if not candidate.has_body:
        return "without_body"
    if candidate.is_suppressed:
        return "suppressed"
    if candidate.verdict.route in facts.paused and not request.ignores_pause:
        return "paused"
    if 0 < candidate.expires_at <= now and not request.ignores_expiry:
        return "expired"
    return "once_per" if facts.mark_of(candidate) in taken else ""


def choose(
    step: Iterable[Candidate], request: ReplayRequest, facts: RouteFacts, taken: Collection[bytes], now: int
) -> tuple[list[Candidate], ReplayReport]:
    """Return the verdicts in a step that a replay delivers, and counts for all that it selects. Pure.

    ``taken``: the once-per marks that exist. If verdicts share another mark, the first one is delivered.
    """
    taken, chosen = set(taken), []
    left_out, results = collections.Counter[str](), collections.Counter[str]()
    for candidate in step:
        if not candidate.is_selected(request):
            continue
        if reason := reason_left_out(candidate, request, facts, taken, now):
            left_out[reason] += 1
            continue
        chosen.append(candidate)
        results[candidate.result] += 1
        if mark := facts.mark_of(candidate):
            taken.add(mark)
    return chosen, ReplayReport(results=dict(results), **left_out)


async def make_marks(
    verdicts: Sequence[Verdict], arrivals: Iterable[model.Arrival], rules: Mapping[int, MarkOf]
) -> Marks:
    """Return skipped verdicts' once-per marks. ``rules``: how to make them, by route number."""
    turns = timing.EventLoopTurns()
    marks = {}
    routes: dict[int, list[int]] = {}
    for verdict in verdicts:
        if verdict.skip and verdict.route in rules:
            routes.setdefault(verdict.arrival, []).append(verdict.route)
    for arrival in arrivals:
        for route in routes.get(arrival.key, ()):
            marks[arrival.key, route] = rules[route](arrival)
            await turns.give_way()
    return marks


async def preview(
    session: Session,
    verdicts: Sequence[Verdict],
    request: ReplayRequest,
    *,
    facts: RouteFacts,
    taken: Collection[bytes],
    now: int,
) -> tuple[list[Candidate], ReplayReport, list[Candidate]]:
    """Return the verdicts that a step would deliver, its counts, and the verdicts whose delivery is pending.

    ``taken``: earlier steps' marks.
    """
    marks = {mark for mark, _ in facts.marks.values()}
    existing = {mark for (mark,) in await session.fetch(creation.EXISTING_MARKS, sorted(marks))}
    step = await candidates(session, verdicts)
    chosen, report = choose(step, request, facts, existing | marks.intersection(taken), now)
    pending = [candidate for candidate in step if candidate.result == PENDING and not candidate.is_selected(request)]
    return chosen, report, pending


async def start(transaction: Transaction, request: ReplayRequest, now: int) -> Replay:
    """Write a replay, whose steps create the deliveries, from the newest arrival on."""
    key = transaction.ids.next_key()
    replay = Replay(
        key=key,
        id=transaction.ids.id_of(key),
        request=request,
        state=ReplayState.Running,
        created_at=now,
        ended_at=0,
        place="",
        next_at=now,
        report=ReplayReport(),
    )
    request_json, report_json = msgspec.json.encode(request), msgspec.json.encode(replay.report)
    values = (request_json, int(replay.state), now, report_json, request.requester)
    await transaction.session.execute(_INSERT, key, replay.id, *values)
    return replay


async def take_step(
    transaction: Transaction,
    replay: Replay,
    verdicts: Sequence[Verdict],
    below: str | None,
    *,
    holds: changes.Holds,
    facts: RouteFacts,
    now: int,
) -> int | None:
    """Create a step's deliveries, and move the place on; return how many.

    None: another gateway has taken this step, or the replay has ended.
    """
    session = transaction.session
    if [tuple(row) for row in await session.fetch(_LOCK, replay.key)] != [(ReplayState.Running, replay.place)]:
        return None
    # If two replays run at different gateways, the second waits here, and then finds the first one's deliveries.
    await session.fetch(creation.LOCK_ARRIVALS, sorted({verdict.arrival for verdict in verdicts}))
    await transaction.load_routes([verdict.route for verdict in verdicts])
    # Nothing could deliver a verdict whose route has no definition any more.
    defined = [verdict for verdict in verdicts if transaction.destination_of_route(verdict.route) is not None]
    step = await candidates(session, defined)
    # Every new mark gets a delivery: choose() takes the first of the verdicts that share it.
    without_taken, _ = choose(step, replay.request, facts, (), now)
    until = marks_of(without_taken, facts)
    new_marks = await creation.add_marks(session, until)
    chosen, report = choose(step, replay.request, facts, until.keys() - new_marks, now)
    report.add(replay.report)
    deliveries = [
        creation.new_delivery(
            transaction,
            candidate.verdict.arrival,
            candidate.verdict.route,
            hold=min(0, candidate.hold) or first_hold(candidate.flags, holds.get(candidate.verdict.route, ())),
            expires_at=0 if replay.request.ignores_expiry else candidate.expires_at,
        )
        for candidate in chosen
    ]
    origin = int(model.Origin.Replayed)
    await session.execute(creation.INSERT, *columns(deliveries, 7), origin, now, replay.key)
    await transaction.meter_routes([candidate.verdict.route for candidate in chosen], now, model.Counter.replayed)
    next_at = now + len(chosen) * model.MICROSECONDS // replay.request.per_second
    is_done = below is None
    state = ReplayState.Done if is_done else ReplayState.Running
    values = (below or "", next_at, msgspec.json.encode(report), int(state), now if is_done else 0)
    await session.execute(_MOVE, replay.key, *values)
    return len(chosen)


def marks_of(chosen: Sequence[Candidate], facts: RouteFacts) -> dict[bytes, int]:
    """Return the once-per marks that verdicts' deliveries take, with the time until which they count."""
    taking = [candidate.verdict for candidate in chosen if facts.mark_of(candidate)]
    return dict([facts.marks[verdict.arrival, verdict.route] for verdict in taking])


async def cancel(transaction: Transaction, replay: Replay, now: int) -> bool:
    """End a replay that runs; return whether it ran. Its deliveries stay as they are."""
    values = (int(ReplayState.Running), int(ReplayState.Cancelled), now, now)
    return await transaction.session.execute(_SET_STATE, replay.key, *values) > 0


async def resume(transaction: Transaction, replay: Replay, now: int) -> bool:
    """Let a cancelled replay go on where it was; return whether it was cancelled."""
    values = (int(ReplayState.Cancelled), int(ReplayState.Running), 0, now)
    return await transaction.session.execute(_SET_STATE, replay.key, *values) > 0


async def running(session: Session, after: int = 0) -> list[Replay]:
    """Return replays that have not ended, the oldest first, from a row key on; at most ``_PAGE``."""
    return [_replay(row) for row in await session.fetch(_RUNNING, after)]


async def has_room(session: Session, request: ReplayRequest, now: int) -> bool:
    """Return whether those who made a request may have one more replay that is not finished."""
    unfinished = recent = 0
    for state, is_recent, count in await session.fetch(_COUNT_OF_REQUESTER, request.requester, now - _RECENT):
        unfinished += count if state == ReplayState.Running else 0
        recent += count if is_recent else 0
    return unfinished < MOST_RUNNING and (recent < MOST_RECENT or request.where.permitted is None)


async def is_waiting(session: Session, key: int) -> bool:
    """Return whether a replay must create no more, because too many of its deliveries are due, or in an attempt."""
    ((count,),) = await session.fetch(_COUNT_DUE, key, WAITING_AT_MOST)
    return int(count) >= WAITING_AT_MOST


async def listed(session: Session, select: Callable[[Replay], bool]) -> list[Replay]:
    """Return the newest selected replays, at most ``LISTED``, with the numbers of their deliveries."""
    rows = await newest(session, _REPLAYS, LISTED, lambda row: select(_replay(row)))
    return await _with_deliveries(session, rows)


async def find(session: Session, identifier: bytes) -> Replay:
    """Return a replay with the numbers of its deliveries.

    Raises:
        NotFoundError: the replay does not exist.
    """
    rows = await session.fetch(f"{_REPLAYS} where key = $1 and id = $2", model.key_of(identifier), identifier)
    if not rows:
        raise model.NotFoundError("there is no such replay", "use an id from `usher replays`")
    return (await _with_deliveries(session, rows))[0]


async def _with_deliveries(session: Session, rows: Sequence[Row]) -> list[Replay]:
    counts: dict[int, dict[str, int]] = {}
    for key, state, is_held, count in await session.fetch(_COUNT, sorted([row[0] for row in rows])):
        name = "held" if is_held else model.DeliveryState(state).name.lower()
        counts.setdefault(key, {})[name] = count
    return [msgspec.structs.replace(_replay(row), deliveries=counts.get(row[0], {})) for row in rows]


def _replay(row: Row) -> Replay:
    key, identifier, request, state, created_at, ended_at, place, next_at, report = row
    return Replay(
        key,
        bytes(identifier),
        msgspec.json.decode(request, type=ReplayRequest),
        ReplayState(state),
        created_at,
        ended_at,
        place,
        next_at,
        msgspec.json.decode(report, type=ReplayReport),
        reached_at=model.instant_of(scopes.key_of_cursor(place)) if place else 0,
    )


async def delete_old(session: Session, now: int, limit: int) -> int:
    """Delete replays that ended long ago; return how many."""
    return await session.execute(_DELETE_OLD, now - KEPT_DAYS * model.DAY, limit)
