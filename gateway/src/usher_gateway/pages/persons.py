"""Find a person; from there export, suppress and erase the person.

A person's value comes in a form's body. It is in no address, link or answer: the forms that follow a search
carry it in a hidden field that only this session can read, and for ten minutes.
"""

import time
from typing import Any

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.pages import receipt_page, visits
from usher_gateway.pages.api import Api, ApiProblemError, Form, Values
from usher_gateway.pages.requests import Download
from usher_gateway.pages.sessions import FIELD_SEAL
from usher_gateway.words import listings, person_archive, person_words

_SHOWN = 50
# Of the bodies in one export, because the gateway holds the whole file in memory.
_MOST_EXPORTED_BYTES = 8 * 1024 * 1024

_REFUSING_SHOWN = 5  # Listeners with a link; `listings.named` has as many
_ERASE_WORD = "erase"  # The word that a person types to confirm an erasure


class Question(msgspec.Struct, frozen=True):
    """The person that a form names."""

    value: str
    field: str | None
    """A kind in `person_words.FIELDS`; None: the API guesses it."""
    tenant: str | None
    """``namespace/name``, or a name; None: all tenants."""


async def show_form(_: Api, __: web.Request) -> Values:
    """Return the search form's values."""
    return {"title": "Find a person or a visit", "kinds": person_words.FIELDS}


async def find(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Show a person's visits, or go to the visit with an id."""
    if "person" in form:
        return await _person_page(api, request, _person(request, form), form.get("cursor"))
    value, kind = form.get("value", "").strip(), form.get("kind", "")
    if not value:
        raise ApiProblemError(400, "there is no value to look for", "go back, and enter one")
    if not kind and person_words.ID.fullmatch(value):
        return f"/ui/visits/{await _visit_with_id(api, value)}"
    question = Question(value, kind if kind in person_words.FIELDS else None, form.get("tenant", "").strip() or None)
    return await _person_page(api, request, question)


async def _visit_with_id(api: Api, identifier: str) -> str:
    """Return the visit id for an id that a visit or its delivery has."""
    if rows := (await api.get("/api/visits", {"id": identifier, "limit": "1"}))["rows"]:
        return str(rows[0]["id"])
    if rows := (await api.get("/api/deliveries", {"id": identifier, "limit": "1"}))["rows"]:
        return str(rows[0]["visit"])
    raise ApiProblemError(404, "no visit or delivery has this id", "use an id from a list")


async def _person_page(
    api: Api, request: web.Request, question: Question, cursor: str | None = None, notice: str = ""
) -> tuple[str, Values]:
    """Return the page with a person's visits."""
    answer = await api.post(
        "/api/persons/find", msgspec.to_builtins(question) | {"limit": _SHOWN, "cursor": cursor or None}
    )
    fields, suppressed = answer["searchedAs"], answer["suppressedAt"]
    if len(fields) == 1:
        question = msgspec.structs.replace(question, field=fields[0])
    return "person.html", {
        "title": "Visits of a person",
        "notice": notice,
        "rows": visits.with_cells(answer["rows"]),
        "no_visit": person_words.NO_VISIT,
        "searched_as": " or ".join([person_words.FIELDS[field] for field in fields]),
        "is_one_kind": len(fields) == 1,
        "tenants": listings.counted(answer["tenants"], "tenant"),
        "since": answer["since"],
        "suppressed_at": person_words.suppressed_at(suppressed, answer["tenants"]) if suppressed else "",
        "is_suppressed_everywhere": bool(suppressed) and len(suppressed) == answer["tenants"],
        "refused": person_words.refused_elsewhere(answer["refusing"]) if answer["refusing"] else "",
        "refusing": answer["refusing"][:_REFUSING_SHOWN],
        "person": _seal(request, question),
        "cursor": answer["nextCursor"],
        "is_first": not cursor,
    }


def _seal(request: web.Request, question: Question) -> str:
    return request[FIELD_SEAL].seal(msgspec.json.encode(question).decode())


def _person(request: web.Request, form: Form) -> Question:
    """Return the person from a form that follows a search."""
    content = request[FIELD_SEAL].open(form.get("person", ""))
    if content is None:
        raise ApiProblemError(400, "the search is over ten minutes old, or of another session", "search again")
    return msgspec.json.decode(content, type=Question)


async def suppress(api: Api, request: web.Request, form: Form) -> tuple[str, Values]:
    """Say what suppressing or unsuppressing changes; with ``confirm``, do it."""
    question, action = _person(request, form), request.path.rpartition("/")[2]
    if "confirm" not in form:
        return "person_change.html", await _preview(api, request, question, form, action)
    answer = await api.post(f"/api/persons/{action}", _change(question, form))
    words = person_words.suppressed if action == "suppress" else person_words.unsuppressed
    return await _person_page(api, request, question, notice=words(answer))


async def erase(api: Api, request: web.Request, form: Form) -> str | tuple[str, Values]:
    """Count what an erasure deletes; with the typed word, start it."""
    question = _person(request, form)
    if form.get("word", "").strip().lower() != _ERASE_WORD:
        return "person_change.html", await _preview(api, request, question, form, "erase")
    started = await api.post("/api/persons/erase", _change(question, form))
    return f"/ui/erasures/{started['id']}"


async def export(api: Api, request: web.Request, form: Form) -> Download:
    """Answer with all that is stored about a person, as `usher person export` writes it."""
    question = _person(request, form)
    rows: list[listings.Row] = []
    cursor: str | None = None
    while True:
        answer = await api.post("/api/persons/export", _change(question, form) | {"cursor": cursor})
        rows += answer["rows"]
        cursor = answer["nextCursor"]
        if sum(row["bodyBytes"] for row in rows) > _MOST_EXPORTED_BYTES:
            raise ApiProblemError(413, "this is too much for a page", "use `usher person export`, or name one tenant")
        if cursor is None:
            break
    if not rows:
        raise ApiProblemError(404, person_words.nothing_stored(answer, question.field), "")
    now = time.time_ns() // 1_000
    archive = person_archive.encode(rows, form.get("reference", ""), now, answer["suppressedAt"])
    return Download(f"person-{model.format_time(now)[:10]}.json", archive, "application/json")


def _change(question: Question, form: Form) -> dict[str, Any]:
    """Return the body for a request that changes something about a person, or exports."""
    return {**msgspec.to_builtins(question), "reference": form.get("reference", "").strip()}


async def _preview(api: Api, request: web.Request, question: Question, form: Form, action: str) -> Values:
    """Return the values for the page that asks before a change."""
    report = await api.post("/api/persons/erase", msgspec.to_builtins(question) | {"dryRun": True})
    return {
        "title": f"{action.capitalize()} this person",
        "action": action,
        "tenant": question.tenant,
        "report": report,
        "deliveries": receipt_page.deliveries(report),
        "pending": report["deliveries"].get("pending", 0),
        "person": _seal(request, question),
        "word": _ERASE_WORD,
        "has_wrong_word": "confirm" in form,
        "reference": form.get("reference", ""),
    }


async def list_suppressions(api: Api, _: web.Request) -> Values:
    """Return the values for the list of tenants with suppressed persons."""
    return {"title": "Suppressed persons", "rows": (await api.get("/api/persons/suppressions"))["rows"]}
