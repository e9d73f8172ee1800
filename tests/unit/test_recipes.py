"""Each recipe is a valid Destination that makes the request which its vendor documents."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from support import delivery_samples, source
from usher_gateway import documents, model, recipes
from usher_gateway.delivery import payload
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
        "email": " Jane.Doe@Example.com",
        "firstName": "Jane",
        "lastName": "Doe",
        "visitCountsForVenue": 3,
        "venue": {"id": 9, "name": "Pier"},
    }
}
ADDRESS = b"jane.doe@example.com"
EMAIL_MD5 = hashlib.md5(ADDRESS, usedforsecurity=False).hexdigest()
EMAIL_SHA256 = hashlib.sha256(ADDRESS).hexdigest()
NAMES = {"firstName": "Jane", "lastName": "Doe"}

EXPECTED: dict[str, tuple[str, str, object]] = {
    "activecampaign": (
        "POST",
        "https://account.api-us1.com/api/3/contact/sync",
        {"contact": {"email": "Jane.Doe@Example.com", **NAMES}},
    ),
    "brevo": (
        "POST",
        "https://api.brevo.com/v3/contacts",
        {
            "email": "Jane.Doe@Example.com",
            "attributes": {"FIRSTNAME": "Jane", "LASTNAME": "Doe"},
            "listIds": [1],
            "updateEnabled": True,
        },
    ),
    "hubspot": (
        "POST",
        "https://api.hubapi.com/crm/v3/objects/contacts/batch/upsert",
        {
            "inputs": [
                {
                    "id": "jane.doe@example.com",
                    "idProperty": "email",
                    "properties": {"email": "jane.doe@example.com", "firstname": "Jane", "lastname": "Doe"},
                }
            ]
        },
    ),
    "klaviyo-profile": (
        "POST",
        "https://a.klaviyo.com/api/profile-import",
        {
            "data": {
                "type": "profile",
                "attributes": {"email": "Jane.Doe@Example.com", "first_name": "Jane", "last_name": "Doe"},
            }
        },
    ),
    "mailchimp": (
        "PUT",
        f"https://us1.api.mailchimp.com/3.0/lists/replace-me/members/{EMAIL_MD5}?skip_merge_validation=true",
        {
            "email_address": "Jane.Doe@Example.com",
            "status_if_new": "subscribed",
            "merge_fields": {"FNAME": "Jane", "LNAME": "Doe"},
        },
    ),
    "salesforce": (
        "PATCH",
        f"https://acme.my.salesforce.com/services/data/v64.0/sobjects/Contact/Usher_Id__c/{EMAIL_SHA256}",
        {"Email": "Jane.Doe@Example.com", "FirstName": "Jane", "LastName": "Doe"},
    ),
    "slack": (
        "POST",
        "https://hooks.slack.com/services/T0000/B0000/replace-me",
        {"text": "A guest came to Pier (visit 3)"},
    ),
}


def destination_of(name: str) -> documents.DestinationDocument:
    loaded = load_manifests((TENANT + recipes.filled(name, "hotels", "harbour")).encode(), f"{name}.yaml")
    assert loaded.problems == ()
    resources = compiler.collect((each.resource for each in loaded.objects), loaded.namespaces)
    compiled = compiler.compile_resources(resources, compiler.CompileContext(keys=KEYS, allow_implicit_class=True))
    assert [finding.message for finding in compiled.findings if finding.severity != "notice"] == []
    return compiled.snapshot.destinations[f"hotels/{name}"]


def request_of(name: str) -> DestinationRequest:
    destination = destination_of(name)
    newest = RouteDocuments(keys=KEYS)
    newest.apply(documents.Snapshot({}, {destination.key: destination}))
    route = model.RouteDefinition(model.ListenerName("hotels", "harbour", "lobby"), "crm", destination.key)
    delivery = delivery_samples.delivery(body=json.dumps(BODY).encode())
    evaluated = newest.evaluate_delivery(delivery, route, destination)
    assert evaluated.error_code == ""
    prepared = payload.prepare(destination)
    request = payload.render(prepared, delivery, route, 0, evaluated.document, evaluated.url_values)
    assert isinstance(request, DestinationRequest)
    return request


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_is_valid_for_its_tenant_and_makes_a_request(name: str) -> None:
    destination = destination_of(name)
    assert (destination.namespace, destination.tenant, destination.unresolved) == ("hotels", "harbour", "")
    assert request_of(name).body


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_recipe_makes_the_documented_request(name: str) -> None:
    request = request_of(name)
    assert (request.method, request.url, json.loads(request.body)) == EXPECTED[name]


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_says_what_a_person_needs_to_know(name: str) -> None:
    text = recipes.filled(name, "agency", "acme")
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "# Sends: " in comment
    assert "# Source: " in comment
    assert ("# Account: " in comment) != (name == "signed")
    assert recipes.title(name).endswith(".")


def test_page_lists_every_recipe_with_what_it_sends() -> None:
    rows = [f"| `{name}` | {recipes.title(name)} | {recipes.sends(name)} |" for name in recipes.names()]
    source.check_section(source.DOCS / "recipes.md", "recipes", "\n".join(rows))


def test_examples_are_the_recipes_of_the_package() -> None:
    examples = source.DOCS.parent / "examples" / "recipes"
    assert examples.is_symlink()
    assert {path.stem for path in Path(examples).glob("*.yaml")} == set(recipes.names())


def sent(name: str) -> Any:
    return json.loads(request_of(name).body)


def test_secret_and_event_recipes_know_the_visit() -> None:
    visit_id = sent("bigquery")["rows"][0]["insertId"]
    assert len(visit_id) == 36
    profile = sent("klaviyo-event")["data"]["attributes"]["profile"]["data"]["attributes"]
    assert profile["email"] == "Jane.Doe@Example.com"
    assert "Jane" not in json.dumps(sent("bigquery"))
