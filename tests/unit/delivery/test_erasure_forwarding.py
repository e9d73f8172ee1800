"""A request to erase a person that cannot be made says why, because a signed receipt has the reason."""

from typing import Any, cast

import pytest

from support import delivery_samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery.erasure_forwarding import ErasureForwarder
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.store.base import ErasureReport

CALL = documents.ErasureCall(by="Email", url="https://crm.example/erase")


@pytest.mark.parametrize(
    ("key", "destination", "error"),
    [
        ("agency/gone", {"erasure": CALL}, "DestinationNotFound"),
        ("agency/crm", {"erasure": CALL, "tenant": "globex"}, "DestinationNotFound"),
        ("agency/crm", {}, "ErasureNotDeclared"),
        ("agency/crm", {"erasure": documents.ErasureCall(by="Mobile", url=CALL.url)}, "ErasureNotDeclared"),
        ("agency/crm", {"erasure": CALL, "unresolved": "SecretKeyNotFound"}, "SecretNotFound"),
    ],
)
async def test_destination_that_cannot_be_asked_any_more_has_a_code(
    key: str, destination: dict[str, Any], error: str
) -> None:
    newest = RouteDocuments(keys=model.derive_keys(b"k" * 32))
    newest.apply(delivery_samples.snapshot(url="https://crm.example/", **destination))
    forwarder = ErasureForwarder(route_documents=newest, client=cast("Any", None), clock=timing.Clock())
    report = ErasureReport(arrivals={"agency/acme": 1})
    answers = await forwarder.forward([key], report, "email", "ada@example.com")
    assert (answers[key].status, answers[key].error) == (0, error)
