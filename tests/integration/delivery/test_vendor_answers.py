"""Recipes read the answers that their vendors document: success, limits, partial failure, expiry, refusal."""

from pathlib import Path
from typing import Any

import pytest

from support import recipe_samples, vendor_fakes
from support.vendor_fakes import Reply
from usher_gateway import model, recipes
from usher_gateway.delivery import outcome
from usher_gateway.destinations import DestinationAnswer
from usher_gateway.destinations.sending import Sender

Delivered, Retry, Dead = model.SettledAs.Delivered, model.SettledAs.Retry, model.SettledAs.Dead
NOW = 1_800_000_000 * model.MICROSECONDS

ROW_REFUSED = {"insertErrors": [{"index": 0, "errors": [{"reason": "invalid", "message": "no such field"}]}]}
ROW_STOPPED = {"insertErrors": [{"index": 0, "errors": [{"reason": "timeout"}]}]}
CONTACT_REFUSED = {"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [{"category": "VALIDATION_ERROR"}]}

ANSWERS: tuple[tuple[str, Reply, model.SettledAs, str], ...] = (
    ("activecampaign", Reply(429, headers={"retry-after": "1"}), Retry, "TooManyRequests"),
    ("activecampaign", Reply(403, {"message": "wrong token"}), Retry, "Forbidden"),
    ("activecampaign", Reply(422, {"errors": [{"title": "Email address is invalid"}]}), Dead, "Rejected"),
    ("bigquery", Reply(200, ROW_REFUSED), Dead, "RejectedByRule"),
    ("bigquery", Reply(200, ROW_STOPPED), Retry, "RetriedByRule"),
    ("bigquery", Reply(403, {"error": {"errors": [{"reason": "rateLimitExceeded"}]}}), Retry, "ThrottledByRule"),
    ("bigquery", Reply(403, {"error": {"errors": [{"reason": "accessDenied"}]}}), Retry, "Forbidden"),
    ("bigquery", Reply(404, {"error": {"errors": [{"reason": "notFound"}]}}), Retry, "NotFound"),
    ("bigquery", Reply(503, {"error": {"errors": [{"reason": "backendError"}]}}), Retry, "ServerError"),
    ("brevo", Reply(201, {"id": 1}), Delivered, ""),
    ("brevo", Reply(429, {"code": "too_many_requests"}), Retry, "TooManyRequests"),
    ("brevo", Reply(401, {"code": "unauthorized"}), Retry, "Unauthorized"),
    ("brevo", Reply(400, {"code": "invalid_parameter"}), Dead, "Rejected"),
    ("google-sheets", Reply(302, headers={"location": "https://accounts.google.com/"}), Retry, "Redirected"),
    ("google-sheets", Reply(200, "<html>Script function not found: doPost</html>"), Retry, "RetriedByRule"),
    ("hubspot", Reply(207, CONTACT_REFUSED), Dead, "RejectedByRule"),
    ("hubspot", Reply(207, {"status": "COMPLETE", "results": [{}], "errors": []}), Delivered, ""),
    ("hubspot", Reply(429, {"errorType": "RATE_LIMIT"}), Retry, "TooManyRequests"),
    ("hubspot", Reply(401, {"category": "INVALID_AUTHENTICATION"}), Retry, "Unauthorized"),
    ("hubspot", Reply(400, {"category": "VALIDATION_ERROR"}), Dead, "Rejected"),
    ("klaviyo-event", Reply(429, headers={"retry-after": "12"}), Retry, "TooManyRequests"),
    ("klaviyo-event", Reply(400, {"errors": [{"code": "invalid"}]}), Dead, "Rejected"),
    ("klaviyo-profile", Reply(200, {"data": {}}), Delivered, ""),
    ("klaviyo-profile", Reply(401, {"errors": [{"code": "authentication_failed"}]}), Retry, "Unauthorized"),
    ("mailchimp", Reply(403, ""), Retry, "ThrottledByRule"),
    ("mailchimp", Reply(403, {"title": "API Key Invalid"}), Retry, "Forbidden"),
    ("mailchimp", Reply(429, {"title": "Too Many Requests"}), Retry, "TooManyRequests"),
    ("mailchimp", Reply(400, {"title": "Forgotten Email Not Subscribed"}), Dead, "Rejected"),
    ("mailchimp", Reply(404, {"title": "Resource Not Found"}), Retry, "NotFound"),
    ("make", Reply(400, "Queue is full."), Retry, "ThrottledByRule"),
    ("make", Reply(429, "Too many requests"), Retry, "TooManyRequests"),
    ("make", Reply(410, "There is no scenario listening for this webhook."), Dead, "Gone"),
    ("salesforce", Reply(201, {"id": "1", "success": True, "created": True}), Delivered, ""),
    ("salesforce", Reply(300, ["/services/data/v64.0/sobjects/Contact/1"]), Dead, "RejectedByRule"),
    ("salesforce", Reply(403, [{"errorCode": "REQUEST_LIMIT_EXCEEDED"}]), Retry, "ThrottledByRule"),
    ("salesforce", Reply(403, [{"errorCode": "INSUFFICIENT_ACCESS"}]), Retry, "Forbidden"),
    ("salesforce", Reply(400, [{"errorCode": "REQUIRED_FIELD_MISSING"}]), Dead, "Rejected"),
    ("signed", Reply(401), Retry, "Unauthorized"),
    ("slack", Reply(429, headers={"retry-after": "30"}), Retry, "TooManyRequests"),
    ("slack", Reply(403, "action_prohibited"), Retry, "RetriedByRule"),
    ("slack", Reply(404, "no_service"), Retry, "RetriedByRule"),
    ("slack", Reply(410, "channel_is_archived"), Dead, "Gone"),
    ("slack", Reply(400, "invalid_payload"), Dead, "Rejected"),
    ("zapier", Reply(429, {"detail": "Too many requests"}), Retry, "TooManyRequests"),
)


class Recipe:
    """A recipe of which every request reaches its vendor's fake."""

    def __init__(self, name: str, vendor: vendor_fakes.VendorServer, sender: Sender) -> None:
        secrets = vendor_fakes.SERVICE_ACCOUNT if name == "bigquery" else {}
        self.vendor, self._sender = vendor, sender
        self._destination = recipe_samples.destination_of(name, **secrets)
        self._request = recipe_samples.request_of(name)

    async def send(self) -> outcome.Outcome:
        answer: DestinationAnswer = await self._sender.send(self._request, self._destination)
        assert self.vendor.refusals == []
        return outcome.classify(answer, self._destination, NOW)


@pytest.fixture
async def recipe(request: Any, tmp_path: Path) -> Any:
    vendor = vendor_fakes.VendorServer(request.param)
    async with vendor_fakes.sender_to(vendor, tmp_path) as sender:
        yield Recipe(request.param, vendor, sender)


@pytest.mark.parametrize("recipe", recipes.names(), indirect=True)
async def test_recipe_makes_a_request_that_its_vendor_accepts(recipe: Recipe) -> None:
    assert (await recipe.send()).kind is Delivered


@pytest.mark.parametrize(("recipe", "reply", "kind", "error"), ANSWERS, indirect=["recipe"])
async def test_answer_means_what_its_vendor_documents(
    recipe: Recipe, reply: Reply, kind: model.SettledAs, error: str
) -> None:
    recipe.vendor.replies.append(reply)
    result = await recipe.send()
    assert (result.kind, result.error) == (kind, error)
    assert (await recipe.send()).kind is Delivered


@pytest.mark.parametrize("recipe", ["bigquery", "salesforce"], indirect=True)
async def test_token_that_ended_takes_one_new_token(recipe: Recipe) -> None:
    assert (await recipe.send()).kind is Delivered
    recipe.vendor.tokens += 1  # the vendor withdraws the token
    assert (await recipe.send()).kind is Delivered
    assert recipe.vendor.tokens == 3


@pytest.mark.parametrize(
    ("recipe", "reply", "seconds"),
    [
        ("activecampaign", Reply(429, headers={"retry-after": "1"}), 1),
        ("brevo", Reply(429, headers={"x-sib-ratelimit-reset": "35"}), 35),
        ("klaviyo-event", Reply(429, headers={"retry-after": "12"}), 12),
        ("slack", Reply(429, headers={"retry-after": "30"}), 30),
    ],
    indirect=["recipe"],
)
async def test_recipe_waits_as_long_as_its_vendor_asks(recipe: Recipe, reply: Reply, seconds: int) -> None:
    recipe.vendor.replies.append(reply)
    assert (await recipe.send()).retry_after == seconds * model.MICROSECONDS


@pytest.mark.parametrize("recipe", ["google-sheets"], indirect=True)
@pytest.mark.parametrize("body", ["wrong key", "<html>Error: lock timeout</html>"])
async def test_script_that_failed_is_no_success(recipe: Recipe, body: str) -> None:
    recipe.vendor.echoes = [Reply(200, body)]
    result = await recipe.send()
    assert (result.kind, result.error, result.blames_destination) == (Retry, "RetriedByRule", True)


def test_every_recipe_has_a_fake() -> None:
    assert set(vendor_fakes.VENDORS) == set(recipes.names())
