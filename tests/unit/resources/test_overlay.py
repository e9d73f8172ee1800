"""An overlay changes what its manifests say, keeps the rest, and has no credential."""

from typing import Any

import msgspec

from support import config_samples, gateways
from usher_gateway import documents, resources
from usher_gateway.resources import manifests, overlay

ROUTE = gateways.route("crm", "crm")


def in_acme(manifest: gateways.Manifest) -> gateways.Manifest:
    return manifest | {"metadata": {**manifest["metadata"], "namespace": "acme"}}


def wifi(*routes: gateways.Manifest, **spec: Any) -> gateways.Manifest:
    return in_acme(gateways.listener("wifi", routes, tenantRef={"name": "hotels"}, **spec))


def objects(*given: gateways.Manifest) -> list[resources.Resource]:
    loaded = manifests.load_manifests(msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": given}), "x")
    assert loaded.problems == ()
    return [each.resource for each in loaded.objects]


def in_force(**changes: Any) -> documents.Snapshot:
    listener = config_samples.listener(routes=(documents.Route("crm", "acme/crm"),), **changes)
    destination = config_samples.destination(headers=(("x-key", "s3cr3t"),), signing_secrets=("s3cr3t",))
    return documents.Snapshot({listener.key: listener}, {destination.key: destination})


def test_listener_keeps_what_its_class_and_its_secrets_say() -> None:
    basic = documents.Authentication("Basic", "authorization", "d1")
    present = in_force(
        max_body_bytes=1024, requests_per_second=7, trusted_proxies=("10.0.0.0/8",), authentication=basic
    )
    changed = overlay.overlay_documents(present, objects(wifi(ROUTE | {"when": "visit.late"}))).changed
    (listener,) = changed.listeners.values()
    assert listener.routes == (documents.Route("crm", "acme/crm", when="visit.late"),)
    assert (
        msgspec.structs.replace(listener, routes=present.listeners["acme/wifi"].routes)
        == present.listeners["acme/wifi"]
    )


def test_equal_manifest_changes_no_listener() -> None:
    assert overlay.overlay_documents(in_force(), objects(wifi(ROUTE))).changed_listeners == ()


def test_manifests_mean_the_objects_that_are_in_force() -> None:
    bound = in_force()
    routes = (documents.Route("crm", "acme/crm", destination_uid="of-crm"),)
    listener = msgspec.structs.replace(bound.listeners["acme/wifi"], routes=routes)
    crm = msgspec.structs.replace(bound.destinations["acme/crm"], uid="of-crm")
    present = documents.Snapshot({listener.key: listener}, {crm.key: crm})
    same = objects(wifi(ROUTE), in_acme(gateways.destination("crm", "https://crm.example.com/")))
    assert overlay.overlay_documents(present, same).changed_listeners == ()


def test_no_document_of_an_overlay_has_a_credential() -> None:
    signed = {"signing": {"secretRefs": [{"name": "keys", "key": "new"}]}}
    destination = in_acme(gateways.destination("erp", "https://erp.example", signed))
    laid = overlay.overlay_documents(in_force(), objects(destination))
    both = [*laid.in_force.destinations.values(), *laid.changed.destinations.values()]
    assert [(each.headers, each.signing_secrets) for each in both] == [((), ())] * 3


def test_destination_changes_the_listeners_that_lead_there() -> None:
    crm = in_acme(gateways.destination("crm", "https://crm.example.com/", transform="{'id': visit.userId}"))
    assert overlay.overlay_documents(in_force(), objects(crm)).changed_listeners == ("acme/wifi",)
    same = in_acme(gateways.destination("crm", "https://crm.example.com/"))
    assert overlay.overlay_documents(in_force(), objects(same)).changed_listeners == ()


def test_secret_of_a_url_is_the_same_placeholder_before_and_after() -> None:
    url = "https://crm.example.com/{key}"
    present = in_force()
    own = documents.UrlVariable("key", secret="s3cr3t")
    crm = config_samples.destination(url_variables=(own,))
    present.destinations[crm.key] = msgspec.structs.replace(crm, url=url)
    reference = {"name": "key", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "crm"}}}
    again = in_acme(gateways.destination("crm", url, {"urlVariables": [reference]}))
    laid = overlay.overlay_documents(present, objects(again))
    assert laid.changed.destinations == laid.in_force.destinations
    assert "s3cr3t" not in repr(laid)


def test_destination_that_lacks_a_secret_lacks_it_after_the_change_too() -> None:
    present = in_force()
    present.destinations["acme/crm"] = config_samples.destination(unresolved="SecretNotFound", missing="Secret `keys`")
    crm = in_acme(gateways.destination("crm", "https://crm.example.com/new"))
    changed = overlay.overlay_documents(present, objects(crm)).changed.destinations["acme/crm"]
    assert (changed.url, changed.unresolved) == ("https://crm.example.com/new", "SecretNotFound")


def test_tenant_changes_every_listener_of_its_own() -> None:
    tenant = in_acme(gateways.TENANT | {"metadata": {"name": "hotels"}, "spec": {"timeZone": "Europe/London"}})
    laid = overlay.overlay_documents(in_force(), objects(tenant))
    assert laid.changed_listeners == ("acme/wifi",)
    assert laid.changed.listeners["acme/wifi"].tenant.time_zone == "Europe/London"


def test_new_listener_gets_its_tenant_from_another_one_or_from_the_manifests() -> None:
    garden = wifi(ROUTE) | {"metadata": {"name": "garden", "namespace": "acme"}}
    present = in_force(tenant=documents.TenantDocument("hotels", company_id="77"))
    assert (
        overlay.overlay_documents(present, objects(garden)).changed.listeners["acme/garden"].tenant.company_id == "77"
    )
    (finding,) = overlay.overlay_documents(documents.Snapshot({}, {}), objects(garden)).findings
    assert finding.message == "Tenant `hotels` is neither in force nor among the manifests"
    tenant = in_acme(gateways.TENANT | {"metadata": {"name": "hotels"}})
    assert overlay.overlay_documents(documents.Snapshot({}, {}), objects(garden, tenant)).findings == ()


def test_mistakes_are_found_in_every_kind() -> None:
    given = objects(
        wifi(ROUTE | {"when": "visit.email !="}),
        in_acme(gateways.destination("crm", "https://crm.example/{key}")),
        in_acme(gateways.TENANT | {"spec": {"timeZone": "Mars/Base"}}),
    )
    found = overlay.overlay_documents(in_force(), given).findings
    assert {finding.kind for finding in found} == {"Listener", "Destination", "Tenant"}
