"""Handlers over persons: find the visits of one person, and erase what is stored of them.

A value of a person comes in the body of a request and never leaves this module: not into a log, an error or an answer.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import api
from usher_gateway.admin.audit import AuditLog
from usher_gateway.ingest import identity
from usher_gateway.store.base import Erasure, ErasureReport, ErasureRequest, ErasureState, Filter
from usher_gateway.store.records import Records

_LONGEST_VALUE = 1_000

_SHORTEST_MOBILE = 5
"""Digits of a value without a name of its field, from which on it may be a mobile number."""

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-]?[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}")
_REFERENCE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_MOBILE = re.compile(r"\+?[\d ()/.-]+")

_NOT_USABLE = {
    "user": "is empty; give a user id",
    "email": "is empty; give an e-mail address",
    "mobile": "has no digit; a mobile number needs one",
    "device": "has no letter or digit; a MAC needs some",
}


class FindRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``POST /api/persons/find``."""

    value: str
    field: identity.PersonField | None = None
    """The kind of the value; None: Usher guesses it from the value's form."""
    namespace: str | None = None
    tenant: str | None = None
    """A name, or ``namespace/name``."""
    cursor: str | None = None
    limit: int = 100


class EraseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of ``POST /api/persons/erase``."""

    value: str
    field: identity.PersonField | None = None
    """The kind of the value; required if its form leaves a choice."""
    namespace: str | None = None
    tenant: str | None = None
    """A name, or ``namespace/name``."""
    reference: str = ""
    """The caller's own id of the request."""
    dry_run: bool = False


def fields_of(value: str) -> tuple[identity.PersonField, ...]:
    """Return what a value can be; a number of some digits may be a user id as well as a mobile number."""
    value = value.strip()
    if "@" in value:
        return ("email",)
    is_mobile = _MOBILE.fullmatch(value) and sum(letter.isdigit() for letter in value) >= _SHORTEST_MOBILE
    is_device = _MAC.fullmatch(value)
    return ("user", *(("mobile",) if is_mobile else ()), *(("device",) if is_device else ()))


def normalised_values(value: str, fields: Collection[identity.PersonField]) -> dict[identity.PersonField, str]:
    """Return field -> the value as the store knows it.

    Raises:
        ValueError: the value is none of a field; the message does not contain it.
    """
    if not 0 < len(value) <= _LONGEST_VALUE:
        raise ValueError(f"the value must have 1 to {_LONGEST_VALUE} characters")
    normalised = {field: identity.normalise_person(field, value) for field in fields}
    for field, text in normalised.items():
        if not text:
            raise ValueError(f"the value {_NOT_USABLE[field]}")
    return normalised


class PersonHandlers:
    """The handlers of ``/api/persons``.

    Args:
        store: the store.
        keys: the keys of the install.
        check_names: checks the names of a question.
        snapshot: returns the configuration in force.
        audit: records each search and each erasure.
        now: microseconds.
        wake: lets the gateway take the first step of an erasure at once.
    """

    def __init__(
        self,
        *,
        store: Records,
        keys: model.Keys,
        check_names: api.CheckNames,
        snapshot: Callable[[], documents.Snapshot],
        audit: AuditLog,
        now: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._store, self._audit, self._now, self._wake = store, audit, now, wake
        self._keys = keys
        self._check_names = check_names
        self._snapshot = snapshot

    async def find(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/find`` with the arrivals of a person, newest first, of all tenants or of one.

        The audit log records that somebody looked for a person, by which field, and how many rows the answer has.
        """
        with api.parsing():
            asked = _parse(await request.read(), FindRequest)
            selection = api.Selection(namespace=asked.namespace, tenant=asked.tenant)
            where = api.confine(request, api.filter_from_selection(selection))
            normalised = normalised_values(asked.value, (asked.field,) if asked.field else fields_of(asked.value))
            limit = api.parse_limit({"limit": str(asked.limit)})
        await self._check_names(where)
        tenants = await self._tenants(where)
        persons = self._keys_of(tenants, normalised)
        with api.parsing():
            page = await self._store.of_person(persons, asked.cursor, limit)
        audited = {"fields": [*normalised], "namespace": where.namespace, "tenant": where.tenant}
        await self._audit.record_look(request, "find person", audited, len(page.rows))
        sees_all = request[api.CALLER].permitted is None
        oldest = await self._store.oldest_arrival() if sees_all else None  # that of other tenants is not theirs to know
        return api.json_response(
            {
                "rows": page.rows,
                "nextCursor": page.next_cursor,
                "searchedAs": [*normalised],
                "tenants": len(tenants),
                "since": None if oldest is None else model.format_time(oldest),
            }
        )

    async def erase(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/erase``: erase a person at all tenants or at one; with ``dryRun`` only count."""
        with api.parsing():
            asked = _parse(await request.read(), EraseRequest)
            selection = api.Selection(namespace=asked.namespace, tenant=asked.tenant)
            where = api.confine(request, api.filter_from_selection(selection))
            if asked.field is None and len(fields_of(asked.value)) > 1:
                raise ValueError(f"say what the value is: `field` must be one of {', '.join(fields_of(asked.value))}")
            normalised = normalised_values(asked.value, (asked.field,) if asked.field else fields_of(asked.value))
            if not _REFERENCE.fullmatch(asked.reference):
                raise ValueError("a reference has up to 64 letters, digits, dots, hyphens and underscores")
        await self._check_names(where)
        tenants = await self._tenants(where)
        persons = self._keys_of(tenants, normalised)
        if asked.dry_run:
            report = await self._store.preview_erasure(persons)
            audited = {"fields": [*normalised], "namespace": where.namespace, "tenant": where.tenant}
            await self._audit.record_look(request, "find person", audited, sum(report.arrivals.values()))
            return api.json_response(_report_row(report))
        wanted = ErasureRequest(
            persons=tuple(sorted(persons)),
            tenants=tuple(sorted([f"{namespace}/{tenant}" for namespace, tenant in tenants])),
            fields=tuple(normalised),
            reference=asked.reference,
            requested_by=request[api.CALLER].name,
        )
        changing: dict[str, object] = {
            "fields": [*normalised],
            "tenants": len(tenants),
            "reference": asked.reference or None,
        }
        async with self._audit.change(request, "erase person", changing) as changed:
            erasure = await self._store.start_erasure(wanted, self._now())
            changing["id"], changed.count = model.format_id(erasure.id), 1
        self._wake()
        return api.json_response(erasure_row(erasure), 202)

    async def list_erasures(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/persons/erasures``: the newest ones; with ``id`` those whose id begins so."""
        prefix = request.query.get("id", "")
        rows = [erasure_row(each) for each in await self._store.list_erasures() if _may_see(request, each)]
        return api.json_response({"rows": [row for row in rows if str(row["id"]).startswith(prefix)]})

    async def show_erasure(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/persons/erasures/{id}``."""
        return api.json_response(erasure_row(await self._find_erasure(request)))

    async def cancel_erasure(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/erasures/{id}/cancel``: end the request. Erased visits stay erased."""
        erasure = await self._find_erasure(request)
        async with self._audit.change(request, "cancel erasure", {"id": model.format_id(erasure.id)}) as changed:
            changed.count = int(await self._store.cancel_erasure(erasure, self._now()))
        if not changed.count:
            raise api.ProblemError(409, "HasEnded", "the erasure has ended")
        return api.json_response(erasure_row(await self._store.find_erasure(erasure.id)))

    async def _find_erasure(self, request: web.Request) -> Erasure:
        with api.parsing():
            erasure = await self._store.find_erasure(api.parse_id(request.match_info["id"]))
        if not _may_see(request, erasure):
            raise model.NotFoundError("there is no such erasure", "use an id from `usher person requests`")
        return erasure

    def _keys_of(
        self, tenants: Collection[tuple[str, str]], normalised: Mapping[identity.PersonField, str]
    ) -> set[bytes]:
        """Return the person keys of normalised values at some tenants."""
        return {
            person_keys.key(field, text)
            for namespace, tenant in tenants
            for person_keys in [identity.PersonKeys(self._keys, namespace, tenant)]
            for field, text in normalised.items()
        }

    async def _tenants(self, where: Filter) -> set[tuple[str, str]]:
        """Return the tenants that a filter selects: those in force, and those that the store has counts of."""
        documents_in_force = self._snapshot().listeners.values()
        names = {(document.namespace, document.tenant.name) for document in documents_in_force}
        names |= {(name.namespace, name.tenant) for name in await self._store.listener_names()}
        return {(namespace, tenant) for namespace, tenant in names if where.selects(namespace, tenant)}


def _may_see(request: web.Request, erasure: Erasure) -> bool:
    """Return whether a caller may see an erasure: one that is limited, only if all its tenants are permitted."""
    where = Filter(permitted=request[api.CALLER].permitted)
    names = [tenant.partition("/") for tenant in erasure.request.tenants]
    return all(where.selects(namespace, tenant) for namespace, _, tenant in names)


def erasure_row(erasure: Erasure) -> dict[str, object]:
    """Return an erasure as JSON: its receipt, once it is completed. It has no personal data."""
    wanted = erasure.request
    return {
        "id": model.format_id(erasure.id),
        "reference": wanted.reference or None,
        "status": _STATUSES[erasure.state],
        "receivedAt": model.format_time(erasure.created_at),
        "completedAt": model.format_time(erasure.ended_at) if erasure.ended_at else None,
        "requestedBy": wanted.requested_by,
        "fields": wanted.fields,
        "tenants": len(wanted.tenants),
        **_report_row(erasure.report),
    }


def _report_row(report: ErasureReport) -> dict[str, object]:
    return {
        "arrivals": sum(report.arrivals.values()),
        "arrivalsByTenant": report.arrivals,
        "deliveries": report.deliveries,
        "sentTo": {
            destination: {
                "delivered": sent.delivered,
                "attempted": sent.attempted,
                "firstAt": model.format_time(sent.first_at) if sent.first_at else None,
                "lastAt": model.format_time(sent.last_at) if sent.last_at else None,
            }
            for destination, sent in sorted(report.sent_to.items())
        },
    }


_STATUSES = {
    ErasureState.Pending: "pending",
    ErasureState.InProgress: "in_progress",
    ErasureState.Completed: "completed",
    ErasureState.Cancelled: "cancelled",
}
"""Names of OpenDSR."""


_RequestT = TypeVar("_RequestT", "FindRequest", "EraseRequest")


def _parse(body: bytes, request_type: type[_RequestT]) -> _RequestT:
    """Parse a request.

    Raises:
        ValueError: the body is not valid; the message contains nothing of it.
    """
    try:
        return msgspec.json.decode(body, type=request_type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        names = ", ".join(name for name in request_type.__struct_encode_fields__ if name != "value")
        raise ValueError(f"the body must have a `value`, and may have {names}") from None
