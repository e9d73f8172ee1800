"""Plans of resources and hostnames: which children they keep and remove."""

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import yaml

from support import certificates, config_samples, plan_reasons, plan_samples, planning
from support.planning import LISTENER as KEY
from support.planning import Cluster, addresses, document, listener_document
from usher_gateway import config_secret, documents, model
from usher_operator.plan import plan_and_note
from usher_operator.state import child_labels
from usher_operator.state.values import Key, Kind, ListenerReport, Plan

DESTINATION = Key("Destination", "default", "crm")
HOSTNAME = Key("Hostname", "", "hooks.example.com")


def authentication(cluster: Cluster) -> documents.Authentication:
    return listener_document(cluster).authentication


def test_listener_without_its_first_credentials_fails_closed(cluster: Cluster) -> None:
    cluster.delete("Secret", "default/purple")
    cluster.edit("Listener", plan_samples.LISTENER, authentication=plan_reasons.BASIC)
    assert authentication(cluster).type == "Unresolved"


def test_client_certificate_of_a_secret_is_published_and_its_end_shows(cluster: Cluster) -> None:
    certificate, key = certificates.make("client", days=10_000)
    data = {name: base64.b64encode(value).decode() for name, value in (("tls.crt", certificate), ("tls.key", key))}
    about = {"name": "client", "labels": {"usher.dev/watch": "true"}}
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": about, "type": "kubernetes.io/tls", "data": data})
    tls = {"clientCertificateSecretRef": {"name": "client"}}
    cluster.edit("Destination", DESTINATION.path, http={"url": "https://crm.example.com", "tls": tls})
    published = document(cluster, DESTINATION)
    assert isinstance(published, documents.DestinationDocument)
    assert published.tls is not None
    assert (published.tls.chain, published.tls.key) == (certificate.decode().strip(), key.decode().strip())
    assert cluster.condition("Destination", DESTINATION.path, "ResolvedRefs").status == "True"
    cluster.now += 20_000 * model.DAY
    after_its_end = cluster.condition("Destination", DESTINATION.path, "ResolvedRefs")
    assert (after_its_end.status, after_its_end.reason) == ("False", "CertificateInvalid")
    assert document(cluster, DESTINATION) == published


def test_listener_waits_until_the_secrets_of_its_namespace_are_read(cluster: Cluster) -> None:
    cluster.set_access("default", "Unknown")
    assert cluster.plan(KEY) == Plan(KEY, None, unread_namespace="default")


def test_namespace_without_admission_keeps_what_is_published(cluster: Cluster) -> None:
    published_before = document(cluster)
    cluster.set_access("default", "Denied")
    cluster.edit("Listener", plan_samples.LISTENER, state="Suspended")
    cluster.add(plan_samples.listener("new"))
    destination = cluster.raw("Destination", DESTINATION.path)
    cluster.put({**destination, "metadata": {"name": "new"}})
    assert document(cluster) == published_before
    for kind in ("Listener", "Destination"):
        assert cluster.cache.published(Key(kind, "default", "new")) is None
        assert cluster.condition(kind, "default/new", "Accepted").reason == "NamespaceNotPermitted"


def test_url_secret_of_an_absent_listener_is_left_to_the_garbage_collector(cluster: Cluster) -> None:
    original = cluster.plan(KEY)
    cluster.apply(original)
    listener_is_absent(cluster)
    after_removal = cluster.plan(KEY)
    assert after_removal.children == ()
    assert [child.name for child in after_removal.staying] == ["lobby-url"]


def test_deleted_secret_leaves_the_last_good_document_in_force(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=plan_reasons.BASIC)
    published_before = authentication(cluster)
    cluster.delete("Secret", "default/purple")
    assert published_before.digest
    assert authentication(cluster) == published_before
    assert cluster.condition("Listener", plan_samples.LISTENER, "ResolvedRefs").reason == "SecretNotFound"


def test_unknown_secret_is_looked_up_first(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=plan_reasons.BASIC)
    cluster.delete("Secret", "default/purple")
    assert plan_and_note(cluster.cache, KEY).unknown_secrets == ("default/purple",)


def test_too_large_document_leaves_the_last_good_one_in_force(cluster: Cluster) -> None:
    published_before = document(cluster, DESTINATION)
    plan_reasons.too_large(cluster)
    assert cluster.plan(DESTINATION).children is None
    assert document(cluster, DESTINATION) == published_before
    assert cluster.condition("Destination", plan_samples.DESTINATION, "Programmed").status == "Unknown"


def test_deleted_tenant_removes_its_listeners(cluster: Cluster) -> None:
    cluster.delete("Tenant", "default/acme")
    assert cluster.plan(KEY).children == ()


def test_unreadable_tenant_removes_nothing(cluster: Cluster) -> None:
    cluster.make_unreadable("Tenant", "default/acme")
    assert cluster.plan(KEY).children is None
    assert cluster.condition("Listener", plan_samples.LISTENER, "ResolvedRefs").reason == "TenantNotFound"


@pytest.mark.parametrize(
    ("kind", "path", "condition_type"),
    [("ListenerClass", "public", "Accepted"), ("Destination", plan_samples.DESTINATION, "ResolvedRefs")],
)
def test_unreadable_reference_is_not_reported_as_missing(
    cluster: Cluster, kind: Kind, path: str, condition_type: str
) -> None:
    cluster.make_unreadable(kind, path)
    name = path.rpartition("/")[2]
    condition = cluster.condition("Listener", plan_samples.LISTENER, condition_type)
    assert f"{kind} `{name}` exists, but this version of Usher cannot read it" in condition.message
    assert "must exist" not in condition.message


def test_kept_condition_keeps_its_observed_generation(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, silence={"afterSeconds": 60})
    cluster.cache.keys = None
    status = cluster.plan(KEY).status
    assert status is not None
    generations = {condition.type: condition.observed_generation for condition in status.conditions.values()}
    assert (generations["Accepted"], generations["Ready"], generations["ResolvedRefs"], generations["Programmed"]) == (
        2,
        2,
        1,
        1,
    )


def test_unreadable_listener_keeps_children_and_conditions(cluster: Cluster) -> None:
    cached = cluster.cache.listener(plan_samples.LISTENER)
    assert cached is not None
    plan_reasons.unreadable(cluster)
    planned = cluster.plan(KEY)
    assert planned.children is None
    assert planned.status is not None
    assert planned.status.fields == cached.fields
    assert {condition.type for condition in cached.conditions} == set(planned.status.conditions)


def test_deleted_resource_has_no_children_and_no_status() -> None:
    planned = plan_samples.agency().plan(Key("Listener", "default", "never-there"))
    assert planned == Plan(Key("Listener", "default", "never-there"))


@pytest.mark.parametrize("keys", [None, model.derive_keys(bytes(32))], ids=["no key", "another key"])
def test_missing_or_wrong_install_key_changes_no_child(cluster: Cluster, keys: model.Keys | None) -> None:
    cluster.cache.keys = keys
    gone = Key("Listener", "default", "gone")
    for key in (*cluster.every_key(), gone):
        if key.kind != "ListenerClass":
            assert cluster.plan(key).children is None, key


def test_recreated_class_accepts_the_present_install_key(cluster: Cluster) -> None:
    cluster.cache.keys = model.derive_keys(bytes(32))
    assert cluster.condition("ListenerClass", "public", "Accepted").reason == "InstallKeyChanged"
    recreated = {**cluster.raw("ListenerClass", "public"), "status": {}}
    recreated["metadata"] |= {"uid": "new", "creationTimestamp": "2026-03-01T00:00:00Z"}
    cluster.put(recreated)
    assert cluster.condition("ListenerClass", "public", "Accepted").status == "True"


def test_missing_class_keeps_the_listener_with_its_present_tenant(cluster: Cluster) -> None:
    plan_reasons.class_is_gone(cluster)
    cluster.edit("Tenant", "default/acme", state="Suspended")
    assert listener_document(cluster).tenant.state == "Suspended"
    assert cluster.plan(HOSTNAME).children is None


def test_listener_that_gets_another_tenant_keeps_its_hostname(cluster: Cluster) -> None:
    cluster.add(plan_samples.tenant("rival"))
    cluster.edit("Listener", plan_samples.LISTENER, **yaml.safe_load(f"  {WWW}"))
    cluster.settle()
    cluster.add(plan_samples.listener("waiting", WWW, tenant="rival", created="00"))
    cluster.add(plan_samples.tenant("successor"))
    cluster.edit("Listener", plan_samples.LISTENER, tenantRef={"name": "successor"})
    cluster.apply(cluster.plan(KEY))
    assert addresses(cluster) == ["www.example.org"]


def test_released_hostname_goes_to_the_waiting_tenant_once_its_retirement_ends(cluster: Cluster) -> None:
    cluster.add(plan_samples.tenant("rival"))
    spec = "addresses: [{name: a, hostname: www.example.org}]"
    cluster.add(plan_samples.listener("first", spec, tenant="rival", created="01"))
    cluster.add(plan_samples.listener("waiting", spec, created="02"))
    cluster.settle()
    cluster.edit("Listener", "default/first", addresses=None)
    cluster.settle()
    assert cluster.condition("Listener", "default/waiting", "Accepted").reason == "HostnameConflict"
    assert cluster.condition("Listener", "default/first", "AddressRetired").status == "True"
    cluster.now = planning.NOW + 7 * model.DAY
    assert addresses(cluster, Key("Listener", "default", "first")) == ["hooks.example.com"]
    cluster.gateways_run_it()
    assert addresses(cluster, Key("Listener", "default", "waiting")) == ["www.example.org"]


def test_moved_class_hostname_retires_the_addresses_of_its_listeners(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_samples.PER_HOSTNAME)
    cluster.settle()
    original_children = cluster.cache.children(HOSTNAME)
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    assert addresses(cluster) == ["new.example.com", "hooks.example.com"]
    assert cluster.cache.children(HOSTNAME) == original_children
    retired = cluster.condition("Listener", plan_samples.LISTENER, "AddressRetired")
    assert "hooks.example.com/v1/" in retired.message
    assert "new.example.com/v1/" in retired.message
    (shown,) = cluster.raw("Listener", plan_samples.LISTENER)["status"]["addresses"]
    assert shown["hostname"] == "new.example.com"


def test_arrival_at_a_retired_address_prolongs_it(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    (retired,) = listener_document(cluster).retired_addresses
    cluster.now = planning.NOW + 6 * model.DAY
    arrived_at = datetime.datetime.fromtimestamp((planning.NOW + 6 * model.DAY) / model.MICROSECONDS, datetime.UTC)
    report = ListenerReport(retired_arrivals={retired.id: arrived_at})
    cluster.gateways_run_it(listeners={plan_samples.LISTENER: report})
    assert cluster.condition("Listener", plan_samples.LISTENER, "AddressRetired").reason == "RetiredAddressUsed"
    cluster.settle()
    cluster.gateways_run_it()
    cluster.now = planning.NOW + 13 * model.DAY - 1
    assert addresses(cluster) == ["new.example.com", "hooks.example.com"]
    cluster.now = planning.NOW + 13 * model.DAY
    assert addresses(cluster) == ["new.example.com"]


def test_retired_address_ends_at_once_with_zero_days(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com", retiredAddressDays=0)
    assert addresses(cluster) == ["new.example.com"]


@pytest.mark.parametrize("refuse", ["hostname_is_not_allowed", "namespace_is_not_permitted"])
def test_class_that_narrows_rights_retires_addresses(refuse: str) -> None:
    cluster = claimed_by_a_rival()
    globals()[refuse](cluster)
    assert addresses(cluster) == ["www.example.org", "hooks.example.com"]
    assert cluster.condition("Listener", plan_samples.LISTENER, "Accepted").status == "False"
    assert cluster.condition("Listener", plan_samples.LISTENER, "AddressRetired").status == "True"
    assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameConflict"


def test_address_that_another_listener_of_the_tenant_claims_is_not_retired(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **yaml.safe_load(f"  {WWW}"))
    cluster.settle()
    cluster.edit("Listener", plan_samples.LISTENER, addresses=None)
    cluster.add(plan_samples.listener("second", WWW))
    assert addresses(cluster, Key("Listener", "default", "second")) == ["www.example.org"]
    assert addresses(cluster) == ["hooks.example.com"]


RIVAL = Key("Listener", "attacker", "rival")
WWW = "addresses: [{name: a, hostname: www.example.org, path: /hook}]\n  authentication: {type: None}"


def claimed_by_a_rival() -> Cluster:
    """Return an agency whose listener has a hostname that an older listener of another namespace claims too."""
    cluster = plan_samples.agency()
    cluster.edit("Listener", plan_samples.LISTENER, **yaml.safe_load(f"  {WWW}"))
    cluster.settle()
    cluster.add(plan_samples.tenant("evil", "attacker"))
    cluster.add(plan_samples.listener("rival", WWW, namespace="attacker", tenant="evil", created="01"))
    return cluster


def listener_is_absent(cluster: Cluster) -> None:
    cluster.delete("Listener", plan_samples.LISTENER)


def tenant_is_absent(cluster: Cluster) -> None:
    cluster.delete("Tenant", "default/acme")


def hostname_is_not_allowed(cluster: Cluster) -> None:
    only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "attacker"}}}
    allowed = [{"hostname": "*.example.org", "namespaces": only}]
    cluster.edit("ListenerClass", "public", allowedHostnames=allowed)


def namespace_is_not_permitted(cluster: Cluster) -> None:
    only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "attacker"}}}
    cluster.edit("ListenerClass", "public", namespaces=only)


def test_destination_of_a_deleted_class_stays_as_its_listener_does(cluster: Cluster) -> None:
    """Another class that does not permit the namespace removes nothing."""
    cluster.add(plan_samples.listener_class("other", "usher.dev/usher", "other.example.com"))
    only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}
    cluster.edit("ListenerClass", "other", namespaces=only)
    former = document(cluster), document(cluster, DESTINATION)
    cluster.delete("ListenerClass", "public")
    assert (document(cluster), document(cluster, DESTINATION)) == former
    assert cluster.condition("Destination", DESTINATION.path, "Accepted").reason == "ClassNotPermitted"
    cluster.delete("Listener", KEY.path)
    cluster.settle()
    assert cluster.cache.published(DESTINATION) is None


def test_destination_stays_as_its_unreadable_listener_does_while_their_class_is_deleted(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener_class("other", "usher.dev/usher", "other.example.com"))
    only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}
    cluster.edit("ListenerClass", "other", namespaces=only)
    former, public = (document(cluster), document(cluster, DESTINATION)), cluster.raw("ListenerClass", "public")
    cluster.make_unreadable("Listener", KEY.path)
    cluster.delete("ListenerClass", "public")
    cluster.settle()
    assert (document(cluster), document(cluster, DESTINATION)) == former
    cluster.put(public)
    assert cluster.cache.classes_using(DESTINATION) == ["public"]


def test_document_of_a_later_release_is_the_last_good_one_after_a_rollback(cluster: Cluster) -> None:
    former = listener_document(cluster)
    raw = cluster.raw("Secret", f"usher-config/{config_secret.secret_name('Listener', KEY.path)}")
    envelope = json.loads(base64.b64decode(raw["data"][config_secret.DATA_KEY]))
    envelope["document"]["later"] = 1
    signed = config_samples.signed(envelope, planning.KEYS.document)
    cluster.put({**raw, "data": {config_secret.DATA_KEY: base64.b64encode(signed).decode()}})
    assert listener_document(cluster) == former
    cluster.edit("Listener", KEY.path, later="a field that this release does not know")
    assert listener_document(cluster) == former


@pytest.mark.parametrize(
    "absent", [listener_is_absent, tenant_is_absent, hostname_is_not_allowed, namespace_is_not_permitted]
)
def test_hostname_stays_with_its_owner_while_its_document_is_in_force(
    absent: Callable[[Cluster], None],
) -> None:
    cluster = claimed_by_a_rival()
    absent(cluster)
    accepted = cluster.condition("Listener", RIVAL.path, "Accepted")
    assert (accepted.reason, cluster.plan(RIVAL).children) == ("HostnameConflict", ())
    assert "default" not in accepted.message


def on_hostname(hostname: str) -> dict[str, Any]:
    """Return the fields of a listener with a fixed path at a hostname."""
    return {
        "addresses": [{"name": "a", "hostname": hostname, "path": "/hook"}],
        "authentication": {"type": "None"},
    }


def served(cluster: Cluster) -> set[str]:
    """Return the hostnames at which a document in force has the fixed path."""
    documents_in_force = [cluster.cache.published(Key("Listener", "default", name)) for name in ("lobby", "second")]
    listeners = [
        published.document
        for published in documents_in_force
        if published and isinstance(published.document, documents.ListenerDocument)
    ]
    return {address.host for listener in listeners for address in listener.addresses if address.path == "/hook"}


@pytest.mark.parametrize("order", [("lobby", "second", "lobby"), ("second", "lobby", "second")])
def test_listeners_that_swap_hostnames_leave_none_unserved(cluster: Cluster, order: tuple[str, ...]) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **on_hostname("a.example.org"))
    cluster.add(plan_samples.listener("second", "state: Active"))
    cluster.edit("Listener", "default/second", **on_hostname("b.example.org"))
    cluster.settle()
    cluster.edit("Listener", plan_samples.LISTENER, **on_hostname("b.example.org"))
    cluster.apply(cluster.plan(KEY))
    cluster.edit("Listener", "default/second", **on_hostname("a.example.org"))
    for name in order:
        cluster.apply(cluster.plan(Key("Listener", "default", name)))
        assert served(cluster) == {"a.example.org", "b.example.org"}
    cluster.settle()
    assert addresses(cluster) == ["b.example.org", "hooks.example.com"]
    assert addresses(cluster, Key("Listener", "default", "second")) == ["a.example.org"]


def shared_with_a_rival() -> Cluster:
    """Return an agency and an older rival whose listeners both have addresses at the class's hostname."""
    cluster = claimed_by_a_rival()
    cluster.edit_metadata("Listener", plan_samples.LISTENER, creationTimestamp="2026-02-01T00:00:00Z")
    cluster.add(plan_samples.listener("shared"))
    cluster.add(plan_samples.listener("shared", namespace="attacker", tenant="evil", created="01"))
    cluster.settle()
    return cluster


def test_former_class_hostname_stays_reserved_until_its_retired_addresses_end() -> None:
    cluster = shared_with_a_rival()
    allowed = [{"hostname": "*.example.com"}]
    cluster.edit("ListenerClass", "public", hostname="new.example.org", allowedHostnames=allowed)
    cluster.edit("Listener", RIVAL.path, addresses=[{"name": "a", "hostname": "hooks.example.com"}])
    assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameReserved"
    cluster.settle()
    assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameReserved"
    assert addresses(cluster, Key("Listener", "default", "shared")) == ["new.example.org", "hooks.example.com"]
    cluster.now = planning.NOW + 7 * model.DAY
    assert addresses(cluster, RIVAL) == ["hooks.example.com"]
    assert addresses(cluster, Key("Listener", "default", "shared")) == ["new.example.org"]


def test_edit_and_revert_of_a_class_hostname_change_no_holder() -> None:
    cluster = shared_with_a_rival()
    cluster.edit("ListenerClass", "public", hostname="www.example.org")
    cluster.settle()
    assert cluster.condition("Listener", plan_samples.LISTENER, "Accepted").reason == "HostnameReserved"
    assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameReserved"
    cluster.edit("ListenerClass", "public", hostname="hooks.example.com")
    cluster.settle()
    assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameConflict"
    assert cluster.condition("Listener", plan_samples.LISTENER, "Accepted").status == "True"
    assert addresses(cluster) == ["www.example.org", "hooks.example.com"]
    assert addresses(cluster, Key("Listener", "attacker", "shared")) == ["hooks.example.com", "www.example.org"]


def test_route_of_a_former_class_hostname_stays_while_documents_change(cluster: Cluster) -> None:
    certificate = {"mode": "Class", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}}
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=certificate)
    cluster.settle()
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    assert cluster.plan(HOSTNAME).children is None
    cluster.settle()
    assert cluster.plan(HOSTNAME).children is None


def test_certificate_of_a_former_class_hostname_counts_only_for_its_holder() -> None:
    cluster = shared_with_a_rival()
    cluster.edit("ListenerClass", "public", tls=plan_samples.PER_HOSTNAME, maximums={"hostnamesPerNamespace": 9})
    cluster.edit("ListenerClass", "public", hostname="www.example.org")
    cluster.settle()
    cluster.edit("ListenerClass", "public", hostname="hooks.example.com")
    cluster.settle()
    desired = cluster.plan(Key("Hostname", "", "www.example.org")).children or ()
    (certificate,) = [child.manifest for child in desired if child.ref.kind == "Certificate"]
    assert certificate["metadata"]["annotations"][child_labels.COUNTS_FOR_ANNOTATION] == "default"


def test_address_of_an_absent_listener_stays_with_it_within_a_tenant(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **yaml.safe_load(f"  {WWW}"))
    cluster.settle()
    cluster.add(plan_samples.listener("second", WWW, created="01"))
    listener_is_absent(cluster)
    assert cluster.condition("Listener", "default/second", "Accepted").reason == "PathConflict"


def test_published_listener_keeps_its_address_against_an_older_one(cluster: Cluster) -> None:
    spec = "addresses: [{name: a, hostname: www.example.org, path: /x}]\n  authentication: {type: None}"
    cluster.add(plan_samples.listener("young", spec, created="20"))
    cluster.settle()
    cluster.add(plan_samples.listener("old", spec, created="01"))
    cluster.settle()
    assert cluster.condition("Listener", "default/young", "Accepted").status == "True"
    assert cluster.condition("Listener", "default/old", "Accepted").reason == "PathConflict"


def test_published_listeners_come_first_under_a_lowered_limit(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener("oldest", created="01"))
    cluster.edit("ListenerClass", "public", maximums={"listenersPerNamespace": 1})
    assert cluster.condition("Listener", plan_samples.LISTENER, "Accepted").status == "True"
    assert cluster.condition("Listener", "default/oldest", "Accepted").reason == "LimitExceeded"


def test_edit_whose_addresses_may_not_retire_yet_keeps_the_whole_document(cluster: Cluster) -> None:
    cluster.settle()
    published_before = cluster.cache.published(KEY)
    assert published_before is not None
    assert isinstance(published_before.document, documents.ListenerDocument)
    cluster.waiting.add(KEY)
    cluster.edit("Listener", plan_samples.LISTENER, token={"generation": 2}, state="Suspended")
    waiting = cluster.plan(KEY)
    assert waiting.children is None
    retiring = waiting.retiring
    assert retiring is not None
    assert (retiring.kind, retiring.name, retiring.version) == ("Address", "lobby", published_before.version)
    assert retiring.addresses == (published_before.document.addresses[0].id,)
    programmed = cluster.condition("Listener", plan_samples.LISTENER, "Programmed")
    assert (programmed.status, "stays in force" in programmed.message) == ("Unknown", True)
    cluster.waiting.clear()
    cluster.settle()
    assert document(cluster) != published_before.document
    assert cluster.plan(KEY).retiring is None


def test_listener_is_edited_while_its_retired_address_may_not_end(cluster: Cluster) -> None:
    cluster.settle()
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    assert addresses(cluster) == ["new.example.com", "hooks.example.com"]
    cluster.waiting.add(KEY)
    cluster.now += 7 * model.DAY
    cluster.edit("Listener", plan_samples.LISTENER, state="Suspended")
    listener = listener_document(cluster)
    assert (listener.state, addresses(cluster)) == ("Suspended", ["new.example.com", "hooks.example.com"])
    ending = cluster.plan(KEY).ending
    assert ending is not None
    assert ending.addresses == tuple(address.id for address in listener.retired_addresses)
    cluster.waiting.clear()
    cluster.settle()
    assert addresses(cluster) == ["new.example.com"]
    assert cluster.plan(KEY).ending is None


def test_retired_address_that_may_not_end_yields_to_a_claim(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **yaml.safe_load(f"  {WWW}"))
    cluster.settle()
    cluster.edit("Listener", plan_samples.LISTENER, addresses=None)
    cluster.settle()
    cluster.waiting.add(KEY)
    cluster.now += 7 * model.DAY
    assert addresses(cluster) == ["hooks.example.com", "www.example.org"]
    cluster.add(plan_samples.listener("second", WWW))
    cluster.settle()
    assert addresses(cluster) == ["hooks.example.com"]
    assert addresses(cluster, Key("Listener", "default", "second")) == ["www.example.org"]


def test_edit_that_keeps_the_addresses_waits_for_nothing(cluster: Cluster) -> None:
    cluster.settle()
    cluster.waiting.add(KEY)
    cluster.edit("Listener", plan_samples.LISTENER, state="Suspended")
    cluster.settle()
    assert document(cluster).state == "Suspended"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("", "if its removals go on waiting, it was there before they were: delete the annotation and add it again"),
        ("84a77c86d40b", "; the annotation has `84a77c86d40b`, which matches nothing that waits"),
        ("the-first,the-second-of-them", "has `the-first`, `the-second-o…`, which matches nothing that waits"),
    ],
)
def test_wrong_confirmation_shows_in_the_message_of_the_class(cluster: Cluster, annotation: str, expected: str) -> None:
    plan_reasons.halted(cluster)
    (halt,) = cluster.cache.halted or ()
    cluster.edit_metadata(
        "ListenerClass", "public", annotations={"usher.dev/confirm-removals": f"{halt.digest},{annotation}"}
    )
    cluster.settle()
    message = cluster.condition("ListenerClass", "public", "Accepted").message
    assert message.endswith(expected)


def halted_removals(cluster: Cluster) -> list[dict[str, str]]:
    """The class's status field, as a plan that is made now has it."""
    status = cluster.plan(Key("ListenerClass", "", "public")).status
    assert status is not None
    return cast("list[dict[str, str]]", status.fields.get("haltedRemovals", []))


def test_class_names_the_halted_namespaces_until_the_guard_decides_again(cluster: Cluster) -> None:
    plan_reasons.halted(cluster)
    cluster.settle()
    waiting = halted_removals(cluster)
    assert [entry["namespace"] for entry in waiting] == ["a"]
    started = cluster.restarted()
    started.cache.keys = model.derive_keys(bytes(32))
    started.settle()
    assert started.condition("ListenerClass", "public", "Accepted").reason == "InstallKeyChanged"
    assert halted_removals(started) == waiting
    started.cache.keys = cluster.cache.keys
    started.settle()
    assert halted_removals(started) == waiting
    started.set_halted()
    started.settle()
    assert halted_removals(started) == []
    assert started.condition("ListenerClass", "public", "Accepted").reason == "Accepted"


def test_missing_install_key_keeps_the_shared_company_of_a_tenant(cluster: Cluster) -> None:
    plan_reasons.company_is_shared(cluster)
    cluster.settle()
    shared = cluster.condition("Tenant", "default/acme", "CompanyShared")
    cluster.cache.keys = None
    cluster.settle()
    assert cluster.condition("Tenant", "default/acme", "Accepted").reason == "Pending"
    assert cluster.condition("Tenant", "default/acme", "CompanyShared") == shared


@pytest.mark.parametrize(("kind", "spec"), [("Listener", {"routes": None}), ("Destination", {})])
def test_transform_that_fails_on_the_samples_is_a_warning(cluster: Cluster, kind: Kind, spec: dict[str, Any]) -> None:
    transform = "{'room': body.guest.room}"
    if kind == "Listener":
        spec = {"routes": [{"name": "crm", "destinationRef": {"name": "crm"}, "transform": transform}]}
    else:
        spec = {"transform": transform}
    key = KEY if kind == "Listener" else DESTINATION
    cluster.edit(kind, key.path, **spec)
    accepted = cluster.condition(kind, key.path, "Accepted")
    ready_document = document(cluster, key)
    assert (accepted.status, accepted.reason) == ("True", "Accepted")
    assert "fails with NoSuchField (body.guest) on every sample body; deliveries would be held" in accepted.message
    assert "guard a field that bodies may lack" in accepted.message
    assert ready_document.generation == cluster.raw(kind, key.path)["metadata"]["generation"]
    assert transform in str(ready_document)
    assert [warning.partition(": ")[2].partition(";")[0] for warning in ready_document.warnings or ()] == [
        "fails with NoSuchField (body.guest) on every sample body"
    ]


@pytest.mark.parametrize(
    "withdraw",
    [
        plan_reasons.edit(**plan_reasons.address("www.elsewhere.example")),
        plan_reasons.edit_class(allowedHostnames=[{"hostname": "*.elsewhere.example"}]),
    ],
    ids=["edit of the listener", "edit of the class"],
)
def test_refused_address_leaves_the_url_that_is_served_in_secret_and_status(
    cluster: Cluster, withdraw: Callable[[Cluster], object]
) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **plan_reasons.address("www.example.org"))
    cluster.settle()
    url = cluster.raw("Secret", "default/lobby-url")["data"]
    shown = cluster.raw("Listener", plan_samples.LISTENER)["status"]["addresses"]
    withdraw(cluster)
    cluster.settle()
    assert cluster.condition("Listener", plan_samples.LISTENER, "Accepted").reason == "HostnameNotAllowed"
    assert "www.example.org" in addresses(cluster)
    assert cluster.raw("Secret", "default/lobby-url")["data"] == url
    assert cluster.raw("Listener", plan_samples.LISTENER)["status"]["addresses"] == shown
    assert [entry["hostname"] for entry in shown] == ["www.example.org"]
