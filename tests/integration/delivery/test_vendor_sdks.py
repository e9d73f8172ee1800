"""The vendor's own SDK as judge: it and the recipe make the same request."""

import json
import urllib.parse
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jwt

from support import recipe_samples, vendor_sdks
from usher_gateway.destinations import oauth

KLAVIYO = ("authorization", "content-type", "revision", "accept")
# Recipe, call of the SDK, and the headers that matter. ActiveCampaign has no SDK for Python.
COMPARED = (
    ("brevo", "brevo", ("api-key", "content-type")),
    ("hubspot", "hubspot", ("authorization", "content-type")),
    ("klaviyo-event", "klaviyo_event", KLAVIYO),
    ("klaviyo-profile", "klaviyo_profile", KLAVIYO),
    ("salesforce", "salesforce", ("content-type",)),
    ("slack", "slack", ("content-type",)),
    ("mailchimp", "mailchimp", ("content-type",)),
    ("bigquery", "bigquery", ("content-type",)),
)


def without_case(query: str) -> list[tuple[str, str]]:
    """The pairs of a query; ``True`` is ``true``, and ``prettyPrint`` only changes the answer."""
    pairs = urllib.parse.parse_qsl(query)
    return sorted((name, value.lower()) for name, value in pairs if name != "prettyPrint")


def document(recipe: str, sent: Any) -> Any:
    """What matters of a document: the values of an event's call and of BigQuery's row are the caller's own."""
    if recipe == "klaviyo-event":
        attributes = sent["data"]["attributes"]
        return attributes["metric"], attributes["profile"], sorted(attributes.keys() - {"time", "backfill"})
    if recipe == "bigquery":
        return [sorted(row) for row in sent["rows"]]
    return sent


@pytest.mark.parametrize(("recipe", "call", "headers"), COMPARED)
def test_recipe_makes_the_request_of_the_vendors_sdk(recipe: str, call: str, headers: tuple[str, ...]) -> None:
    theirs, ours = vendor_sdks.sent_by(call), recipe_samples.request_of(recipe)
    our_url, their_url = urllib.parse.urlsplit(ours.url), urllib.parse.urlsplit(theirs.path)
    assert (ours.method, our_url.path) == (theirs.method, their_url.path)
    assert without_case(our_url.query) == without_case(their_url.query)
    our_headers = {name.lower(): value for name, value in ours.headers}
    for name in headers:
        assert our_headers[name].partition(";")[0] == theirs.headers[name].partition(";")[0]
    assert document(recipe, json.loads(ours.body)) == document(recipe, json.loads(theirs.body))


def test_token_request_of_a_service_account_is_that_of_google_auth() -> None:
    key = rsa.generate_private_key(65537, 2048)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
    theirs = dict(urllib.parse.parse_qsl(vendor_sdks.sent_by("google_token", pem).body.decode()))
    oauth2 = recipe_samples.destination_of(
        "bigquery", private_key=pem, client_email="usher@x.example", key_id="k1"
    ).oauth2
    assert oauth2 is not None
    ours = oauth.token_form(oauth2, 1_800_000_000)
    assert ours["grant_type"] == theirs["grant_type"]
    decoded = [jwt.decode(form["assertion"], jwk.RSAKey.import_key(pem)) for form in (ours, theirs)]
    assert decoded[0].header == decoded[1].header
    assert {**decoded[0].claims, "iat": 0, "exp": 0} == {**decoded[1].claims, "iat": 0, "exp": 0}
