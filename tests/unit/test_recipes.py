"""Each recipe is a valid Destination that makes the request which its vendor documents."""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from support import command_line, source
from support.recipe_samples import BODY, destination_of, erasure_of, request_of
from usher_gateway import recipes

ADDRESS = b"jane.doe@example.com"
EMAIL_MD5 = hashlib.md5(ADDRESS, usedforsecurity=False).hexdigest()
EMAIL_SHA256 = hashlib.sha256(ADDRESS).hexdigest()
NAMES = {"firstName": "Jane", "lastName": "Doe"}

EXPECTED: dict[str, tuple[str, str, object]] = {
    "activecampaign": (
        "POST",
        "https://account.api-us1.com/api/3/contact/sync",
        {"contact": {"email": "jane.doe@example.com", **NAMES}},
    ),
    "brevo": (
        "POST",
        "https://api.brevo.com/v3/contacts",
        {
            "email": "jane.doe@example.com",
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
                "attributes": {"email": "jane.doe@example.com", "first_name": "Jane", "last_name": "Doe"},
            }
        },
    ),
    "mailchimp": (
        "PUT",
        f"https://us1.api.mailchimp.com/3.0/lists/replace-me/members/{EMAIL_MD5}?skip_merge_validation=true",
        {
            "email_address": "jane.doe@example.com",
            "status_if_new": "subscribed",
            "merge_fields": {"FNAME": "Jane", "LNAME": "Doe"},
        },
    ),
    "salesforce": (
        "PATCH",
        f"https://acme.my.salesforce.com/services/data/v64.0/sobjects/Contact/Usher_Id__c/{EMAIL_SHA256}",
        {"Email": "jane.doe@example.com", "FirstName": "Jane", "LastName": "Doe"},
    ),
    "slack": (
        "POST",
        "https://hooks.slack.com/services/T0000/B0000/replace-me",
        {"text": "A guest came to Pier (visit 3)"},
    ),
}


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_is_valid_for_its_tenant_and_makes_a_request(name: str) -> None:
    destination = destination_of(name)
    assert (destination.namespace, destination.tenant, destination.unresolved) == ("hotels", "harbour", "")
    assert request_of(name).body


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_of_two_tenants_have_no_name_in_common(name: str) -> None:
    """The Secret of one would replace the other's, and the visitors would get to the wrong account."""
    pattern = rf"\b(?:name|sharedBy): ([-a-z]*{name.partition('-')[0]}[-a-z]*)"
    names = [set(re.findall(pattern, recipes.filled(name, "hotels", tenant))) for tenant in ("harbour", "meadow")]
    assert names[0]
    assert names[0] & names[1] == set()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_recipe_makes_the_documented_request(name: str) -> None:
    request = request_of(name)
    assert (request.method, request.url, json.loads(request.body)) == EXPECTED[name]


KLAVIYO_PROFILE = {"data": {"type": "profile", "attributes": {"email": "Jane.Doe@example.com"}}}
KLAVIYO_DELETION = (
    "https://a.klaviyo.com/api/data-privacy-deletion-jobs",
    {"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": KLAVIYO_PROFILE}}},
)


@pytest.mark.parametrize(
    ("name", "url", "document"),
    [
        (
            "hubspot",
            "https://api.hubapi.com/crm/v3/objects/contacts/gdpr-delete",
            {"idProperty": "email", "objectId": "jane.doe@example.com"},
        ),
        ("klaviyo-event", *KLAVIYO_DELETION),
        ("klaviyo-profile", *KLAVIYO_DELETION),
        (
            "mailchimp",
            f"https://us1.api.mailchimp.com/3.0/lists/replace-me/members/{EMAIL_MD5}/actions/delete-permanent",
            None,
        ),
    ],
)
def test_recipe_makes_the_documented_request_to_erase(name: str, url: str, document: object) -> None:
    request = erasure_of(name)
    assert (request.method, request.url) == ("POST", url)
    assert (json.loads(request.body) if request.body else None) == document
    assert "authorization" in {header.lower() for header, _ in request.headers}


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_says_what_a_person_needs_to_know(name: str) -> None:
    text = recipes.filled(name, "agency", "acme")
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "# Sends: " in comment
    assert "# Source: " in comment
    assert ("# Account: " in comment) != (name == "signed")
    assert recipes.title(name).endswith(".")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *itertools.product(
            ("activecampaign", "brevo", "hubspot", "klaviyo-event", "klaviyo-profile", "mailchimp"),
            ("firstName", "lastName"),
        ),
        ("salesforce", "firstName"),  # it refuses a contact without a last name, which its route leaves out
    ],
)
def test_recipe_clears_no_name_that_the_account_has(name: str, key: str) -> None:
    nameless = {"user": BODY["user"] | {key: ""}}
    sent_text = request_of(name, nameless).body.decode()
    assert "jane.doe@example.com" in sent_text
    assert '""' not in sent_text


@pytest.mark.parametrize(
    ("name", "in_a_second"),
    [("brevo", 10), ("klaviyo-event", 350), ("klaviyo-profile", 75), ("slack", 1), ("zapier", 30)],
)
def test_recipe_sends_no_more_at_once_than_the_vendor_takes_in_a_second(name: str, in_a_second: int) -> None:
    destination = destination_of(name)
    assert destination.rate_requests / destination.rate_seconds <= in_a_second
    assert destination.rate_requests <= 10 * in_a_second  # a tenth of them may go at once


def test_salesforce_gets_no_invented_name() -> None:
    nameless = {"user": BODY["user"] | {"lastName": ""}}
    assert json.loads(request_of("salesforce", nameless).body)["LastName"] == ""
    assert 'when: visit.email != "" && visit.lastName != ""' in recipes.filled("salesforce", "hotels", "harbour")


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
    assert profile["email"] == "jane.doe@example.com"
    assert "Jane" not in json.dumps(sent("bigquery"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mailchump"], "did you mean `mailchimp`?"),
        (["HUBSPOT"], "did you mean `hubspot`?"),
        (["crm"], "`usher new recipe` lists them"),
        (["hubspot", "--tenant", ""], "--tenant: `` is not a name"),
        (["hubspot", "--tenant", "Foo_Bar"], "--tenant: `Foo_Bar` is not a name"),
        (["hubspot", "--namespace", "a/b"], "--namespace: `a/b` is not a name"),
    ],
)
def test_command_refuses_unknown_recipes_and_what_is_no_name(arguments: list[str], said: str) -> None:
    run = command_line.run("new", "recipe", *arguments)
    assert (run.code, run.out) == (2, "")
    assert said in run.err
