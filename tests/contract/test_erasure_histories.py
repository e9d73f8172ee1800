"""Random histories of two persons: erasing one leaves no trace of her, and changes nothing of the other one."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support import engines, erasing, samples
from usher_gateway import model
from usher_gateway.store.base import Filter

MINUTE = 60 * samples.SECOND
PERSONS = {"ada": "ada.lovelace@example.org", "bob": "bob.babbage@example.org"}
KEYS = {person: samples.digest(person, 8) for person in PERSONS}
SETTLED_AS = (model.SettledAs.Delivered, model.SettledAs.Dead, model.SettledAs.Retry, model.SettledAs.Cancelled)

ARRIVALS = ("visit", "repeat", "held", "skipped", "once", "quarantined")
CHANGES = (
    "again",
    "settle",
    "settle",
    "claim",
    "redrive",
    "replay",
    "release",
    "cancel",
    "lost answer",
    "fold",
    "crash",
)
names = st.sampled_from([*ARRIVALS, *CHANGES])
events = st.lists(st.tuples(names, st.sampled_from(sorted(PERSONS)), st.integers(0, 3)), max_size=25)


class History:
    """Lets things happen to two persons."""

    def __init__(self, bench: engines.Bench) -> None:
        self.bench = bench
        self.in_lanes: list[model.Delivery] = []
        self.contents: dict[str, list[str]] = {person: ["first"] for person in PERSONS}

    def arrival(self, person: str, content: str, **changes: Any) -> model.Arrival:
        body = f'{{"user": {{"email": "{PERSONS[person]}"}}, "n": "{content}"}}'.encode()
        values: dict[str, Any] = {"person_keys": (KEYS[person],), "visitor_key": samples.digest(f"{person} {content}")}
        return samples.arrival(f"{person} {content}", self.bench.clock.now, body=body, **(values | changes))

    async def happen(self, event: str, person: str, number: int) -> None:
        """Let one thing happen. ``number``: which of several."""
        self.bench.clock.now += MINUTE
        if event in ARRIVALS:
            await self.accept(event, person, number)
        elif event == "crash":
            await self.bench.reopen(crash=True)
            self.in_lanes.clear()
        elif event == "settle":
            await self.settle(number)
        else:
            await self.change(event, person, number)

    async def accept(self, kind: str, person: str, number: int) -> None:
        once = samples.plan(
            once_key=samples.digest(f"{person} {number}"), once_until=self.bench.clock.now + samples.DAY
        )
        changes: dict[str, dict[str, Any]] = {
            "repeat": {"visitor_key": samples.digest(f"{person} at the bar")},
            "held": {"if_visit": (samples.plan(hold=model.HoldReason.DestinationPaused),)},
            "skipped": {"if_visit": (samples.skip(model.SkipReason.Filter),)},
            "once": {"if_visit": (once,)},
            "quarantined": {"quarantine": model.QuarantineReason.NoUser, "if_visit": (), "if_repeat": ()},
        }
        self.contents[person].append(f"{len(self.contents[person])}")
        arrival = self.arrival(person, self.contents[person][-1], **changes.get(kind, {}))
        (accepted,) = await self.bench.accept(arrival)
        self.in_lanes += accepted.deliveries

    async def settle(self, number: int) -> None:
        """Let an attempt end; the destination of a dead delivery answers with the body."""
        if self.in_lanes:
            delivery, settled_as = self.in_lanes.pop(number % len(self.in_lanes)), SETTLED_AS[number]
            answer = bytes(delivery.body or b"")[:256] if settled_as is model.SettledAs.Dead else b""
            now = self.bench.clock.now
            self.bench.store.settle(samples.settlement(delivery, settled_as, now, answer=answer, due_at=now))
            await self.bench.store.flush()

    async def change(self, event: str, person: str, number: int) -> None:
        bench, store, now = self.bench, self.bench.store, self.bench.clock.now
        match event:
            case "again":
                await bench.accept(self.arrival(person, self.contents[person][number % len(self.contents[person])]))
            case "claim":
                self.in_lanes += await bench.claim()
            case "redrive":
                await bench.redrive(Filter(), now)
            case "replay":
                await bench.replay("Filter", "delivered")
            case "release":
                for arrival in await store.quarantined(Filter(), 10):
                    arrival.if_visit = (samples.plan(),)
                    await store.release([arrival], now)
            case "cancel":
                await store.cancel(Filter(), now, erasing.ignore)
            case "lost answer":
                late = self.arrival(person, "late")
                await bench.accept(late)
                store.unacknowledged(late)
                await store.flush()
            case "fold":
                await bench.engine.upkeep(store)


async def rows_of_bob(bench: engines.Bench) -> dict[str, Any]:
    ids = set(await bench.ids_of_person(KEYS["bob"]))
    return {
        "visits": [row for row in await bench.visits() if row["id"] in ids],
        "deliveries": [row for row in await bench.deliveries() if row["visit"] in ids],
        "bodies": [await bench.store.body(model.parse_id(identifier)) for identifier in sorted(ids)],
    }


async def check(engine: engines.Engine, script: list[tuple[str, str, int]]) -> None:
    async with engines.opened(engine) as bench:
        history = History(bench)
        for event, person, number in script:
            await history.happen(event, person, number)
        bobs, counts = await rows_of_bob(bench), await bench.counts()
        pending = {row["id"] for row in await bench.deliveries() if row["state"] == "pending"}
        await erasing.finish(bench, await erasing.start(bench, KEYS["ada"]))
        assert await rows_of_bob(bench) == bobs
        assert {row["id"] for row in await bench.visits()} == set(await bench.ids_of_person(KEYS["bob"]))
        left = {row["id"] for row in await bench.deliveries() if row["state"] == "pending"}
        cancelled = counts.get("cancelled", 0) + len(pending - left)
        assert {**await bench.counts(), "cancelled": 0} == {**counts, "cancelled": 0}
        assert (await bench.counts()).get("cancelled", 0) == cancelled
        assert await bench.violations() == []
        assert erasing.traces(bench, PERSONS["ada"], KEYS["ada"]) == []


@settings(max_examples=25)
@given(events)
def test_random_history_leaves_no_trace_of_the_erased_on_sqlite(script: list[tuple[str, str, int]]) -> None:
    asyncio.run(check(engines.Sqlite(), script))


@settings(max_examples=10)
@given(events)
def test_random_history_leaves_no_trace_of_the_erased_on_postgresql(script: list[tuple[str, str, int]]) -> None:
    asyncio.run(check(engines.Postgresql(), script))
