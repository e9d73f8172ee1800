"""Names that are made again: what a new object gets of the document of the one before it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

from support import plan_reasons, plan_samples
from support.planning import KEYS, Cluster
from usher_gateway import config_secret, documents
from usher_gateway.config_secret import TenantHostnames, secret_name
from usher_operator.plan import children
from usher_operator.state.values import AppliedDocument, GatewayReport, Key, Kind, Plan

LOBBY = Key("Listener", "default", "lobby")
CRM = Key("Destination", "default", "crm")
RIVAL = Key("Listener", "other", "rival")
BEARER = {"type": "Bearer", "bearer": {"secretRef": {"name": "purple", "key": "token"}}}
GLOBEX = {"tenantRef": {"name": "globex"}}
ROUTE = {"name": "crm", "destinationRef": {"name": "crm"}}
INVALID = {"routes": [{**ROUTE, "when": "visit.emial == ''"}]}


@pytest.fixture
def cluster() -> Cluster:
    cluster = plan_samples.agency()
    cluster.put(namespace("first"))
    cluster.add(plan_samples.tenant("globex"))
    cluster.settle()
    return cluster


def namespace(uid: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "uid": uid}}


def make_again(cluster: Cluster, key: Key, **spec: Any) -> None:
    """Delete a resource and create it with another uid and some fields of its spec; its document is still in force."""
    raw = cluster.raw(key.kind, key.path)
    cluster.delete(key.kind, key.path)
    raw["metadata"] |= {"uid": f"another-{raw['metadata']['uid']}", "generation": 1}
    cluster.put({**raw, "spec": {**raw["spec"], **spec}, "status": {}})


def destination(cluster: Cluster) -> documents.DestinationDocument:
    published = cluster.cache.published(CRM)
    assert published is not None
    assert isinstance(published.document, documents.DestinationDocument)
    return published.document


def listener(cluster: Cluster, key: Key = LOBBY) -> documents.ListenerDocument:
    published = cluster.cache.published(key)
    assert published is not None
    assert isinstance(published.document, documents.ListenerDocument)
    return published.document


def status_field(cluster: Cluster, key: Key, name: str) -> object:
    status = cluster.plan(key).status
    assert status is not None
    return status.fields[name]


# Destinations


@pytest.mark.parametrize("tenant", ["", "acme", "globex"])
def test_destination_made_again_gets_no_former_url_and_credential(cluster: Cluster, tenant: str) -> None:
    former = {"url": "https://former.example/", "authentication": BEARER}
    cluster.edit("Destination", CRM.path, tenantRef={"name": "acme"}, http=former)
    cluster.settle()
    assert destination(cluster).headers == (("Authorization", "Bearer tok"),)
    cluster.delete("Secret", "default/purple")
    reference = {"tenantRef": {"name": tenant}} if tenant else {}
    raw = cluster.raw("Destination", CRM.path)
    del raw["spec"]["tenantRef"]
    cluster.put(raw)
    make_again(cluster, CRM, http={"url": "https://new.example/", "authentication": BEARER}, **reference)
    cluster.settle()
    document = destination(cluster)
    assert (document.tenant, document.url, document.headers) == (tenant, "https://new.example/", ())
    assert document.unresolved == "SecretNotFound"
    assert status_field(cluster, CRM, "host") == "new.example"


def test_invalid_destination_made_again_has_no_document(cluster: Cluster) -> None:
    make_again(cluster, CRM, transform="visit.emial")
    assert cluster.plan(CRM).children == ()
    assert status_field(cluster, CRM, "host") == ""


def test_deleted_secret_keeps_credential_url_and_shown_host(cluster: Cluster) -> None:
    cluster.edit("Destination", CRM.path, http={"url": "https://first.example/", "authentication": BEARER})
    cluster.settle()
    cluster.delete("Secret", "default/purple")
    cluster.edit("Destination", CRM.path, http={"url": "https://second.example/", "authentication": BEARER})
    cluster.settle()
    assert destination(cluster).url == "https://first.example/"
    assert destination(cluster).headers == (("Authorization", "Bearer tok"),)
    assert status_field(cluster, CRM, "host") == "first.example"


# Routes


def test_route_follows_the_destination_that_was_made_again(cluster: Cluster) -> None:
    make_again(cluster, CRM)
    assert LOBBY in cluster.queue
    cluster.settle()
    assert listener(cluster).routes[0].destination_uid == destination(cluster).uid == "another-uid-of-destination-crm"


def test_absent_listener_is_not_bound_to_a_destination_made_again(cluster: Cluster) -> None:
    cluster.delete("Listener", LOBBY.path)
    make_again(cluster, CRM)
    cluster.apply(cluster.plan(CRM))
    assert listener(cluster).routes[0].destination_uid != destination(cluster).uid


def test_only_former_users_stay_bound_to_an_absent_destination(cluster: Cluster) -> None:
    cluster.delete("Destination", CRM.path)
    cluster.edit("Listener", LOBBY.path, silence={"afterSeconds": 60})
    cluster.add(plan_samples.listener("new", "routes: [{name: crm, destinationRef: {name: crm}}]"))
    for key in (LOBBY, new := Key("Listener", "default", "new")):
        cluster.apply(cluster.plan(key))
    assert listener(cluster).routes[0].destination_uid == destination(cluster).uid
    assert listener(cluster, new).routes[0].destination_uid is msgspec.UNSET


def test_route_is_not_bound_to_the_former_of_an_unreadable_destination(cluster: Cluster) -> None:
    make_again(cluster, CRM, http=["unreadable"])
    cluster.settle()
    assert listener(cluster).routes[0].destination_uid == "another-uid-of-destination-crm"
    assert destination(cluster).uid == "uid-of-destination-crm"


# Listeners


def test_invalid_listener_made_again_for_another_tenant_gets_its_own_urls(cluster: Cluster) -> None:
    former = listener(cluster)
    make_again(cluster, LOBBY, **INVALID, **GLOBEX)
    cluster.settle()
    document = listener(cluster)
    assert document.tenant.name == "globex"
    assert not {address.url for address in document.addresses} & {address.url for address in former.addresses}


def test_listener_of_another_tenant_shows_no_former_url_while_it_waits(cluster: Cluster) -> None:
    former = listener(cluster)
    cluster.waiting.add(LOBBY)
    make_again(cluster, LOBBY, **GLOBEX)
    planned = cluster.plan(LOBBY)
    assert planned.children is None
    assert status_field(cluster, LOBBY, "addresses") == []
    assert cluster.condition("Listener", LOBBY.path, "Programmed").status == "Unknown"
    assert listener(cluster) == former


@pytest.mark.parametrize(
    "mistake",
    [INVALID, {"fields": {"occurredAtZone": "Nowhere/None"}}, {"listenerClassName": "missing"}],
    ids=["expression", "value", "class"],
)
def test_invalid_listener_made_again_keeps_its_url_and_holds(cluster: Cluster, mistake: dict[str, Any]) -> None:
    former = listener(cluster)
    routes = [{**ROUTE, "name": "other", "transform": "visit.email"}]
    make_again(cluster, LOBBY, **{"routes": routes, **mistake})
    cluster.settle()
    document = listener(cluster)
    assert (document.addresses, document.state) == (former.addresses, "Suspended")
    assert [route.name for route in document.routes] == [route["name"] for route in mistake.get("routes", routes)]
    assert cluster.condition("Listener", LOBBY.path, "Programmed").status != "True"
    cluster.edit("Listener", LOBBY.path, routes=[ROUTE], fields=None, listenerClassName=None)
    cluster.settle()
    assert (listener(cluster).addresses, listener(cluster).state) == (former.addresses, "Active")


def test_listener_made_again_without_its_secret_answers_and_holds(cluster: Cluster) -> None:
    cluster.edit("Listener", LOBBY.path, authentication=plan_reasons.BASIC)
    cluster.settle()
    former, secret = listener(cluster), cluster.raw("Secret", "default/purple")
    cluster.delete("Secret", "default/purple")
    make_again(cluster, LOBBY)
    cluster.settle()
    cluster.edit("Listener", LOBBY.path, silence={"afterSeconds": 60})
    cluster.settle()
    assert (listener(cluster).authentication, listener(cluster).state) == (former.authentication, "Suspended")
    cluster.put(secret)
    cluster.settle()
    assert (listener(cluster).authentication, listener(cluster).state) == (former.authentication, "Active")


def test_listener_made_again_holds_while_its_new_addresses_wait(cluster: Cluster) -> None:
    former = listener(cluster)
    cluster.waiting.add(LOBBY)
    make_again(cluster, LOBBY, **yaml.safe_load("addresses: [{name: a, hostname: www.example.org}]"))
    cluster.settle()
    assert (listener(cluster).addresses, listener(cluster).state) == (former.addresses, "Suspended")
    cluster.waiting.clear()
    cluster.settle()
    hosts = [address.host for address in listener(cluster).addresses]
    assert (hosts, listener(cluster).state) == (["www.example.org", "hooks.example.com"], "Active")


def test_listener_of_a_namespace_made_again_gets_nothing_of_the_former_one(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    cluster.edit("Listener", LOBBY.path, authentication=plan_reasons.BASIC)
    cluster.settle()
    present, retired = listener(cluster).addresses
    assert retired.host == "hooks.example.com"
    cluster.delete("Secret", "default/purple")
    cluster.put(namespace("second"))
    make_again(cluster, LOBBY)
    cluster.settle()
    document = listener(cluster)
    assert (document.addresses, document.authentication.type) == ((present,), "Unresolved")


def test_namespace_that_is_seen_late_takes_back_what_a_listener_got(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    cluster.settle()
    make_again(cluster, LOBBY)
    cluster.settle()
    assert len(listener(cluster).addresses) == 2
    assert LOBBY in cluster.put(namespace("second"))
    cluster.settle()
    assert [address.host for address in listener(cluster).addresses] == ["new.example.com"]


@pytest.mark.parametrize("key", [LOBBY, CRM])
def test_resource_waits_until_its_namespace_is_known(cluster: Cluster, key: Key) -> None:
    permitted = cluster.cache.published(key)
    cluster.delete("Namespace", "default")
    plan_reasons.only_these_namespaces(cluster)
    assert cluster.plan(key) == Plan(key, None)
    cluster.settle()
    assert cluster.cache.published(key) == permitted
    assert key in cluster.put(namespace("second"))


def test_hostname_of_a_former_namespace_does_not_go_to_another_tenant(cluster: Cluster) -> None:
    www = yaml.safe_load("addresses: [{name: a, hostname: www.example.org}]")
    cluster.edit("Listener", LOBBY.path, **www)
    cluster.settle()
    cluster.put(namespace("second"))
    make_again(cluster, LOBBY, **GLOBEX)
    assert cluster.condition("Listener", LOBBY.path, "Accepted").reason == "HostnameConflict"


# Namespaces that may publish nothing


@pytest.mark.parametrize("kind", ["Listener", "Destination"])
def test_namespace_that_no_class_permits_has_no_documents(kind: Kind) -> None:
    cluster = Cluster()
    cluster.add(plan_samples.OBJECTS)
    plan_reasons.only_these_namespaces(cluster)
    path = LOBBY.path if kind == "Listener" else CRM.path
    assert cluster.condition(kind, path, "Accepted").reason == "ClassNotPermitted"
    cluster.settle()
    assert cluster.cache.published(LOBBY) is None
    assert cluster.cache.published(CRM) is None


def test_destination_stays_while_a_refused_listener_has_retired_addresses(cluster: Cluster) -> None:
    document = destination(cluster)
    plan_reasons.only_these_namespaces(cluster)
    cluster.settle()
    assert [address.retired_at > 0 for address in listener(cluster).addresses] == [True]
    assert destination(cluster) == document
    assert cluster.condition("Destination", CRM.path, "Accepted").reason == "ClassNotPermitted"
    cluster.delete("Listener", LOBBY.path)
    cluster.settle()
    assert cluster.cache.published(CRM) is None


def test_destination_stays_while_there_is_no_class(cluster: Cluster) -> None:
    document = destination(cluster)
    cluster.delete("ListenerClass", "public")
    cluster.add(
        "{apiVersion: usher.dev/v1alpha1, kind: Destination, metadata: {name: new}, "
        "spec: {type: HTTP, http: {url: 'https://new.example/'}}}"
    )
    cluster.settle()
    assert destination(cluster) == document
    assert cluster.cache.published(Key("Destination", "default", "new")) is None
    assert cluster.condition("Destination", CRM.path, "Accepted").reason == "ClassNotPermitted"


def test_destination_stays_while_its_class_cannot_be_read(cluster: Cluster) -> None:
    cluster.add(
        "{apiVersion: usher.dev/v1alpha1, kind: ListenerClass, metadata: {name: other}, spec: "
        "{controllerName: usher.dev/usher, hostname: other.example.com, exposure: {type: None}, "
        "tls: {mode: External}, namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}"
    )
    cluster.settle()
    cluster.make_unreadable("ListenerClass", "public")
    assert cluster.plan(CRM).children is None
    assert "this version of Usher cannot read it" in cluster.condition("Destination", CRM.path, "Accepted").message


# Documents that only gateways have, after the loss of all config Secrets


def lose_documents(cluster: Cluster, *, tenant: str = "acme") -> None:
    """Delete the config Secret of the Listener, and all of a Tenant; a gateway still runs the document."""
    vanished = {LOBBY: TenantHostnames(tenant, ())}
    cluster.set_gateways(GatewayReport(name="one", stale={LOBBY: "uid-lobby"}, vanished=vanished))
    cluster.delete("Tenant", "default/acme")
    cluster.delete("Secret", f"{cluster.cache.settings.configuration_namespace}/{secret_name('Listener', LOBBY.path)}")
    assert cluster.cache.published(LOBBY) is None


def refuse_namespace(cluster: Cluster) -> None:
    cluster.add(plan_samples.tenant("acme"))
    plan_reasons.only_these_namespaces(cluster)


def make_invalid(cluster: Cluster) -> None:
    cluster.add(plan_samples.tenant("acme"))
    cluster.edit("Listener", LOBBY.path, fields={"occurredAtZone": "Mars/Base"})


def lose_credential(cluster: Cluster) -> None:
    cluster.add(plan_samples.tenant("acme"))
    cluster.edit("Listener", LOBBY.path, authentication={"type": "Basic", "basic": {"secretRef": {"name": "late"}}})


@pytest.mark.parametrize(
    ("change", "stays"),
    [
        (lambda _: None, True),
        (lose_credential, True),
        (lambda cluster: cluster.add(plan_samples.tenant("acme")), False),
        (make_invalid, True),
        (lambda cluster: cluster.edit("Listener", LOBBY.path, listenerClassName="late"), True),
        (lambda cluster: cluster.edit("Listener", LOBBY.path, tenantRef={"name": "initech"}), False),
        (refuse_namespace, False),
        (plan_reasons.only_these_namespaces, False),
        (lambda cluster: cluster.delete("Listener", LOBBY.path), False),
    ],
    ids=[
        "tenant missing",
        "credential missing",
        "complete",
        "invalid",
        "class missing",
        "another tenant",
        "not permitted",
        "neither tenant nor permitted",
        "deleted",
    ],
)
def test_document_that_only_a_gateway_has_stays_while_its_listener_is_declared(
    cluster: Cluster, change: Callable[[Cluster], object], *, stays: bool
) -> None:
    lose_documents(cluster)
    change(cluster)
    planned = cluster.plan(LOBBY)
    assert (planned.keeps_vanished, planned.children is None) == (stays, stays)


WWW = "www.example.org"


@pytest.mark.parametrize("missing", ["default/purple", "default/acme"])
def test_listener_that_only_a_gateway_has_keeps_its_hostname_and_its_route(cluster: Cluster, missing: str) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_samples.PER_HOSTNAME)
    www = yaml.safe_load(f"addresses: [{{name: a, hostname: {WWW}}}]")
    cluster.edit("Listener", LOBBY.path, authentication=plan_reasons.BASIC, **www)
    cluster.add(plan_samples.tenant("globex", "other"))
    rival = f"addresses: [{{name: a, hostname: {WWW}}}]"
    cluster.settle()
    cluster.add(plan_samples.listener("rival", rival, namespace="other", tenant="globex", created="01"))
    cluster.edit_metadata("Listener", LOBBY.path, creationTimestamp="2026-02-02T00:00:00Z")
    cluster.settle()
    children = {ref for ref in cluster.objects if ref.kind in {"Ingress", "Certificate"}}
    running = GatewayReport(name="one", vanished={LOBBY: TenantHostnames("acme", (WWW,))})
    cluster.set_gateways(running)
    cluster.delete("Secret" if missing == "default/purple" else "Tenant", missing)
    cluster.delete("Secret", f"{cluster.cache.settings.configuration_namespace}/{secret_name('Listener', LOBBY.path)}")
    cluster.settle()
    assert {ref for ref in cluster.objects if ref.kind in {"Ingress", "Certificate"}} == children
    cluster.set_gateways(msgspec.structs.replace(running, reachable=False))
    cluster.settle()
    assert cluster.cache.holders(WWW) == {("default", "acme")}


@pytest.mark.parametrize("damage", ["deleted", "not readable"])
def test_hostname_of_a_document_that_somebody_deleted_stays_until_gateways_drop_it(
    cluster: Cluster, damage: str
) -> None:
    www = yaml.safe_load(f"addresses: [{{name: a, hostname: {WWW}}}]")
    cluster.edit("Listener", LOBBY.path, authentication=plan_reasons.BASIC, **www)
    cluster.add(plan_samples.tenant("globex", "other"))
    cluster.settle()
    rival = f"addresses: [{{name: a, hostname: {WWW}}}]"
    cluster.add(plan_samples.listener("rival", rival, namespace="other", tenant="globex", created="01"))
    cluster.gateways_run_it()
    cluster.delete("Listener", LOBBY.path)
    config = f"{cluster.cache.settings.configuration_namespace}/{secret_name('Listener', LOBBY.path)}"
    if damage == "deleted":
        cluster.delete("Secret", config)
    else:
        cluster.put({**cluster.raw("Secret", config), "data": {}})
    assert cluster.cache.holders(WWW) == {("default", "acme")}
    cluster.set_gateways(GatewayReport(name="one", reachable=False, applied={LOBBY: AppliedDocument("1")}))
    assert cluster.cache.holders(WWW) == {("default", "acme")}
    cluster.set_gateways(GatewayReport(name="one"))
    assert cluster.cache.holders(WWW) == set()


def served_at_www(cluster: Cluster) -> GatewayReport:
    """Let the Listener have a hostname, and a rival claim it too; returns the report of a gateway that serves it."""
    cluster.edit("ListenerClass", "public", retiredAddressDays=0)
    cluster.edit("Listener", LOBBY.path, addresses=[{"name": "a", "hostname": WWW}])
    cluster.settle()
    cluster.gateways_run_it()
    (served,) = cluster.cache.reports.ready or ()
    cluster.add(plan_samples.tenant("globex", "other"))
    claim = f"addresses: [{{name: a, hostname: {WWW}}}]"
    cluster.add(plan_samples.listener("rival", claim, namespace="other", tenant="globex", created="01"))
    return served


def put_tombstone(cluster: Cluster, key: Key) -> None:
    """Delete a Listener, and leave the tombstone of its document."""
    document = listener(cluster, key)
    held = TenantHostnames(document.tenant.name, tuple(sorted(document.own_hostnames)))
    owner = config_secret.Owner(key.namespace, key.name, cluster.raw("Listener", key.path)["metadata"]["uid"])
    envelope = config_secret.tombstone_of("Listener", owner, 1, "2026-12-07T12:00:00Z", KEYS.document, held=held)
    cluster.delete("Listener", key.path)
    cluster.put(children.build_config_secret(envelope, cluster.cache.settings).manifest)


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("drops_first", [False, True])
def test_listener_made_again_elsewhere_frees_no_hostname_of_its_tombstone(
    cluster: Cluster, tenant: str, drops_first: bool
) -> None:
    served = served_at_www(cluster)
    if drops_first:
        cluster.edit("Listener", LOBBY.path, addresses=None)
        cluster.settle()
    raw = cluster.raw("Listener", LOBBY.path)
    put_tombstone(cluster, LOBBY)
    raw["metadata"] |= {"uid": "present", "generation": 1}
    addresses = [{"name": "a", "hostname": "elsewhere.example.org"}]
    cluster.put({**raw, "spec": {**raw["spec"], "addresses": addresses, "tenantRef": {"name": tenant}}, "status": {}})
    cluster.set_gateways(served)
    cluster.settle()
    assert listener(cluster).tenant.name == tenant
    rivals = (RIVAL, Key("Listener", "default", "second"))
    claim = f"addresses: [{{name: a, hostname: {WWW}}}]"
    cluster.add(plan_samples.listener("second", claim, tenant="globex", created="02"))
    assert [cluster.condition("Listener", rival.path, "Accepted").reason for rival in rivals] == 2 * [
        "HostnameConflict"
    ]


def test_listener_of_another_tenant_gets_no_hostname_from_a_tombstone(cluster: Cluster) -> None:
    served = served_at_www(cluster)
    raw = cluster.raw("Listener", LOBBY.path)
    put_tombstone(cluster, LOBBY)
    raw["metadata"] |= {"uid": "present", "generation": 1}
    cluster.put({**raw, "spec": {**raw["spec"], "tenantRef": {"name": "globex"}}, "status": {}})
    cluster.set_gateways(served)
    cluster.settle()
    assert cluster.condition("Listener", LOBBY.path, "Accepted").reason == "HostnameConflict"
    cluster.gateways_run_it()
    cluster.settle()
    assert cluster.condition("Listener", LOBBY.path, "Accepted").status == "True", "the oldest claim"


def test_hostname_that_a_listener_drops_is_not_free_while_a_gateway_runs_its_former_document(cluster: Cluster) -> None:
    served = served_at_www(cluster)
    cluster.edit("Listener", LOBBY.path, addresses=None)
    cluster.settle()
    for reports, unheard in (
        ((served,), ()),
        ((msgspec.structs.replace(served, reachable=False),), ()),
        ((), ("two",)),
    ):
        cluster.set_gateways(*reports, unheard=unheard)
        cluster.settle()
        assert cluster.condition("Listener", RIVAL.path, "Accepted").reason == "HostnameConflict"
    cluster.queue.clear()
    cluster.gateways_run_it()
    assert RIVAL in cluster.queue
    assert cluster.condition("Listener", RIVAL.path, "Accepted").status == "True"


def test_document_without_its_credential_waits_for_what_gateways_say(cluster: Cluster) -> None:
    lose_documents(cluster)
    lose_credential(cluster)
    started = cluster.restarted()
    assert started.cache.reports.ready is None
    assert started.plan(LOBBY).children is None
    started.set_gateways(GatewayReport(name="one", reachable=False), unheard=("one",))
    assert started.plan(LOBBY).children is None
    started.set_gateways(GatewayReport(name="one"))
    assert started.plan(LOBBY).children
