"""Handlers over persons: find the visits of one person.

A value of a person comes in the body of a request and never leaves this module: not into a log, an error or an answer.
"""

import re
from collections.abc import Callable, Collection

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import api
from usher_gateway.admin.audit import AuditLog
from usher_gateway.ingest import identity
from usher_gateway.store.base import Filter
from usher_gateway.store.records import Records

_LONGEST_VALUE = 1_000

_SHORTEST_MOBILE = 5
"""Digits of a value without a name of its field, from which on it may be a mobile number."""

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-]?[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}")
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
        audit: records each search.
    """

    def __init__(
        self,
        *,
        store: Records,
        keys: model.Keys,
        check_names: api.CheckNames,
        snapshot: Callable[[], documents.Snapshot],
        audit: AuditLog,
    ) -> None:
        self._store, self._audit = store, audit
        self._keys = keys
        self._check_names = check_names
        self._snapshot = snapshot

    async def find(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/persons/find`` with the arrivals of a person, newest first, of all tenants or of one.

        The audit log records that somebody looked for a person, by which field, and how many rows the answer has.
        """
        with api.parsing():
            asked = _parse(await request.read())
            selection = api.Selection(namespace=asked.namespace, tenant=asked.tenant)
            where = api.confine(request, api.filter_from_selection(selection))
            normalised = normalised_values(asked.value, (asked.field,) if asked.field else fields_of(asked.value))
            limit = api.parse_limit({"limit": str(asked.limit)})
        await self._check_names(where)
        tenants = await self._tenants(where)
        persons = {
            person
            for namespace, tenant in tenants
            for person_keys in [identity.PersonKeys(self._keys, namespace, tenant)]
            for person in [person_keys.key(field, text) for field, text in normalised.items()]
        }
        with api.parsing():
            page = await self._store.of_person(persons, asked.cursor, limit)
        audited = {"fields": [*normalised], "namespace": where.namespace, "tenant": where.tenant}
        await self._audit.record_look(request, "find person", audited, len(page.rows))
        oldest = await self._store.oldest_arrival()
        return api.json_response(
            {
                "rows": page.rows,
                "nextCursor": page.next_cursor,
                "searchedAs": [*normalised],
                "tenants": len(tenants),
                "since": None if oldest is None else model.format_time(oldest),
            }
        )

    async def _tenants(self, where: Filter) -> set[tuple[str, str]]:
        """Return the tenants that a filter selects: those in force, and those that the store has counts of."""
        documents_in_force = self._snapshot().listeners.values()
        names = {(document.namespace, document.tenant.name) for document in documents_in_force}
        names |= {(name.namespace, name.tenant) for name in await self._store.listener_names()}
        return {(namespace, tenant) for namespace, tenant in names if where.selects(namespace, tenant)}


def _parse(body: bytes) -> FindRequest:
    """Parse a request.

    Raises:
        ValueError: the body is not valid; the message contains nothing of it.
    """
    try:
        return msgspec.json.decode(body, type=FindRequest)
    except msgspec.DecodeError as error:
        fields = ", ".join(identity.PERSON_FIELDS)
        raise ValueError(f"the body must have a `value`, and may have `field` ({fields}), namespace, tenant") from error
