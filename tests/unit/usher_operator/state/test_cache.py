"""The cache keeps what plans need, and a change concerns no more than it has to. test_reads.py shows the rest."""

from collections.abc import Callable
from typing import Any

import pytest

from support import plan_samples
from support.cache_samples import (
    ACME,
    ALLOWED,
    BAR,
    CRM,
    LOBBY,
    PUBLIC,
    WWW,
    aged,
    certificate,
    config,
    destination,
    klass,
    limited,
    listener,
    numbered,
    plan_all,
    raw,
    secret,
    tombstone,
)
from support.planning import Cluster
from usher_gateway import config_secret
from usher_gateway.resources.secret import MAX_VALUE_BYTES
from usher_operator.plan import plan_and_note
from usher_operator.state import child_labels, kinds
from usher_operator.state.values import GatewayReport, Key, Plan, hostname_key

CONFIG = f"usher-config/{config_secret.secret_name('Listener', LOBBY.path)}"
CONFIG_OF_BAR = f"usher-config/{config_secret.secret_name('Listener', BAR.path)}"
OTHER = raw("ListenerClass", "other", {"controllerName": "usher.dev/other", "hostname": "other.example"}, namespace="")


@pytest.fixture
def cluster() -> Cluster:
    """A cluster without objects, whose gateways were asked."""
    empty = Cluster()
    empty.set_gateways()
    return empty


@pytest.fixture
def full(cluster: Cluster) -> Cluster:
    """An agency with one listener, whose plans are applied."""
    for manifest in (klass(**ALLOWED), raw("Tenant", "acme", {}), destination(), listener(), secret()):
        cluster.put(manifest)
    cluster.settle()
    return cluster


def readiness(status: str, **other: str) -> dict[str, Any]:
    reported = {"Ready": status, **other}
    return {
        "observedGeneration": 1,
        "conditions": [
            {"type": name, "status": value, "reason": "Reason", "message": "", "lastTransitionTime": "then"}
            for name, value in reported.items()
        ],
    }


def accepted(cluster: Cluster, key: Key) -> str:
    """The reason of Accepted in the plan of a listener."""
    return cluster.condition(key.kind, key.path, "Accepted").reason


# A change does not concern everything.


def test_unchanged_object_concerns_no_key(full: Cluster) -> None:
    version = full.cache.records[LOBBY].resource_version
    assert full.put(full.raw("Listener", LOBBY.path)) == set()
    assert full.cache.records[LOBBY].resource_version != version
    assert full.put(full.raw("Secret", CONFIG)) == set()


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (lambda full: full.edit("Listener", LOBBY.path, late={"afterSeconds": 9}), {LOBBY}),
        (lambda full: full.edit("Listener", LOBBY.path, state="Suspended"), {LOBBY, ACME}),
        (lambda full: full.edit("Destination", CRM.path, concurrency=2), {CRM}),
        (lambda full: full.edit("Destination", CRM.path, tenantRef={"name": "other"}), {CRM, LOBBY, BAR}),
        (lambda full: full.put(secret(value="ZGVm")), {CRM}),
        (lambda full: full.put(secret("other")), set()),
        (lambda full: full.edit_status("ListenerClass", "public", conditions=[]), {PUBLIC}),
    ],
)
def test_change_concerns_only_what_reads_it(
    full: Cluster, change: Callable[[Cluster], frozenset[Key]], concerned: set[Key]
) -> None:
    full.put(listener("bar"))
    full.settle()
    assert change(full) == concerned


def test_status_of_a_listener_concerns_its_tenant_only_if_ready_differs(full: Cluster) -> None:
    full.edit_status("Listener", LOBBY.path, **readiness("True"))
    assert full.edit_status("Listener", LOBBY.path, **readiness("True", Receiving="False")) == {LOBBY}
    assert full.edit_status("Listener", LOBBY.path, **readiness("False")) == {LOBBY, ACME}


def test_namespace_with_the_same_labels_concerns_no_key(full: Cluster) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "agency", "labels": {"tier": "gold"}}}
    assert full.put(namespace) == {LOBBY, CRM, ACME}
    assert full.put(namespace) == set()


def test_claim_at_a_held_hostname_concerns_no_other_listener(full: Cluster) -> None:
    full.put(listener("lobby", WWW, generation=2))
    full.settle()
    assert full.put(listener("bar", WWW, tenant="rival")) == {BAR}
    full.settle()
    assert full.delete("Listener", BAR.path) == {BAR}


def test_younger_claim_at_a_vacant_hostname_concerns_no_other_listener(full: Cluster) -> None:
    rival = listener("bar", "nowhere.example", namespace="rival", creationTimestamp="2026-05-01T00:00:00Z")
    full.put(listener("lobby", "nowhere.example", generation=2))
    full.settle()
    assert full.put(rival) == {Key("Listener", "rival", "bar")}


def test_tombstone_concerns_no_listener_that_waits_for_its_hostname(full: Cluster) -> None:
    full.put(config(WWW))
    full.put(listener("bar", WWW, tenant="rival"))
    full.settle()
    full.delete("Listener", LOBBY.path)
    assert BAR not in full.put(tombstone(WWW))
    assert BAR not in full.delete("Secret", CONFIG)
    full.queue.clear()
    full.set_gateways()
    assert BAR in full.queue


def test_listener_over_the_limit_concerns_no_sibling(cluster: Cluster) -> None:
    limited(cluster, 5)
    assert cluster.put(aged(9)) - {ACME} == {numbered(9)}
    assert cluster.delete("Listener", numbered(4).path) - {ACME} == {numbered(4)}
    assert cluster.delete("Listener", numbered(0).path) - {ACME} == {numbered(0), numbered(2)}


def test_company_of_another_namespace_concerns_no_tenant(full: Cluster) -> None:
    full.edit("Tenant", ACME.path, companyID="77")
    full.settle()
    assert full.put(raw("Tenant", "acme", {"companyID": "77"}, namespace="other")) == {Key("Tenant", "other", "acme")}
    assert full.put(raw("Tenant", "globex", {"companyID": "78"})) == {Key("Tenant", "agency", "globex")}


def test_route_status_concerns_only_the_keys_at_its_hostname(full: Cluster) -> None:
    full.set_features(plan_samples.FEATURES)
    full.edit("ListenerClass", "public", exposure={"type": "Ingress", "ingress": {"className": "nginx"}})
    full.put(klass_of_ours("second"))
    full.settle()
    ready = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    (child,) = full.cache.children(hostname_key("hooks.example.com"))
    ingress = {**full.raw("Ingress", f"{child.ref.namespace}/{child.ref.name}"), "status": ready}
    assert full.put(ingress) == {hostname_key("hooks.example.com"), LOBBY, PUBLIC}
    assert full.put(ingress) == set()


def klass_of_ours(name: str) -> dict[str, Any]:
    spec = {"controllerName": "usher.dev/usher", "hostname": f"{name}.example", **ALLOWED}
    return raw("ListenerClass", name, spec, namespace="")


# The cache keeps only what is needed.


def test_url_secret_is_a_child_and_no_credential(full: Cluster) -> None:
    assert [child.ref.name for child in full.cache.children(LOBBY) if child.ref.namespace == "agency"] == ["lobby-url"]
    assert full.cache.secret("agency/lobby-url") is None
    assert full.cache.versions(kinds.AGENCY_SECRET, "agency").keys() == {("agency", "token"), ("agency", "lobby-url")}
    assert full.delete("Secret", "agency/lobby-url") == {LOBBY}


@pytest.mark.parametrize(
    ("name", "owner"),
    [("other", "agency/lobby"), ("lobby-url", "agency/" + "x" * 200_000), ("lobby-url", "elsewhere/lobby")],
)
def test_secret_that_only_looks_like_a_child_is_none(cluster: Cluster, name: str, owner: str) -> None:
    forged = secret(name, **{**child_labels.labels("usher.dev/usher", "uid"), "usher.dev/watch": "url"})
    forged["metadata"]["annotations"] = {"usher.dev/owner": owner, "usher.dev/owner-kind": "Listener"}
    cluster.put(forged)
    assert list(cluster.cache.child_index.keys) == []


def test_long_annotation_of_a_child_is_cut(cluster: Cluster) -> None:
    edited = secret("lobby-url", **{**child_labels.labels("usher.dev/usher", "uid"), "usher.dev/watch": "url"})
    edited["metadata"]["annotations"] = {**child_labels.annotations(LOBBY), "usher.dev/desired": "x" * 200_000}
    cluster.put(edited)
    (kept,) = cluster.cache.children(LOBBY)
    assert len(kept.desired) <= 64


def test_large_metadata_of_agencies_is_not_kept(full: Cluster) -> None:
    large = {"note": "x" * 200_000, "usher.dev/confirm-removals": "x" * 60_000}
    full.edit_metadata("Listener", LOBBY.path, annotations=large, labels={"note": "x"})
    kept = full.cache.listener(LOBBY.path)
    assert kept is not None
    assert (kept.resource.metadata.annotations, kept.resource.metadata.labels) == ({}, {})


def test_unreadable_resource_is_kept_with_an_error_without_values(full: Cluster) -> None:
    full.edit("Listener", LOBBY.path, state="confidential")
    unreadable = full.cache.unreadable(LOBBY)
    assert full.cache.listener(LOBBY.path) is None
    assert unreadable is not None
    assert "$.spec.state" in unreadable.message
    assert "confidential" not in unreadable.message


def test_conditions_of_others_are_not_kept(full: Cluster) -> None:
    full.edit_status("Listener", LOBBY.path, **readiness("True", **{"example.com/Own": "True"}))
    record = full.cache.records[LOBBY]
    assert [condition.type for condition in record.parsed.conditions] == ["Ready"]
    assert (record.times, record.observed_generation) == ({"Ready": "then"}, 1)


def token(cluster: Cluster, name: str = "token") -> dict[str, str]:
    """The values that are kept of a Secret."""
    kept = cluster.cache.secret(f"agency/{name}")
    assert kept is not None
    return dict(kept.data)


def test_cache_keeps_only_the_referenced_keys_of_a_secret(full: Cluster) -> None:
    large = secret()
    large["data"]["unused"] = "QUJD" * 300_000
    full.put(large)
    assert token(full) == {"token": "YWJj"}


def test_cache_reads_a_secret_with_many_keys_in_use(full: Cluster) -> None:
    names = ["token", *(f"key-{number}" for number in range(300))]
    for first in range(0, len(names), 30):
        declared = destination(uid=f"uid-{first}")
        declared["metadata"]["name"] = f"crm-{first}"
        declared["spec"]["http"]["headers"] = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": "token", "key": name}}}
            for name in names[first : first + 30]
        ]
        full.put(declared)
    many = secret()
    many["data"] = dict.fromkeys(names, "YWJj")
    full.put(many)
    assert token(full) == many["data"]


def test_cache_keeps_no_value_of_a_secret_without_references(full: Cluster) -> None:
    full.put(secret("other"))
    full.delete("Destination", CRM.path)
    assert (token(full), token(full, "other")) == ({}, {})


def test_cache_cuts_a_value_that_is_longer_than_allowed(full: Cluster) -> None:
    full.put(secret(value="QUJD" * 300_000))
    kept = full.cache.secret("agency/token")
    assert kept is not None
    assert MAX_VALUE_BYTES < kept.size < 2 * MAX_VALUE_BYTES


def test_new_reference_to_another_key_causes_a_lookup(full: Cluster) -> None:
    both = secret()
    both["data"]["second"] = "ZGVm"
    full.put(both)
    bearer = {"secretRef": {"name": "token", "key": "second"}}
    authentication = {"type": "Bearer", "bearer": bearer}
    full.edit("Destination", CRM.path, http={"url": "https://crm.example.com", "authentication": authentication})
    assert plan_and_note(full.cache, CRM).unknown_secrets == ("agency/token",)
    full.plan(CRM)
    assert token(full) == {"second": "ZGVm"}


def test_forgotten_secret_concerns_the_other_keys_that_refer_to_it(full: Cluster) -> None:
    other = destination(uid="uid-other")
    other["metadata"]["name"] = "other"
    other["spec"]["http"]["authentication"]["bearer"]["secretRef"]["key"] = "second"
    assert CRM in full.put(other)


def test_result_of_a_lookup_concerns_every_key_that_read_another_one(full: Cluster) -> None:
    other = destination(uid="uid-other")
    other["metadata"]["name"] = "other"
    full.put(other)
    full.delete("Secret", "agency/token")
    for key in (CRM, Key("Destination", "agency", "other")):
        full.plan(key)
    assert full.cache.note_missing("agency/token", "NotLabelled") == {
        CRM,
        Key("Destination", "agency", "other"),
    }
    assert full.cache.note_missing("agency/token", "NotLabelled") == set()


def test_lookup_of_a_missing_secret_is_used_for_a_minute(full: Cluster) -> None:
    full.delete("Secret", "agency/token")
    full.plan(CRM)
    assert full.cache.secret_state("agency/token") == "NotFound"
    full.now += 61_000_000
    assert full.cache.secret_state("agency/token") is None
    full.cache.secrets.forget_missing()
    assert full.cache.secrets.missing(10) == []


def test_missing_secrets_of_a_namespace_are_looked_up_in_turns(cluster: Cluster) -> None:
    for path in ("agency/a", "agency/b", "agency/c", "other/a"):
        cluster.cache.note_missing(path, "NotFound")
    assert cluster.cache.secrets.missing(2) == ["agency/a", "agency/b", "other/a"]
    for path in ("agency/a", "agency/b"):
        cluster.cache.note_missing(path, "NotFound")
    assert cluster.cache.secrets.missing(2) == ["agency/c", "other/a", "agency/a"]


def test_access_to_a_namespace_counts_without_access_to_all(cluster: Cluster) -> None:
    cluster.cache.set_secret_access("", "Denied")
    cluster.cache.set_secret_access("agency", "Permitted")
    assert [cluster.cache.secret_access(name) for name in ("agency", "elsewhere")] == ["Permitted", "Unknown"]
    cluster.cache.set_secret_access("", "Permitted")
    assert cluster.cache.secret_access("elsewhere") == "Permitted"


def test_edited_document_is_not_published(full: Cluster) -> None:
    assert full.put({**full.raw("Secret", CONFIG), "data": {"config.json": "e30="}}) >= {LOBBY}
    assert full.cache.published(LOBBY) is None
    assert full.cache.child_index.config_of(LOBBY) is not None


@pytest.mark.parametrize("name", [None, "aaa"])
def test_document_of_another_listener_counts_for_nothing(full: Cluster, name: str | None) -> None:
    """Somebody who can write config Secrets moves one: under the other's name, or with the other's annotation."""
    full.put(listener("bar"))
    full.settle()
    own, stranger = full.cache.published(LOBBY), full.raw("Secret", CONFIG_OF_BAR)
    annotations = full.raw("Secret", CONFIG)["metadata"]["annotations"]
    place = name or full.raw("Secret", CONFIG)["metadata"]["name"]
    full.put({**stranger, "metadata": {**stranger["metadata"], "name": place, "annotations": annotations}})
    assert full.cache.published(LOBBY) == (own if name else None)
    assert "aaa" not in {child.state.ref.name for child in full.cache.child_index.of(LOBBY)}


def test_child_of_another_install_is_not_indexed(cluster: Cluster) -> None:
    assert cluster.put(config(labels=config_secret.labels("usher.dev/other", "uid-lobby"))) == set()
    assert cluster.cache.child_index.of(LOBBY) == ()
    assert {ref.namespace for ref in cluster.cache.child_index.foreign} == {"usher-config"}


def test_removed_api_removes_its_children_from_the_cache(cluster: Cluster) -> None:
    cluster.cache.set_served(kinds.CERTIFICATE, served=True)
    cluster.put(certificate(WWW))
    assert hostname_key(WWW) in cluster.cache.set_served(kinds.CERTIFICATE, served=False)
    assert cluster.cache.child_index.of(hostname_key(WWW)) == ()


def test_certificates_stay_available_without_issuers(cluster: Cluster) -> None:
    for kind in (kinds.CERTIFICATE, kinds.ISSUER, kinds.CLUSTER_ISSUER):
        cluster.cache.set_served(kind, served=True)
    cluster.put({"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": "acme"}})
    assert cluster.cache.features.issuers == frozenset({("ClusterIssuer", "acme")})
    cluster.cache.set_served(kinds.CLUSTER_ISSUER, served=False)
    assert (cluster.cache.features.cert_manager, cluster.cache.features.issuers) == (True, frozenset())


def test_cert_manager_is_unavailable_without_certificates(cluster: Cluster) -> None:
    cluster.cache.set_served(kinds.CERTIFICATE, served=False)
    cluster.cache.set_served(kinds.ISSUER, served=True)
    assert not cluster.cache.features.cert_manager


def test_confirmations_come_from_classes_of_this_install_only(full: Cluster) -> None:
    full.put(OTHER)
    full.edit_metadata("ListenerClass", "public", annotations={"usher.dev/confirm-removals": "abc"})
    full.edit_metadata("ListenerClass", "other", annotations={"usher.dev/confirm-removals": "def"})
    assert full.cache.confirmations() == {"abc"}


def test_listener_is_edited_only_if_the_cache_saw_the_edit(full: Cluster) -> None:
    full.edit("Listener", LOBBY.path, state="Suspended")
    restarted = full.restarted()
    assert not restarted.cache.is_edited(LOBBY), "after a restart nobody knows which edit waits for a confirmation"
    restarted.edit("Listener", LOBBY.path, state="Active")
    assert restarted.cache.is_edited(LOBBY)


# Places under the limits of a namespace.


def ranks(cluster: Cluster, *hostnames: str) -> list[int]:
    """The places of hostnames among those of the agency."""
    return [cluster.cache.rank(Key("Hostname", "agency", hostname)) for hostname in hostnames]


@pytest.mark.parametrize("is_recreated", [False, True])
def test_deleted_listener_counts_until_its_document_is_removed(cluster: Cluster, is_recreated: bool) -> None:
    """Also if a listener of another install has its name now."""
    limited(cluster, 1)
    cluster.put(OTHER)
    cluster.put(listener("lobby"))
    cluster.put(config())
    cluster.delete("Listener", LOBBY.path)
    if is_recreated:
        recreated = listener("lobby", uid="second")
        cluster.put({**recreated, "spec": {**recreated["spec"], "listenerClassName": "other"}})
    assert cluster.cache.rank(numbered(0)) == 1
    cluster.delete("Secret", CONFIG)
    assert cluster.cache.rank(numbered(0)) == 0


def test_listeners_of_other_installs_do_not_count_against_the_limit(cluster: Cluster) -> None:
    limited(cluster, 3)
    cluster.put(OTHER)
    cluster.edit("Listener", numbered(0).path, listenerClassName="other")
    assert cluster.cache.rank(numbered(1)) == 0
    cluster.delete("ListenerClass", "other")  # a listener without an existing class counts again
    assert cluster.cache.rank(numbered(1)) == 1


def test_hostnames_in_force_come_first_and_former_ones_before_new_ones(cluster: Cluster) -> None:
    cluster.put(klass(maximums={"hostnamesPerNamespace": 1}))
    cluster.put(listener("lobby", "b.example.com"))
    cluster.put(config("a.example.com"))
    assert ranks(cluster, "b.example.com") == [1], "a retired address counts"
    cluster.delete("Listener", LOBBY.path)
    cluster.put(aged(1, "b.example.com"))
    assert ranks(cluster, "b.example.com") == [1], "a document without its listener counts"
    cluster.put(tombstone("a.example.com"))
    assert ranks(cluster, "b.example.com") == [0]


def test_hostname_with_a_certificate_counts_for_its_namespace_until_its_deletion(cluster: Cluster) -> None:
    cluster.put(klass(maximums={"hostnamesPerNamespace": 1}))
    cluster.put(aged(1, "b.example.com"))
    given_up = certificate("a.example.com")
    for namespace, rank in (("agency", 1), ("rival", 0), ("agency", 1)):
        cluster.put(certificate("a.example.com", namespace))
        assert ranks(cluster, "b.example.com") == [rank]
    cluster.delete("Certificate", f"usher-system/{given_up['metadata']['name']}")
    assert ranks(cluster, "b.example.com") == [0]


def test_hostname_that_returns_costs_nothing_more(cluster: Cluster) -> None:
    cluster.put(klass(maximums={"hostnamesPerNamespace": 2}))
    cluster.put(aged(2, "in-force.example.com"))
    cluster.put(config("in-force.example.com", listener="l2"))
    cluster.put(certificate("given-up.example.com"))
    cluster.put(aged(0, "new.example.com"))
    cluster.put(aged(1, "given-up.example.com"))
    assert ranks(cluster, "in-force.example.com", "given-up.example.com", "new.example.com") == [0, 1, 2]


def test_hostname_of_a_class_does_not_count(cluster: Cluster) -> None:
    cluster.put(klass(maximums={"hostnamesPerNamespace": 1}))
    cluster.put(listener("lobby"))
    cluster.put(config(is_class_address=True))
    cluster.put(aged(1, "b.example.com"))
    assert ranks(cluster, "b.example.com") == [0]
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    assert ranks(cluster, "b.example.com") == [0]


# Holders of hostnames, the best evidence first.


def served(name: str, *hostnames: str, **meta: Any) -> dict[str, Any]:
    """A listener whose stored status has the addresses that it names."""
    shown = [{"name": f"a{index}", "hostname": host, "url": "https://…"} for index, host in enumerate(hostnames)]
    return {**listener(name, *hostnames, **meta), "status": {"addresses": shown}}


def running(host: str, **state: Any) -> GatewayReport:
    """The report of a gateway that runs a document without a config Secret."""
    return GatewayReport(name="gateway-0", vanished={LOBBY: config_secret.TenantHostnames("acme", (host,))}, **state)


def test_document_and_tombstone_come_before_statuses_and_statuses_before_gateways(cluster: Cluster) -> None:
    cluster.put(served("bar", WWW, tenant="rival"))
    cluster.set_gateways(running(WWW))
    for manifest in (config(WWW), tombstone(WWW)):
        cluster.put(manifest)
        assert cluster.cache.holders(WWW) == {("agency", "acme")}
        assert cluster.cache.only_holder(WWW) == LOBBY
    cluster.delete("Secret", CONFIG)
    assert cluster.cache.holders(WWW) == {("agency", "rival")}
    cluster.put(listener("bar", WWW, tenant="rival"))
    assert cluster.cache.holders(WWW) == {("agency", "acme")}
    cluster.cache.set_gateways((running(WWW, reachable=False),))
    assert cluster.cache.holders(WWW) == {("agency", "acme")}  # it may answer again, and serve it still
    cluster.cache.set_gateways(())
    assert cluster.cache.holders(WWW) == set()


def test_report_of_a_gateway_that_answers_comes_before_that_of_one_that_does_not(cluster: Cluster) -> None:
    old = config_secret.TenantHostnames("former", ("old.example.com",))
    cluster.cache.set_gateways((running(WWW), GatewayReport(name="gateway-1", reachable=False, vanished={LOBBY: old})))
    assert (cluster.cache.reports.vanished_tenant(LOBBY), cluster.cache.holders(WWW)) == ("acme", {("agency", "acme")})


def test_listener_is_planned_again_when_gateways_drop_its_vanished_document(cluster: Cluster) -> None:
    assert cluster.cache.set_gateways((running(WWW),)) == {LOBBY}
    assert cluster.cache.reports.vanished_tenant(LOBBY) == "acme"
    assert cluster.cache.set_gateways((running(WWW),)) == set()
    assert cluster.cache.set_gateways((running(WWW, reachable=False),)) == set()
    assert cluster.cache.set_gateways((GatewayReport(name="gateway-0"),)) == {LOBBY}
    assert cluster.cache.reports.vanished_tenant(LOBBY) == ""


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        pytest.param(listener("lobby", "other.example.com"), served("lobby", WWW), id="not named any more"),
        pytest.param(listener("lobby"), served("lobby", WWW), id="of the class"),
    ],
)
def test_stored_status_holds_only_what_its_listener_names(
    cluster: Cluster, spec: dict[str, Any], status: dict[str, Any]
) -> None:
    cluster.put({**spec, "status": status["status"]})
    assert cluster.cache.holders(WWW) == set()


def test_class_address_gives_no_hold_on_its_hostname(cluster: Cluster) -> None:
    cluster.put(config(WWW, is_class_address=True))
    shown = {"addresses": [{"name": "class", "hostname": WWW, "url": "https://…"}]}
    cluster.put({**listener("lobby", WWW, generation=2), "status": shown})
    assert cluster.cache.holders(WWW) == set()
    assert cluster.cache.is_reserved(WWW)


def test_granted_hostname_counts_while_its_document_is_written(full: Cluster) -> None:
    full.put(listener("bar", WWW, tenant="rival"))
    full.settle()
    assert full.cache.grant(LOBBY, [WWW]) >= {BAR}
    assert full.cache.holders(WWW) == {("agency", "acme")}
    assert full.cache.end_grant(LOBBY) >= {BAR}
    assert full.cache.holders(WWW) == set()


def test_exposed_hostname_is_decided_by_the_listener_with_its_own_address(full: Cluster) -> None:
    full.put(klass_of_ours("second"))
    bar = listener("bar", WWW, creationTimestamp="2026-02-01T00:00:00Z")
    full.put({**bar, "spec": {**bar["spec"], "listenerClassName": "second"}})
    full.put(config(WWW, is_class_address=True))
    assert full.cache.class_at(WWW) == "public"
    full.put(config(WWW, listener="bar"))
    assert full.cache.class_at(WWW) == "second"


def rivals(cluster: Cluster) -> None:
    """Let an older listener of another tenant claim the hostname of the lobby."""
    cluster.put(klass(**ALLOWED))
    for tenant in ("acme", "rival"):
        cluster.put(raw("Tenant", tenant, {}))
    cluster.put(listener("bar", WWW, tenant="rival", creationTimestamp="2026-01-01T00:00:00Z"))


def test_vacant_hostname_of_two_claims_waits_for_the_first_answer_of_the_gateways() -> None:
    cluster = Cluster()
    rivals(cluster)
    cluster.put(listener("lobby", WWW, creationTimestamp="2026-02-01T00:00:00Z"))
    assert [cluster.plan(key) for key in (BAR, LOBBY)] == [Plan(BAR, None), Plan(LOBBY, None)]
    cluster.set_gateways(running(WWW))
    assert not cluster.plan(BAR).children
    assert cluster.plan(LOBBY).granted == (WWW,)


def test_hostname_of_one_claim_does_not_wait_for_the_gateways() -> None:
    cluster = Cluster()
    for manifest in (klass(**ALLOWED), raw("Tenant", "acme", {}), listener("lobby", WWW), listener("bar", WWW)):
        cluster.put(manifest)
    assert cluster.plan(LOBBY).granted == (WWW,)


def test_replayed_document_takes_no_hostname_from_the_tenant_that_is_served(cluster: Cluster) -> None:
    rivals(cluster)
    cluster.put(served("lobby", WWW, creationTimestamp="2026-02-01T00:00:00Z"))
    cluster.put(config(WWW))
    cluster.put(config(WWW, tenant="rival", listener="bar"))
    assert (accepted(cluster, BAR), accepted(cluster, LOBBY)) == ("HostnameConflict", "Accepted")


# Rare changes that the random histories of test_reads.py hardly meet.


def test_end_of_a_stored_status_concerns_the_claimants(cluster: Cluster) -> None:
    rivals(cluster)
    cluster.put(served("lobby", WWW, creationTimestamp="2026-02-01T00:00:00Z"))
    plan_all(cluster)
    assert accepted(cluster, BAR) == "HostnameConflict"
    assert BAR in cluster.edit_status("Listener", LOBBY.path, addresses=[])


def test_certificate_that_ends_concerns_the_listener_that_waits_for_its_place(cluster: Cluster) -> None:
    cluster.put(klass(maximums={"hostnamesPerNamespace": 1}, **ALLOWED))
    cluster.put(raw("Tenant", "acme", {}))
    cluster.put(certificate("a.example.com"))
    cluster.put(aged(1, "b.example.com"))
    plan_all(cluster)
    assert accepted(cluster, numbered(1)) == "LimitExceeded"
    assert numbered(1) in cluster.put(certificate("a.example.com", "rival"))
    cluster.put(certificate("a.example.com"))
    plan_all(cluster)
    name = certificate("a.example.com")["metadata"]["name"]
    assert numbered(1) in cluster.delete("Certificate", f"usher-system/{name}")


def test_deleted_listener_concerns_those_that_name_an_address_of_its_document(cluster: Cluster) -> None:
    bar = listener("bar", WWW)
    bar["spec"]["addresses"][0]["path"] = "/v1/token"
    for manifest in (klass(**ALLOWED), raw("Tenant", "acme", {}), listener("lobby", WWW), config(WWW), bar):
        cluster.put(manifest)
    plan_all(cluster)
    assert BAR in cluster.delete("Listener", LOBBY.path)
    assert accepted(cluster, BAR) == "PathConflict"
