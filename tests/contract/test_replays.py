"""Replays deliver again what people select, each verdict once for each replay, also after a crash."""

from typing import Any

import msgspec
import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.delivery import stepping
from usher_gateway.store import base
from usher_gateway.store.base import Filter, MarkOf, ReplayReport, ReplayState
from usher_gateway.store.jobs import replays

HOUR, DAY, NOW = samples.HOUR, samples.DAY, samples.NOW
SettledAs = model.SettledAs


async def settled(bench: engines.Bench, content: str, settled_as: SettledAs, **changes: Any) -> model.Delivery:
    delivery = await bench.deliver(content, **changes)
    await bench.settle(delivery, settled_as)
    return delivery


def replay_steps(bench: engines.Bench) -> stepping.ReplaySteps:
    return stepping.ReplaySteps(
        store=bench.store,
        now=bench.clock,
        holds_of=samples.no_holds,
        mark_of_route=samples.no_marks,
        is_paused=lambda _: False,
        ask_store=lambda: None,
    )


async def test_replays_of_one_token_leave_steps_to_others(bench: engines.Bench) -> None:
    steps = replay_steps(bench)
    requests = [bench.replay_request(where=Filter(permitted=frozenset({"agency/acme"}))) for _ in range(5)]
    requests.append(bench.replay_request(where=Filter(permitted=frozenset({"agency/globex"}))))
    started = [await bench.store.start_replay(request, bench.clock.now) for request in requests]
    await steps.take_all()
    states = [(await bench.store.find_replay(replay.id)).state for replay in started]
    assert states == [ReplayState.Done] * 3 + [ReplayState.Running] * 2 + [ReplayState.Done]
    await steps.take_all()
    assert await bench.store.running_replays() == []


async def test_replays_behind_many_others_get_their_steps(bench: engines.Bench) -> None:
    """Running replays are read in pages, because each may name 1,000 visits."""
    many = bench.replay_request(where=Filter(permitted=frozenset({"agency/acme"})))
    for _ in range(replays.MOST_RUNNING + 1):
        await bench.store.start_replay(many, bench.clock.now)
    other = bench.replay_request(where=Filter(permitted=frozenset({"agency/globex"})))
    last = await bench.store.start_replay(other, bench.clock.now)
    assert len(await bench.store.running_replays()) == replays.MOST_RUNNING
    now = bench.clock.now
    assert [await bench.store.has_room_for_replay(request, now) for request in (many, other)] == [False, True]
    await replay_steps(bench).take_all()
    assert (await bench.store.find_replay(last.id)).state is ReplayState.Done


async def test_limited_token_starts_a_limited_number_of_replays_in_a_month(
    bench: engines.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "MOST_RECENT", 3)
    limited = bench.replay_request(where=Filter(permitted=frozenset({"agency/acme"})))
    unlimited = bench.replay_request(where=Filter(tenant="acme"))
    for request in (limited, unlimited):
        for _ in range(3):
            await bench.store.start_replay(request, bench.clock.now)
    await replay_steps(bench).take_all()
    has_room = bench.store.has_room_for_replay
    assert [await has_room(request, NOW) for request in (limited, unlimited)] == [False, True]
    assert await has_room(limited, NOW + 30 * DAY + 1)


# What is selected


@pytest.mark.parametrize("reason", [model.SkipReason.Filter, model.SkipReason.Shadow])
async def test_skipped_verdict_is_replayed_once(bench: engines.Bench, reason: model.SkipReason) -> None:
    await bench.accept(samples.arrival("a", if_visit=(samples.skip(reason), samples.plan(samples.MAILER))))
    assert await bench.replay(reason.name) == ReplayReport(results={reason.name: 1})
    assert await bench.replay(reason.name) == ReplayReport(replayed_before=1)
    (claimed,) = await bench.claim()
    assert claimed.body == samples.arrival("a").body
    counts = await bench.counts()
    assert (counts["replayed"], counts["created"]) == (1, 1)
    assert {row["origin"] for row in await bench.deliveries()} == {"Accepted", "Replayed"}
    assert await bench.violations() == []


@pytest.mark.parametrize(("settled_as", "state"), [(SettledAs.Delivered, "delivered"), (SettledAs.Dead, "dead")])
async def test_ended_delivery_is_replayed_as_a_new_one(bench: engines.Bench, settled_as: SettledAs, state: str) -> None:
    first = await settled(bench, "a", settled_as)
    await bench.accept(samples.arrival("waiting"))
    assert await bench.replay("delivered", "dead") == ReplayReport(results={state: 1})
    assert await bench.replay("delivered", "dead") == ReplayReport(), "the newest delivery is pending"
    (again,) = await bench.claim()
    assert (again.visit_id, again.body, again.attempts) == (first.visit_id, first.body, 0)
    assert again.id != first.id
    (row,) = await bench.deliveries(ids=(again.id,))
    (replay, *_) = (await bench.store.list_replays(samples.everything))[-1:]
    assert (row["replay"], row["origin"], again.replay) == (model.format_id(replay.id), "Replayed", replay.id)
    await bench.settle(again, SettledAs.Delivered)
    assert (await bench.replay("delivered")).created == 1, "a replayed delivery can be replayed"
    assert await bench.violations() == []


async def test_pending_and_held_deliveries_are_never_replayed(bench: engines.Bench) -> None:
    held = samples.plan(hold=model.HoldReason.DestinationPaused)
    await bench.accept(samples.arrival("a"), samples.arrival("b", if_visit=(held,)))
    assert await bench.replay("delivered", "dead", "cancelled", *model.SkipReason.__members__) == ReplayReport()


async def test_replay_takes_only_what_its_filter_selects(bench: engines.Bench) -> None:
    skips = (samples.skip(model.SkipReason.Filter), samples.skip(model.SkipReason.Paused, samples.MAILER))
    await bench.accept(*[samples.arrival(content, if_visit=skips) for content in "abc"])
    (newest, *_) = await bench.visits()
    created = [
        (await bench.replay(*results, where=where)).created
        for where, results in (
            (Filter(), ["Stale"]),
            (Filter(route="welcome"), ["Filter"]),
            (Filter(until=NOW), []),
            (Filter(ids=(model.parse_id(newest["id"]),)), []),
            (Filter(destination="agency/mailer"), []),
            (Filter(), ["Filter", "Paused"]),
        )
    ]
    assert created == [0, 0, 0, 2, 2, 2]


async def test_verdict_of_an_edited_route_is_replayed_once(bench: engines.Bench) -> None:
    """A held delivery moves to the new definition of its route, which has another number."""
    await bench.accept(samples.arrival("a", if_visit=(samples.skip(model.SkipReason.Paused),)))
    facts = {"holds_of": paused_destination}
    assert (await bench.replay("Paused", facts=facts)).created == 1
    (group,) = await bench.store.held_groups()
    edited = msgspec.structs.replace(samples.CRM, when="true")
    assert await bench.store.unhold(group, NOW, newest=edited) == 1
    assert await bench.replay("Paused") == ReplayReport(replayed_before=1)


# Rules


def mark_of_route(definition: model.RouteDefinition) -> MarkOf | None:
    """Return the rule of the route welcome: once per visitor."""
    return (lambda arrival: (arrival.visitor_key, NOW + DAY)) if definition.route == "welcome" else None


async def test_replay_creates_one_delivery_for_each_once_per_mark(bench: engines.Bench) -> None:
    marked = samples.plan(samples.MAILER, once_key=samples.digest("visitor"), once_until=NOW + DAY)
    skips = (samples.skip(model.SkipReason.Paused), samples.skip(model.SkipReason.Paused, samples.MAILER))
    await bench.accept(samples.arrival("mailed", if_visit=(marked,), visitor_key=samples.digest("visitor")))
    bench.clock.now = NOW + HOUR * 2
    for content, visitor in (("a", "visitor"), ("b", "other"), ("c", "other")):
        bench.clock.now += HOUR * 2
        await bench.accept(
            samples.arrival(content, bench.clock.now, if_visit=skips, visitor_key=samples.digest(visitor))
        )
    facts = {"mark_of_route": mark_of_route}
    expected = ReplayReport(results={"Paused": 4}, once_per=2)
    preview = await bench.preview_replay(bench.replay_request("Paused"), NOW, mark_of_route=mark_of_route)
    assert preview.report == expected
    assert await bench.replay("Paused", facts=facts) == expected
    assert len(await bench.deliveries(route="welcome")) == 2
    again = await bench.replay("Paused", where=Filter(route="welcome"), facts=facts)
    assert again == ReplayReport(replayed_before=1, once_per=2)
    assert (await bench.replay("Paused", facts=facts, ignores_once_per=True)).created == 2


async def test_delivered_visit_of_a_once_per_route_can_be_replayed(bench: engines.Bench) -> None:
    """Its mark is its own."""
    once = samples.plan(samples.MAILER, once_key=samples.digest("visitor a"), once_until=NOW + DAY)
    await settled(bench, "a", SettledAs.Delivered, if_visit=(once,))
    assert (await bench.replay("delivered", facts={"mark_of_route": mark_of_route})).created == 1


async def test_time_limit_counts_unless_the_replay_ignores_it(bench: engines.Bench) -> None:
    await settled(bench, "a", SettledAs.Delivered, if_visit=(samples.plan(expires_at=NOW + HOUR),))
    await settled(bench, "b", SettledAs.Dead, if_visit=(samples.plan(expires_at=NOW + 9 * HOUR),))
    bench.clock.now = NOW + 2 * HOUR
    assert await bench.replay("delivered", "dead") == ReplayReport(results={"dead": 1}, expired=1)
    (row,) = await bench.deliveries(state="pending")
    assert row["expiresAt"] == model.format_time(NOW + 9 * HOUR)
    assert await bench.replay("delivered", ignores_expiry=True) == ReplayReport(results={"delivered": 1})
    newest, _ = await bench.deliveries(state="pending")
    assert newest["expiresAt"] is None


async def test_paused_route_gets_nothing_unless_the_replay_ignores_that(bench: engines.Bench) -> None:
    await settled(bench, "a", SettledAs.Delivered)
    facts = {"is_paused": lambda route: route.route == "crm"}
    assert await bench.replay("delivered", facts=facts) == ReplayReport(paused=1)
    assert await bench.replay("delivered", facts=facts, ignores_pause=True) == ReplayReport(results={"delivered": 1})


def paused_destination(_: model.RouteDefinition) -> list[model.HoldReason]:
    return [model.HoldReason.DestinationPaused]


def old_address(_: model.RouteDefinition) -> list[model.HoldReason]:
    return [model.HoldReason.TokenHeld]


async def test_replayed_deliveries_are_held_like_fresh_ones(bench: engines.Bench) -> None:
    skip = samples.skip(model.SkipReason.Paused)
    await bench.accept(samples.arrival("c", if_visit=(skip,)), samples.arrival("d", if_visit=(skip,), token_held=True))
    await settled(bench, "a", SettledAs.Delivered)
    assert (await bench.replay(facts={"holds_of": old_address})).created == 2
    assert [row["held"] for row in await bench.deliveries(state="held")] == ["TokenHeld"]
    assert (await bench.replay("delivered", facts={"holds_of": paused_destination})).created == 1
    rows = await bench.deliveries(state="held")
    assert [row["held"] for row in rows] == ["DestinationPaused", "TokenHeld"]


async def test_dead_delivery_that_was_replayed_since_is_not_redriven(bench: engines.Bench) -> None:
    await settled(bench, "a", SettledAs.Dead)
    assert (await bench.replay("dead")).created == 1
    assert (await bench.store.preview("redrive", Filter(), bench.clock.now)).reasons == {}
    assert await bench.redrive(Filter(), bench.clock.now) == 0
    (delivery,) = await bench.claim()
    await bench.settle(delivery, SettledAs.Dead)
    assert await bench.redrive(Filter(), bench.clock.now) == 1, "of the two dead ones the newer"


async def test_cancelled_delivery_can_be_replayed(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a", if_visit=(samples.skip(model.SkipReason.Filter),)))
    started = await bench.replay("Filter")
    assert started.created == 1
    await bench.store.cancel(Filter(), bench.clock.now, lambda _: None)
    assert await bench.replay("cancelled") == ReplayReport(results={"cancelled": 1})


async def test_preview_counts_deliveries_that_wait_apart_from_held_ones(bench: engines.Bench) -> None:
    held = (samples.plan(hold=model.HoldReason.FilterError), samples.skip(model.SkipReason.Filter, samples.MAILER))
    await bench.accept(samples.arrival("waits"), samples.arrival("held", if_visit=held))
    preview = await bench.preview_replay(bench.replay_request("delivered", "Filter"), NOW)
    assert (preview.waiting, preview.held, preview.report.created) == (1, 1, 1)
    only_skipped = await bench.preview_replay(bench.replay_request("Filter"), NOW)
    assert (only_skipped.waiting, only_skipped.held, only_skipped.report.created) == (0, 0, 1)


async def test_replay_of_what_a_filter_held_when_cancelled_asks_the_filter_again(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("undecided", if_visit=(samples.plan(hold=model.HoldReason.ExpressionTooSlow),)))
    assert await bench.store.cancel(Filter(), NOW, lambda _: None) == 1
    assert (await bench.replay("cancelled")).created == 1
    (claimed,) = await bench.claim()
    assert claimed.filter_hold is model.HoldReason.ExpressionTooSlow


# Steps


async def test_preview_counts_and_shows_what_a_replay_does_and_changes_nothing(bench: engines.Bench) -> None:
    skips = (samples.skip(model.SkipReason.Filter), samples.skip(model.SkipReason.Paused, samples.MAILER))
    await bench.accept(*[samples.arrival(f"{number}", if_visit=skips) for number in range(130)])
    preview = await bench.preview_replay(bench.replay_request(), NOW)
    assert (preview.report, preview.is_complete) == (ReplayReport(results={"Filter": 130, "Paused": 130}), True)
    assert preview.destinations == {"agency/crm": 130, "agency/mailer": 130}
    assert (preview.waiting, preview.held) == (0, 0)
    newest = (await bench.visits())[:3]
    sample = [(model.format_id(each.visit), each.route.route, each.result) for each in preview.sample]
    assert sample[:2] == [(newest[0]["id"], "crm", "Filter"), (newest[0]["id"], "welcome", "Paused")]
    assert len(sample) == 5
    assert await bench.deliveries() == []
    assert await bench.replay() == preview.report


async def test_step_creates_no_more_than_the_rate_of_a_second(bench: engines.Bench) -> None:
    skips = (samples.skip(model.SkipReason.Filter), samples.skip(model.SkipReason.Paused, samples.MAILER))
    await bench.accept(*[samples.arrival(f"{number}", if_visit=skips) for number in range(5)])
    request = bench.replay_request()
    started = await bench.store.start_replay(
        base.ReplayRequest(where=request.where, results=request.results, per_second=4), NOW
    )
    created = []
    while (replay := await bench.store.find_replay(started.id)).state is ReplayState.Running:
        assert replay.next_at <= bench.clock.now
        created.append(await bench.step_replay(replay, bench.clock.now))
        bench.clock.now += samples.SECOND
    assert created == [4, 4, 2]


async def test_step_is_taken_once_however_many_gateways_try(bench: engines.Bench) -> None:
    await bench.accept(
        *[samples.arrival(f"{number}", if_visit=(samples.skip(model.SkipReason.Filter),)) for number in range(150)]
    )
    started = await bench.store.start_replay(bench.replay_request(), NOW)
    assert [await bench.step_replay(started, NOW) for _ in range(2)] == [100, None]
    replay = await bench.store.find_replay(started.id)
    assert (replay.state, replay.report.created, replay.deliveries) == (ReplayState.Running, 100, {"pending": 100})
    assert [await bench.step_replay(replay, NOW) for _ in range(2)] == [50, None]
    assert (await bench.store.find_replay(started.id)).state is ReplayState.Done
    assert len({row["visit"] for row in await bench.deliveries()}) == len(await bench.deliveries()) == 150


async def test_replay_goes_on_after_a_crash_and_delivers_nothing_twice(bench: engines.Bench) -> None:
    await bench.accept(
        *[samples.arrival(f"{number}", if_visit=(samples.skip(model.SkipReason.Filter),)) for number in range(250)]
    )
    started = await bench.store.start_replay(bench.replay_request(ignores_pause=True, started_by="operate"), NOW)
    await bench.step_replay(started, NOW)
    await bench.reopen(crash=True)
    (replay,) = await bench.store.running_replays()
    assert replay.request == started.request
    while replay.state is ReplayState.Running:
        await bench.step_replay(replay, NOW)
        replay = await bench.store.find_replay(started.id)
    rows = await bench.deliveries()
    assert len({row["visit"] for row in rows}) == len(rows) == replay.report.created == 250
    assert await bench.violations() == []


async def test_replay_waits_while_many_of_its_deliveries_are_due(bench: engines.Bench) -> None:
    await bench.accept(
        *[samples.arrival(f"{number}", if_visit=(samples.skip(model.SkipReason.Filter),)) for number in range(250)]
    )
    started = await bench.store.start_replay(bench.replay_request(), NOW)
    waits = []
    for _ in range(2):
        await bench.step_replay(await bench.store.find_replay(started.id), NOW)
        waits.append(await bench.store.is_replay_waiting(started.key))
    assert waits == [False, True]
    (one,) = await bench.claim(limit=1)
    await bench.settle(one, SettledAs.Delivered)
    assert not await bench.store.is_replay_waiting(started.key)


async def test_cancelled_replay_stops_and_can_be_resumed(bench: engines.Bench) -> None:
    await bench.accept(
        *[samples.arrival(f"{number}", if_visit=(samples.skip(model.SkipReason.Filter),)) for number in range(150)]
    )
    started = await bench.store.start_replay(bench.replay_request(), NOW)
    await bench.step_replay(started, NOW)
    replay = await bench.store.find_replay(started.id)
    assert [await bench.store.cancel_replay(replay, NOW + HOUR) for _ in range(2)] == [True, False]
    assert await bench.step_replay(replay, NOW) is None
    assert await bench.store.cancel(Filter(replay=started.id), NOW, lambda _: None) == 100
    ended = await bench.store.find_replay(started.id)
    assert (ended.state, ended.ended_at, ended.deliveries) == (ReplayState.Cancelled, NOW + HOUR, {"cancelled": 100})
    assert await bench.store.running_replays() == []
    assert [await bench.store.resume_replay(ended, NOW) for _ in range(2)] == [True, False]
    assert await bench.step_replay(await bench.store.find_replay(started.id), NOW) == 50
    assert len(await bench.deliveries(replay=started.id)) == 150


async def test_replay_that_ended_long_ago_is_deleted(bench: engines.Bench) -> None:
    await settled(bench, "a", SettledAs.Delivered, body_days=1)
    await bench.replay("delivered")
    (claimed,) = await bench.claim()
    await bench.settle(claimed, SettledAs.Delivered)
    for days, left in ((replays.KEPT_DAYS - 1, 1), (2, 0)):
        bench.clock.now += days * DAY
        await bench.prune_all()
        assert len(await bench.store.list_replays(samples.everything)) == left


async def test_unknown_replay_is_an_error(bench: engines.Bench) -> None:
    with pytest.raises(model.NotFoundError, match="no such replay"):
        await bench.store.find_replay(bytes(16))


async def test_replayed_verdict_shows_its_newest_delivery(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a", if_visit=(samples.skip(model.SkipReason.Paused),)))
    await bench.replay()
    (claimed,) = await bench.claim()
    await bench.settle(claimed, SettledAs.Delivered)
    bench.clock.now = NOW + HOUR
    await bench.replay("delivered")
    newest, _ = await bench.deliveries()
    (visit,) = await bench.visits()
    (verdict,) = visit["verdicts"]
    assert (verdict["skipped"], verdict["replayed"]) == ("Paused", model.format_time(NOW + HOUR))
    assert (verdict["delivery"], verdict["state"], verdict["held"]) == (newest["id"], "pending", None)


async def test_all_deliveries_of_a_visit_know_its_id(bench: engines.Bench) -> None:
    plans = (samples.plan(), samples.skip(model.SkipReason.Filter, samples.MAILER))
    (accepted,) = await bench.accept(samples.arrival("a", if_visit=plans))
    (row,) = await bench.visits()
    first = accepted.deliveries[0]
    await bench.store.defer([first.key])
    await bench.replay("Filter")
    claimed = [*await bench.claim(), *await bench.claim("agency/mailer")]
    assert len(claimed) == 2
    assert {model.format_id(delivery.visit_id) for delivery in (first, *claimed)} == {row["id"]}
    assert not any(delivery.is_repeat for delivery in (first, *claimed))


async def test_delivery_of_a_repeat_knows_that_it_is_one(bench: engines.Bench) -> None:
    forwards = (samples.plan(),)
    second = samples.arrival("b", visitor_key=samples.arrival("a").visitor_key, if_repeat=forwards)
    _, accepted = await bench.accept(samples.arrival("a"), second)
    assert accepted.deliveries[0].is_repeat
    await bench.store.defer([accepted.deliveries[0].key])
    (claimed,) = await bench.claim()
    assert claimed.is_repeat
