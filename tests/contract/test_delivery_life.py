"""Random operations on arrivals and deliveries: the store agrees with a simple model, and the books balance."""

import asyncio
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import Filter

HOLDS = (model.HoldReason.DestinationPaused, model.HoldReason.FilterError)
ENDS = {
    model.SettledAs.Delivered: "delivered",
    model.SettledAs.Dead: "dead",
    model.SettledAs.Cancelled: "cancelled",
}
EVENTS = [
    "accept",
    "accept held",
    "attempt",
    "stale",
    "claim",
    "defer",
    "wait",
    "unhold",
    "cancel",
    "cancel on request",
    "redrive",
    "hasten",
    "retry",
]
EVENTS += ["reopen", "crash", "attempt", "attempt", "claim"]
EVENTS += ["accept of two listeners", "quarantine", "release", "replay", "probe", "fold", "prune"]
steps = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 1_000)), min_size=1, max_size=30)


class ModelDelivery(msgspec.Struct):
    """A delivery in the model."""

    place: str
    """``lane``, ``backlog``, ``held``, ``delivered``, ``dead`` or ``cancelled``."""
    attempts: int = 0
    due_at: int = 0
    hold: model.HoldReason | None = None
    held_at: int = 0


class ModelledStore:
    """The store and the model. Every operation changes both."""

    def __init__(self, bench: engines.Bench) -> None:
        self.bench, self.store = bench, bench.store
        self.model: dict[int, ModelDelivery] = {}
        self.in_lanes: dict[int, model.Delivery] = {}  # The deliveries that a dispatcher would have in its lanes
        names = ("created", "delivered", "died", "cancelled", "redriven", "released", "replayed", "attempts")
        self.counts = dict.fromkeys(names, 0)
        self.made = 0

    @property
    def now(self) -> int:
        return self.bench.clock.now

    def at(self, place: str) -> list[int]:
        return [key for key, entry in self.model.items() if entry.place == place]

    async def accept(self, _: int) -> None:
        await self._accept(None)

    async def accept_held(self, number: int) -> None:
        await self._accept(HOLDS[number % len(HOLDS)])

    async def _accept(self, hold: model.HoldReason | None) -> None:
        self.made += 1
        arrival = samples.arrival(f"{self.made}", self.now, if_visit=(samples.plan(hold=hold),))
        (accepted,) = await self.bench.accept(arrival)
        self.counts["created"] += 1
        if hold is None:
            (delivery,) = accepted.deliveries
            self.in_lanes[delivery.key] = delivery
            self.model[delivery.key] = ModelDelivery("lane", due_at=self.now)
        else:
            assert accepted.deliveries == ()
            assert await self._adopt() == 1

    async def _adopt(self) -> int:
        """Add the deliveries to the model that an operation put into the backlog, or held; return how many."""
        rows = {model.key_of(model.parse_id(row["id"])): row for row in await self.bench.deliveries()}
        created = rows.keys() - self.model.keys()
        for key in created:
            hold = rows[key]["held"] and model.HoldReason[rows[key]["held"]]
            place = "held" if hold else "backlog"
            self.model[key] = ModelDelivery(place, due_at=self.now, hold=hold, held_at=self.now)
        return len(created)

    async def accept_of_two_listeners(self, number: int) -> None:
        """Accept a repeat, and visits whose only route is skipped or may deliver once a day."""
        skip = samples.skip(model.SkipReason(number % 6 + 1))
        once = samples.plan(once_key=samples.digest(f"{number % 3}"), once_until=self.now + samples.DAY)
        regular = samples.digest("regular")
        for listener, plan in ((samples.LOBBY, skip), (samples.LOBBY, once), (samples.BAR, skip)):
            self.made += 1
            changes = {"visitor_key": regular} if plan is skip else {}
            arrival = samples.arrival(f"{self.made}", self.now, listener=listener, if_visit=(plan,), **changes)
            (accepted,) = await self.bench.accept(arrival)
            for delivery in accepted.deliveries:
                self.in_lanes[delivery.key] = delivery
                self.model[delivery.key] = ModelDelivery("lane", due_at=self.now)
                self.counts["created"] += 1

    async def quarantine(self, number: int) -> None:
        reason = [model.QuarantineReason.NoUser, model.QuarantineReason.Truncated][number % 2]
        self.made += 1
        await self.bench.accept(samples.quarantined(f"{self.made}", self.now, quarantine=reason))

    async def release(self, number: int) -> None:
        quarantined = await self.store.quarantined(Filter(), 10)
        for arrival in quarantined:
            arrival.if_visit = (samples.plan(hold=[None, HOLDS[0]][number % 2]),)
        released = await self.store.release(quarantined, self.now)
        assert await self.store.release(quarantined, self.now) == 0
        assert released == await self._adopt() == len(quarantined)
        self.counts["released"] += released

    async def replay(self, number: int) -> None:
        results = [*model.SkipReason.__members__][: number % 8] + ["delivered", "dead"][: number % 3]
        report = await self.bench.replay(*results or ["Filter"], where=Filter(listener="lobby"))
        assert report.created == await self._adopt()
        self.counts["replayed"] += report.created

    async def probe(self, _: int) -> None:
        self.store.count(samples.LOBBY, model.Counter.probes, self.now)

    async def fold(self, _: int) -> None:
        await self.bench.engine.upkeep(self.store)

    async def prune(self, _: int) -> None:
        """Delete what ended, with its body. The held deliveries end, because their bodies do.

        A visit stays with all its deliveries while a later one, of a replay, needs its body.
        """
        visits = await self._visits()
        needed = {visits[key] for key in (*self.at("lane"), *self.at("backlog"))}
        self.bench.clock.now += 60 * samples.DAY
        await self.bench.prune_all()
        for key in self.at("held"):
            self.model[key].place, self.model[key].hold = "cancelled", None
            self.counts["cancelled"] += 1
        ended = [key for key, entry in self.model.items() if entry.place in ENDS.values()]
        for key in ended:
            if visits[key] not in needed:
                del self.model[key]

    async def attempt(self, number: int) -> None:
        """End an attempt with one of all outcomes."""
        if not self.in_lanes:
            return
        delivery = self.in_lanes.pop(sorted(self.in_lanes)[number % len(self.in_lanes)])
        entry = self.model[delivery.key]
        settled_as = list(model.SettledAs)[number % len(model.SettledAs)]
        sent = settled_as not in {model.SettledAs.Held, model.SettledAs.Cancelled}
        hold = HOLDS[number % len(HOLDS)] if settled_as is model.SettledAs.Held else None
        due_at = self.now + number % 3 * samples.HOUR
        self.store.settle(self._settlement(delivery, settled_as, sent=sent, due_at=due_at, hold=hold))
        await self.store.flush()
        entry.attempts += sent
        self.counts["attempts"] += sent
        if settled_as is model.SettledAs.Retry:
            entry.place, entry.due_at = "backlog", due_at
        elif hold is not None:
            entry.place, entry.hold, entry.held_at = "held", hold, self.now
        else:
            entry.place = ENDS[settled_as]
            self.counts["died" if entry.place == "dead" else entry.place] += 1

    def _settlement(self, delivery: model.Delivery, settled_as: model.SettledAs, *, sent: bool, **values: Any) -> Any:
        attempts_before = delivery.attempts
        return model.Settlement(delivery.key, settled_as, self.now, attempts_before, attempts_before + sent, **values)

    async def stale(self, number: int) -> None:
        """Hand in a settlement with a wrong number of attempts, which changes nothing."""
        ended = [key for key, entry in self.model.items() if entry.place in ENDS.values() or entry.attempts]
        if ended:
            key = ended[number % len(ended)]
            wrong = self.model[key].attempts + 1 + number % 2
            self.store.settle(model.Settlement(key, model.SettledAs.Delivered, self.now, wrong, wrong + 1))
            await self.store.flush()

    async def claim(self, number: int) -> None:
        due = sorted(key for key in self.at("backlog") if self.model[key].due_at <= self.now)
        limit = number % 4 + 1
        claimed = await self.store.claim("agency/crm", limit, 1 << 20, self.now)
        assert len(claimed) == min(limit, len(due))
        assert {delivery.key for delivery in claimed} <= set(due)
        for delivery in claimed:
            assert delivery.attempts == self.model[delivery.key].attempts
            self.in_lanes[delivery.key] = delivery
            self.model[delivery.key].place = "lane"

    async def defer(self, number: int) -> None:
        keys = sorted(self.in_lanes)[: number % 3]
        await self.store.defer(keys)
        for key in keys:
            del self.in_lanes[key]
            self.model[key].place = "backlog"

    async def wait(self, number: int) -> None:
        self.bench.clock.now += number % 5 * samples.HOUR

    def _group(self, number: int) -> model.HoldReason:
        return HOLDS[number % len(HOLDS)]

    async def unhold(self, number: int) -> None:
        for group in await self.store.held_groups():
            if group.reason is self._group(number):
                await self.store.unhold(group, self.now)
        for key in self.at("held"):
            entry = self.model[key]
            if entry.hold is self._group(number):
                entry.place, entry.due_at, entry.hold = "backlog", self.now, None

    async def cancel(self, number: int) -> None:
        held_before = self.now - number % 3 * samples.HOUR
        for group in await self.store.held_groups():
            if group.reason is self._group(number):
                await self.store.cancel_held(group, model.CancelReason.OnRequest, held_before, self.now)
        for key in self.at("held"):
            entry = self.model[key]
            if entry.hold is self._group(number) and entry.held_at < held_before:
                entry.place, entry.hold = "cancelled", None
                self.counts["cancelled"] += 1

    async def redrive(self, number: int) -> None:
        state = ["dead", "cancelled"][number % 2]
        visits = await self._visits()
        redrivable = [key for key in self.at(state) if not self._is_replaced(key, state, visits)]
        redriven = await self.bench.redrive(Filter(state=state), self.now)
        assert redriven == len(redrivable)
        for key in redrivable:
            self.model[key] = ModelDelivery("backlog", due_at=self.now)
        self.counts["redriven"] += redriven

    async def _visits(self) -> dict[int, str]:
        return {model.key_of(model.parse_id(row["id"])): row["visit"] for row in await self.bench.deliveries()}

    def _is_replaced(self, key: int, state: str, visits: dict[int, str]) -> bool:
        """Return whether a replay has created a later delivery for the visit; a cancelled one replaces no dead one."""
        return any(
            other > key and visits[other] == visits[key] and (entry.place != "cancelled" or state == "cancelled")
            for other, entry in self.model.items()
        )

    async def cancel_on_request(self, number: int) -> None:
        """Cancel the held deliveries, or one pending delivery: in a lane, in the backlog or held."""
        pending = [*self.at("lane"), *self.at("backlog"), *self.at("held")]
        keys = self.at("held") if number % 2 else pending[:1]
        if not keys:
            return
        ids = tuple(
            [
                identifier
                for row in await self.bench.deliveries()
                if model.key_of(identifier := model.parse_id(row["id"])) in keys
            ]
        )
        cancelled: list[int] = []
        assert await self.store.cancel(Filter(ids=ids), self.now, cancelled.extend) == len(keys)
        assert sorted(cancelled) == sorted(keys)
        for key in keys:
            self.in_lanes.pop(key, None)
            self.model[key] = ModelDelivery("cancelled", self.model[key].attempts)
        self.counts["cancelled"] += len(keys)

    async def retry(self, _: int) -> None:
        later = [key for key in self.at("backlog") if self.model[key].due_at > self.now]
        assert await self.store.retry(Filter(destination="agency/crm"), self.now) == len(later)
        for key in later:
            self.model[key].due_at = self.now

    async def hasten(self, _: int) -> None:
        await self.store.hasten("agency/crm", self.now)
        for key in self.at("backlog"):
            self.model[key].due_at = min(self.model[key].due_at, self.now)

    async def reopen(self, _: int) -> None:
        await self._reopen(crash=False)

    async def crash(self, _: int) -> None:
        await self._reopen(crash=True)

    async def _reopen(self, *, crash: bool) -> None:
        report = await self.bench.reopen(crash=crash)
        self.store = self.bench.store
        assert report.recovered == len(self.in_lanes)
        for key in self.in_lanes:
            self.model[key].place = "backlog"
            self.model[key].due_at = min(self.model[key].due_at, self.now)
        self.in_lanes.clear()

    async def check(self) -> None:
        """Compare rows and meters with the model."""
        rows = {model.key_of(model.parse_id(row["id"])): row for row in await self.bench.deliveries()}
        assert rows.keys() == self.model.keys()
        for key, entry in self.model.items():
            state = "pending" if entry.place in {"lane", "backlog", "held"} else entry.place
            hold = entry.hold.name if entry.hold is not None else None
            assert (rows[key]["state"], rows[key]["held"], rows[key]["attempts"]) == (
                state,
                hold,
                entry.attempts,
            )
        counts = await self.bench.counts()
        assert {name: counts.get(name, 0) for name in self.counts} == self.counts
        open_now = sum(entry.place in {"lane", "backlog", "held"} for entry in self.model.values())
        ended = self.counts["delivered"] + self.counts["died"] + self.counts["cancelled"]
        begun = sum(self.counts[name] for name in ("created", "redriven", "released", "replayed"))
        assert begun == ended + open_now
        assert await self.bench.violations() == []


def test_random_delivery_operations_agree_with_the_model(engine: engines.Engine) -> None:
    @settings(max_examples=20)
    @given(steps)
    @example([("accept", 0), ("attempt", 0), ("replay", 1), ("prune", 0)])
    @example([("accept", 0), ("attempt", 2), ("replay", 2), ("redrive", 0)])
    def run(script: list[tuple[str, int]]) -> None:
        asyncio.run(_follow(engine, script))

    run()


async def _follow(engine: engines.Engine, script: list[tuple[str, int]]) -> None:
    async with engines.opened(engine) as bench:
        modelled = ModelledStore(bench)
        for event, number in script:
            await getattr(modelled, event.replace(" ", "_"))(number)
            await modelled.check()
        await modelled.crash(0)
        bench.clock.now += samples.DAY
        claimed = await bench.claim(limit=1_000)
        assert {delivery.key for delivery in claimed} == set(modelled.at("backlog"))
