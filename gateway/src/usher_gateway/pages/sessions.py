"""Browser sessions: a cookie that contains its user's sealed token, so no gateway has to remember it.

`usher open` exchanges a token for a ticket, which is part of an address. The first request with it gets the cookie;
a ticket works for a minute, once at each gateway. A revoked token ends its sessions, because each page asks the API
with it.
"""

import secrets
from collections.abc import Callable

from aiohttp import web

from usher_gateway.access.seal import Seals
from usher_gateway.admin import api

COOKIE = "usher_session"

_TICKET_SECONDS = 60.0
_SESSION_SECONDS = 12 * 3600.0
_FORM_SECONDS = 600.0
_TICKET, _SESSION, _CSRF, _FORM = "ticket", "session", "csrf", "form"
_ID_LETTERS = 22  # Of the random part of a ticket, by which it works once


class Sessions:
    """Makes tickets and sessions, and reads them.

    Args:
        seals: this install's seals.
        now: returns monotonic seconds.
    """

    def __init__(self, seals: Seals, now: Callable[[], float]) -> None:
        self._seals, self._now = seals, now
        self._used: dict[str, float] = {}  # Random part of a used ticket -> when the ticket ends by itself

    async def create_ticket(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/pages/tickets``: the path that opens the pages with the caller's token, once."""
        _, _, token = request.headers["Authorization"].partition(" ")
        identifier = secrets.token_urlsafe(16)[:_ID_LETTERS]
        ticket = self._seals.seal(_TICKET, identifier + token.strip(), _TICKET_SECONDS)
        return api.json_response({"path": f"/ui/enter/{ticket}", "seconds": int(_TICKET_SECONDS)}, 201)

    def enter(self, ticket: str) -> str | None:
        """Return a cookie's value for a ticket; None if it is not valid, or was used."""
        content = self._seals.open(_TICKET, ticket)
        if content is None:
            return None
        identifier, token = content[:_ID_LETTERS], content[_ID_LETTERS:]
        self._used = {used: end for used, end in self._used.items() if end > self._now()}
        if identifier in self._used:
            return None
        self._used[identifier] = self._now() + _TICKET_SECONDS
        return self._seals.seal(_SESSION, token, _SESSION_SECONDS)

    def token(self, request: web.Request) -> str | None:
        """Return a request's session token; None if it has none."""
        return self._seals.open(_SESSION, request.cookies.get(COOKIE, ""))

    def csrf_token(self, request: web.Request) -> str:
        """Return what each form in a session contains, so that no other site can send one."""
        return self._seals.digest(_CSRF, request.cookies.get(COOKIE, ""))

    def field_seal(self, csrf_token: str) -> "FieldSeal":
        """Return the seal for hidden fields in a session's forms; its CSRF token identifies the session."""
        return FieldSeal(self._seals, f"{_FORM} {csrf_token}")

    def set_cookie(self, response: web.StreamResponse, cookie: str, *, is_secure: bool) -> None:
        """Give a browser its session."""
        response.set_cookie(COOKIE, cookie, path="/ui", httponly=True, samesite="Strict", secure=is_secure)


class FieldSeal:
    """Seals a form's hidden fields: only the same session can read them, and for ten minutes.

    Args:
        seals: this install's seals.
        purpose: names the session.
    """

    def __init__(self, seals: Seals, purpose: str) -> None:
        self._seals, self._purpose = seals, purpose

    def seal(self, content: str) -> str:
        """Return a hidden field's value."""
        return self._seals.seal(self._purpose, content, _FORM_SECONDS)

    def open(self, sealed: str) -> str | None:
        """Return a hidden field's content; None if it is from another session, or too old."""
        return self._seals.open(self._purpose, sealed)


FIELD_SEAL: web.RequestKey[FieldSeal] = web.RequestKey("field_seal", FieldSeal)  # The seal of the session of a request
