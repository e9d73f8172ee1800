"""A Tenant, a Destination or a Listener belongs to one install."""

from support import plan_samples
from support.planning import Cluster
from usher_operator.plan.ownership import owner_of
from usher_operator.state.values import Key, Kind

OURS, OTHER = "usher.dev/usher", "example.com/other"
TENANT = Key("Tenant", "default", "acme")
DESTINATION = Key("Destination", "default", "crm")
LISTENER = Key("Listener", "default", "lobby")


def with_other_class(*, created: str) -> Cluster:
    """The agency of our class, which is of 1 January, and a class of another install."""
    cluster = plan_samples.agency()
    cluster.add(plan_samples.listener_class("other", OTHER, "other.example.com", created=created))
    return cluster


def test_class_of_the_listeners_decides_although_another_class_is_older() -> None:
    cluster = with_other_class(created="01")
    cluster.edit("Listener", plan_samples.LISTENER, listenerClassName="other")
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    assert [owner_of(cluster.cache, key) for key in (TENANT, DESTINATION, LISTENER)] == [OTHER, OTHER, OTHER]


def test_oldest_class_decides_between_listeners_of_two_installs() -> None:
    cluster = with_other_class(created="02")
    cluster.add(
        plan_samples.listener("bar", "listenerClassName: other\n  routes: [{name: crm, destinationRef: {name: crm}}]")
    )
    assert owner_of(cluster.cache, TENANT) == OURS
    assert owner_of(cluster.cache, DESTINATION) == OURS


def test_name_decides_between_classes_of_the_same_second(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener_class("another", OTHER, "other.example.com", created="01"))
    cluster.add(plan_samples.tenant("globex"))
    assert owner_of(cluster.cache, Key("Tenant", "default", "globex")) == OTHER


def test_oldest_class_that_permits_the_namespace_decides_without_listeners() -> None:
    cluster = with_other_class(created="02")
    cluster.add(plan_samples.tenant("globex"))
    assert owner_of(cluster.cache, Key("Tenant", "default", "globex")) == OURS
    cluster.edit("ListenerClass", "public", namespaces={"from": "Selector", "selector": {"matchLabels": {"a": "b"}}})
    assert owner_of(cluster.cache, Key("Tenant", "default", "globex")) == OTHER


def test_class_that_nobody_serves_owns_nothing_beside_another() -> None:
    cluster = with_other_class(created="00")
    cluster.add(plan_samples.listener("bar", "listenerClassName: other"))
    assert owner_of(cluster.cache, TENANT) == OTHER
    cluster.queue.clear()
    raw = cluster.raw("ListenerClass", "other")
    unserved = {"type": "Accepted", "status": "False", "reason": "NotServed", "message": "", "observedGeneration": 1}
    cluster.put({**raw, "status": {"conditions": [unserved]}})
    assert {TENANT, DESTINATION} <= cluster.queue
    assert [owner_of(cluster.cache, key) for key in (TENANT, DESTINATION)] == [OURS, OURS]
    cluster.put(raw)
    assert owner_of(cluster.cache, TENANT) == OTHER


def test_listener_of_an_absent_class_belongs_to_the_oldest_class() -> None:
    cluster = with_other_class(created="02")
    cluster.add(plan_samples.listener("bar", "listenerClassName: absent"))
    assert owner_of(cluster.cache, Key("Listener", "default", "bar")) == OURS


def test_unreadable_resources_belong_to_the_install_that_they_name() -> None:
    cluster = with_other_class(created="02")
    cluster.add(plan_samples.listener_class("newer", OTHER, "newer.example.com"))
    cluster.add(plan_samples.listener("newer", "listenerClassName: other"))
    cluster.make_unreadable("ListenerClass", "newer")
    cluster.make_unreadable("Listener", "default/newer")
    keys = Key("ListenerClass", "", "newer"), Key("Listener", "default", "newer")
    assert [owner_of(cluster.cache, key) for key in keys] == [OTHER, OTHER]
    assert [cluster.plan(key).status for key in keys] == [None, None]


def test_install_without_ownership_publishes_and_writes_no_status() -> None:
    cluster = with_other_class(created="02")
    cluster.edit("Listener", plan_samples.LISTENER, listenerClassName="other")
    planned = cluster.plan(DESTINATION)
    assert planned.status is None
    assert planned.children


def test_every_install_computes_the_same_owner() -> None:
    cluster = with_other_class(created="02")
    cluster.add(
        plan_samples.listener("bar", "listenerClassName: other\n  routes: [{name: crm, destinationRef: {name: crm}}]")
    )
    cluster.add(plan_samples.tenant("globex"))
    kinds: tuple[Kind, ...] = ("Tenant", "Destination", "Listener", "ListenerClass")
    keys = [key for key in cluster.every_key() if key.kind in kinds]
    other = cluster.restarted(controller_name=OTHER)
    assert [owner_of(other.cache, key) for key in keys] == [owner_of(cluster.cache, key) for key in keys]
