"""The sample visit is the one of the documentation, and a visit by the default fields."""

import base64
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from support import delivery_samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery import sample
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.destinations import DestinationAnswer, DestinationRequest

PAGE = (Path(__file__).parents[3] / "docs" / "purple.md").read_text("utf-8")


def test_page_shows_the_sample() -> None:
    shown = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert shown[1].encode() == sample.VISIT


def test_sample_has_every_default_field_at_its_first_path() -> None:
    body = msgspec.json.decode(sample.VISIT)
    for name, (first, *_) in documents.DEFAULT_FIELDS.items():
        value = body
        for part in first.strip("/").split("/"):
            assert part in value, name
            value = value[part]


class RefusingVendor:
    """Issues tokens, refuses them, and repeats the request in its answer."""

    async def send(self, request: DestinationRequest, _: float) -> DestinationAnswer:
        if request.url.endswith("/token"):
            return DestinationAnswer(200, {}, b'{"access_token":"fresh-token"}')
        return DestinationAnswer(401, {}, f"{dict(request.headers)['authorization']} for {request.url}".encode())


async def test_answer_shows_neither_a_refused_token_nor_an_encoded_secret() -> None:
    oauth2 = documents.OAuth2("ClientCredentials", "https://login.example/token", client_id="c", client_secret="s")
    newest = RouteDocuments(keys=model.derive_keys(b"k" * 32))
    variables = (documents.UrlVariable("key", secret="se/cr+et"),)
    newest.apply(delivery_samples.snapshot(url="https://crm.example/{key}", url_variables=variables, oauth2=oauth2))
    sender = sample.SampleSender(route_documents=newest, client=cast("Any", RefusingVendor()), clock=timing.Clock())
    result = await sender.send("agency/crm", None)
    assert (result.status, result.answer) == (401, "Bearer … for https://crm.example/…")


class ChattyVendor:
    """Repeats the user and the password of the request in its answer."""

    async def send(self, request: DestinationRequest, _: float) -> DestinationAnswer:
        pair = base64.b64decode(dict(request.headers)["authorization"].removeprefix("Basic ")).decode()
        return DestinationAnswer(403, {}, f"{pair} may not write".encode())


async def test_answer_shows_neither_user_nor_password_of_basic_authentication() -> None:
    newest = RouteDocuments(keys=model.derive_keys(b"k" * 32))
    credentials = "Basic " + base64.b64encode(b"api-key:ses:ame").decode()
    newest.apply(delivery_samples.snapshot(url="https://crm.example/", headers=(("authorization", credentials),)))
    sender = sample.SampleSender(route_documents=newest, client=cast("Any", ChattyVendor()), clock=timing.Clock())
    result = await sender.send("agency/crm", None)
    assert result.answer == "…:… may not write"


@pytest.mark.parametrize(
    ("destination", "message", "hint"),
    [
        ({"format": "Form"}, "the sample cannot be written: DocumentNotFlat", "`Form` needs a transform"),
        (
            {"url_variables": (documents.UrlVariable("late", '"."'),)},
            "the sample cannot be written: UrlVariableNotUsable",
            "is empty, longer than 512 characters, or `.` or `..`",
        ),
        ({"transform": '{true: "x"}'}, "the sample cannot be written: TransformNotJSON", "true or false as a key"),
        (
            {"url_variables": (documents.UrlVariable("late", "body.absent"),)},
            "the transform or a variable of the URL failed for agency/crm: NoSuchField (body.absent)",
            "`usher check --body FILE`",
        ),
    ],
)
async def test_sample_that_cannot_be_made_says_why(destination: dict[str, Any], message: str, hint: str) -> None:
    newest = RouteDocuments(keys=model.derive_keys(b"k" * 32))
    newest.apply(delivery_samples.snapshot(**{"url": "https://crm.example/{late}"} | destination))
    sender = sample.SampleSender(route_documents=newest, client=cast("Any", ChattyVendor()), clock=timing.Clock())
    with pytest.raises(sample.SampleError) as raised:
        await sender.send("agency/crm", None)
    assert str(raised.value) == message
    assert hint in raised.value.hint
