"""Removals are collected and decided per namespace, and halted if they are many; tombstones have their time."""

import asyncio
from typing import Any

import msgspec
import pytest

from support import cache_samples, waiting
from usher_gateway import config_secret, documents, model
from usher_gateway.resources.removal_limit import HaltedRemovals, Removal, describe_halts
from usher_operator.plan import children
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import Workqueue
from usher_operator.settings import OperatorSettings, OperatorTiming
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, ObjectRef, Plan, StatusCondition
from usher_operator.write import removals

KEYS = model.derive_keys(bytes(range(32)))


class Guarded:
    """A guard with a real cache and queue; the test sets the time."""

    def __init__(self) -> None:
        self.now, self.may_decide = 0.0, True
        self.warnings: list[tuple[Key, str, StatusCondition]] = []
        self.cache = Cache(OperatorSettings())
        self.cache.keys = KEYS
        self.queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5, lane_of=lambda key: key.namespace)
        self.restart()
        self.publish("lobby", namespace="resident")  # because the last listener of an install waits

    def restart(self) -> None:
        """Forget what the guard knows, as after a restart."""
        self.guard = removals.RemovalGuard(
            cache=self.cache,
            queue=self.queue,
            metrics=OperatorMetrics(),
            may_decide=lambda: self.may_decide,
            warn=lambda *warning: self.warnings.append(warning),
            timing=OperatorTiming(removal_settle_seconds=2.0, max_removal_settle_seconds=30.0),
            clock=lambda: self.now,
        )

    def publish(self, *names: str, namespace: str = "agency") -> None:
        """Put documents of Listeners into the cache."""
        for name in names:
            address = documents.Address("hooks.example.com", f"/v1/{namespace}-{name}")
            tenant = documents.TenantDocument("acme")
            document = documents.ListenerDocument(namespace, name, tenant, (address,), generation=1)
            envelope = config_secret.envelope_of(document, "1", KEYS.document)
            self._put(children.build_config_secret(envelope, self.cache.settings).manifest)

    def bury(self, *names: str) -> None:
        """Replace documents of Listeners by tombstones."""
        for name in names:
            owner = config_secret.Owner("agency", name, "1", config_secret.install_label("usher.dev/usher"))
            envelope = config_secret.tombstone_of("Listener", owner, 1, SAID_AT, KEYS.document)
            ref = ObjectRef("v1", "Secret", "usher-config", config_secret.secret_name("Listener", f"agency/{name}"))
            self._put(children.build_config_secret(envelope, self.cache.settings, ref.name).manifest)

    def _put(self, manifest: dict[str, Any]) -> None:
        about = {**manifest["metadata"], "uid": manifest["metadata"]["name"], "resourceVersion": "1"}
        self.cache.put(kinds.SECRET, {**manifest, "metadata": about})

    def put_class(self, *halts: HaltedRemovals, confirmed: str = "") -> None:
        """Put a class with a confirmation, or with halts in its status, into the cache."""
        halted = [{"namespace": halt.namespace, "hash": halt.digest} for halt in halts]
        about = {"name": "public", "uid": "1", "resourceVersion": "1", "generation": 1}
        klass = {
            "apiVersion": "usher.dev/v1alpha1",
            "kind": "ListenerClass",
            "metadata": {**about, "annotations": {"usher.dev/confirm-removals": confirmed}},
            "spec": {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com"},
            "status": {"haltedRemovals": halted},
        }
        self.cache.put(kinds.LISTENER_CLASS, klass)

    def request(self, *requested: Removal) -> None:
        for removal in requested:
            assert not self.guard.request(removal)

    def decide(self, at: float) -> set[str]:
        """Decide what is due at a time; returns the Listeners that may be removed now (`agency/` is left out)."""
        self.now = at
        self.guard.decide_due()
        queued = list(iter(self.queue.take, None))
        for key in queued:
            self.queue.done(key)
        return {key.path.removeprefix("agency/") for key in queued if key.kind == "Listener"}

    @property
    def halted(self) -> dict[str, int]:
        """How many removals wait for a confirmation, by namespace."""
        return {halt.namespace: halt.count for halt in self.halts}

    @property
    def halts(self) -> tuple[HaltedRemovals, ...]:
        """The removals that wait for a confirmation, by namespace."""
        assert self.cache.halted is not None
        return self.cache.halted


@pytest.fixture
def operator() -> Guarded:
    return Guarded()


def listeners(count: int, *, first: int = 0, namespace: str = "agency") -> list[Removal]:
    return [Removal("Listener", namespace, f"l{number}", uid="1") for number in range(first, first + count)]


def test_decision_waits_until_no_further_request_comes(operator: Guarded) -> None:
    operator.request(*listeners(1))
    operator.now = 1.5
    operator.request(*listeners(1, first=1))
    operator.now = 1.9
    operator.request(*listeners(1))
    assert operator.decide(3.4) == set()
    assert operator.decide(3.5) == {"l0", "l1"}
    assert operator.guard.request(listeners(1)[0]), "an allowed removal needs no second decision"


def test_stream_of_requests_is_decided_after_the_maximum_wait(operator: Guarded) -> None:
    operator.request(*listeners(1, namespace="quiet"))
    for second, removal in enumerate(listeners(30)):
        operator.now = second
        operator.request(removal)
        assert operator.decide(second) == ({"quiet/l0"} if second == 2 else set())
    operator.decide(30)
    assert operator.halted == {"agency": 30}


def test_busy_namespace_is_decided_once_its_keys_are_planned(operator: Guarded) -> None:
    operator.request(*listeners(1))
    operator.queue.add(Key("Listener", "agency", "l1"))
    operator.now = 10
    operator.guard.decide_due()
    assert operator.guard.is_waiting(Key("Listener", "agency", "l0"))
    operator.now = 30
    operator.guard.decide_due()
    assert operator.guard.request(listeners(1)[0]), "at the latest after the maximum wait"


def test_halt_holds_up_only_its_namespace(operator: Guarded) -> None:
    operator.request(*listeners(6), Removal("Destination", "agency", "crm"), *listeners(5, namespace="other"))
    assert len(operator.decide(2)) == 5
    assert operator.halted == {"agency": 7}
    assert operator.guard.is_waiting(Key("Destination", "agency", "crm"))
    assert not operator.guard.is_waiting(Key("Listener", "other", "l0"))


def test_tombstones_count_also_after_a_restart(operator: Guarded) -> None:
    operator.request(*listeners(5))
    assert len(operator.decide(2)) == 5
    operator.bury("l0", "l1", "l2", "l3", "l4")
    operator.restart()
    operator.request(*listeners(1, first=5))
    assert operator.decide(4) == set()
    assert operator.halted == {"agency": 1}


def test_removal_counts_once_before_and_after_its_tombstone_is_written(operator: Guarded) -> None:
    operator.request(*listeners(4))
    operator.decide(2)
    operator.bury("l0", "l1", "l2")  # the fourth is not written yet
    operator.request(*listeners(1, first=4))
    assert operator.decide(4) == {"l4"}
    operator.request(*listeners(1, first=5))
    assert operator.decide(6) == set()


def test_recreated_listener_counts_no_more(operator: Guarded) -> None:
    operator.bury("l0", "l1", "l2", "l3", "l4")
    operator.publish("l0")
    operator.request(*listeners(1, first=5))
    assert operator.decide(2) == {"l5"}


def test_confirmation_that_stays_in_place_covers_no_later_document(operator: Guarded) -> None:
    operator.request(*listeners(6))
    operator.decide(2)
    operator.put_class(confirmed=operator.halts[0].digest)
    operator.decide(3)
    operator.request(*[msgspec.structs.replace(removal, version="2") for removal in listeners(6)])
    operator.decide(5)
    assert operator.halted == {"agency": 6}


def test_confirmation_of_what_had_come_back_has_to_be_given_again(operator: Guarded) -> None:
    operator.request(*listeners(6))
    operator.decide(2)
    (halt,) = operator.halts
    for removal in listeners(6):
        operator.guard.withdraw(Key("Listener", "agency", removal.name))
    operator.decide(4)
    operator.put_class(confirmed=halt.digest)
    operator.decide(5)
    operator.request(*listeners(6))
    assert (operator.decide(8), operator.decide(9)) == (set(), set())
    assert operator.halts == (halt,)
    operator.put_class()
    operator.decide(10)
    operator.put_class(confirmed=halt.digest)
    assert len(operator.decide(11)) == 6


def test_confirmation_holds_over_a_restart(operator: Guarded) -> None:
    halt = HaltedRemovals.of(listeners(6))
    operator.put_class(halt, confirmed=halt.digest)
    operator.guard.resume_halts()
    operator.decide(1)
    operator.request(*listeners(6))
    operator.decide(123)
    assert len(operator.decide(124)) == 6


def test_withdrawn_removals_leave_the_halt_one_by_one(operator: Guarded) -> None:
    operator.request(*listeners(6))
    operator.decide(2)
    operator.guard.withdraw(Key("Listener", "agency", "l0"))
    operator.decide(4)
    assert operator.halted == {"agency": 5}
    for number in range(1, 6):
        operator.guard.withdraw(Key("Listener", "agency", f"l{number}"))
    operator.decide(6)
    assert operator.halted == {}
    operator.request(*listeners(1))
    assert operator.decide(8) == {"l0"}, "it is decided again"


def move(operator: Guarded, name: str, *leaving: str) -> bool:
    """Review a plan that takes addresses of a Listener out of service; returns whether it is made again."""
    removal = Removal("Address", "agency", name, leaving) if leaving else None
    return operator.guard.review_retirement(Plan(Key("Listener", "agency", name), None, retiring=removal))


def test_moved_addresses_are_decided_for_the_namespace_as_a_whole(operator: Guarded) -> None:
    for name in ("l0", "l1", "l2"):
        move(operator, name, "a", "b")
    operator.decide(2)
    assert operator.halted == {"agency": 6}
    operator.put_class(confirmed=operator.halts[0].digest)
    assert operator.decide(3) == {"l0", "l1", "l2"}
    assert move(operator, "l0", "a", "b")
    assert operator.cache.may_retire(Key("Listener", "agency", "l0"), frozenset({"a", "b"}))
    assert not move(operator, "l0", "a", "c"), "another edit is decided again"
    assert not operator.cache.may_retire(Key("Listener", "agency", "l0"), frozenset({"a"}))


def edit(operator: Guarded, *names: str) -> None:
    """Edit Listeners whose documents are published."""
    operator.publish(*names)
    for name in names:
        for generation in (1, 2):
            raw = cache_samples.raw("Listener", name, {"tenantRef": {"name": "acme"}}, generation=generation)
            operator.cache.put(kinds.LISTENER, raw)


def test_edit_of_a_listener_within_the_limit_takes_effect_at_once(operator: Guarded) -> None:
    edit(operator, "l0")
    assert move(operator, "l0", "a")
    assert operator.cache.may_retire(Key("Listener", "agency", "l0"), frozenset({"a"}))


def test_edits_of_listeners_count_together_for_ten_minutes(operator: Guarded) -> None:
    names = [f"l{number}" for number in range(6)]
    edit(operator, *names)
    for name in names:
        move(operator, name, f"{name}-a")
        move(operator, name, f"{name}-b")  # the same Listener counts once
    allowed = [operator.cache.may_retire(Key("Listener", "agency", name), frozenset({f"{name}-b"})) for name in names]
    assert allowed == [True] * 5 + [False]
    operator.decide(2)
    assert operator.halted == {"agency": 1}
    move(operator, "l5")
    operator.decide(601)
    move(operator, "l5", "l5-a")
    assert operator.cache.may_retire(Key("Listener", "agency", "l5"), frozenset({"l5-a"}))


def end(operator: Guarded, name: str, *ended: str) -> bool:
    """Review a plan in which the time of retired addresses is over; returns whether it is made again."""
    removal = Removal("RetiredAddress", "agency", name, ended) if ended else None
    return operator.guard.review_retirement(Plan(Key("Listener", "agency", name), ending=removal))


def test_many_retired_addresses_end_only_after_a_confirmation(operator: Guarded) -> None:
    names = [f"l{number}" for number in range(6)]
    assert [end(operator, name, f"{name}-a") for name in names] == [False] * 6
    operator.decide(2)
    assert operator.halted == {"agency": 6}
    assert "retired addresses of Listener `l0`" in describe_halts(operator.halts)
    assert [end(operator, name, f"{name}-a") for name in names] == [False] * 6
    operator.put_class(confirmed=operator.halts[0].digest)
    assert operator.decide(3) == set(names)
    assert [end(operator, name, f"{name}-a") for name in names] == [True] * 6
    assert not end(operator, "l0", "l0-a"), "the plan was made again"


def test_few_retired_addresses_end_and_count_for_ten_minutes(operator: Guarded) -> None:
    for number in range(5):
        end(operator, f"l{number}", "a")
    assert len(operator.decide(2)) == 5
    assert [end(operator, f"l{number}", "a") for number in range(5)] == [True] * 5
    end(operator, "l5", "a")
    operator.decide(4)
    assert operator.halted == {"agency": 1}


def test_retired_addresses_that_end_do_not_count_as_edits(operator: Guarded) -> None:
    for number in range(5):
        end(operator, f"l{number}", "a")
        move(operator, f"l{number}", "b")
    assert len(operator.decide(2)) == 5
    assert operator.halted == {}


def test_reverted_edit_withdraws_its_addresses(operator: Guarded) -> None:
    move(operator, "l0", *"abcdef")
    operator.decide(2)
    assert operator.halted == {"agency": 6}
    move(operator, "l0")
    operator.decide(4)
    assert operator.halted == {}


def test_deleted_crd_halts_even_one_removal(operator: Guarded) -> None:
    operator.guard.halt(["agency"])
    operator.request(*listeners(1), *listeners(1, namespace="other"))
    assert operator.decide(2) == {"other/l0"}
    operator.put_class(confirmed=operator.halts[0].digest)
    assert operator.decide(3) == {"l0"}
    operator.request(*listeners(1, first=1))
    assert operator.decide(5) == {"l1"}, "a confirmation ends the halt"


def test_rest_of_a_halted_set_waits_again_after_a_restart(operator: Guarded) -> None:
    crowd = [f"agency-{number}" for number in range(100)]
    operator.put_class(
        *(HaltedRemovals.of(listeners(6, namespace=namespace)) for namespace in ("agency", *crowd, "other"))
    )
    operator.guard.resume_halts()
    operator.request(*listeners(1))
    assert operator.decide(2) == set()
    assert operator.halted == {"agency": 1, **dict.fromkeys((*crowd, "other"), 0)}
    operator.decide(122)
    assert operator.halted == {"agency": 1}
    operator.request(*listeners(1, namespace="other"))
    assert operator.decide(124) == {"other/l0"}, "it requested nothing soon after the start"


def test_halt_is_resumed_after_a_second_restart_before_its_decision(operator: Guarded) -> None:
    halt = HaltedRemovals.of(listeners(6))
    operator.put_class(halt, HaltedRemovals.of(listeners(6, namespace="other")), confirmed=halt.digest)
    operator.guard.resume_halts()
    operator.request(*listeners(1, namespace="other"))
    operator.decide(2)
    operator.put_class(*operator.halts, confirmed=halt.digest)
    operator.restart()
    operator.guard.resume_halts()
    operator.decide(3)
    operator.request(*listeners(1))
    assert operator.decide(5) == set()
    operator.request(*listeners(6)[1:])
    operator.decide(7)
    assert len(operator.decide(8)) == 6, "the confirmation names the removals that wait"


async def test_halt_is_resumed_once_the_guard_may_decide(operator: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "_CHECK_SECONDS", 0.0)
    operator.put_class(HaltedRemovals.of(listeners(6)))
    operator.may_decide = False
    running = asyncio.create_task(operator.guard.run())
    await asyncio.sleep(0)
    operator.now, operator.may_decide = 1000.0, True
    await asyncio.sleep(0)
    operator.request(*listeners(1))
    operator.now = 1003.0
    await waiting.wait_until(lambda: operator.cache.halted)
    running.cancel()
    assert operator.halted == {"agency": 1}


def test_last_listeners_of_the_install_wait_in_every_namespace(operator: Guarded) -> None:
    operator.publish("l0")
    operator.request(*listeners(1))
    assert operator.decide(2) == {"l0"}
    operator.request(Removal("Listener", "resident", "lobby"))
    operator.decide(4)
    assert operator.halted == {"resident": 1}


def test_listener_that_only_a_stale_gateway_has_may_be_the_last(operator: Guarded) -> None:
    operator.request(*listeners(2), Removal("Listener", "resident", "lobby"))
    operator.decide(2)
    assert operator.halted == {"agency": 2, "resident": 1}


def test_halt_warns_in_its_namespace_with_the_command_that_confirms_it(operator: Guarded) -> None:
    operator.request(Removal("Destination", "agency", "crm", uid="uid-crm"), *listeners(6))
    operator.decide(2)
    ((key, uid, condition),) = operator.warnings
    assert (key, uid) == (Key("Listener", "agency", "l0"), "1")
    assert condition.reason == "RemovalsHalted"
    assert condition.message.startswith("7 removals wait (Listener `l0`, Listener `l1`, Listener `l2` and 4 more")
    digest = operator.halts[0].digest
    assert condition.message.endswith(f"listenerclasses.usher.dev NAME usher.dev/confirm-removals={digest}")


SAID_AT = "2026-11-25T12:00:00Z"


def test_halt_of_destinations_alone_warns_about_one_of_them(operator: Guarded) -> None:
    operator.request(*(Removal("Destination", "agency", f"d{number}") for number in range(6)))
    operator.decide(2)
    assert [key for key, _, _ in operator.warnings] == [Key("Destination", "agency", "d0")]
