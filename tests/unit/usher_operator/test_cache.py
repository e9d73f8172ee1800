"""The keys that the cache returns for each change of the cluster, to be planned again."""

from typing import Any

import pytest

from support import work
from support.cache_samples import (
    ACME,
    BAR,
    CRM,
    KEYS,
    LOBBY,
    PUBLIC,
    certificate,
    config,
    destination,
    klass,
    listener,
    raw,
    secret,
    tombstone,
)
from usher_gateway import config_secret, documents
from usher_gateway.resources.secret import MAX_VALUE_BYTES
from usher_operator import children, kinds, plan
from usher_operator.cache import Cache, hostname_key
from usher_operator.settings import OperatorSettings
from usher_operator.view import GatewayReport, Key, Plan


@pytest.fixture
def cache() -> Cache:
    empty_cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
    empty_cache.set_keys(KEYS)
    return empty_cache


@pytest.fixture
def full(cache: Cache) -> Cache:
    for kind, manifest in (
        (kinds.LISTENER_CLASS, klass()),
        (kinds.TENANT, raw("Tenant", "acme", {})),
        (kinds.DESTINATION, destination()),
        (kinds.LISTENER, listener()),
        (kinds.AGENCY_SECRET, secret()),
    ):
        cache.put(kind, manifest)
    return cache


def test_unchanged_object_concerns_no_key(full: Cache) -> None:
    assert full.put(kinds.LISTENER, listener(resourceVersion="2")) == frozenset()
    assert full.records[LOBBY].resource_version == "2"


def test_tenant_change_concerns_its_listeners(full: Cache) -> None:
    assert full.put(kinds.TENANT, raw("Tenant", "acme", {"state": "Suspended"})) == {ACME, LOBBY}
    assert full.remove(kinds.TENANT, "agency", "acme") == {ACME, LOBBY}
    assert full.tenant("agency/acme") is None


def test_secret_change_concerns_the_keys_that_refer_to_it(full: Cache) -> None:
    assert full.put(kinds.AGENCY_SECRET, secret(value="ZGVm")) == {CRM}
    assert full.put(kinds.AGENCY_SECRET, secret("other")) == frozenset()
    assert full.remove(kinds.AGENCY_SECRET, "agency", "token") == {CRM}
    assert full.secret_state("agency/token") is None


def test_admission_of_a_namespace_concerns_its_listeners_and_destinations(full: Cache) -> None:
    full.set_secret_access("", "Denied")
    assert full.secret_access("agency") == "Unknown"
    assert full.set_secret_access("agency", "Permitted") == {LOBBY, CRM}
    assert full.secret_access("agency") == "Permitted"
    assert full.secret_access("elsewhere") == "Unknown"


def test_admission_of_all_namespaces_concerns_every_listener_and_destination(full: Cache) -> None:
    assert full.set_secret_access("", "Permitted") == {LOBBY, CRM}
    assert full.secret_access("elsewhere") == "Permitted"


def test_url_secret_is_a_child_and_no_credential(full: Cache) -> None:
    lobby = full.listener("agency/lobby")
    assert lobby is not None
    child = children.build_url_secret(
        lobby, {"class": documents.Address("hooks.example.com", "/v1/t")}, "usher.dev/usher"
    )
    about = {**child.manifest["metadata"], "uid": "uid-url", "resourceVersion": "1"}
    assert full.put(kinds.AGENCY_SECRET, {**child.manifest, "metadata": about}) == {LOBBY}
    assert [child_state.ref for child_state in full.children(LOBBY)] == [child.ref]
    assert full.secret("agency/lobby-url") is None
    assert full.agency_secrets("agency").keys() == {("agency", "token"), ("agency", "lobby-url")}
    assert full.remove(kinds.AGENCY_SECRET, "agency", "lobby-url") == {LOBBY}
    assert full.children(LOBBY) == []


def test_destination_change_concerns_the_listeners_that_route_to_it(full: Cache) -> None:
    assert full.remove(kinds.DESTINATION, "agency", "crm") == {CRM, LOBBY}


def test_class_change_concerns_its_listeners(full: Cache) -> None:
    assert full.put(kinds.LISTENER_CLASS, klass(hostname="other.example.com")) == {PUBLIC, LOBBY}


def test_class_of_another_install_concerns_everything_that_it_may_own(full: Cache) -> None:
    other = raw(
        "ListenerClass", "other", {"controllerName": "example.com/other", "hostname": "a.example"}, namespace=""
    )
    assert full.put(kinds.LISTENER_CLASS, other) == {Key("ListenerClass", "", "other"), PUBLIC, ACME, CRM}


def test_listener_of_another_class_concerns_the_resources_that_it_refers_to(full: Cache) -> None:
    bar = listener("bar")
    bar["spec"]["listenerClassName"] = "other"
    assert full.put(kinds.LISTENER, bar) == {BAR, ACME, CRM}
    assert full.classes_using(ACME) == full.classes_using(CRM) == {"public", "other"}
    assert full.remove(kinds.LISTENER, "agency", "bar") == {BAR, ACME, CRM}
    assert full.classes_using(CRM) == {"public"}


def test_listener_that_returns_with_another_class_concerns_what_it_refers_to(full: Cache) -> None:
    again = listener(uid="uid-again")
    again["spec"]["listenerClassName"] = "other"
    assert full.put(kinds.LISTENER, again) >= {LOBBY, ACME, CRM}
    assert full.classes_using(CRM) == {"other"}


def test_removed_route_ends_the_reference(full: Cache) -> None:
    edited = listener(generation=2)
    edited["spec"]["routes"] = []
    full.put(kinds.LISTENER, edited)
    assert full.remove(kinds.DESTINATION, "agency", "crm") == {CRM}


def test_namespace_labels_concern_the_resources_in_it(full: Cache) -> None:
    labelled = {"metadata": {"name": "agency", "uid": "uid", "resourceVersion": "1", "labels": {"tier": "gold"}}}
    assert full.put(kinds.NAMESPACE, labelled) == {LOBBY, CRM}
    assert full.put(kinds.NAMESPACE, labelled) == frozenset()


def test_claim_that_ends_at_a_vacant_hostname_concerns_the_other_claimants(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("lobby", "www.example.com"))
    assert full.put(kinds.LISTENER, listener("bar", "www.example.com")) == {BAR, ACME}
    assert [claimant.resource.metadata.name for claimant in full.claimants_in("agency", "www.example.com")] == [
        "bar",
        "lobby",
    ]
    assert full.remove(kinds.LISTENER, "agency", "bar") == {BAR, LOBBY, ACME}


def test_right_that_a_claimant_may_lose_concerns_the_other_claimants(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("lobby", "www.example.com"))
    rival = Key("Listener", "rival", "bar")
    full.put(kinds.LISTENER, listener("bar", "www.example.com", namespace="rival"))
    assert rival in full.remove(kinds.TENANT, "agency", "acme")
    assert rival in full.put(kinds.NAMESPACE, {"metadata": {"name": "agency", "uid": "u", "resourceVersion": "1"}})
    assert rival in full.set_secret_access("agency", "Denied")
    full.put(kinds.SECRET, config("www.example.com"))
    assert rival not in full.set_secret_access("agency", "Permitted")


def test_claim_at_a_held_hostname_concerns_no_other_listener(full: Cache) -> None:
    full.put(kinds.SECRET, config("www.example.com"))
    assert full.put(kinds.LISTENER, listener("bar", "www.example.com")) == {BAR, ACME}
    assert full.remove(kinds.LISTENER, "agency", "bar") == {BAR, ACME}


def test_change_of_an_address_concerns_the_listeners_that_name_or_have_it(full: Cache) -> None:
    def at(name: str, path: str) -> dict[str, Any]:
        manifest = listener(name, "www.example.com")
        manifest["spec"]["addresses"][0]["path"] = path
        return manifest

    full.put(kinds.SECRET, config("www.example.com"))
    full.put(kinds.LISTENER, at("other", "/shop"))
    assert full.put(kinds.LISTENER, at("bar", "/shop")) == {BAR, Key("Listener", "agency", "other"), ACME}
    assert full.put(kinds.LISTENER, at("bar", "/v1/token")) == {BAR, Key("Listener", "agency", "other"), LOBBY}


def test_address_that_goes_into_service_concerns_the_listener_that_keeps_it_until_then(full: Cache) -> None:
    full.put(kinds.SECRET, config("www.example.com", retired_at=1))
    full.put(kinds.SECRET, config("www.example.com", listener="bar", retired_at=1))
    full.put(kinds.SECRET, config("www.example.com", listener="third"))
    assert LOBBY in full.put(kinds.SECRET, config("www.example.com", listener="bar"))


def test_status_change_concerns_the_key_and_its_tenant(full: Cache) -> None:
    edited = listener(resourceVersion="2")
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "then"}
    edited["status"] = {"conditions": [ready, {"type": "Foreign", "status": "True"}], "observedGeneration": 1}
    assert full.put(kinds.LISTENER, edited) == {LOBBY, ACME}
    record = full.records[LOBBY]
    assert [condition.type for condition in record.parsed.conditions] == ["Ready"], "others' conditions are theirs"
    assert (record.times, record.observed_generation) == ({"Ready": "then"}, 1)


@pytest.mark.parametrize(
    ("name", "owner"),
    [("other", "agency/lobby"), ("lobby-url", "agency/" + "x" * 200_000), ("lobby-url", "elsewhere/lobby")],
)
def test_secret_that_only_looks_like_a_child_is_none(full: Cache, name: str, owner: str) -> None:
    forged = secret(name, **{**children.labels("usher.dev/usher", "uid"), "usher.dev/watch": "url"})
    forged["metadata"]["annotations"] = {"usher.dev/owner": owner, "usher.dev/owner-kind": "Listener"}
    full.put(kinds.AGENCY_SECRET, forged)
    assert list(full.child_index.keys) == []


def test_long_annotation_of_a_child_is_cut(full: Cache) -> None:
    edited = secret("lobby-url", **{**children.labels("usher.dev/usher", "uid"), "usher.dev/watch": "url"})
    edited["metadata"]["annotations"] = {**children.annotations(LOBBY), "usher.dev/desired": "x" * 200_000}
    full.put(kinds.AGENCY_SECRET, edited)
    (kept,) = full.children(LOBBY)
    assert len(kept.desired) <= 64


def test_large_metadata_of_agencies_is_not_kept(full: Cache) -> None:
    large = {"note": "x" * 200_000, "usher.dev/confirm-removals": "x" * 60_000}
    full.put(kinds.LISTENER, listener(resourceVersion="2", annotations=large, labels={"note": "x"}))
    kept = full.listener("agency/lobby")
    assert kept is not None
    assert (kept.resource.metadata.annotations, kept.resource.metadata.labels) == ({}, {})


def test_unreadable_resource_is_kept_with_an_error_without_values(full: Cache) -> None:
    edited = listener(generation=2)
    edited["spec"]["state"] = "confidential"
    assert LOBBY in full.put(kinds.LISTENER, edited)
    unreadable = full.unreadable(LOBBY)
    assert full.listener("agency/lobby") is None
    assert unreadable is not None
    assert "$.spec.state" in unreadable.message
    assert "confidential" not in unreadable.message


def limited(cache: Cache, count: int, limit: int = 2, **spec: Any) -> Cache:
    """Fill a namespace with listeners of one tenant, ``l0`` the oldest."""
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"listenersPerNamespace": limit}, **spec))
    cache.put(kinds.TENANT, raw("Tenant", "acme", {}))
    for number in range(count):
        cache.put(kinds.LISTENER, aged(number))
    return cache


def aged(number: int, *hostnames: str) -> dict[str, Any]:
    """A listener whose number says its age; 0 is the oldest."""
    created = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
    return listener(f"l{number}", *hostnames, creationTimestamp=created)


def numbered(number: int) -> Key:
    return Key("Listener", "agency", f"l{number}")


def test_listener_over_the_limit_concerns_no_sibling(cache: Cache) -> None:
    limited(cache, 5)
    assert cache.put(kinds.LISTENER, aged(9)) - {ACME} == {numbered(9)}
    assert cache.remove(kinds.LISTENER, "agency", "l4") - {ACME} == {numbered(4)}


def test_freed_place_under_a_limit_concerns_the_oldest_that_waits(cache: Cache) -> None:
    limited(cache, 5)
    assert cache.remove(kinds.LISTENER, "agency", "l0") - {ACME} == {numbered(0), numbered(2)}
    assert [cache.rank(numbered(number)) for number in (1, 2, 3, 4)] == [0, 1, 2, 3]


def test_freed_place_of_a_hostname_concerns_the_listeners_that_wait_with_theirs(cache: Cache) -> None:
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}))
    cache.put(kinds.LISTENER, aged(0, "a.example.com"))
    cache.put(kinds.LISTENER, aged(1, "b.example.com"))
    cache.put(kinds.LISTENER, aged(2, "b.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 1
    assert cache.put(kinds.LISTENER, aged(0)) - {ACME} == {numbered(0), numbered(1), numbered(2)}
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 0


def test_retired_hostname_counts_after_those_in_force_and_before_those_that_wait(cache: Cache) -> None:
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}))
    cache.put(kinds.LISTENER, listener("lobby", "a.example.com"))
    cache.put(kinds.SECRET, config("a.example.com"))
    cache.put(kinds.LISTENER, listener("lobby", "b.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 1
    cache.remove(kinds.LISTENER, "agency", "lobby")
    cache.put(kinds.LISTENER, aged(1, "b.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 1
    assert numbered(1) in cache.put(kinds.SECRET, tombstone("a.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 0


def test_hostname_with_a_certificate_counts_until_the_certificate_is_deleted(cache: Cache) -> None:
    given_up, waiting = certificate("a.example.com"), Key("Hostname", "agency", "b.example.com")
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}))
    cache.put(kinds.LISTENER, listener("lobby", "a.example.com"))
    cache.put(kinds.SECRET, config("a.example.com"))
    cache.put(kinds.CERTIFICATE, given_up)
    cache.remove(kinds.LISTENER, "agency", "lobby")
    cache.put(kinds.SECRET, tombstone("a.example.com"))
    cache.put(kinds.LISTENER, aged(1, "b.example.com"))
    assert cache.rank(waiting) == 1
    cache.remove(kinds.SECRET, "usher-config", config_secret.secret_name("Listener", "agency/lobby"))
    assert cache.rank(waiting) == 1
    assert numbered(1) in cache.remove(kinds.CERTIFICATE, "usher-system", given_up["metadata"]["name"])
    assert cache.rank(waiting) == 0


def test_hostname_with_a_certificate_counts_only_for_its_namespace(cache: Cache) -> None:
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}))
    cache.put(kinds.CERTIFICATE, certificate("a.example.com"))
    cache.put(kinds.LISTENER, aged(1, "b.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 1
    assert numbered(1) in cache.put(kinds.CERTIFICATE, certificate("a.example.com", "rival", resourceVersion="2"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 0


def test_hostname_that_returns_costs_nothing_more(cache: Cache) -> None:
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 2}))
    cache.put(kinds.LISTENER, aged(2, "in-force.example.com"))
    cache.put(kinds.SECRET, config("in-force.example.com", listener="l2"))
    cache.put(kinds.CERTIFICATE, certificate("given-up.example.com"))
    cache.put(kinds.LISTENER, aged(0, "new.example.com"))
    cache.put(kinds.LISTENER, aged(1, "given-up.example.com"))
    hosts = ["in-force.example.com", "given-up.example.com", "new.example.com"]
    assert [cache.rank(Key("Hostname", "agency", host)) for host in hosts] == [0, 1, 2]


def test_hostname_of_a_class_does_not_count(cache: Cache) -> None:
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}))
    cache.put(kinds.LISTENER, listener("lobby"))
    cache.put(kinds.SECRET, config(is_class_address=True))
    cache.put(kinds.LISTENER, aged(1, "b.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 0
    cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": 1}, hostname="new.example.com"))
    assert cache.rank(Key("Hostname", "agency", "b.example.com")) == 0


def test_class_address_gives_no_hold_on_its_hostname(full: Cache) -> None:
    full.put(kinds.SECRET, config(is_class_address=True))
    assert full.holders("hooks.example.com") == set()
    assert set(full.shared_hostnames) == {"hooks.example.com"}


def test_edit_of_a_class_hostname_concerns_the_listeners_that_name_it(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", "new.example.com"))
    assert BAR in full.put(kinds.LISTENER_CLASS, klass(hostname="new.example.com"))
    assert BAR in full.put(kinds.LISTENER_CLASS, klass())


def test_end_of_the_last_class_address_concerns_the_listeners_that_name_the_hostname(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", "hooks.example.com"))
    full.put(kinds.SECRET, config(is_class_address=True))
    full.put(kinds.LISTENER_CLASS, klass(hostname="new.example.com"))
    assert BAR in full.put(kinds.SECRET, config("new.example.com", is_class_address=True))


def test_exposed_hostname_is_decided_by_the_listener_with_its_own_address(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("lobby", creationTimestamp="2026-01-01T00:00:00Z"))
    full.put(kinds.LISTENER, listener("bar", "www.example.com", creationTimestamp="2026-02-01T00:00:00Z"))
    full.put(kinds.SECRET, config("www.example.com", is_class_address=True))
    full.put(kinds.SECRET, config("www.example.com", listener="bar"))
    assert [candidate.resource.metadata.name for candidate in full.oldest_at("www.example.com")] == ["bar", "lobby"]


def test_other_holder_of_a_hostname_concerns_a_listener_that_is_alone_without_it(cache: Cache) -> None:
    """Alone at its hostname, a listener may take it along to another tenant."""
    cache.put(kinds.LISTENER, listener("lobby", "a.example.com", tenant="successor"))
    cache.put(kinds.SECRET, config("a.example.com"))
    assert LOBBY in cache.put(kinds.SECRET, config("a.example.com", listener="bar"))
    assert LOBBY in cache.remove(kinds.SECRET, "usher-config", config_secret.secret_name("Listener", "agency/bar"))


def test_published_listener_takes_the_place_of_an_unpublished_one(cache: Cache) -> None:
    limited(cache, 3)
    cache.put(kinds.LISTENER, listener("lobby", creationTimestamp="2026-02-01T00:00:00Z"))
    assert cache.rank(LOBBY) == 3
    assert numbered(1) in cache.put(kinds.SECRET, config())
    assert (cache.rank(LOBBY), cache.rank(numbered(1))) == (0, 2)


def test_deleted_listener_counts_until_its_document_is_removed(cache: Cache) -> None:
    limited(cache, 1)
    cache.put(kinds.LISTENER, listener("lobby"))
    cache.put(kinds.SECRET, config())
    assert cache.rank(numbered(0)) == 1
    cache.remove(kinds.LISTENER, "agency", "lobby")
    assert cache.rank(numbered(0)) == 1
    secret = config()["metadata"]
    cache.remove(kinds.SECRET, secret["namespace"], secret["name"])
    assert cache.rank(numbered(0)) == 0


def test_listeners_of_other_installs_do_not_count_against_the_limit(cache: Cache) -> None:
    limited(cache, 3)
    other = klass(controllerName="usher.dev/other")
    other["metadata"]["name"] = "other"
    cache.put(kinds.LISTENER_CLASS, other)
    moved = aged(0)
    moved["spec"]["listenerClassName"] = "other"
    assert numbered(2) in cache.put(kinds.LISTENER, moved)
    assert cache.rank(numbered(1)) == 0
    cache.remove(kinds.LISTENER_CLASS, "", "other")  # a listener without an existing class counts again
    assert cache.rank(numbered(1)) == 1


def test_cache_keeps_only_the_referenced_keys_of_a_secret(full: Cache) -> None:
    large = secret()
    large["data"]["unused"] = "QUJD" * 300_000
    full.put(kinds.AGENCY_SECRET, large)
    cached_secret = full.secret("agency/token")
    assert cached_secret is not None
    assert cached_secret.data == {"token": "YWJj"}


def test_cache_keeps_no_value_of_a_secret_without_references(full: Cache) -> None:
    full.put(kinds.AGENCY_SECRET, secret("other"))
    full.remove(kinds.DESTINATION, "agency", "crm")
    for name in ("token", "other"):
        cached_secret = full.secret(f"agency/{name}")
        assert cached_secret is not None
        assert cached_secret.data == {}


def test_cache_cuts_a_value_that_is_longer_than_allowed(full: Cache) -> None:
    full.put(kinds.AGENCY_SECRET, secret(value="QUJD" * 300_000))
    cached_secret = full.secret("agency/token")
    assert cached_secret is not None
    assert MAX_VALUE_BYTES < cached_secret.size < 2 * MAX_VALUE_BYTES


def test_new_reference_to_another_key_causes_a_lookup(full: Cache) -> None:
    edited = destination(generation=2)
    edited["spec"]["http"]["authentication"]["bearer"]["secretRef"]["key"] = "second"
    full.put(kinds.DESTINATION, edited)
    assert full.secret_state("agency/token") is None
    both = secret()
    both["data"]["second"] = "ZGVm"
    assert full.put(kinds.AGENCY_SECRET, both) == {CRM}
    cached_secret = full.secret("agency/token")
    assert cached_secret is not None
    assert cached_secret.data == {"second": "ZGVm"}


def test_destination_edit_concerns_no_listener(full: Cache) -> None:
    edited = destination(generation=2)
    edited["spec"]["http"]["timeoutSeconds"] = 20
    assert full.put(kinds.DESTINATION, edited) == {CRM}
    edited["spec"] = {**edited["spec"], "tenantRef": {"name": "other"}}
    assert full.put(kinds.DESTINATION, edited) == {CRM, LOBBY}


def test_listener_whose_ready_stays_does_not_concern_its_tenant(full: Cache) -> None:
    edited = listener(resourceVersion="2")
    edited["status"] = {"conditions": [{"type": "Receiving", "status": "False", "reason": "NoVisitYet", "message": ""}]}
    assert full.put(kinds.LISTENER, edited) == {LOBBY}


@pytest.mark.parametrize("what", ["create", "delete", "plan a listener", "plan the tenant", "plan the hostname"])
def test_work_does_not_grow_with_the_siblings(what: str) -> None:
    def cost(siblings: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.set_secret_access("", "Permitted")
        limited(cache, siblings, limit=50)
        plan.plan(cache, numbered(1))  # fills the caches of the modules
        calls = {
            "create": lambda: cache.put(kinds.LISTENER, aged(siblings)),
            "delete": lambda: cache.remove(kinds.LISTENER, "agency", "l10"),
            "plan a listener": lambda: plan.plan(cache, numbered(siblings - 1)),
            "plan the tenant": lambda: plan.plan(cache, ACME),
            "plan the hostname": lambda: plan.plan(cache, hostname_key("hooks.example.com")),
        }
        return work.instructions(calls[what])

    assert cost(1000) < 1.3 * cost(100)


@pytest.mark.parametrize("what", ["give up", "delete", "rank"])
def test_work_for_a_certificate_does_not_grow_with_the_hostnames_that_count(what: str) -> None:
    def cost(siblings: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.put(kinds.LISTENER_CLASS, klass(maximums={"hostnamesPerNamespace": siblings // 2}))
        for number in range(siblings):
            cache.put(kinds.CERTIFICATE, certificate(f"c{number}.example.com"))
            cache.put(kinds.LISTENER, aged(number, f"l{number}.example.com"))
        given_up = certificate("c5.example.com", since="2026-01-01T00:00:00Z", resourceVersion="2")
        calls = {
            "give up": lambda: cache.put(kinds.CERTIFICATE, given_up),
            "delete": lambda: cache.remove(kinds.CERTIFICATE, "usher-system", given_up["metadata"]["name"]),
            "rank": lambda: cache.rank(Key("Hostname", "agency", "l5.example.com")),
        }
        return work.instructions(calls[what])

    assert cost(1000) < 1.3 * cost(100)


CLAIMS = ["edit the holder", "plan the holder", "publish the holder", "edit a claimant", "plan a claimant"]


@pytest.mark.parametrize("what", CLAIMS)
def test_work_does_not_grow_with_the_claims_at_a_hostname(what: str) -> None:
    host, claim = "www.example.com", Key("Listener", "rival", "l9")

    def mob(number: int, *further: str) -> dict[str, Any]:
        return listener(f"l{number}", host, *further, namespace="rival")

    def cost(claims: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.set_secret_access("", "Permitted")
        cache.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
        for namespace in ("agency", "rival"):
            cache.put(kinds.TENANT, raw("Tenant", "acme", {}, namespace=namespace))
        cache.put(kinds.LISTENER, listener("lobby", host))
        cache.put(kinds.SECRET, config(host))
        for number in range(claims):
            cache.put(kinds.LISTENER, mob(number))
        plan.plan(cache, claim)  # fills the caches of the modules
        calls = {
            "edit the holder": lambda: cache.put(kinds.LISTENER, listener("lobby", host, "shop.example.com")),
            "plan the holder": lambda: plan.plan(cache, LOBBY),
            "publish the holder": lambda: cache.put(kinds.SECRET, config(host, resourceVersion="2", uid="2")),
            "edit a claimant": lambda: cache.put(kinds.LISTENER, mob(9, "shop.example.com")),
            "plan a claimant": lambda: plan.plan(cache, claim),
        }
        return work.instructions(calls[what])

    assert cost(1000) < 1.3 * cost(100)


@pytest.mark.parametrize("what", ["plan a claimant", "plan a claimant of another namespace", "create a claimant"])
def test_work_does_not_grow_with_the_claims_of_listeners_without_a_tenant(what: str) -> None:
    host = "www.example.com"

    def mob(number: int) -> dict[str, Any]:
        return listener(f"l{number}", host, namespace="rival", tenant="missing")

    def cost(claims: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.set_secret_access("", "Permitted")
        cache.set_gateways(())
        cache.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
        cache.put(kinds.TENANT, raw("Tenant", "acme", {}))
        for number in range(claims):
            cache.put(kinds.LISTENER, mob(number))
        cache.put(kinds.LISTENER, listener("lobby", host))
        plan.plan(cache, LOBBY)  # fills the caches of the modules
        calls = {
            "plan a claimant": lambda: plan.plan(cache, Key("Listener", "rival", "l9")),
            "plan a claimant of another namespace": lambda: plan.plan(cache, LOBBY),
            "create a claimant": lambda: cache.put(kinds.LISTENER, mob(claims)),
        }
        return work.instructions(calls[what])

    assert cost(1000) < 1.3 * cost(100)


@pytest.mark.parametrize("what", ["plan the oldest", "plan the newest", "plan another tenant's"])
def test_work_does_not_grow_with_the_listeners_that_name_an_address(what: str) -> None:
    def at(name: str, tenant: str = "acme", **meta: Any) -> dict[str, Any]:
        manifest = listener(name, "www.example.com", tenant=tenant, **meta)
        manifest["spec"]["addresses"][0]["path"] = "/shop"
        return manifest

    def cost(count: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.set_secret_access("", "Permitted")
        cache.set_gateways(())
        cache.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
        for tenant in ("acme", "other"):
            cache.put(kinds.TENANT, raw("Tenant", tenant, {}))
        cache.put(kinds.LISTENER, at("oldest", creationTimestamp="2025-01-01T00:00:00Z"))
        cache.put(kinds.LISTENER, at("others", "other", creationTimestamp="2026-06-01T00:00:00Z"))
        for number in range(count):
            cache.put(kinds.LISTENER, at(f"l{number}", creationTimestamp="2026-01-01T00:00:00Z"))
        cache.put(kinds.LISTENER, at("newest", creationTimestamp="2026-02-01T00:00:00Z"))
        names = {"plan the oldest": "oldest", "plan the newest": "newest", "plan another tenant's": "others"}
        key = Key("Listener", "agency", names[what])
        plan.plan(cache, key)  # fills the caches of the modules
        return work.instructions(lambda: plan.plan(cache, key))

    assert cost(1000) < 1.3 * cost(100)


def test_work_does_not_grow_with_the_published_listeners_at_a_hostname() -> None:
    def cost(count: int) -> int:
        cache = Cache(OperatorSettings(), clock=lambda: 1_000_000)
        cache.set_keys(KEYS)
        cache.set_secret_access("", "Permitted")
        cache.set_gateways(())
        cache.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
        cache.put(kinds.TENANT, raw("Tenant", "acme", {}))
        for number in range(count):
            cache.put(kinds.LISTENER, listener(f"l{number}", "www.example.com"))
            cache.put(kinds.SECRET, config("www.example.com", listener=f"l{number}", path=f"/v1/{number}"))
        plan.plan(cache, numbered(9))  # fills the caches of the modules
        return work.instructions(lambda: plan.plan(cache, numbered(9)))

    assert cost(1000) < 1.3 * cost(100)


def test_recreated_listener_of_another_install_counts_until_its_document_is_removed(cache: Cache) -> None:
    limited(cache, 1)
    other = {"controllerName": "usher.dev/other", "hostname": "other.example.com"}
    cache.put(kinds.LISTENER_CLASS, raw("ListenerClass", "other", other, namespace=""))
    cache.put(kinds.LISTENER, listener("lobby"))
    cache.put(kinds.SECRET, config())
    cache.remove(kinds.LISTENER, "agency", "lobby")
    recreated = listener("lobby", uid="second")
    recreated["spec"]["listenerClassName"] = "other"
    cache.put(kinds.LISTENER, recreated)
    assert cache.rank(numbered(0)) == 1
    cache.remove(kinds.SECRET, "usher-config", CONFIG_NAME)
    assert cache.rank(numbered(0)) == 0


def test_published_document_gives_its_hostname_to_its_tenant(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", "www.example.com"))
    keys = full.put(kinds.SECRET, config("www.example.com"))
    assert keys == {LOBBY, BAR, hostname_key("www.example.com")}
    assert full.holders("www.example.com") == {("agency", "acme")}
    assert [published.name for published in full.listeners_at("www.example.com")] == ["lobby"]
    assert full.remove(kinds.SECRET, "usher-config", config_secret.secret_name("Listener", "agency/lobby")) == keys
    assert full.holders("www.example.com") == set()


def test_tombstone_keeps_its_hostnames_until_it_is_deleted(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", "www.example.com"))
    full.put(kinds.SECRET, config("www.example.com"))
    assert BAR not in full.put(kinds.SECRET, tombstone("www.example.com"))
    assert full.holders("www.example.com") == {("agency", "acme")}
    assert full.listeners_at("www.example.com") == []
    name = config_secret.secret_name("Listener", "agency/lobby")
    assert BAR in full.remove(kinds.SECRET, "usher-config", name)
    assert full.holders("www.example.com") == set()


WWW = "www.example.com"
CONFIG_NAME = config_secret.secret_name("Listener", "agency/lobby")


def served(name: str, *hostnames: str, **meta: Any) -> dict[str, Any]:
    """A listener whose stored status has the addresses that it names."""
    shown = [{"name": f"a{index}", "hostname": host, "url": "https://…"} for index, host in enumerate(hostnames)]
    return {**listener(name, *hostnames, **meta), "status": {"addresses": shown}}


def running(host: str, tenant: str = "acme", key: Key = LOBBY, **state: Any) -> tuple[GatewayReport, ...]:
    """The report of a gateway that runs a document without a config Secret."""
    held = {key: config_secret.HeldHostnames(tenant, (host,))}
    return (GatewayReport(name="gateway-0", held=held, **state),)


def test_stored_status_says_who_holds_a_hostname_without_a_config_secret(full: Cache) -> None:
    full.put(kinds.LISTENER, served("lobby", WWW))
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival"))
    full.put(kinds.SECRET, config(WWW))
    full.remove(kinds.SECRET, "usher-config", CONFIG_NAME)
    assert full.holders(WWW) == {("agency", "acme")}
    assert full.holders(WWW, besides=LOBBY) == set()


def test_document_and_tombstone_come_before_stored_statuses(full: Cache) -> None:
    full.put(kinds.LISTENER, served("bar", WWW, tenant="rival"))
    for manifest in (config(WWW), tombstone(WWW)):
        full.put(kinds.SECRET, manifest)
        assert full.holders(WWW) == {("agency", "acme")}
    full.remove(kinds.SECRET, "usher-config", CONFIG_NAME)
    assert full.holders(WWW) == {("agency", "rival")}


def test_stored_status_of_a_hostname_that_is_not_named_any_more_holds_nothing(full: Cache) -> None:
    full.put(kinds.LISTENER, served("lobby", WWW))
    left = {**listener("lobby", "other.example.com"), "status": served("lobby", WWW)["status"]}
    full.put(kinds.LISTENER, left)
    assert full.holders(WWW) == set()
    shared = {**listener("lobby"), "status": served("lobby", "hooks.example.com")["status"]}
    full.put(kinds.LISTENER, shared)
    assert full.holders("hooks.example.com") == set()


def test_stored_class_address_gives_no_hold_on_a_hostname_that_is_named_later(full: Cache) -> None:
    at_class = {"addresses": [{"name": "class", "hostname": "hooks.example.com", "url": "https://…"}]}
    full.put(kinds.LISTENER, {**listener("lobby"), "status": at_class})
    full.put(kinds.LISTENER, {**listener("lobby", "hooks.example.com", generation=2), "status": at_class})
    assert full.holders("hooks.example.com") == set()


def test_end_of_a_stored_status_concerns_the_hostname_and_its_claimants(full: Cache) -> None:
    full.put(kinds.LISTENER, served("lobby", WWW))
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival"))
    assert {BAR, hostname_key(WWW)} <= full.put(kinds.LISTENER, listener("lobby", WWW))
    full.put(kinds.LISTENER, served("lobby", WWW))
    assert BAR in full.remove(kinds.LISTENER, "agency", "lobby")


def test_gateway_says_who_holds_a_hostname_without_a_stored_status(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival"))
    assert full.set_gateways(running(WWW)) == {BAR}
    assert full.holders(WWW) == {("agency", "acme")}
    assert full.set_gateways(running(WWW)) == set()
    full.put(kinds.LISTENER, served("bar", WWW, tenant="rival"))
    assert full.holders(WWW) == {("agency", "rival")}
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival"))
    assert full.set_gateways(running(WWW, reachable=False)) == {BAR}
    assert full.holders(WWW) == set()


def test_vacant_hostname_of_two_claims_waits_for_the_first_answer_of_the_gateways(full: Cache) -> None:
    full.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
    full.put(kinds.TENANT, raw("Tenant", "rival", {}))
    full.set_secret_access("", "Permitted")
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival", creationTimestamp="2026-01-01T00:00:00Z"))
    full.put(kinds.LISTENER, listener("lobby", WWW, creationTimestamp="2026-02-01T00:00:00Z"))
    assert [plan.plan(full, key) for key in (BAR, LOBBY)] == [Plan(BAR, None), Plan(LOBBY, None)]
    full.set_gateways(running(WWW))
    assert not plan.plan(full, BAR).children
    assert plan.plan(full, LOBBY).granted == (WWW,)


def test_hostname_of_one_claim_does_not_wait_for_the_gateways(full: Cache) -> None:
    full.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
    full.set_secret_access("", "Permitted")
    full.put(kinds.LISTENER, listener("lobby", WWW))
    full.put(kinds.LISTENER, listener("bar", WWW))
    assert plan.plan(full, LOBBY).granted == (WWW,)


def test_replayed_document_takes_no_hostname_from_the_tenant_that_is_served(full: Cache) -> None:
    full.put(kinds.LISTENER_CLASS, klass(allowedHostnames=[{"hostname": "*.example.com"}]))
    full.put(kinds.TENANT, raw("Tenant", "rival", {}))
    full.set_secret_access("", "Permitted")
    full.put(kinds.LISTENER, listener("bar", WWW, tenant="rival", creationTimestamp="2026-01-01T00:00:00Z"))
    full.put(kinds.LISTENER, served("lobby", WWW, creationTimestamp="2026-02-01T00:00:00Z"))
    full.put(kinds.SECRET, config(WWW))
    replayed = config(WWW, tenant="rival", listener="bar")
    replayed["metadata"]["name"] = config_secret.secret_name("Listener", BAR.path)
    assert {BAR, LOBBY} <= full.put(kinds.SECRET, replayed)
    assert accepted(full, BAR) == "HostnameConflict"
    assert accepted(full, LOBBY) == "Accepted"


def accepted(cache: Cache, key: Key) -> str:
    """The reason of the condition Accepted in the plan of a listener."""
    status = plan.plan(cache, key).status
    assert status is not None
    return status.conditions["Accepted"].reason


def test_own_write_of_a_document_concerns_no_key(full: Cache) -> None:
    full.put(kinds.SECRET, config())
    assert full.put(kinds.SECRET, config(resourceVersion="2")) == frozenset()


def test_edited_document_is_not_published(full: Cache) -> None:
    full.put(kinds.SECRET, config())
    edited = config()
    edited["data"] = {"config.json": "e30="}
    assert LOBBY in full.put(kinds.SECRET, edited)
    assert full.published(LOBBY) is None
    assert full.child_index.config_of(LOBBY) is not None


def test_child_of_another_install_is_not_indexed(full: Cache) -> None:
    labels = config_secret.labels("usher.dev/other", "uid-lobby")
    assert full.put(kinds.SECRET, config(labels=labels)) == frozenset()
    assert full.child_index.of(LOBBY) == ()
    assert {ref.namespace for ref in full.child_index.foreign} == {"usher-config"}


def test_route_status_concerns_the_listeners_and_the_class_of_the_hostname(full: Cache) -> None:
    full.put(kinds.SECRET, config())
    other = raw(
        "ListenerClass", "other", {"controllerName": "usher.dev/usher", "hostname": "other.example.com"}, namespace=""
    )
    full.put(kinds.LISTENER_CLASS, other)
    host = hostname_key("hooks.example.com")
    about = {
        "name": "route",
        "namespace": "usher-system",
        "uid": "u",
        "resourceVersion": "1",
        "labels": children.labels("usher.dev/usher"),
        "annotations": children.annotations(host),
    }
    ingress: dict[str, Any] = {"metadata": about, "spec": {}}
    concerned = {host, LOBBY, Key("ListenerClass", "", "public")}
    assert full.put(kinds.INGRESS, ingress) == concerned
    assert full.put(kinds.INGRESS, {**ingress, "status": {"loadBalancer": {}}}) == concerned
    assert full.put(kinds.INGRESS, {**ingress, "status": {"loadBalancer": {}}}) == frozenset()


def test_removed_api_removes_its_children_from_the_cache(full: Cache) -> None:
    host = hostname_key("hooks.example.com")
    about = {
        "name": "route",
        "namespace": "usher-system",
        "uid": "u",
        "resourceVersion": "1",
        "labels": children.labels("usher.dev/usher"),
        "annotations": children.annotations(host),
    }
    full.set_served(kinds.HTTP_ROUTE, served=True)
    full.put(kinds.HTTP_ROUTE, {"metadata": about, "spec": {}})
    assert host in full.set_served(kinds.HTTP_ROUTE, served=False)
    assert full.child_index.of(host) == ()


def test_granted_hostname_counts_while_its_document_is_written(full: Cache) -> None:
    full.grant(LOBBY, ["new.example"])
    assert full.holders("new.example") == {("agency", "acme")}
    full.end_grant(LOBBY)
    assert full.holders("new.example") == set()


def test_unused_grant_concerns_listeners_that_wait_for_the_hostname(full: Cache) -> None:
    full.put(kinds.LISTENER, listener("bar", "new.example"))
    full.grant(LOBBY, ["new.example"])
    assert full.end_grant(LOBBY) == {BAR}


def test_certificates_stay_available_without_issuers() -> None:
    cache = Cache(OperatorSettings())
    for kind in (kinds.CERTIFICATE, kinds.ISSUER, kinds.CLUSTER_ISSUER):
        cache.set_served(kind, served=True)
    cache.put(kinds.CLUSTER_ISSUER, {"metadata": {"name": "acme", "uid": "uid", "resourceVersion": "1"}})
    elsewhere = {"metadata": {"name": "own", "namespace": "agency", "uid": "other", "resourceVersion": "1"}}
    cache.put(kinds.ISSUER, elsewhere)
    assert cache.features.issuers == frozenset({("ClusterIssuer", "acme")})
    cache.set_served(kinds.CLUSTER_ISSUER, served=False)
    assert (cache.features.cert_manager, cache.features.issuers) == (True, frozenset())


def test_cert_manager_is_unavailable_without_certificates() -> None:
    cache = Cache(OperatorSettings())
    cache.set_served(kinds.CERTIFICATE, served=False)
    cache.set_served(kinds.ISSUER, served=True)
    assert not cache.features.cert_manager


def test_lookup_of_a_missing_secret_is_used_for_a_minute() -> None:
    now = [0]
    cache = Cache(OperatorSettings(), clock=lambda: now[0])
    cache.put(kinds.DESTINATION, destination())
    cache.note_missing("agency/token", "NotLabelled")
    assert cache.secret_state("agency/token") == "NotLabelled"
    now[0] += 61_000_000
    assert cache.secret_state("agency/token") is None
    assert cache.missed_by("agency/token") == {CRM}
    assert cache.forget_missing() == {CRM}
    assert cache.missing == {}


def test_missing_certificate_concerns_every_key_with_a_hostname(full: Cache) -> None:
    kinds_found = {key.kind for key in full.missed_by(f"{OperatorSettings().data_plane_namespace}/wildcard")}
    assert kinds_found == {"ListenerClass", "Listener"}


def test_confirmations_come_from_classes_of_this_install_only(full: Cache) -> None:
    own_class = klass()
    own_class["metadata"]["annotations"] = {"usher.dev/confirm-removals": "abc"}
    full.put(kinds.LISTENER_CLASS, own_class)
    foreign_class = klass(controllerName="usher.dev/other")
    foreign_class["metadata"] |= {"name": "other", "annotations": {"usher.dev/confirm-removals": "def"}}
    full.put(kinds.LISTENER_CLASS, foreign_class)
    assert full.confirmations() == {"abc"}


def company(name: str, company_id: str, *, namespace: str = "agency") -> dict[str, Any]:
    return raw("Tenant", name, {"companyID": company_id}, namespace=namespace)


def test_tenants_of_one_company_are_planned_when_another_comes_or_goes(full: Cache) -> None:
    full.put(kinds.TENANT, company("acme", "77"))
    globex = Key("Tenant", "agency", "globex")
    assert ACME in full.put(kinds.TENANT, company("globex", "77"))
    assert full.tenants_of("agency", "77", 3) == ["acme", "globex"]
    assert full.put(kinds.TENANT, company("acme", "77", namespace="other")) == {Key("Tenant", "other", "acme")}
    assert globex in full.put(kinds.TENANT, company("acme", "78"))
    full.put(kinds.TENANT, company("acme", "77"))
    assert ACME in full.remove(kinds.TENANT, "agency", "globex")
    assert full.tenants_of("agency", "77", 3) == ["acme"]


def test_listener_is_edited_only_if_the_cache_saw_the_edit(full: Cache) -> None:
    full.put(kinds.SECRET, config())
    full.remove(kinds.LISTENER, "agency", "lobby")
    full.put(kinds.LISTENER, listener(generation=2))
    assert not full.is_edited(LOBBY), "after a restart nobody knows which edit waits for a confirmation"
    full.put(kinds.LISTENER, listener(generation=3, resourceVersion="2"))
    assert full.is_edited(LOBBY)
