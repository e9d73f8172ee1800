"""The shared parts of all ``/api/`` handlers: query parameters and their names, JSON, and problems.

Parameters are names, ids and times only, so that no personal data can get into a query string or the audit log.
"""

import contextlib
import datetime
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from usher_gateway import model, timing
from usher_gateway.access.audit import Actor
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Caller
from usher_gateway.delivery import outcome
from usher_gateway.destinations import SendError
from usher_gateway.resources import conditions
from usher_gateway.store.base import LONGEST_PAGE, Filter
from usher_gateway.words import listings

Row = dict[str, object]  # A part of an answer, before it becomes JSON

_log = structlog.get_logger(__name__)

_DEFAULT_PAGE_ROWS = 100
_MAX_IDS = 1_000
_ID_DIGITS = 32
_MAX_TEXT_LENGTH = 300

_PARAMETERS = tuple(flag.name for flag in listings.FILTERS)  # Of a query, besides ids and those of single endpoints
_NAMES = ("namespace", "tenant", "listener", "route", "destination", "reason", "state")  # Parameters of limited length
_NOT_STORED = {"probe", "refused", "suppressed"}  # Values of `countedAs` that no row of the ledger has

# Listing path -> the reasons that a filter may have there.
REASONS: Mapping[str, frozenset[str]] = {
    "/api/visits": listings.VISIT_REASONS,
    "/api/quarantine": listings.QUARANTINE_REASONS,
    # For holds, cancelled deliveries, failed attempts, and pending deliveries without an attempt.
    "/api/deliveries": frozenset[str](
        {
            *model.HoldReason.__members__,
            *model.CancelReason.__members__,
            *SendError,
            *outcome.AnswerError,
            outcome.INTERNAL_ERROR,
            "NotTried",
        }
    ),
}

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)  # The caller of the request


def actor_of(request: web.Request) -> Actor:
    """Return who sends a request, for the audit log."""
    return Actor(request[CALLER], request.remote or "")


def json_response(value: object, status: int = 200) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=_HEADERS
    )


async def encode_each(values: Iterable[object]) -> list[msgspec.Raw]:
    """Return values as JSON, ready for `json_response`.

    The values may be made as they are asked for. Between some values, arrivals get the event loop, because making and
    encoding 10,000 listeners takes 0.3 s.
    """
    turns = timing.EventLoopTurns()
    encoded = []
    for value in values:
        encoded.append(msgspec.Raw(msgspec.json.encode(value)))
        await turns.give_way()
    return encoded


def accepts_gzip(request: web.Request) -> bool:
    """Return whether a caller takes compressed answers. Source: RFC 9110 §12.5.3."""
    return re.search(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", request.headers.get("Accept-Encoding", "")) is not None


def raw_response(body: bytes, headers: dict[str, str]) -> web.Response:
    """Return bytes as a download, so that no browser renders them as a page."""
    download = {**_HEADERS, "Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
    return web.Response(body=body, headers={**download, **headers})


def problem_response(error: ProblemError) -> web.Response:
    """Return a problem response. Source: RFC 9457 §3; ``code`` and ``hint`` are extension members (§3.2)."""
    title = HTTPStatus(error.status).phrase  # RFC 9457 §4.2.1
    value = {"type": "about:blank", "title": title, "status": error.status, "detail": error.detail}
    value["code"] = error.code
    if error.hint:
        value["hint"] = error.hint
    headers = dict(_HEADERS)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="usher"'
    return web.Response(
        body=msgspec.json.encode(value), status=error.status, content_type="application/problem+json", headers=headers
    )


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Answer 400 if the block raises ValueError, because the caller sent what cannot be parsed."""
    try:
        yield
    except ValueError as error:
        raise ProblemError(400, "BadRequest", str(error)) from error


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem. An unexpected one is logged without its text, which may be personal data."""
    try:
        return await handler(request)
    except ProblemError as error:
        return problem_response(error)
    except model.NotFoundError as error:
        return problem_response(ProblemError(404, error.code, str(error), error.hint))
    except model.StoreUnavailableError as error:
        hint = error.hint or "try again; a narrower question is answered faster"
        return problem_response(ProblemError(503, error.code, str(error), hint))
    except web.HTTPException as error:
        response = problem_response(ProblemError(error.status, error.reason.replace(" ", ""), error.reason))
        response.headers.extend({"Allow": error.headers["Allow"]} if "Allow" in error.headers else {})
        return response
    except Exception as error:  # noqa: BLE001 - the top of a request
        resource = request.match_info.route.resource  # not the path: that of a link or a ticket is a secret
        path = "" if resource is None else resource.canonical
        has_hung_up = isinstance(error, ConnectionResetError) and request.transport is None
        if not has_hung_up:
            _log.error("admin_request_failed", path=path, error=type(error).__name__)
        return problem_response(ProblemError(500, "Internal", "the gateway failed to answer", "see its log"))


_SELECTING = (*_NAMES, "since", "until", "ids", "visit", "replay", "all")  # Fields of a selection that select rows


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body in a request that changes rows: which rows to change."""

    namespace: str | None = None
    tenant: str | None = None
    """A name, or ``namespace/name``."""
    listener: str | None = None
    route: str | None = None
    destination: str | None = None
    """``namespace/name``; or a name that only one destination has, at least in the namespace that is given too."""
    since: str | None = None
    until: str | None = None
    reason: str | None = None
    state: str | None = None
    ids: list[str] = []
    visit: str | None = None
    """The visit id that the deliveries belong to."""
    replay: str | None = None
    """The replay id that created the deliveries."""
    all: bool = False
    """Every row. Required if no other field selects rows."""
    dry_run: bool = False
    """Change nothing, and answer how many rows would change, by reason."""


def check_parameters(request: web.Request, parameters: Collection[str]) -> None:
    """Check that a request has only parameters that it takes, each once, because it would ignore the others.

    Raises:
        ProblemError: 400; it names the parameter and those that the request takes.
    """
    for name in request.query:
        if name not in parameters:
            there_are = f"there are {', '.join(sorted(parameters))}" if parameters else "this request takes none"
            raise ProblemError(400, "BadRequest", f"unknown parameter {name[:50]!r}: {there_are}")
        if len(request.query.getall(name)) > 1:
            raise ProblemError(400, "BadRequest", f"the parameter {name!r} may be given only once")


def read_filter(request: web.Request, only: Mapping[str, str] | None = None) -> Filter:
    """Return the filter in a request's query string, limited to what the caller may see.

    Args:
        request: the request; its route says which parameters it may have.
        only: filters that are always set.

    Raises:
        ValueError: a parameter cannot be parsed.
    """
    return confine(request, parse_filter({**request.query, **(only or {})}))


def confine(request: web.Request, where: Filter) -> Filter:
    """Limit a filter to what a request's caller may see."""
    return msgspec.structs.replace(where, permitted=request[CALLER].permitted)


def parse_filter(query: Mapping[str, str]) -> Filter:
    """Return the filter in a query string, which may have other parameters too.

    Raises:
        ValueError: a parameter cannot be parsed.
    """
    texts = {name: query[name] for name in _PARAMETERS if name in query}
    counted_as = texts.pop("countedAs", None)
    if counted_as in _NOT_STORED:
        raise ValueError(f"arrivals counted as {counted_as} are only counted: see `usher usage` and `usher listeners`")
    ids = query["id"].split(",") if query.get("id") else []
    is_prefix = len(ids) == 1 and len(ids[0].replace("-", "")) < _ID_DIGITS
    id_range = parse_id_prefix(ids.pop()) if is_prefix else None
    where = filter_from_selection(msgspec.convert({**texts, "ids": ids}, Selection))
    return msgspec.structs.replace(where, counted_as=counted_as, id_range=id_range)


_BodyT = TypeVar("_BodyT")
_SelectionT = TypeVar("_SelectionT", bound=Selection)


def decode(body: bytes, body_type: type[_BodyT], what: str) -> _BodyT:
    """Decode a request's body; an empty one is an empty object. ``what``: names what it should be.

    Raises:
        ValueError: it is something else.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=body_type)
    except UnicodeDecodeError:
        raise ValueError("the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is not {what}: {error}") from error


def parse_selection(body: bytes, selection_type: type[_SelectionT]) -> _SelectionT:
    """Parse the selection in a request body.

    Raises:
        ValueError: the body is not a selection, or it selects every row without ``all``.
    """
    selection = decode(body, selection_type, "a selection")
    if not any(getattr(selection, name) for name in _SELECTING):
        raise ValueError('select rows, or send {"all": true} for every row')
    return selection


def audited(selection: Selection, where: Filter) -> dict[str, object]:
    """Return what the audit log records about a selection: checked names, how many ids, and what was parsed.

    ``where``: the filter from the selection. A time or an id is recorded as parsed, not as it was written.
    """
    fields = {name: value for name, value in msgspec.to_builtins(selection).items() if value}
    parsed = {
        "destination": where.destination,
        "ids": len(where.ids),
        "since": None if where.since is None else model.format_time(where.since),
        "until": None if where.until is None else model.format_time(where.until),
        "visit": None if where.visit is None else model.format_id(where.visit),
        "replay": None if where.replay is None else model.format_id(where.replay),
    }
    return fields | {name: value for name, value in parsed.items() if value}


def filter_from_selection(selection: Selection) -> Filter:
    """Return the store filter for a selection. `check_names` adds the namespace to a destination's name.

    Raises:
        ValueError: a name, an id or a time cannot be parsed.
    """
    for name in _NAMES:
        if len(getattr(selection, name) or "") > _MAX_TEXT_LENGTH:
            raise ValueError(f"{name} is too long")
    if len(selection.ids) > _MAX_IDS:
        raise ValueError(f"at most {_MAX_IDS} ids at once")
    namespace, tenant = selection.namespace, selection.tenant
    if tenant is not None and "/" in tenant:
        namespace, _, tenant = tenant.partition("/")
    destination = selection.destination
    if destination is not None and "/" not in destination and namespace is not None:
        destination = f"{namespace}/{destination}"
    return Filter(
        namespace=namespace,
        tenant=tenant,
        listener=selection.listener,
        route=selection.route,
        destination=destination,
        since=None if selection.since is None else parse_time(selection.since),
        until=None if selection.until is None else parse_time(selection.until),
        reason=selection.reason,
        state=selection.state,
        ids=tuple([parse_id(text) for text in selection.ids]),
        visit=None if selection.visit is None else parse_id(selection.visit),
        replay=None if selection.replay is None else parse_id(selection.replay),
    )


def parse_limit(query: Mapping[str, str]) -> int:
    """Return how many rows a page has.

    Raises:
        ValueError: it is not a number in range.
    """
    text = query.get("limit", str(_DEFAULT_PAGE_ROWS))
    limit = int(text) if text.isdecimal() and len(text) < 6 else 0
    if not 1 <= limit <= LONGEST_PAGE:
        raise ValueError(f"limit must be a number from 1 to {LONGEST_PAGE}")
    return limit


_TIME = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?", re.ASCII)
_TIME_FORMS = "a time must look like 2026-11-25T12:00Z, 2026-11-25T12:00, 2026-11-25 or 2026-11"


def parse_time(text: str, zone: datetime.tzinfo = datetime.UTC) -> int:
    """Parse a time as in RFC 3339, a date or a month, and return its first instant in microseconds.

    Seconds may be absent, and the offset: without one the time is in ``zone``.

    Raises:
        ValueError: ``text`` has none of these forms, or is outside the years 1970 to 9998.
    """
    if _TIME.fullmatch(text) is None or not "1970" <= text[:4] <= "9998":
        raise ValueError(_TIME_FORMS)
    try:
        moment = datetime.datetime.fromisoformat(f"{text}-01" if len(text) == 7 else text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
    except ValueError:
        raise ValueError(_TIME_FORMS) from None
    return model.instant_at(moment)


def parse_id(text: str) -> bytes:
    """Parse an id.

    Raises:
        ValueError: ``text`` is not an id.
    """
    try:
        return model.parse_id(text)
    except ValueError:
        raise ValueError("an id must be a UUID, as the listings show it") from None


def parse_id_prefix(text: str) -> tuple[bytes, bytes]:
    """Return the lowest and the highest id that begins with some digits.

    Raises:
        ValueError: no id begins with ``text``.
    """
    digits = text.replace("-", "")
    if not re.fullmatch("[0-9a-fA-F]+", digits):
        raise ValueError("an id must be a UUID, as the listings show it, or its first digits")
    return bytes.fromhex(digits.ljust(_ID_DIGITS, "0")), bytes.fromhex(digits.ljust(_ID_DIGITS, "f"))


def check_reason(reason: str | None, reasons: frozenset[str]) -> None:
    """Check a reason in a filter; None selects any.

    Raises:
        ProblemError: 400; the hint has the reason that was probably meant.
    """
    if reason is not None and reason not in reasons:
        hint = conditions.did_you_mean(reason, reasons) or f"there are {', '.join(sorted(reasons))}"
        if reason in model.RefusedReason.__members__:
            hint = "nothing is stored of a refused arrival: `usher usage` counts them, and the log names the reason"
        raise ProblemError(400, "UnknownName", f"there is no reason `{reason}` here", hint)
