"""Answers of the admin port: JSON, and problems as RFC 9457 has them. Errors are mapped to HTTP here, once."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import structlog
from aiohttp import web

from usher_gateway import model

_log = structlog.get_logger(__name__)

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ProblemError(Exception):
    """An answer other than success: ``code`` is for programs, ``detail`` and ``hint`` for people."""

    def __init__(self, status: int, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.hint = status, code, detail, hint


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=_HEADERS
    )


def raw(body: bytes, headers: dict[str, str]) -> web.Response:
    """Bytes that no browser may take for a page."""
    shown = {**_HEADERS, "Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
    return web.Response(body=body, headers={**shown, **headers})


def problem(found: ProblemError) -> web.Response:
    """A problem's answer. Source: RFC 9457 §3; ``code`` and ``hint`` are extensions (§3.2)."""
    value = {"type": "about:blank", "title": found.code, "status": found.status, "detail": found.detail}
    value["code"] = found.code
    if found.hint:
        value["hint"] = found.hint
    headers = dict(_HEADERS)
    if found.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="usher"'
    return web.Response(
        body=msgspec.json.encode(value), status=found.status, content_type="application/problem+json", headers=headers
    )


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """What cannot be understood in a question is the asker's fault: 400."""
    try:
        yield
    except ValueError as error:
        raise ProblemError(400, "BadRequest", str(error)) from error


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem; what nobody foresaw is logged without its text."""
    try:
        return await handler(request)
    except ProblemError as error:
        return problem(error)
    except model.NotFoundError as error:
        return problem(ProblemError(404, error.code, str(error), error.hint))
    except model.StoreUnavailableError as error:
        hint = error.hint or "try again; a narrower question is answered faster"
        return problem(ProblemError(503, error.code, str(error), hint))
    except web.HTTPException as error:
        return problem(ProblemError(error.status, error.reason.replace(" ", ""), error.reason))
    except Exception as error:  # noqa: BLE001 - the top of a request
        _log.error("admin_request_failed", path=request.path, error=type(error).__name__)
        return problem(ProblemError(500, "Internal", "the gateway failed to answer", "see its log"))
