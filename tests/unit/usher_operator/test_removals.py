"""Removals are collected and decided per namespace, and halted if they are many; tombstones have their time."""

import asyncio
import datetime
import types
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import pytest

from usher_gateway import config_secret, documents, model
from usher_gateway.resources.removal_limit import (
    HaltedRemovals,
    Removal,
    RemovalBounds,
    RemovalDecision,
    RemovalKind,
    describe_halts,
)
from usher_operator import children, kinds, removals
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import Key, ObjectRef, StatusCondition
from usher_operator.workqueue import PauseGate, Workqueue


@pytest.fixture
def pending() -> removals.PendingRemovals:
    return removals.PendingRemovals(settle_seconds=2, max_settle_seconds=30)


def listeners(count: int, *, first: int = 0, namespace: str = "agency") -> list[Removal]:
    return [
        Removal("Listener", namespace, f"l{number}", uid="1", version="1") for number in range(first, first + count)
    ]


def want(pending: removals.PendingRemovals, requested: list[Removal], now: float = 0) -> None:
    for removal in requested:
        assert not pending.request(removal, now)


def decide(
    pending: removals.PendingRemovals,
    now: float,
    *,
    in_force: int,
    confirmed: Collection[str] = (),
    namespace: str = "agency",
    removes_every_listener: bool = False,
) -> RemovalDecision:
    counts: dict[RemovalKind, int] = {"Listener": in_force, "Destination": in_force}
    bounds = RemovalBounds(counts, removes_every_listener=removes_every_listener)
    return pending.decide(namespace, now, bounds, confirmed)


def halt(pending: removals.PendingRemovals, requested: list[Removal], now: float = 0) -> HaltedRemovals:
    want(pending, requested, now)
    halted = decide(pending, now, in_force=len(requested)).halted
    assert halted is not None
    return halted


def test_decision_is_not_due_without_requests(pending: removals.PendingRemovals) -> None:
    assert pending.due_in(0) is None
    assert pending.due(0, ()) == []


def test_decision_waits_until_no_further_request_comes(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 10)
    want(pending, listeners(1, first=1), 11.5)
    assert pending.due_in(12) == pytest.approx(1.5)
    assert pending.due(12, ()) == []
    assert pending.due_in(14) == 0
    assert pending.due(14, ()) == ["agency"]


def test_stream_of_requests_is_decided_after_the_maximum_wait(pending: removals.PendingRemovals) -> None:
    for second, removal in enumerate(listeners(40)):
        pending.request(removal, second)
    assert pending.due_in(29) == 1
    assert pending.due(31, ()) == ["agency"]


def test_busy_namespace_is_decided_once_its_keys_are_planned(pending: removals.PendingRemovals) -> None:
    want(pending, [Removal("Destination", "agency", "crm")], 0)
    assert pending.due(10, (), is_busy=lambda namespace: namespace == "agency") == []
    want(pending, listeners(6), 10)
    assert pending.due(12, ()) == ["agency"]
    assert decide(pending, 12, in_force=6).allowed == set()


def test_busy_namespace_is_decided_after_the_maximum_wait(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 0)
    assert pending.due(30, (), is_busy=lambda _: True) == ["agency"]


def addresses(name: str, count: int) -> list[Removal]:
    return [Removal("Address", "agency", name, f"{name}-{number}", "1") for number in range(count)]


def retire(
    pending: removals.PendingRemovals,
    now: float,
    requested: list[Removal],
    *,
    name: str = "lobby",
    serving: frozenset[str] = frozenset(),
    is_own_edit: bool = True,
) -> bool:
    bounds = RemovalBounds({"Address": 20})
    return pending.retire("agency", name, requested, now, bounds, serving=serving, is_own_edit=is_own_edit)


def test_own_edit_within_the_limit_retires_addresses_at_once(pending: removals.PendingRemovals) -> None:
    assert retire(pending, 0, addresses("lobby", 5))
    assert not retire(pending, 1, [])
    assert not retire(pending, 59, addresses("bar", 1), name="bar"), "the sixth address of the minute"
    assert not retire(pending, 59, [], name="bar")
    assert retire(pending, 60, addresses("bar", 1), name="bar")


def test_edit_of_a_class_is_decided_for_the_namespace_as_a_whole(pending: removals.PendingRemovals) -> None:
    for number in range(6):
        assert not retire(pending, 0, addresses(f"l{number}", 1), name=f"l{number}", is_own_edit=False)
    assert pending.due(2, ()) == ["agency"]
    halted = pending.decide("agency", 2, RemovalBounds({"Address": 20})).halted
    assert halted is not None
    assert not retire(pending, 3, addresses("l0", 1), name="l0", is_own_edit=False)
    confirmed = [halted.digest]
    assert pending.due(4, confirmed) == ["agency"]
    assert len(pending.decide("agency", 4, RemovalBounds({"Address": 20}), confirmed).allowed) == 6
    assert retire(pending, 5, addresses("l0", 1), name="l0", is_own_edit=False)


def move_class(pending: removals.PendingRemovals, now: float, old: str, new: str) -> bool:
    """Move three listeners by an edit of their class; return whether it went ahead."""
    for name in ("a", "b", "c"):
        leaving = [Removal("Address", "agency", name, f"{name} at {old}", "1", version=str(now))]
        retire(pending, now, leaving, name=name, serving=frozenset({f"{name} at {new}"}), is_own_edit=False)
    has_passed = pending.decide("agency", now + 2, RemovalBounds({"Address": 20})).halted is None
    for name in ("a", "b", "c") if has_passed else ():
        retire(pending, now + 3, [], name=name)
    return has_passed


def test_edit_of_a_class_can_be_undone_and_repeated_within_a_minute(pending: removals.PendingRemovals) -> None:
    assert move_class(pending, 0, "old", "new")
    assert move_class(pending, 10, "new", "old")
    assert move_class(pending, 20, "old", "new")
    assert not move_class(pending, 30, "new", "third"), "six addresses are out of service then"


def test_own_edit_can_be_undone_within_a_minute(pending: removals.PendingRemovals) -> None:
    assert retire(pending, 0, addresses("lobby", 4), serving=frozenset({"new"}))
    assert not retire(pending, 1, [])
    new = Removal("Address", "agency", "lobby", "new", "1")
    assert retire(pending, 2, [new], serving=frozenset({removal.address for removal in addresses("lobby", 4)}))
    assert not retire(pending, 3, [])
    assert retire(pending, 4, addresses("bar", 4), name="bar"), "only one address of the lobby is out of service"


def test_reverted_edit_withdraws_its_addresses(pending: removals.PendingRemovals) -> None:
    for number in range(6):
        retire(pending, 0, addresses(f"l{number}", 1), name=f"l{number}", is_own_edit=False)
    assert pending.decide("agency", 2, RemovalBounds({"Address": 20})).halted is not None
    for number in range(6):
        assert not retire(pending, 3, [], name=f"l{number}", is_own_edit=False)
    assert pending.due(5, ()) == ["agency"]
    pending.decide("agency", 5, RemovalBounds({"Address": 20}))
    assert pending.halted == ()


def test_stream_of_one_namespace_does_not_delay_another(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1, namespace="quiet"), 0)
    for second, removal in enumerate(listeners(4)):
        pending.request(removal, second)
    assert pending.due(2, ()) == ["quiet"]


def test_repeated_request_does_not_delay_the_decision(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1), 0)
    want(pending, listeners(1), 1.9)
    assert pending.due_in(2) == 0


def test_few_listeners_are_removed(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(5))
    assert decide(pending, 2, in_force=50).allowed == set(listeners(5))
    assert pending.request(listeners(1)[0], 3), "an allowed removal needs no second decision"


def test_halt_holds_up_only_its_namespace(pending: removals.PendingRemovals) -> None:
    halted = halt(pending, [*listeners(6), Removal("Destination", "agency", "crm")])
    want(pending, listeners(5, namespace="other"), 1)
    assert len(decide(pending, 3, in_force=5, namespace="other").allowed) == 5
    assert pending.halted == (halted,)
    assert pending.is_waiting(Removal("Destination", "agency", "crm"))
    assert not pending.is_waiting(listeners(1, namespace="other")[0])


def test_steady_deletions_count_together_for_a_minute(pending: removals.PendingRemovals) -> None:
    for number in range(5):
        want(pending, listeners(1, first=number), number * 5)
        assert decide(pending, number * 5 + 2, in_force=20 - number).halted is None
    want(pending, listeners(1, first=5), 25)
    assert decide(pending, 27, in_force=15).halted is not None


def test_one_deletion_a_minute_is_never_halted(pending: removals.PendingRemovals) -> None:
    for number in range(30):
        want(pending, listeners(1, first=number), number * 60)
        assert decide(pending, number * 60 + 2, in_force=30 - number).halted is None


def test_last_listener_of_the_install_waits(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1))
    halted = decide(pending, 2, in_force=1, removes_every_listener=True).halted
    assert halted is not None
    assert decide(pending, 3, in_force=1, confirmed=[halted.digest]).allowed == set(listeners(1))


def test_confirmation_allows_exactly_the_named_removals(pending: removals.PendingRemovals) -> None:
    halted = halt(pending, listeners(6))
    assert pending.due(9, ()) == []
    assert pending.due(9, [halted.digest]) == ["agency"]
    assert decide(pending, 9, in_force=6, confirmed=[halted.digest]).allowed == set(listeners(6))
    assert pending.halted == ()
    assert pending.due(10, [halted.digest]) == []


def test_confirmation_that_stays_in_place_covers_no_later_document(pending: removals.PendingRemovals) -> None:
    first = listeners(30)
    digest = halt(pending, first).digest
    assert decide(pending, 1, in_force=30, confirmed=[digest]).allowed == frozenset(first)
    for removal in first:
        pending.withdraw(removal, 2)
    published_again = [msgspec.structs.replace(removal, version="2") for removal in first]
    want(pending, published_again, 3)
    decision = decide(pending, 5, in_force=30, confirmed=[digest])
    assert not decision.allowed
    assert decision.halted is not None


def test_confirmation_holds_although_more_was_deleted_since(pending: removals.PendingRemovals) -> None:
    halted = halt(pending, listeners(6))
    want(pending, listeners(6, first=6), 5)
    grown = decide(pending, 7, in_force=20).halted
    assert grown is not None
    assert grown.removals == tuple(sorted(listeners(12)))
    assert pending.due(8, [halted.digest]) == ["agency"]
    decision = decide(pending, 8, in_force=20, confirmed=[halted.digest])
    assert decision.allowed == set(listeners(6))
    assert decision.halted == HaltedRemovals.of(listeners(6, first=6))


def test_few_further_removals_go_after_the_confirmation(pending: removals.PendingRemovals) -> None:
    halted = halt(pending, listeners(6))
    want(pending, listeners(1, first=6), 5)
    assert decide(pending, 7, in_force=20).allowed == frozenset()
    assert decide(pending, 8, in_force=20, confirmed=[halted.digest]).allowed == set(listeners(7))


def test_confirmed_removals_do_not_count_in_the_next_minute(pending: removals.PendingRemovals) -> None:
    halted = halt(pending, listeners(6))
    decide(pending, 3, in_force=20, confirmed=[halted.digest])
    want(pending, listeners(5, first=6), 5)
    assert decide(pending, 7, in_force=14).halted is None


def test_halt_does_not_end_while_listeners_return_one_by_one(pending: removals.PendingRemovals) -> None:
    halt(pending, listeners(6))
    pending.withdraw(listeners(1)[0], 5)
    assert pending.due(7, ()) == ["agency"]
    decision = decide(pending, 7, in_force=6)
    assert decision.allowed == frozenset()
    assert decision.halted == HaltedRemovals.of(listeners(5, first=1))
    for removal in listeners(6):
        pending.withdraw(removal, 8)
    assert decide(pending, 10, in_force=6).halted is None
    assert pending.halted == ()


def test_returned_document_is_decided_again_when_removed_again(pending: removals.PendingRemovals) -> None:
    want(pending, listeners(1))
    decide(pending, 2, in_force=9)
    pending.withdraw(listeners(1)[0], 3)
    assert not pending.request(listeners(1)[0], 9)


def test_deleted_crd_halts_even_one_removal(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener", ["agency"])
    want(pending, [*listeners(1), Removal("Listener", "other", "l0")])
    halted = decide(pending, 2, in_force=50).halted
    assert halted is not None
    assert decide(pending, 2, in_force=50, namespace="other").halted is None
    assert decide(pending, 3, in_force=50, confirmed=[halted.digest]).allowed == set(listeners(1))
    want(pending, listeners(1, first=5), 9)
    assert decide(pending, 11, in_force=50).halted is None, "a confirmation ends the suspicion"


def test_deleted_listener_crd_does_not_halt_destinations(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener", ["agency"])
    want(pending, [Removal("Destination", "agency", "crm")])
    assert decide(pending, 2, in_force=50).halted is None


def test_suspicion_ends_when_every_document_is_wanted_again(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener", ["agency"])
    want(pending, listeners(2))
    decide(pending, 2, in_force=50)
    for removal in listeners(2):
        pending.withdraw(removal, 3)
    assert decide(pending, 5, in_force=50).halted is None
    want(pending, listeners(1), 9)
    assert decide(pending, 11, in_force=50).halted is None, "the suspicion has ended"


KEYS = model.derive_keys(bytes(range(32)))


def cache_with(*listeners_in_force: tuple[str, str]) -> Cache:
    """A cache with one document for each (namespace, name)."""
    cache = Cache(OperatorSettings())
    cache.set_keys(KEYS)
    for namespace, name in listeners_in_force:
        address = documents.Address("hooks.example.com", f"/v1/{namespace}-{name}")
        tenant = documents.TenantDocument("acme")
        document = documents.ListenerDocument(namespace, name, tenant, (address,), generation=1)
        envelope = config_secret.envelope_of(document, "1", KEYS.document)
        manifest = children.build_config_secret(envelope, cache.install).manifest
        about = {**manifest["metadata"], "uid": f"{namespace}-{name}", "resourceVersion": "1"}
        cache.put(kinds.SECRET, {**manifest, "metadata": about})
    return cache


async def decided(
    cache: Cache,
    requested: list[Removal],
    warn: Callable[[Key, str, StatusCondition], None] = lambda *_: None,
) -> tuple[set[str], set[str]]:
    """Run the guard until it has decided; returns the halted namespaces, and the queued listeners."""
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    pending = removals.PendingRemovals(settle_seconds=0, max_settle_seconds=0)
    installation: Any = types.SimpleNamespace(is_key_known=True)
    guard = removals.RemovalGuard(
        pending=pending,
        cache=cache,
        queue=queue,
        gate=PauseGate(),
        installation=installation,
        metrics=OperatorMetrics(),
        warn=warn,
    )
    want(pending, requested, -1.0)
    running = asyncio.create_task(guard.run())
    guard.check_soon()
    while pending.undecided:  # noqa: ASYNC110 - the guard has no event for a decision
        await asyncio.sleep(0)
    running.cancel()
    queued = {key.path for key in iter(queue.take, None) if key.kind == "Listener"}
    return {halted.namespace for halted in cache.halted}, queued


async def test_guard_removes_all_listeners_of_a_namespace_but_not_of_the_install() -> None:
    cache = cache_with(("a", "l0"), ("b", "l0"))
    assert await decided(cache, listeners(1, namespace="a")) == (set(), {"a/l0"})


async def test_guard_halts_namespaces_that_together_have_every_listener() -> None:
    cache = cache_with(("a", "l0"), ("b", "l0"))
    assert await decided(cache, [*listeners(1, namespace="a"), *listeners(1, namespace="b")]) == ({"a", "b"}, set())


async def test_guard_halts_listeners_that_only_a_stale_gateway_has() -> None:
    assert await decided(cache_with(), listeners(2, namespace="a")) == ({"a"}, set())
    assert await decided(cache_with(("b", "l0")), listeners(2, namespace="a")) == (set(), {"a/l0", "a/l1"})


async def test_halt_warns_in_its_namespace_with_the_command_that_confirms_it() -> None:
    cache = cache_with(("a", "l0"), ("a", "l1"))
    warnings: list[tuple[Key, str, StatusCondition]] = []
    requested = [Removal("Destination", "a", "crm", uid="uid-crm"), *listeners(2, namespace="a")]
    await decided(cache, requested, warn=lambda *warning: warnings.append(warning))
    ((key, uid, condition),) = warnings
    assert (key, uid) == (Key("Listener", "a", "l0"), requested[1].uid)
    assert condition.reason == "RemovalsHalted"
    assert condition.message.startswith("3 removals wait (Listener `l0`, Listener `l1`, Destination `crm`")
    assert condition.message.endswith(
        f"listenerclasses.usher.dev NAME usher.dev/confirm-removals={cache.halted[0].digest}"
    )


async def test_rest_of_a_halted_set_waits_again_after_a_restart() -> None:
    cache = cache_with(("a", "l0"), ("a", "l1"), ("b", "l0"), ("b", "l1"))
    message = f"removals wait: {describe_halts([HaltedRemovals.of(listeners(6, namespace='a'))])}"
    condition = {"type": "Ready", "status": "False", "reason": "RemovalsHalted", "message": message}
    klass = {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "ListenerClass",
        "metadata": {"name": "public", "uid": "1", "resourceVersion": "1", "generation": 1},
        "spec": {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com"},
        "status": {"conditions": [condition]},
    }
    cache.put(kinds.LISTENER_CLASS, klass)
    requested = [*listeners(1, namespace="a"), *listeners(1, namespace="b")]
    assert await decided(cache, requested) == ({"a"}, {"b/l0"})


def test_suspicion_ends_where_nothing_is_requested(pending: removals.PendingRemovals) -> None:
    pending.suspect("Listener", ["agency", "other"])
    want(pending, listeners(1, namespace="other"))
    pending.end_suspicion(["agency", "other"], 120)
    want(pending, listeners(1))
    assert decide(pending, 122, in_force=9).halted is None
    assert decide(pending, 122, in_force=9, namespace="other").halted is not None


REF = ObjectRef("v1", "Secret", "usher-config", "listener-1")
SAID = datetime.datetime(2026, 11, 25, 12, 0, tzinfo=datetime.UTC)
SAID_AT = "2026-11-25T12:00:00Z"
DAY = datetime.timedelta(days=1)


def after(seconds: float) -> datetime.datetime:
    return SAID + datetime.timedelta(seconds=seconds)


def test_tombstone_age_counts_from_its_timestamp() -> None:
    count = removals.AgeClock()
    assert count.seconds_left(REF, SAID_AT, after(0), 50.0) == 600
    assert count.seconds_left(REF, SAID_AT, after(200), 250.0) == 400
    assert count.seconds_left(REF, SAID_AT, after(600), 650.0) == 0


def test_tombstone_found_later_has_the_remaining_time() -> None:
    assert removals.AgeClock().seconds_left(REF, SAID_AT, after(500), 50.0) == 100
    assert removals.AgeClock().seconds_left(REF, SAID_AT, after(700), 50.0) < 0
    assert removals.AgeClock().seconds_left(REF, "nonsense", after(0), 50.0) < 0


def test_wall_clock_set_forward_ends_no_tombstone_early() -> None:
    count = removals.AgeClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    assert count.seconds_left(REF, SAID_AT, after(10) + DAY, 60.0) == 590


def test_wall_clock_set_back_prolongs_no_tombstone() -> None:
    count = removals.AgeClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    assert count.seconds_left(REF, SAID_AT, after(600) - DAY, 650.0) == 0
    assert removals.AgeClock().seconds_left(REF, SAID_AT, after(0) - DAY, 50.0) == 600


def test_later_tombstone_of_the_same_name_starts_over() -> None:
    count = removals.AgeClock()
    count.seconds_left(REF, SAID_AT, after(0), 50.0)
    count.forget(REF)
    assert count.seconds_left(REF, SAID_AT, after(300), 950.0) == 300
    assert count.seconds_left(REF, "2026-11-25T12:10:00Z", after(600), 1250.0) == 600
