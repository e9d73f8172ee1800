"""Which install owns a Tenant, a Destination or a Listener."""

from support import plan_samples
from support.planning import Cluster
from usher_operator.plan.ownership import owner_of
from usher_operator.view import Key, Kind

OURS, OTHER = "usher.dev/usher", "example.com/other"
TENANT = Key("Tenant", "default", "acme")
DESTINATION = Key("Destination", "default", "crm")
LISTENER = Key("Listener", "default", "lobby")


def with_other_class(*, created: str) -> Cluster:
    """The agency of our class, which is of 1 January, and a class of another install."""
    built = plan_samples.agency()
    built.add(plan_samples.listener_class("other", OTHER, "other.example.com", created=created))
    return built


def test_class_of_the_listeners_decides_although_another_class_is_older() -> None:
    built = with_other_class(created="01")
    built.edit("Listener", plan_samples.LISTENER, listenerClassName="other")
    built.edit("ListenerClass", "public", hostname="new.example.com")
    assert [owner_of(built.cache, key) for key in (TENANT, DESTINATION, LISTENER)] == [OTHER, OTHER, OTHER]


def test_oldest_class_decides_between_listeners_of_two_installs() -> None:
    built = with_other_class(created="02")
    built.add(
        plan_samples.listener("bar", "listenerClassName: other\n  routes: [{name: crm, destinationRef: {name: crm}}]")
    )
    assert owner_of(built.cache, TENANT) == OURS
    assert owner_of(built.cache, DESTINATION) == OURS


def test_name_decides_between_classes_of_the_same_second() -> None:
    built = plan_samples.agency()
    built.add(plan_samples.listener_class("another", OTHER, "other.example.com", created="01"))
    built.add(plan_samples.tenant("globex"))
    assert owner_of(built.cache, Key("Tenant", "default", "globex")) == OTHER


def test_oldest_class_that_permits_the_namespace_decides_without_listeners() -> None:
    built = with_other_class(created="02")
    built.add(plan_samples.tenant("globex"))
    assert owner_of(built.cache, Key("Tenant", "default", "globex")) == OURS
    built.edit("ListenerClass", "public", namespaces={"from": "Selector", "selector": {"matchLabels": {"a": "b"}}})
    assert owner_of(built.cache, Key("Tenant", "default", "globex")) == OTHER


def test_listener_of_an_absent_class_belongs_to_the_oldest_class() -> None:
    built = with_other_class(created="02")
    built.add(plan_samples.listener("bar", "listenerClassName: absent"))
    assert owner_of(built.cache, Key("Listener", "default", "bar")) == OURS


def test_unreadable_resources_belong_to_the_install_that_they_name() -> None:
    built = with_other_class(created="02")
    built.add(plan_samples.listener_class("newer", OTHER, "newer.example.com"))
    built.add(plan_samples.listener("newer", "listenerClassName: other"))
    built.make_unreadable("ListenerClass", "newer")
    built.make_unreadable("Listener", "default/newer")
    keys = Key("ListenerClass", "", "newer"), Key("Listener", "default", "newer")
    assert [owner_of(built.cache, key) for key in keys] == [OTHER, OTHER]
    assert [built.plan(key).status for key in keys] == [None, None]


def test_install_without_ownership_publishes_and_writes_no_status() -> None:
    built = with_other_class(created="02")
    built.edit("Listener", plan_samples.LISTENER, listenerClassName="other")
    planned = built.plan(DESTINATION)
    assert planned.status is None
    assert planned.children


def test_every_install_computes_the_same_owner() -> None:
    built = with_other_class(created="02")
    built.add(
        plan_samples.listener("bar", "listenerClassName: other\n  routes: [{name: crm, destinationRef: {name: crm}}]")
    )
    built.add(plan_samples.tenant("globex"))
    kinds: tuple[Kind, ...] = ("Tenant", "Destination", "Listener", "ListenerClass")
    keys = [key for key in built.every_key() if key.kind in kinds]
    other = built.restarted(controller_name=OTHER)
    assert [owner_of(other.cache, key) for key in keys] == [owner_of(built.cache, key) for key in keys]
