"""Counts of the last 15 minutes, and callers that follow the journal by cursors see every change once."""

import asyncio
from typing import Any
from unittest import mock

import hypothesis
import msgspec
import pytest
import structlog.testing
from hypothesis import strategies

from support import samples
from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, RecentCounts
from usher_gateway.insight import fault_log, health, journal, run_state
from usher_gateway.words import states

Journal = journal.ChangeJournal[str, int]


def test_window_adds_up_the_minutes_of_a_listener() -> None:
    window = health.RecentWindow()
    assert window.of("a/x") == RecentCounts()
    window.add("a/x", RecentCounts(30, 3, 0, 1))
    window.end_minute()
    window.add("a/x", RecentCounts(10, 1, 2, 0))
    assert window.of("a/x") == RecentCounts(40, 4, 2, 1)
    assert window.of("a/y") == RecentCounts()


def test_window_drops_the_oldest_minute_first() -> None:
    window = health.RecentWindow()
    window.add("a/x", RecentCounts(10, 10, 1))
    for _ in range(health.WINDOW_MINUTES - 1):
        window.end_minute()
    window.add("a/x", RecentCounts(20))
    assert window.of("a/x") == RecentCounts(30, 10, 1)
    window.end_minute()
    assert window.of("a/x") == RecentCounts(20)


@pytest.mark.parametrize(
    ("accepted", "untrusted", "expected"), [(9, 9, False), (10, 1, False), (10, 2, True), (100, 10, False)]
)
def test_untrusted_times_are_reported_from_ten_arrivals_on(accepted: int, untrusted: int, expected: bool) -> None:
    recent = RecentCounts(accepted, untrusted_times=untrusted)
    assert health.are_times_untrusted(recent, were_untrusted=False) is expected


@pytest.mark.parametrize(
    ("accepted", "untrusted", "expected"), [(100, 6, True), (100, 5, False), (9, 9, True), (0, 0, False)]
)
def test_untrusted_times_end_at_half_of_their_threshold(accepted: int, untrusted: int, expected: bool) -> None:
    recent = RecentCounts(accepted, untrusted_times=untrusted)
    assert health.are_times_untrusted(recent, were_untrusted=True) is expected


def test_cursor_gets_only_later_changes() -> None:
    journal = Journal("x")
    journal.note("a", 1)
    journal.note("b", 2)
    cursor = journal.since(None).cursor
    journal.note("a", 1)
    assert journal.since(cursor).cursor == cursor
    journal.note("b", 3)
    journal.note("c", 4)
    journal.note("a", None)
    changes = journal.since(cursor)
    assert not changes.complete
    assert (changes.present, changes.removed) == ({"b": 3, "c": 4}, ["a"])
    again = journal.since(changes.cursor)
    assert (again.present, again.removed, again.complete) == ({}, [], False)


def test_unknown_cursor_gets_every_key() -> None:
    journal = Journal("x")
    journal.note("a", 1)
    for cursor in ("", "y.1", "x.", "x.2", "x.-1", "x.1a", "1", "x." + "9" * 30, "x.²"):
        changes = journal.since(cursor)
        assert (changes.complete, changes.present) == (True, {"a": 1}), cursor


def test_cursor_before_a_forgotten_removal_gets_every_key() -> None:
    journal = Journal("x")
    journal.note("first", 1)
    cursor = journal.since(None).cursor
    journal.note("first", None)
    later = journal.since(None).cursor
    for number in range(10_000):
        journal.note(str(number), None)
    assert journal.since(cursor).complete
    assert not journal.since(later).complete


@hypothesis.given(
    strategies.lists(strategies.tuples(strategies.sampled_from("abcd"), strategies.sampled_from([None, 1, 2])))
)
@hypothesis.settings(max_examples=100)
def test_follower_has_the_same_state_as_the_journal(steps: list[tuple[str, int | None]]) -> None:
    journal, state, cursor = Journal("x"), dict[str, int](), None
    for index, (key, value) in enumerate(steps):
        journal.note(key, value)
        if index % 3 == 0:
            changes = journal.since(cursor)
            state = changes.present if changes.complete else state | changes.present
            state = {name: value for name, value in state.items() if name not in changes.removed}
            cursor = changes.cursor
            assert state == journal.present


TENANT = documents.TenantDocument("acme", company_id="7")
CLOCK = mock.Mock(now=lambda: 9_000_000, steady=lambda: 5_000_000)


def tracked(
    names: list[str], source: mock.Mock, counters: ArrivalCounters | None = None
) -> tuple[health.HealthTracker, run_state.RunState]:
    """Return a tracker of listeners in the namespace agency."""
    state = run_state.RunState()
    listeners = {f"agency/{name}": documents.ListenerDocument("agency", name, TENANT, ()) for name in names}
    state.apply(documents.Snapshot(listeners, {}), now=0)
    tracker = health.HealthTracker(
        state=state,
        clock=mock.Mock(now=lambda: 0),
        source=source,
        registry=mock.Mock(listeners={}),
        counters=counters or ArrivalCounters(),
        dispatcher=mock.Mock(),
        worker=mock.Mock(is_too_slow=lambda *_: False),
        held_routes=lambda _: (),
        take_changed_holds=tuple,
    )
    return tracker, state


async def test_faults_are_logged_when_they_begin_and_when_they_end() -> None:
    counters = ArrivalCounters()
    tracker, state = tracked(["bar", "lobby"], mock.Mock(take_touched=dict), counters)
    faults = fault_log.FaultLog(state=state, tracker=tracker, counters=counters, clock=CLOCK)
    lobby = model.ListenerName("agency", "acme", "lobby")
    with structlog.testing.capture_logs() as logs:
        await faults.write()
        for _ in range(health.REFUSING_FROM):
            counters.add_refused(model.RefusedReason.Unauthenticated, lobby, 0)
        await faults.write()
        await faults.write()
        counters.of(lobby).refused_in_a_row = 0
        await faults.write()
    lines = [(line["event"], line["listener"], line["fault"]) for line in logs if "fault" in line]
    assert lines == [
        ("listener_fault_started", "agency/lobby", "Refusing"),
        ("listener_fault_ended", "agency/lobby", "Refusing"),
    ]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"refusing": True, "refused_reason": "Unauthenticated"}, {"reason": "Unauthenticated"}),
        ({"refusing": True, "refused_reason": "SourceNotAllowed"}, {"source": "192.0.2.7"}),
        ({"company_mismatch": True}, {"expected": "7", "came": "8", "since": "1970-01-01T00:00:02.000Z"}),
        (
            {"quarantining": True, "quarantined_share": 0.5},
            {"share": 0.5, "reason": "NotObject", "since": "1970-01-01T00:00:03.000Z"},
        ),
        (
            {"times_untrusted": True, "untrusted_times_share": 0.4, "untrusted_time_reason": "NoOffset"},
            {
                "share": 0.4,
                "reason": "NoOffset",
                "since": "1970-01-01T00:00:04.000Z",
                "hint": "set `fields.occurredAtZone` of the Listener to the time zone of these times",
            },
        ),
        ({"unexpected_sources": True}, {"source": "192.0.2.7", "since": "1970-01-01T00:00:05.000Z"}),
        ({"receiving": "Silent"}, {"last_arrival": "1970-01-01T00:00:01.000Z", "silent_after_seconds": 86_400}),
        (
            {
                "held_deliveries": (
                    {
                        "route": "gold",
                        "reason": "FilterError",
                        "missing": "NoSuchField (body.user.tier)",
                        "since": "2026-11-25T12:00:00.000Z",
                    },
                )
            },
            {"held": ["gold: FilterError (NoSuchField (body.user.tier))"], "since": "2026-11-25T12:00:00.000Z"},
        ),
    ],
)
async def test_line_about_a_fault_names_its_cause(fault: dict[str, Any], cause: dict[str, object]) -> None:
    counters = ArrivalCounters()
    _, state = tracked(["lobby"], mock.Mock(take_touched=dict), counters)
    lobby = counters.of(model.ListenerName("agency", "acme", "lobby"))
    lobby.unexpected_source, lobby.other_company, lobby.last_accepted = "192.0.2.7", "8", 1_000_000
    for streak, second in ((lobby.mismatching, 2), (lobby.quarantining, 3), (lobby.untrusted_times, 4)):
        streak.add(second * 1_000_000)
    counters.add_unexpected_source(lobby, 5_000_000)
    lobby.quarantined_reason, lobby.refused_since = model.QuarantineReason.NotObject, 3_000_000
    tracker = mock.Mock(listener=lambda *_: msgspec.structs.replace(SOUND, **fault))
    with structlog.testing.capture_logs() as logs:
        await fault_log.FaultLog(state=state, tracker=tracker, counters=counters, clock=CLOCK).write()
    (line,) = [line for line in logs if line["event"] == "listener_fault_started"]
    assert cause.items() <= line.items()
    if fault.get("refusing"):
        assert line["since"] == "1970-01-01T00:00:07.000Z", "two seconds ago by the clock that never goes back"


async def test_share_that_wavers_at_its_threshold_is_one_fault() -> None:
    counters = ArrivalCounters()
    tracker, state = tracked(["lobby"], mock.Mock(take_touched=dict), counters)
    faults = fault_log.FaultLog(state=state, tracker=tracker, counters=counters, clock=CLOCK)
    lobby = counters.of(model.ListenerName("agency", "acme", "lobby"))

    async def write_after(sound: int, untrusted: int) -> list[Any]:
        for is_untrusted in [False] * sound + [True] * untrusted:
            arrival = samples.arrival(has_untrusted_time=is_untrusted)
            counters.add_committed(lobby, arrival, model.Accepted(model.CountedAs.Visit))
        await tracker.sweep()
        with structlog.testing.capture_logs() as logs:
            await faults.write()
        return [(line["event"], line.get("share"), line.get("reason")) for line in logs]

    assert await write_after(18, 2) == [], "2 of 20 are a tenth"
    assert await write_after(0, 1) == [("listener_fault_started", 0.14, "NoOffset")]
    assert await write_after(10, 0) == [], "3 of 31 are less than a tenth"
    assert await write_after(0, 2) == []
    assert await write_after(67, 0) == [("listener_fault_ended", None, None)], "5 of 100 are a twentieth"


async def test_faults_of_many_listeners_do_not_flood_the_log() -> None:
    names = [f"l{number}" for number in range(150)]
    counters = ArrivalCounters()
    tracker, state = tracked(names, mock.Mock(take_touched=dict), counters)
    for name in names:
        counters.of(model.ListenerName("agency", "acme", name)).refused_in_a_row = 5
    with structlog.testing.capture_logs() as logs:
        await fault_log.FaultLog(state=state, tracker=tracker, counters=counters, clock=CLOCK).write()
    assert len(logs) == 101
    assert (logs[-1]["event"], logs[-1]["count"]) == ("listener_faults_not_logged", 50)


SOUND = states.ListenerState(
    receiving="Receiving",
    verified_since="2026-11-25T12:00:00Z",
    verified_addresses=("one",),
    probed_addresses=(),
    refusing=False,
    refused_reason=None,
    missing=None,
    quarantined_share=0.0,
    quarantining=False,
    company_mismatch=False,
    times_untrusted=False,
    untrusted_times_share=0.0,
    untrusted_time_reason=None,
    unexpected_sources=False,
    held_deliveries=(),
    degraded_routes=(),
    retired_arrivals={},
)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, []),
        ({"refusing": True, "refused_reason": "Unauthenticated"}, ["Refusing"]),
        ({"quarantining": True}, ["Quarantining"]),
        ({"times_untrusted": True}, ["TimesUntrusted"]),
        ({"company_mismatch": True}, ["CompanyMismatch"]),
        ({"unexpected_sources": True}, ["UnexpectedSource"]),
        ({"degraded_routes": ({"route": "crm", "reason": "ExpressionTooSlow"},)}, ["ExpressionTooSlow"]),
        ({"held_deliveries": ({"route": "crm", "reason": "FilterError", "missing": ""},)}, ["DeliveriesHeld"]),
        ({"retired_arrivals": {"old": "2026-11-25T13:00:00Z"}}, ["RetiredAddressUsed"]),
        ({"receiving": "Silent"}, ["Silent"]),
        ({"receiving": "Silent", "verified_addresses": ()}, ["Unverified"]),
    ],
)
def test_faults_of_a_listener(change: dict[str, Any], fault: list[str]) -> None:
    document = documents.ListenerDocument("agency", "lobby", TENANT, (documents.Address("hooks.example.com", "/v1/x"),))
    assert states.faults_of(msgspec.structs.replace(SOUND, **change), document) == fault


@pytest.mark.parametrize(
    ("fault", "change", "cause"),
    [
        (states.ListenerFault.Quarantining, {"quarantined_share": 0.33}, "33%"),
        (
            states.ListenerFault.TimesUntrusted,
            {"untrusted_times_share": 0.71, "untrusted_time_reason": "InFuture"},
            "71% InFuture",
        ),
        (states.ListenerFault.Silent, {}, ""),
    ],
)
def test_trouble_of_a_tenant_has_the_share_and_the_reason(
    fault: states.ListenerFault, change: dict[str, Any], cause: str
) -> None:
    assert states.cause_of(fault, msgspec.structs.replace(SOUND, **change)) == cause


def test_listener_without_its_secret_has_a_fault_before_anything_arrives() -> None:
    tracker, state = tracked([], mock.Mock(take_touched=dict))
    missing = "Secret `hook` must exist in the same namespace"
    lobby = documents.ListenerDocument(
        "agency", "lobby", TENANT, (), authentication=documents.Authentication("Unresolved", missing=missing)
    )
    state.apply(documents.Snapshot({lobby.key: lobby}, {}), now=0)
    listener = tracker.listener(lobby.key, lobby)
    assert (listener.missing, states.faults_of(listener, lobby)) == (missing, ["AuthenticationUnresolved"])


async def test_callers_that_ask_during_the_first_sweep_get_every_listener() -> None:
    """An answer that lacks a listener but calls itself complete would make the operator forget its conditions."""
    tracker, _ = tracked([f"wifi-{number}" for number in range(1000)], mock.Mock(take_touched=dict))
    answers = await asyncio.gather(*[tracker.since(None) for _ in range(3)])
    assert [len(changes.present) for changes in answers] == [1000, 1000, 1000]


async def test_new_listener_that_a_list_has_shown_is_still_a_change() -> None:
    touched: dict[tuple[str, str], object] = {}
    source = mock.Mock()
    source.take_touched.side_effect = lambda: {key: touched.pop(key) for key in list(touched)}
    tracker, state = tracked(["lobby"], source)
    cursor = (await tracker.since(None)).cursor

    added = documents.ListenerDocument("agency", "bar", TENANT, ())
    state.apply(documents.Snapshot(state.snapshot.listeners | {"agency/bar": added}, {}), now=1)
    touched["Listener", "agency/bar"] = mock.Mock(hash="aa", rejected=None, vanished=False)
    shown = tracker.document("Listener", "agency/bar")
    assert shown is not None
    assert shown.hash == "aa"
    changes = await tracker.since(cursor)
    assert set(changes.present) == {("document", "Listener", "agency/bar"), ("observed", "Listener", "agency/bar")}
