"""Forwards an erasure: asks destinations that have got visits of a person to erase the person too.

It happens inside of the request to erase, before anything is erased, because afterwards only the caller knows the
value. If the caller hangs up, the request goes on and erases. If the gateway ends, nothing is erased here, and the
request can be repeated: a second request to erase a person changes nothing at the destination.
"""

import asyncio
from collections.abc import Collection, Mapping

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.delivery import outcome, payload
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.sample import unstored_delivery
from usher_gateway.destinations import DestinationAnswer, DestinationRequest
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.sending import Sender
from usher_gateway.ingest.identity import PersonField
from usher_gateway.store.base import ErasureReport, ForwardedErasure
from usher_gateway.timing import Clock

_LONGEST_SECONDS = 15  # The most that one destination may take, because the caller waits for all of them

_UNKNOWN_THERE = frozenset((404, 410))

# Kind of value -> its name in a body's object `user` (`documents.DEFAULT_FIELDS`).
_NAME_IN_BODY: Mapping[PersonField, str] = {"user": "id", "email": "email", "mobile": "mobile", "device": "mac"}


class ErasureForwarder:
    """Sends requests to erase a person."""

    def __init__(self, *, route_documents: RouteDocuments, client: DestinationClient, clock: Clock) -> None:
        self._documents = route_documents
        self._sender = Sender(client)
        self._clock = clock

    def declaring(self, report: ErasureReport, field: PersonField) -> list[str]:
        """Return the destinations that got visits of a person and that declare how they erase one by a kind of value.

        A destination that belongs to a tenant at which the person was not is left out: it got its name later.
        """
        destinations = {key: document for key in report.sent_to if (document := self._destination(key, report))}
        return sorted(
            key
            for key, document in destinations.items()
            if document.erasure is not None and document.erasure.by.lower() == field
        )

    def _destination(self, key: str, report: ErasureReport) -> documents.DestinationDocument | None:
        """Return a destination's present document, unless it belongs to a tenant at which the person was not."""
        document = self._documents.destination(key)
        if document is None or not document.tenant:
            return document
        return document if f"{document.namespace}/{document.tenant}" in report.arrivals else None

    async def forward(
        self, destinations: Collection[str], report: ErasureReport, field: PersonField, value: str
    ) -> dict[str, ForwardedErasure]:
        """Ask the destinations that `declaring` returned to erase a person, all at once; return their answers.

        One that became another tenant's since is not asked.
        """
        answers = await asyncio.gather(*[self._ask(key, report, field, value) for key in destinations])
        return dict(zip(destinations, answers, strict=True))

    async def _ask(self, key: str, report: ErasureReport, field: PersonField, value: str) -> ForwardedErasure:
        asked_at, document = self._clock.now(), self._destination(key, report)
        if document is None:
            return ForwardedErasure(asked_at, error=model.HoldReason.DestinationNotFound.name)
        if document.erasure is None or document.erasure.by.lower() != field:
            return ForwardedErasure(asked_at, error="ErasureNotDeclared")
        prepared = self._documents.prepared_destination(key)
        if prepared is None or document.unresolved:
            return ForwardedErasure(asked_at, error=model.HoldReason.SecretNotFound.name)
        request = make_request(self._documents, prepared, document.erasure, field, value, asked_at)
        if isinstance(request, str):
            return ForwardedErasure(asked_at, error=request)
        # The answer rules of visits do not apply to this answer.
        destination = msgspec.structs.replace(
            document,
            answers=(),
            success_header=None,
            timeout_seconds=min(document.timeout_seconds, _LONGEST_SECONDS),
        )
        answer = await self._sender.send(request, destination)
        return ForwardedErasure(asked_at, answer.status, _error_of(answer, destination))


def make_request(
    route_documents: RouteDocuments,
    prepared: payload.PreparedDestination,
    call: documents.ErasureCall,
    field: PersonField,
    value: str,
    now: int,
) -> DestinationRequest | str:
    """Return the request to erase the person with a value, or the code of the reason why it cannot be made."""
    body = {"user": {_NAME_IN_BODY[field]: value}}
    delivery = unstored_delivery(msgspec.json.encode(body), now)
    nowhere = model.ListenerName(prepared.destination.namespace, "", "")
    variables = {variable.name: variable.value for variable in call.url_variables if variable.value}
    sources: list[expressions.Source] = [(source, "variable") for source in variables.values()]
    if call.transform:
        sources.append((call.transform, "transform"))
    definition = model.RouteDefinition(nowhere, "", prepared.destination.key)
    evaluations = route_documents.evaluate_all(sources, delivery, definition)
    failed = next((evaluation.error_code for evaluation in evaluations if evaluation.error_code), "")
    if failed:
        return failed
    values = [evaluation.value for evaluation in evaluations]
    document = values.pop() if call.transform else payload.NOT_TRANSFORMED
    url_values = dict(zip(variables, values, strict=True))
    request = payload.render_erasure(prepared, call, model.format_id(delivery.id), now, document, url_values)
    return request.code if isinstance(request, payload.FormatError) else request


def _error_of(answer: DestinationAnswer, destination: documents.DestinationDocument) -> str:
    if answer.error is None and answer.status in _UNKNOWN_THERE:
        return ""
    return outcome.classify(answer, destination, now=0).error
