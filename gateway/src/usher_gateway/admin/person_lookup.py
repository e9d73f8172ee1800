"""Turns a person's value, such as an e-mail address, into person keys.

The value comes in a request's body, and gets into no log, error or answer. Only a forwarded erasure sends it on.
"""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from usher_gateway.access.problem import ProblemError
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest import identity
from usher_gateway.store.base import Filter
from usher_gateway.words import person_words

_LONGEST_VALUE = 1_000

_SHORTEST_MOBILE = 5  # Digits of a value without a name of its field, from which on it may be a mobile number

_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-]?[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}")
_REFERENCE = re.compile(r"[A-Za-z0-9._-]{0,64}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s,;]+")
_MOBILE = re.compile(r"\+?[\d ()/.-]+")

_NOT_USABLE = {
    "user": "is empty; give a user id",
    "email": "is empty; give an e-mail address",
    "mobile": "has no digit; a mobile number needs one",
    "device": "has no letter or digit; a MAC needs some",
}


class PersonQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body for a request about a person."""

    value: str
    field: identity.PersonField | None = None
    """The value's kind; None: Usher guesses it from the value's form."""
    namespace: str | None = None
    tenant: str | None = None
    """A name, or ``namespace/name``."""
    reference: str = ""
    """The caller's own id for the request."""


QuestionT = TypeVar("QuestionT", bound=PersonQuestion)


class Person(msgspec.Struct, frozen=True):
    """A person at the tenants that a request selects."""

    keys: Mapping[bytes, str]
    """Person key -> its tenant, ``namespace/name``."""
    fields: tuple[identity.PersonField, ...]
    """The kinds that the value may have."""
    tenants: tuple[str, ...]
    """``namespace/name``, sorted."""
    where: Filter
    """The request's names."""
    reference: str
    """The caller's own id for the request; may be empty."""

    @property
    def audited(self) -> dict[str, object]:
        """The selection for the entry in the audit log."""
        return {
            "fields": list(self.fields),
            "namespace": self.where.namespace,
            "tenant": self.where.tenant,
            "reference": self.reference or None,
        }


def fields_of(value: str) -> tuple[identity.PersonField, ...]:
    """Return what a value can be; a number with a few digits may be a user id or a mobile number."""
    value = identity.plain(value).strip()
    if "@" in value:
        return ("email",)
    is_mobile = _MOBILE.fullmatch(value) and sum(letter.isdigit() for letter in value) >= _SHORTEST_MOBILE
    is_device = _MAC.fullmatch(value)
    return ("user", *(("mobile",) if is_mobile else ()), *(("device",) if is_device else ()))


def normalised_values(value: str, fields: Collection[identity.PersonField]) -> dict[identity.PersonField, str]:
    """Return field -> the value as the store knows it.

    Raises:
        ValueError: the value fits no field; the message does not contain it.
    """
    if not 0 < len(value) <= _LONGEST_VALUE:
        raise ValueError(f"the value must have 1 to {_LONGEST_VALUE} characters")
    normalised = {field: identity.normalise_person(field, value) for field in fields}
    for field, text in normalised.items():
        if not text:
            raise ValueError(f"the value {_NOT_USABLE[field]}")
        if field == "email" and not _EMAIL.fullmatch(text):
            raise ValueError(
                "the value is not an e-mail address: it needs one @, and a domain without commas and blanks"
            )
    return normalised


async def parse(request: web.Request, question_type: type[QuestionT], *, may_guess: bool = False) -> QuestionT:
    """Parse a request's body. ``may_guess``: it need not say the field if the value fits several.

    Raises:
        ValueError: the body is not valid; the message contains nothing from it.
        ProblemError: the value fits several fields.
    """
    try:
        question = msgspec.json.decode(await request.read(), type=question_type)
    except (msgspec.DecodeError, UnicodeDecodeError):
        names = ", ".join(name for name in question_type.__struct_encode_fields__ if name != "value")
        raise ValueError(f"the body must have a `value`, and may have {names}") from None
    fields = fields_of(question.value)
    if not may_guess and question.field is None and len(fields) > 1:
        raise ProblemError(
            400,
            "BadRequest",
            f"the value may be a {' or a '.join([person_words.FIELDS[field] for field in fields])}",
            f"say which: {' or '.join([f'`--as {person_words.KINDS.get(field, field)}`' for field in fields])}"
            f" (in the API `field`: {', '.join(fields)})",
        )
    if not _REFERENCE.fullmatch(question.reference):
        raise ValueError("a reference has up to 64 letters, digits, dots, hyphens and underscores")
    return question


async def find_person(parts: Parts, request: web.Request, question: PersonQuestion) -> Person:
    """Return a question's person.

    Raises:
        ProblemError: the value does not fit its field, or a name is unknown.
    """
    with api.parsing():
        selection = api.Selection(namespace=question.namespace, tenant=question.tenant)
        where = api.confine(request, api.filter_from_selection(selection))
        fields = (question.field,) if question.field else fields_of(question.value)
        normalised = normalised_values(question.value, fields)
    await name_check.check_names(parts, where)
    tenants = await _tenants(parts, where)
    keys = {
        person_keys.key(field, text): f"{namespace}/{tenant}"
        for namespace, tenant in tenants
        for person_keys in [identity.PersonKeys(parts.keys, namespace, tenant)]
        for field, text in normalised.items()
    }
    names = sorted([f"{namespace}/{tenant}" for namespace, tenant in tenants])
    return Person(keys, tuple(normalised), tuple(names), where, question.reference)


async def oldest_arrival(parts: Parts, request: web.Request) -> int | None:
    """Return how far back the store reaches; for a caller with a limit, only at its own tenants."""
    return await parts.store.oldest_arrival(Filter(permitted=request[api.CALLER].permitted))


async def searched(parts: Parts, person: Person) -> dict[str, object]:
    """Return the answer fields that say where a person was looked for, and where the person is suppressed."""
    suppressed_at = await parts.store.tenants_suppressing(person.keys)
    return {"searchedAs": person.fields, "tenants": len(person.tenants), "suppressedAt": sorted(suppressed_at)}


async def _tenants(parts: Parts, where: Filter) -> set[tuple[str, str]]:
    """Return the tenants that a filter selects: those in force, and those that the store counts."""
    documents_in_force = parts.state.snapshot.listeners.values()
    names = {(document.namespace, document.tenant.name) for document in documents_in_force}
    names |= {(name.namespace, name.tenant) for name in await parts.store.listener_names()}
    return {(namespace, tenant) for namespace, tenant in names if where.selects(namespace, tenant)}
