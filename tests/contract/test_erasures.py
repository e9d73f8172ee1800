"""An erasure deletes all that is stored of a person, also from the files, and nothing else; the books still balance."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import engines, erasing, samples
from support.erasing import finish, ignore, start, step
from usher_gateway import model
from usher_gateway.store.base import ErasureRequest, ErasureState, Filter, ForwardedErasure, KeptTimes, MarkOf, SentTo
from usher_gateway.store.jobs.erasures import LISTED

HOUR, DAY, NOW = samples.HOUR, samples.DAY, samples.NOW
SettledAs = model.SettledAs
ADA, BOB = samples.digest("ada", 8), samples.digest("bob", 8)
SECRET = "ada.lovelace@example.org"


def of_ada(content: str, **changes: Any) -> model.Arrival:
    body = f'{{"user":{{"email":"{SECRET}"}},"n":"{content}"}}'.encode()
    return samples.arrival(content, person_keys=(ADA,), visitor_key=samples.digest(f"v{content}"), body=body, **changes)


def set_clock_of_ids(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let ids be made by a clock that is ahead (or behind, if negative)."""
    now = time.time_ns() + seconds * 10**9
    monkeypatch.setattr("usher_gateway.model.identifiers.time.time_ns", lambda: now)


async def fill(bench: engines.Bench) -> None:
    """Store a delivered, a dead, a held, a waiting, a skipped and a quarantined visit of Ada, and some of Bob."""
    held = samples.plan(hold=model.HoldReason.DestinationPaused)
    skipped = (samples.skip(model.SkipReason.Filter),)
    delivered, dead, *_ = await bench.accept(
        of_ada("delivered"),
        of_ada("dead"),
        of_ada("held", if_visit=(held,)),
        of_ada("waiting"),
        of_ada("skipped", if_visit=skipped),
        samples.quarantined("odd", person_keys=(ADA,), body=f"not JSON {SECRET}".encode()),
    )
    answer = f"no such user {SECRET}".encode()
    bench.store.settle(samples.settlement(delivered.deliveries[0], SettledAs.Delivered, NOW + HOUR, status=200))
    bench.store.settle(
        samples.settlement(dead.deliveries[0], SettledAs.Dead, NOW + HOUR, status=400, error="Rejected", answer=answer)
    )
    await bench.store.flush()
    await bench.accept(*[samples.arrival(f"bob {number}", person_keys=(BOB,)) for number in range(30)])


async def test_erasure_deletes_everything_of_a_person_and_nothing_else(bench: engines.Bench) -> None:
    await fill(bench)
    others = [row for row in await bench.visits() if row["id"] not in await bench.ids_of_person(ADA)]
    counts = await bench.counts()
    preview = await bench.store.preview_erasure([ADA])
    ended = await finish(bench, await start(bench, ADA))
    assert (ended.state, ended.request.persons) == (ErasureState.Completed, ())
    assert ended.report.arrivals == preview.arrivals == {"agency/acme": 6}
    assert ended.report.deliveries == {"delivered": 1, "dead": 1, "pending": 2}
    # Attempted: the dead one, and the one that a gateway has claimed, because it may be on its way.
    assert ended.report.sent_to == {"agency/crm": SentTo(1, 2, NOW + HOUR, NOW + HOUR)}
    assert await bench.ids_of_person(ADA) == []
    assert await bench.visits() == others
    assert len(await bench.ids_of_person(BOB)) == 30
    assert {**counts, "cancelled": 2} == await bench.counts()
    assert await bench.violations() == []
    assert {row["visit"] for row in await bench.deliveries()} == {row["id"] for row in others}


async def test_value_is_in_no_file_afterwards(bench: engines.Bench) -> None:
    await fill(bench)
    await bench.engine.fold(bench.store)
    assert erasing.traces(bench, SECRET, ADA) != []
    await finish(bench, await start(bench, ADA))
    assert erasing.traces(bench, SECRET, ADA) == []


async def test_destination_of_a_redriven_delivery_is_named(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(of_ada("redriven"))
    await bench.settle(accepted.deliveries[0], SettledAs.Dead, NOW + HOUR, error="Timeout")
    assert await bench.redrive(Filter(), NOW + HOUR) == 1
    ended = await finish(bench, await start(bench, ADA))
    assert ended.report.sent_to == {"agency/crm": SentTo(0, 1)}


async def test_erasure_goes_on_after_a_crash_at_any_step(bench: engines.Bench) -> None:
    await bench.accept(*[of_ada(f"{number}") for number in range(70)])
    await bench.accept(samples.arrival("bob", person_keys=(BOB,)))
    erasure = await start(bench, ADA)
    left = []
    while True:
        bench.store.settling_seconds = 0
        await step(bench, erasure)
        left.append(len(await bench.ids_of_person(ADA)))
        await bench.reopen(crash=True)
        running = await bench.store.running_erasures()
        if not running:
            break
        (erasure,) = running
    ended = await bench.store.find_erasure(erasure.id)
    assert (ended.state, ended.report.arrivals, left) == (
        ErasureState.Completed,
        {"agency/acme": 70},
        [50, 30, 10, 0, 0],
    )
    assert len(await bench.ids_of_person(BOB)) == 1
    assert await bench.violations() == []


async def test_visit_after_a_restart_with_an_earlier_clock_is_not_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        erasure = await start(bench, ADA)
        set_clock_of_ids(monkeypatch, -3_600)
        await bench.reopen(crash=True)
        await bench.accept(of_ada("after"))
        await finish(bench, erasure)
        assert len(await bench.ids_of_person(ADA)) == 1


async def test_visit_after_the_erasure_is_not_erased(bench: engines.Bench) -> None:
    await bench.accept(of_ada("before"))
    erasure = await start(bench, ADA)
    await finish(bench, erasure)
    await bench.accept(of_ada("after"))
    assert await bench.store.running_erasures() == []
    assert len(await bench.ids_of_person(ADA)) == 1


async def test_visit_after_the_request_is_not_erased_by_a_single_gateway() -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        erasure = await start(bench, ADA)
        await bench.accept(of_ada("after"))
        await finish(bench, erasure)
        assert len(await bench.ids_of_person(ADA)) == 1


@pytest.mark.parametrize("seconds", [-600, 600])
async def test_gateway_with_another_clock_keeps_no_visit_of_before(
    seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.Postgresql()
    first, second = [engines.Bench(engine, tmp_path / "data") for _ in range(2)]
    await first.open()
    await second.open()
    await first.accept(of_ada("at the first gateway"))
    set_clock_of_ids(monkeypatch, seconds)
    second.clock.now += seconds * samples.SECOND
    erasure = await start(second, ADA)
    await erasing.step(second, erasure)
    assert not await second.store.complete_erasures([erasure], second.clock.now), (
        "other gateways may not know of it yet"
    )
    await finish(second, erasure)
    assert await first.ids_of_person(ADA) == []
    await first.store.close()
    await second.store.close()
    engine.forget(tmp_path / "data")


async def test_erasure_ends_when_no_other_gateway_can_send(tmp_path: Path) -> None:
    engine = engines.Postgresql()
    first, second = [engines.Bench(engine, tmp_path / "data") for _ in range(2)]
    await first.open()
    await second.open()
    (accepted,) = await first.accept(of_ada("in a lane of the first gateway"))
    claimed = accepted.deliveries[0].key
    erasure = await start(second, ADA)
    await second.store.erase(await second.store.left_to_erase([erasure]), NOW, ignore, samples.no_marks)
    second.clock.now += DAY
    assert not await second.store.complete_erasures([erasure], second.clock.now), (
        "by the database's clock it is too early"
    )
    assert (await second.store.find_erasure(erasure.id)).state is ErasureState.InProgress
    assert await first.store.compare_claims([claimed]) == {claimed}
    ended = await finish(second, erasure)
    assert ended.state is ErasureState.Completed
    await first.store.close()
    await second.store.close()
    engine.forget(tmp_path / "data")


async def test_erasure_takes_the_marks_of_once_per_rules(bench: engines.Bench) -> None:
    marks = {name: samples.digest(f"mark of {name}") for name in ("ada", "bob")}
    once = {name: (samples.plan(once_key=mark, once_until=NOW + DAY),) for name, mark in marks.items()}
    await bench.accept(
        of_ada("ada", if_visit=once["ada"]), samples.arrival("bob", person_keys=(BOB,), if_visit=once["bob"])
    )
    erasure = await start(bench, ADA)

    def mark_of_route(_: model.RouteDefinition) -> MarkOf:
        return lambda arrival: (marks["ada" if ADA in arrival.person_keys else "bob"], NOW + DAY)

    await bench.store.erase(await bench.store.left_to_erase([erasure]), NOW, ignore, mark_of_route)
    again = await bench.accept(
        samples.arrival("ada again", NOW + 5 * HOUR, visitor_key=samples.digest("new"), if_visit=once["ada"]),
        samples.arrival("bob again", NOW + 5 * HOUR, visitor_key=samples.digest("newer"), if_visit=once["bob"]),
    )
    assert [accepted.skipped for accepted in again] == [(), (model.SkipReason.OncePer,)]


async def test_lost_answer_to_an_erased_visit_brings_nothing_back(bench: engines.Bench) -> None:
    arrival = of_ada("answered late")
    await bench.accept(arrival)
    await finish(bench, await start(bench, ADA))
    bench.store.unacknowledged(arrival)
    await bench.store.flush()
    assert await bench.words(of_ada("answered late")) == ["Visit"]


async def test_person_that_a_release_found_is_erased(folding_engine: engines.Engine) -> None:
    """A release may add as many person keys as the first reading of the body found."""
    first, added = [[samples.digest(f"{kind} {number}", 8) for number in range(4)] for kind in ("first", "added")]
    async with engines.opened(folding_engine) as bench:
        await bench.accept(samples.quarantined("odd", person_keys=tuple(first)))
        (arrival,) = await bench.store.quarantined(Filter(), 10)
        arrival.person_keys, arrival.if_visit = tuple(added), (samples.plan(),)
        await bench.store.release([arrival], NOW)
        for number in range(2_000):  # so that SQLite moves the keys of the first ones into its table
            bench.store.accept(samples.arrival(f"other {number}"))
        await bench.store.flush()
        await finish(bench, await start(bench, added[3]))
        assert await bench.ids_of_person(*first, *added) == []


async def test_attempt_that_ends_after_its_delivery_was_erased_changes_nothing(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(of_ada("flying"))
    cancelled: list[int] = []
    ended = await finish(bench, await start(bench, ADA), cancelled.extend)
    assert cancelled == [accepted.deliveries[0].key]
    assert ended.report.sent_to == {"agency/crm": SentTo(0, 1)}
    await bench.settle(accepted.deliveries[0], SettledAs.Delivered, NOW + HOUR, status=200)
    assert (await bench.counts()).get("delivered", 0) == 0
    assert await bench.violations() == []


async def test_cancelled_erasure_erases_no_more_and_forgets_whose_it_was(bench: engines.Bench) -> None:
    await bench.accept(*[of_ada(f"{number}") for number in range(50)])
    erasure = await start(bench, ADA)
    await step(bench, erasure)
    assert [await bench.store.cancel_erasure(erasure, NOW) for _ in range(2)] == [True, False]
    left = await bench.ids_of_person(ADA)
    assert len(left) == 30
    await step(bench, erasure)
    assert await bench.ids_of_person(ADA) == left
    ended = await bench.store.find_erasure(erasure.id)
    assert (ended.state, ended.request.persons) == (ErasureState.Cancelled, ())
    assert await bench.store.running_erasures() == []


async def test_erasure_of_nobody_completes_with_an_empty_report(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("bob", person_keys=(BOB,)))
    ended = await finish(bench, await start(bench, ADA))
    assert (ended.state, ended.report.arrivals) == (ErasureState.Completed, {})
    with pytest.raises(model.NotFoundError, match="no such erasure"):
        await bench.store.find_erasure(bytes(16))
    assert len(await bench.visits()) == 1


async def test_facts_of_the_request_stay_when_it_forgets_whose_it_was(bench: engines.Bench) -> None:
    answer = ForwardedErasure(NOW, 503, "ServerError")
    request = ErasureRequest(
        persons=(ADA,),
        tenants=("agency/acme",),
        fields=("email",),
        since=NOW - DAY,
        store="SQLite",
        backup_days=35,
        forwarded={"agency/crm": answer},
    )
    ended = await finish(bench, await bench.store.start_erasure(request, NOW))
    assert ended.request == msgspec.structs.replace(request, persons=())


async def test_one_step_erases_several_persons_and_counts_each_in_its_receipt(bench: engines.Bench) -> None:
    await bench.accept(of_ada("first"), of_ada("second"), samples.arrival("bob", person_keys=(BOB,)))
    both = [await start(bench, ADA), await start(bench, BOB)]
    cancelled: list[int] = []
    assert await bench.store.erase(await bench.store.left_to_erase(both), NOW, cancelled.extend, samples.no_marks)
    bench.store.settling_seconds = 0
    assert await bench.store.complete_erasures(both, bench.clock.now)
    ended = [await bench.store.find_erasure(erasure.id) for erasure in both]
    assert [erasure.report.arrivals for erasure in ended] == [{"agency/acme": 2}, {"agency/acme": 1}]
    assert (len(cancelled), await bench.visits(), await bench.violations()) == (3, [], [])


async def test_step_leaves_the_arrivals_of_an_erasure_that_was_cancelled_meanwhile(bench: engines.Bench) -> None:
    await bench.accept(of_ada("ada"), samples.arrival("bob", person_keys=(BOB,)))
    cancelled, other = [await start(bench, ADA), await start(bench, BOB)]
    left = await bench.store.left_to_erase([cancelled, other])
    await bench.store.cancel_erasure(cancelled, NOW)
    assert await bench.store.erase(left, NOW, ignore, samples.no_marks)
    assert [len(await bench.ids_of_person(person)) for person in (ADA, BOB)] == [1, 0]
    assert not await bench.store.erase({cancelled.key: left[cancelled.key]}, NOW, ignore, samples.no_marks)


async def test_erasure_ends_although_the_clock_is_set_back() -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        await bench.accept(of_ada("ada"))
        erasure = await start(bench, ADA)
        assert not await step(bench, erasure)
        bench.clock.now -= DAY
        assert await step(bench, erasure)


async def test_erasure_that_another_gateway_goes_on_with_does_not_end_with_the_others() -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        bench.store.settling_seconds = 60
        await bench.accept(of_ada("found late"))
        settled, unsettled = [await start(bench, BOB), await start(bench, ADA)]
        bench.clock.now += DAY
        await bench.store.erase(await bench.store.left_to_erase([unsettled]), bench.clock.now, ignore, samples.no_marks)
        assert not await bench.store.complete_erasures([settled, unsettled], bench.clock.now)
        assert [erasure.id for erasure in await bench.store.running_erasures()] == [unsettled.id]


async def test_newer_erasures_of_others_hide_none_from_a_list(bench: engines.Bench) -> None:
    first = await start(bench, ADA)
    newer = [await start(bench, BOB) for _ in range(LISTED)]
    assert await bench.store.list_erasures(samples.everything) == newer[::-1]
    assert await bench.store.list_erasures(lambda erasure: erasure.id == first.id) == [first]
    assert await bench.store.list_erasures(lambda _: False) == []


async def test_receipt_is_deleted_when_its_days_are_over(bench: engines.Bench) -> None:
    await bench.accept(of_ada("old"))
    ended = await finish(bench, await start(bench, ADA))
    running = await start(bench, BOB)
    times = KeptTimes(receipt_days=30)
    bench.clock.now = ended.ended_at + 30 * DAY
    await bench.prune_all(times)
    assert await bench.store.find_erasure(ended.id) == ended
    bench.clock.now += 1
    await bench.prune_all(times)
    assert await bench.store.list_erasures(samples.everything) == [running]
