"""Strict fakes of the systems that recipes send to, on one local TLS server.

A fake accepts only what its vendor documents: host, method, path, headers, credentials, and no unknown field. Then it
gives the answers that a test has queued, or else the vendor's success. The sources of the facts are in the recipes.
"""

import json
import re
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from aiohttp import test_utils, web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jwt

from support import certificates
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, address_guard
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.resolver import Resolver
from usher_gateway.destinations.sending import Sender

Email = Annotated[str, msgspec.Meta(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Document(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A document of which the vendor refuses unknown fields."""


class HubSpotProperties(Document, rename=None):
    email: Email
    firstname: str
    lastname: str


class HubSpotInput(Document):
    id: Email
    id_property: Literal["email"]
    properties: HubSpotProperties


class HubSpotInputs(Document):
    inputs: Annotated[list[HubSpotInput], msgspec.Meta(min_length=1, max_length=100)]


class MailchimpMerge(Document, rename="upper"):
    fname: str
    lname: str


class MailchimpMember(Document, rename=None):
    email_address: Email
    status_if_new: Literal["subscribed", "pending", "transactional"]
    merge_fields: MailchimpMerge


class KlaviyoPerson(Document, rename=None):
    email: Email
    first_name: str = ""
    last_name: str = ""


class KlaviyoProfile(Document):
    type: Literal["profile"]
    attributes: KlaviyoPerson


class KlaviyoProfileData(Document):
    data: KlaviyoProfile


class KlaviyoMetricName(Document):
    name: Text


class KlaviyoMetric(Document):
    type: Literal["metric"]
    attributes: KlaviyoMetricName


class KlaviyoMetricData(Document):
    data: KlaviyoMetric


class KlaviyoEventAttributes(Document, rename=None):
    unique_id: Text
    time: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]
    properties: dict[str, Any]
    metric: KlaviyoMetricData
    profile: KlaviyoProfileData


class KlaviyoEvent(Document):
    type: Literal["event"]
    attributes: KlaviyoEventAttributes


class KlaviyoEventData(Document):
    data: KlaviyoEvent


class BrevoContact(Document):
    email: Email
    attributes: dict[str, str]
    list_ids: list[int]
    update_enabled: Literal[True]


class ActiveCampaignPerson(Document):
    email: Email
    first_name: str
    last_name: str


class ActiveCampaignContact(Document):
    contact: ActiveCampaignPerson


class SalesforceContact(Document, rename="pascal"):
    email: Email
    first_name: str
    last_name: Text
    """Required of every Contact."""


class BigQueryRow(Document):
    insert_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    json: dict[str, str | bool | None]


class BigQueryRows(Document):
    rows: Annotated[list[BigQueryRow], msgspec.Meta(min_length=1)]


class SlackText(Document):
    text: Text


class Visit(Document):
    """What recipes send to systems that take any document."""

    id: Text
    time: Text
    email: str
    first_name: str
    last_name: str
    venue: str


class Reply(msgspec.Struct, frozen=True):
    """An answer of a vendor. ``body``: a text, or a document that is sent as JSON."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = {}


class Vendor(msgspec.Struct, frozen=True):
    """What a vendor documents of one call."""

    method: str
    url: str
    """A pattern of host, path and query."""
    document: type[Document] | None
    success: Reply
    headers: dict[str, str] = {}
    """The headers that the vendor wants, with the recipe's credential."""
    content_type: str = "application/json"


_HEX32, _HEX64 = "[0-9a-f]{32}", "[0-9a-f]{64}"
_KLAVIYO = {
    "authorization": "Klaviyo-API-Key replace-me",
    "revision": "2026-10-15",
    "accept": "application/vnd.api+json",
}
_JSON_API = "application/vnd.api+json"
_INSERT_ALL = "/bigquery/v2/projects/project/datasets/dataset/tables/table/insertAll"
_ECHO = "https://script.googleusercontent.com/macros/echo?user_content_key=AY5x&lib=M"

# By recipe.
VENDORS = {
    "activecampaign": Vendor(
        "POST",
        r"account\.api-us1\.com/api/3/contact/sync",
        ActiveCampaignContact,
        Reply(201, {"contact": {"id": "1"}}),
        {"api-token": "replace-me"},
    ),
    "bigquery": Vendor(
        "POST",
        rf"bigquery\.googleapis\.com{_INSERT_ALL}",
        BigQueryRows,
        Reply(200, {"kind": "bigquery#tableDataInsertAllResponse"}),
    ),
    "brevo": Vendor("POST", r"api\.brevo\.com/v3/contacts", BrevoContact, Reply(204), {"api-key": "replace-me"}),
    "google-sheets": Vendor(
        "POST",
        r"script\.google\.com/macros/s/replace-me/exec\?key=replace-me",
        Visit,
        Reply(302, headers={"location": _ECHO}),
    ),
    "hubspot": Vendor(
        "POST",
        r"api\.hubapi\.com/crm/v3/objects/contacts/batch/upsert",
        HubSpotInputs,
        Reply(200, {"status": "COMPLETE", "results": [{"id": "1", "new": True}]}),
        {"authorization": "Bearer replace-me"},
    ),
    "klaviyo-event": Vendor(
        "POST", r"a\.klaviyo\.com/api/events", KlaviyoEventData, Reply(202), _KLAVIYO, content_type=_JSON_API
    ),
    "klaviyo-profile": Vendor(
        "POST",
        r"a\.klaviyo\.com/api/profile-import",
        KlaviyoProfileData,
        Reply(201, {"data": {"type": "profile", "id": "1"}}),
        _KLAVIYO,
        content_type=_JSON_API,
    ),
    "mailchimp": Vendor(
        "PUT",
        rf"us1\.api\.mailchimp\.com/3\.0/lists/replace-me/members/{_HEX32}\?skip_merge_validation=true",
        MailchimpMember,
        Reply(200, {"id": "1", "status": "subscribed"}),
        {"authorization": "Basic dXNoZXI6cmVwbGFjZS1tZS11czE="},
    ),
    "make": Vendor("POST", r"hook\.eu1\.make\.com/replace-me", Visit, Reply(200, "Accepted")),
    "salesforce": Vendor(
        "PATCH",
        rf"acme\.my\.salesforce\.com/services/data/v64\.0/sobjects/Contact/Usher_Id__c/{_HEX64}",
        SalesforceContact,
        Reply(204),
    ),
    "signed": Vendor("POST", r"crm\.example\.com/hooks/purple", None, Reply(200)),
    "slack": Vendor("POST", r"hooks\.slack\.com/services/T0000/B0000/replace-me", SlackText, Reply(200, "ok")),
    "zapier": Vendor(
        "POST", r"hooks\.zapier\.com/hooks/catch/0000000/replace-me/", Visit, Reply(200, {"status": "success"})
    ),
}

_KEY = rsa.generate_private_key(65537, 2048)
# Values of `recipe_samples.destination_of` for BigQuery's recipe.
SERVICE_ACCOUNT = {
    "client_email": "usher@project.iam.example",
    "private_key": _KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode(),
    "key_id": "k1",
}


class VendorServer:
    """Plays the vendor of one recipe, with its token endpoint and what it redirects to."""

    def __init__(self, recipe: str) -> None:
        self.vendor = VENDORS[recipe]
        self.refusals: list[str] = []  # The errors of requests. A test expects none.
        self.replies: list[Reply] = []  # The answers to the next requests, instead of the vendor's success
        self.echoes: list[Reply] = [Reply(200, "ok")]  # The answers after a redirect
        self.tokens = 0  # Tokens that were issued; only the newest is valid
        self._has_tokens = recipe in {"bigquery", "salesforce"}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request. Part of the server."""
        where, body = f"{request.host.partition(':')[0]}{request.path_qs}", await request.read()
        handler: Callable[[web.BaseRequest, str, bytes], Reply] = {
            "oauth2.googleapis.com/token": self._google_token,
            "acme.my.salesforce.com/services/oauth2/token": self._salesforce_token,
            _ECHO.removeprefix("https://"): self._echo,
        }.get(where, self._call)
        try:
            reply = handler(request, where, body)
        except AssertionError as error:
            self.refusals.append(str(error))
            reply = Reply(400)
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        kind = "text/plain" if isinstance(reply.body, str) else "application/json"
        return web.Response(status=reply.status, text=text, headers={"content-type": kind, **reply.headers})

    def _call(self, request: web.BaseRequest, where: str, body: bytes) -> Reply:
        vendor = self.vendor
        assert (request.method, bool(re.fullmatch(vendor.url, where))) == (vendor.method, True), where
        assert request.headers["content-type"] == vendor.content_type, request.headers["content-type"]
        for name, value in vendor.headers.items():
            assert request.headers.get(name) == value, name
        if vendor.document is not None:
            try:
                msgspec.json.decode(body, type=vendor.document)
            except msgspec.ValidationError as error:
                raise AssertionError(str(error)) from None
        if self._has_tokens and request.headers["authorization"] != f"Bearer token-{self.tokens}":
            return Reply(401, [{"errorCode": "INVALID_SESSION_ID"}])
        return self.replies.pop(0) if self.replies else vendor.success

    def _echo(self, request: web.BaseRequest, _where: str, body: bytes) -> Reply:
        assert (request.method, body) == ("GET", b"")
        assert not {"authorization", "cookie", "content-type"} & {name.lower() for name in request.headers}
        return self.echoes.pop(0)

    def _google_token(self, _request: web.BaseRequest, _where: str, body: bytes) -> Reply:
        form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
        assert form.keys() == {"grant_type", "assertion"}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        token = jwt.decode(form["assertion"], jwk.RSAKey.import_key(SERVICE_ACCOUNT["private_key"]))
        claims = token.claims
        assert token.header == {"alg": "RS256", "typ": "JWT", "kid": SERVICE_ACCOUNT["key_id"]}, token.header
        assert (claims["iss"], claims["aud"]) == (
            SERVICE_ACCOUNT["client_email"],
            "https://oauth2.googleapis.com/token",
        )
        assert 0 < claims["exp"] - claims["iat"] <= 3600
        assert claims["scope"] == "https://www.googleapis.com/auth/bigquery.insertdata"
        return self._issue()

    def _salesforce_token(self, _request: web.BaseRequest, _where: str, body: bytes) -> Reply:
        assert dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True)) == {
            "grant_type": "client_credentials",
            "client_id": "replace-me",
            "client_secret": "replace-me",
        }
        return self._issue()

    def _issue(self) -> Reply:
        self.tokens += 1
        return Reply(200, {"access_token": f"token-{self.tokens}", "token_type": "Bearer", "expires_in": 3599})


class LocalClient:
    """Sends every request to the same host name, but to the local server's port."""

    def __init__(self, client: DestinationClient, port: int) -> None:
        self._client, self._port = client, port

    async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
        """Send a request, as ``DestinationClient`` does."""
        parts = urllib.parse.urlsplit(request.url)
        assert (parts.scheme, parts.port) == ("https", None)
        url = urllib.parse.urlunsplit(parts._replace(netloc=f"{parts.netloc}:{self._port}"))
        return await self._client.send(msgspec.structs.replace(request, url=url), timeout_seconds)


@asynccontextmanager
async def sender_to(vendor: VendorServer, folder: Path) -> AsyncIterator[Sender]:
    """Yield a sender for which every host name leads to the vendor's server."""
    hosts = [each.url.replace("\\", "").partition("/")[0] for each in VENDORS.values()]
    authority, key = certificates.make("vendors", *hosts, "oauth2.googleapis.com", "script.googleusercontent.com")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.write(folder, authority, key))
    server = test_utils.RawTestServer(vendor.answer)
    await server.start_server(ssl=context)
    client = DestinationClient(
        guard=address_guard.AddressGuard(["127.0.0.1/32"]),
        resolver=Resolver(lambda _host, port: [(socket.AF_INET, ("127.0.0.1", port))]),
        tls=certificates.trusting(authority),
    )
    yield Sender(cast("DestinationClient", LocalClient(client, int(server.port or 0))))
    await client.close()
    await server.close()
