"""The page routes, and who may see one: a browser with a session, or a user whom a trusted proxy names."""

import datetime
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Self

import aiohttp
from aiohttp import web

from usher_gateway.access.tokens import Scope
from usher_gateway.admin.api import Handler
from usher_gateway.admin.server import AdminRoute
from usher_gateway.admin.usage import parse_zone
from usher_gateway.pages import (
    audit,
    destination,
    erasures,
    links,
    listener,
    overview,
    persons,
    redrive,
    replays,
    tenant,
    usage,
    visits,
)
from usher_gateway.pages.answers import HEADERS, redirect, static_file
from usher_gateway.pages.api import Api, ApiProblemError, Form, Values
from usher_gateway.pages.confirmed_forms import ConfirmedForms
from usher_gateway.pages.customer import CustomerPages
from usher_gateway.pages.proxies import Proxies
from usher_gateway.pages.rendering import render
from usher_gateway.pages.requests import ORIGIN, ZONE_COOKIE, Download, viewer_zone
from usher_gateway.pages.sessions import COOKIE, FIELD_SEAL, Sessions

Page = Callable[[Api, web.Request], Awaitable[Values | Download]]  # Returns the values of a page's template, or a file

# Does what a form asks for. Returns the path of the page to show next, a template with its values, or a file. The value
# `status` is the HTTP status of the answer, if it is not 200.
Action = Callable[[Api, web.Request, Form], Awaitable[str | tuple[str, Values] | Download]]

# Path -> template and page; a file's template is `""`.
PAGES: dict[str, tuple[str, Page]] = {
    "/ui/": ("overview.html", overview.show),
    "/ui/tenants/{namespace}/{name}": ("tenant.html", tenant.show),
    "/ui/destinations/{namespace}/{name}": ("destination.html", destination.show),
    "/ui/listeners/{namespace}/{name}": ("listener.html", listener.show),
    "/ui/visits": ("visits.html", visits.list_visits),
    "/ui/visits/{id}": ("visit.html", visits.show),
    "/ui/find": ("find.html", persons.show_form),
    "/ui/suppressions": ("suppressions.html", persons.list_suppressions),
    "/ui/erasures": ("erasures.html", erasures.list_erasures),
    "/ui/erasures/{id}": ("erasure.html", erasures.show),
    "/ui/erasures/{id}/receipt.json": ("", erasures.download_json),
    "/ui/erasures/{id}/receipt.html": ("", erasures.download_page),
    "/ui/links": ("links.html", links.list_links),
    "/ui/audit": ("audit.html", audit.show),
    "/ui/usage": ("usage.html", usage.show),
    "/ui/usage.csv": ("", usage.download),
    "/ui/redrive": ("redrive.html", redrive.show),
    "/ui/replays": ("replays.html", replays.list_replays),
    "/ui/replays/{id}": ("replay.html", replays.show),
}

# Path -> what a form there does.
ACTIONS: dict[str, Action] = {
    "/ui/destinations/{namespace}/{name}": destination.send_sample,
    "/ui/listeners/{namespace}/{name}": listener.show_urls,
    "/ui/visits/{id}/body": visits.show_body,
    "/ui/visits/{id}/replay": visits.replay,
    "/ui/find": persons.find,
    "/ui/find/export": persons.export,
    "/ui/find/suppress": persons.suppress,
    "/ui/find/unsuppress": persons.suppress,
    "/ui/find/erase": persons.erase,
    "/ui/erasures/{id}/cancel": erasures.cancel,
    "/ui/links": links.create,
    "/ui/links/{id}/revoke": links.revoke,
    "/ui/redrive": redrive.start,
    "/ui/replays/{id}/cancel": replays.cancel,
    "/ui/replays/{id}/resume": replays.resume,
}

_WHOAMI = "/api/whoami"


class _ForeignFormError(ApiProblemError):
    """A form does not come from this session's pages."""

    def __init__(self) -> None:
        super().__init__(403, "the form is not of a page of this session", "load the page again")


class PageServer:
    """Serves the pages. Use it inside ``async with``.

    Args:
        sessions: browser sessions.
        proxies: which people come through.
        customers: the pages behind links.
        base_url: returns this gateway's admin port address.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        proxies: Proxies,
        customers: CustomerPages,
        base_url: Callable[[], str],
    ) -> None:
        self._sessions, self._proxies, self._customers, self._base_url = sessions, proxies, customers, base_url
        self._client: aiohttp.ClientSession | None = None
        self._confirmed: ConfirmedForms[str | tuple[str, Values] | Download] = ConfirmedForms()

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._client is not None:
            await self._client.close()

    def routes(self) -> tuple[AdminRoute[Handler], ...]:
        """Return the page routes, which check the session themselves."""
        return (
            AdminRoute("POST", "/api/pages/tickets", Scope.StatusRead, self._sessions.create_ticket, is_confined=True),
            AdminRoute("GET", "/", None, self._redirect_to_overview),
            AdminRoute("GET", "/ui/enter/{ticket}", None, self._enter),
            AdminRoute("GET", "/ui/static/{name}", None, self._show_file),
            AdminRoute("POST", "/ui/zone", None, self._set_zone),
            AdminRoute("POST", "/ui/leave", None, self._leave),
            *[AdminRoute("GET", path, None, self._page_handler(*page)) for path, page in PAGES.items()],
            *[AdminRoute("POST", path, None, self._form_handler(action)) for path, action in ACTIONS.items()],
            *self._customers.routes(self._api),
        )

    def _api(self, token: Callable[[], str]) -> Api:
        assert self._client is not None
        return Api(self._client, self._base_url(), token)

    def _page_handler(self, template: str, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a page's handler."""

        async def show(request: web.Request, api: Api) -> web.StreamResponse:
            content = await page(api, request)
            if isinstance(content, Download):
                return _download(content)
            return self._respond(request, template, content, await api.get(_WHOAMI))

        return self._in_session(show)

    def _form_handler(self, action: Action) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a form's handler."""

        async def do(request: web.Request, api: Api) -> web.StreamResponse:
            form = await self._form(request)
            caller = await api.get(_WHOAMI)  # first, because an action may answer with what cannot be shown again
            done = await self._confirmed.answer(_key(request, form), lambda: action(api, request, form))
            if isinstance(done, Download):
                return _download(done)
            if not isinstance(done, tuple):
                return redirect(done)
            template, values = done
            return self._respond(request, template, values, caller, status=values.get("status", 200))

        return self._in_session(do)

    def _in_session(
        self, handler: Callable[[web.Request, Api], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler that gives another one the API, with the user's or the session's rights."""

        async def handle(request: web.Request) -> web.StreamResponse:
            user, token = self._proxies.user(request), self._sessions.token(request)
            scheme = "https" if self._proxies.is_secure(request) else "http"
            request[ORIGIN] = f"{scheme}://{request.host}"
            request[FIELD_SEAL] = self._sessions.field_seal(self._csrf_token(request))
            try:
                if user is not None:
                    return await handler(request, self._api(self._proxies.token_of(request, user)))
                return self._refuse(request) if token is None else await handler(request, self._api(lambda: token))
            except ApiProblemError as error:
                return self._refuse(request) if error.status == 401 else self._fail(request, error)

        return handle

    def _respond(
        self, request: web.Request, template: str, values: Values, caller: Values | None = None, status: int = 200
    ) -> web.Response:
        """Return a page. ``caller``: the answer of ``GET /api/whoami``; None: the menu shows every link."""
        scopes = caller["scopes"] if caller else None
        zone = viewer_zone(request)
        common = {
            "path": request.path,
            "zone": zone,
            "zone_name": str(zone),
            "csrf": self._csrf_token(request),
            "can": lambda scope: scopes is None or scope in scopes,
            "is_limited": bool(caller and caller["permitted"] is not None),
            "has_session": self._proxies.user(request) is None,
        }
        text = render(template, {**common, **values})
        return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)

    def _csrf_token(self, request: web.Request) -> str:
        """Return what each form contains for a session or user; empty if there is neither, and no form is accepted."""
        user = self._proxies.user(request)
        if user is not None:
            return self._proxies.csrf_token(user)
        return self._sessions.csrf_token(request) if self._sessions.token(request) else ""

    def _refuse(self, request: web.Request) -> web.Response:
        """Answer a browser without a session, or one whose token is not valid any more."""
        response = self._respond(request, "enter.html", {}, status=401)
        if COOKIE in request.cookies:  # a click on another site comes without it, and must not end the session
            response.del_cookie(COOKIE, path="/ui")
        return response

    def _fail(self, request: web.Request, error: ApiProblemError) -> web.Response:
        values = {"status": error.status, "detail": error.detail, "hint": error.hint, "back": _form_path(request)}
        if isinstance(error, _ForeignFormError):
            values["csrf"] = ""  # the sender must not learn the right one
        return self._respond(request, "problem.html", values, status=error.status)

    async def _redirect_to_overview(self, _: web.Request) -> web.StreamResponse:
        return redirect("/ui/")

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        """Exchange a ticket for a cookie."""
        is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site"  # another site may bring its own session
        cookie = None if is_foreign else self._sessions.enter(request.match_info["ticket"])
        if cookie is None:
            return self._refuse(request)
        response = redirect("/ui/")
        self._sessions.set_cookie(response, cookie, is_secure=self._proxies.is_secure(request))
        return response

    async def _show_file(self, request: web.Request) -> web.StreamResponse:
        answer = static_file(request.match_info["name"])
        return answer or self._fail(request, ApiProblemError(404, "there is no such file", ""))

    async def _set_zone(self, request: web.Request) -> web.StreamResponse:
        """Let this browser's pages show times in another zone."""
        try:
            name = (await self._form(request)).get("zone", "").strip()
        except ApiProblemError as error:
            return self._fail(request, error)
        try:
            zone = datetime.UTC if name.upper() in {"", "UTC"} else parse_zone(name)
        except ValueError as error:
            return self._fail(request, ApiProblemError(400, str(error), ""))
        response = redirect("/ui/")
        response.set_cookie(ZONE_COOKIE, str(zone), path="/ui", httponly=True, samesite="Strict")
        return response

    async def _leave(self, request: web.Request) -> web.StreamResponse:
        """End this browser's session."""
        try:
            await self._form(request)
        except ApiProblemError as error:
            return self._fail(request, error)
        return self._refuse(request)

    async def _form(self, request: web.Request) -> Form:
        """Return a form's fields."""
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        csrf_token = self._csrf_token(request)
        if not csrf_token or not hmac.compare_digest(form.get("csrf", "").encode(), csrf_token.encode()):
            raise _ForeignFormError
        return form


def _key(request: web.Request, form: Form) -> bytes | None:
    """Return what identifies a form that confirms something, with its session; None if it confirms nothing."""
    if "confirm" not in form:
        return None
    return hashlib.sha256(repr((request.path, sorted(form.items()))).encode()).digest()


def _form_path(request: web.Request) -> str:
    """Return the path of the page that a request came from, as its own path tells: the overview if it does not."""
    resource, path = request.match_info.route.resource, request.rel_url.raw_path
    pattern = resource.canonical if resource else ""
    if request.method == "GET" and not request.query_string:
        pattern, path = _parent(pattern), _parent(path)
    while pattern and pattern not in PAGES:
        pattern, path = _parent(pattern), _parent(path)
    return path or "/ui/"


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _download(file: Download) -> web.Response:
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{file.name}"'}
    return web.Response(body=file.content, content_type=file.content_type, headers=headers)
