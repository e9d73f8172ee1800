"""Recipes of a tenant, and the requests that they make for a visitor."""

import json

from support import certificates, delivery_samples
from usher_gateway import documents, model, recipes
from usher_gateway.delivery import erasure_forwarding, payload
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.destinations import DestinationRequest
from usher_gateway.resources import compiler
from usher_gateway.resources.manifests import load_manifests

KEYS = model.derive_keys(b"k" * 32)
TENANT = """
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: harbour, namespace: hotels}
spec: {displayName: Harbour}
---
"""
BODY = {
    "user": {
        "id": 7,
        "email": " jane.doe@example.com",
        "firstName": "Jane",
        "lastName": "Doe",
        "visitCountsForVenue": 3,
        "venue": {"id": 9, "name": "Pier"},
    }
}


def destination_of(name: str, **secrets: str) -> documents.DestinationDocument:
    """Compile a recipe. ``secrets``: the values of a Google service account, instead of samples."""
    text = recipes.filled(name, "hotels", "harbour")
    if "  account.json: " in text:
        secrets = secrets or {"client_email": "a@b.example", "private_key": certificates.rsa_key(2048), "key_id": "k"}
        account = {
            "client_email": secrets["client_email"],
            "private_key": secrets["private_key"],
            "private_key_id": secrets["key_id"],
        }
        start = text.index("  account.json: ")
        text = f"{text[:start]}  account.json: {json.dumps(json.dumps(account))}\n"
    loaded = load_manifests((TENANT + text).encode(), f"{name}.yaml")
    assert loaded.problems == ()
    resources = compiler.collect((each.resource for each in loaded.objects), loaded.namespaces)
    compiled = compiler.compile_resources(
        resources, compiler.CompileContext(keys=KEYS, now=0, allow_implicit_class=True)
    )
    assert [finding.message for finding in compiled.findings if finding.severity != "notice"] == []
    return compiled.snapshot.destinations[f"hotels/harbour-{name}"]


def erasure_of(name: str) -> DestinationRequest:
    """Return the request by which a recipe asks its system to erase the visitor."""
    prepared = payload.prepare(destination_of(name))
    assert prepared.destination.erasure is not None
    request = erasure_forwarding.make_request(
        RouteDocuments(keys=KEYS), prepared, prepared.destination.erasure, "email", " Jane.Doe@example.com", 0
    )
    assert isinstance(request, DestinationRequest)
    return request


def request_of(name: str, body: object = BODY) -> DestinationRequest:
    destination = destination_of(name)
    newest = RouteDocuments(keys=KEYS)
    newest.apply(documents.Snapshot({}, {destination.key: destination}))
    route = model.RouteDefinition(model.ListenerName("hotels", "harbour", "lobby"), "crm", destination.key)
    delivery = delivery_samples.delivery(body=json.dumps(body).encode())
    evaluated = newest.evaluate_delivery(delivery, route, destination)
    assert evaluated.error_code == ""
    prepared = payload.prepare(destination)
    request = payload.render(prepared, delivery, route, 0, evaluated.document, evaluated.url_values)
    assert isinstance(request, DestinationRequest)
    return request
