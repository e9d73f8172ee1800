"""The pages for a customer who has a link: one tenant, read-only, without the agency's pages.

A mail program or a chat may load an address that it shows, so a link is opened by a button and not by its address.
"""

import datetime
import functools
import time
import urllib.parse
from collections.abc import Callable, Sequence

from aiohttp import web

from usher_gateway import model
from usher_gateway.access.link_sessions import LinkSessions, LinkState
from usher_gateway.admin.api import Handler
from usher_gateway.admin.server import AdminRoute
from usher_gateway.pages import attention, periods, visit_charts
from usher_gateway.pages.answers import HEADERS, redirect, static_file
from usher_gateway.pages.api import Api, ApiProblemError, Row, Values, all_of
from usher_gateway.pages.brand import Brand
from usher_gateway.pages.limits import ViewLimit
from usher_gateway.pages.proxies import Proxies
from usher_gateway.pages.rendering import render
from usher_gateway.pages.requests import find_zone
from usher_gateway.pages.usage import Month
from usher_gateway.words import listings

COOKIE = "usher_link"

_MONTHS = 12  # In the table of usage, with the present one

MakeApi = Callable[[Callable[[], str]], Api]  # Returns the API for a function that returns tokens

# State -> heading and what to do.
_PROBLEMS = {
    LinkState.Unknown: ("This link is not valid", "Copy the whole address of the link."),
    LinkState.Unopened: ("This link is not open yet", "Open the address of the link."),
    LinkState.Expired: ("This link has expired", "A new link shows the pages again."),
    LinkState.Revoked: ("This link was withdrawn", "A new link shows the pages again."),
}


class CustomerPages:
    """Serves the pages below ``/my/``.

    Args:
        links: customers' links.
        proxies: know whether a browser came by https.
        brand: the agency.
        now: returns monotonic seconds.
    """

    def __init__(
        self, *, links: LinkSessions, proxies: Proxies, brand: Brand, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._links, self._proxies, self._brand = links, proxies, brand
        self._views = ViewLimit(of_link=30, of_all=300, now=now)

    def routes(self, make_api: MakeApi) -> tuple[AdminRoute[Handler], ...]:
        """Return the routes, which check the link themselves."""

        async def show(request: web.Request) -> web.StreamResponse:
            return await self._show(request, make_api)

        return (
            AdminRoute("GET", "/my", None, self._redirect),
            AdminRoute("GET", "/my/", None, self._explained(show)),
            AdminRoute("GET", "/my/open/{token}", None, self._explained(self._ask_to_open)),
            AdminRoute("POST", "/my/open/{token}", None, self._explained(self._open)),
            AdminRoute("GET", "/my/static/{name}", None, self._show_file),
            AdminRoute("GET", "/my/brand.css", None, self._show_colour),
            AdminRoute("GET", "/my/logo", None, self._show_logo),
        )

    def _explained(self, handler: Handler) -> Handler:
        """Return a handler that answers with a page if the gateway cannot read now; its own text is for the agency."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except (ApiProblemError, model.StoreUnavailableError):
                values = {"title": "Please try again", "detail": "The numbers cannot be read at present."}
                return self._respond("my_problem.html", values, 503)

        return handle

    async def _redirect(self, _: web.Request) -> web.StreamResponse:
        return redirect("/my/")

    async def _ask_to_open(self, request: web.Request) -> web.StreamResponse:
        """Show the button that opens a link."""
        match self._links.state_of(await self._links.find(request.match_info["token"])):
            case LinkState.Unopened:
                response = self._respond("my_open.html", {"title": "Your visits"})
                response.headers["Referrer-Policy"] = "same-origin"  # else its form would hide its origin
                return response
            case LinkState.Open:
                return self._respond("my_opened.html", {"title": "This link was opened before"}, 410)
            case state:
                return self._refuse(state)

    async def _open(self, request: web.Request) -> web.StreamResponse:
        """Exchange a link for a cookie."""
        if _is_of_another_site(request):
            return self._refuse(LinkState.Unknown)
        link = await self._links.find(request.match_info["token"])
        if link is None or self._links.state_of(link) is not LinkState.Unopened:
            return await self._ask_to_open(request)
        cookie = await self._links.open(link, request.remote or "")
        if cookie is None:
            return await self._ask_to_open(request)
        response = redirect("/my/")
        response.set_cookie(
            COOKIE,
            cookie.value,
            max_age=cookie.seconds,
            path="/my",
            httponly=True,
            samesite="Strict",
            secure=self._proxies.is_secure(request),
        )
        return response

    async def _show(self, request: web.Request, make_api: MakeApi) -> web.StreamResponse:
        """Show the tenant behind the browser's link."""
        link = await self._links.of_cookie(request.cookies.get(COOKIE, ""))
        state = self._links.state_of(link)
        if link is None or state is not LinkState.Open:
            return self._refuse(state)
        await self._links.record_use(link)
        if seconds := self._views.count_view(link.id):
            return self._refuse_too_many(seconds)
        api = make_api(lambda: self._links.token(link))
        values = await _read(api, link.tenant, shows_visits=link.shows_visits)
        return self._respond("my.html", values)

    def _refuse(self, state: LinkState) -> web.Response:
        title, detail = _PROBLEMS[state]
        status = 403 if state is LinkState.Unknown else 410
        return self._respond("my_problem.html", {"title": title, "detail": detail}, status)

    def _refuse_too_many(self, seconds: int) -> web.Response:
        values = {"title": "Too many requests", "detail": "Please try again in a minute."}
        response = self._respond("my_problem.html", values, 429)
        response.headers["Retry-After"] = str(seconds)
        return response

    def _respond(self, template: str, values: Values, status: int = 200) -> web.Response:
        brand = {"brand": self._brand.name, "has_logo": self._brand.logo is not None, "ask": self._brand.ask}
        text = render(template, {"zone": datetime.UTC, **brand, **values})
        return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)

    async def _show_file(self, request: web.Request) -> web.StreamResponse:
        return static_file(request.match_info["name"]) or web.Response(status=404, headers=HEADERS)

    async def _show_colour(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self._brand.stylesheet, content_type="text/css", headers=HEADERS)

    async def _show_logo(self, _: web.Request) -> web.StreamResponse:
        if self._brand.logo is None:
            return web.Response(status=404, headers=HEADERS)
        return web.Response(body=self._brand.logo.content, content_type=self._brand.logo.type, headers=HEADERS)


def _is_of_another_site(request: web.Request) -> bool:
    """Return whether another site's page sent a form. Over plain http a browser may name only its origin."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        origin = request.headers.get("Origin")
        return origin is not None and urllib.parse.urlsplit(origin).netloc != request.host
    return site != "same-origin"


async def _read(api: Api, tenant: str, *, shows_visits: bool) -> Values:
    """Ask the API for the page's values."""
    names = {"tenant": tenant}
    answer = await api.get("/api/tenants", names)
    if len(answer["rows"]) != 1:
        raise ApiProblemError(404, "the tenant is not in the configuration", "")
    now, (row,) = datetime.datetime.fromisoformat(answer["now"]), answer["rows"]
    zone = find_zone(row["timeZone"] or "UTC")
    today = now.astimezone(zone).date()
    first_hour, first_day = visit_charts.hours(now, zone)[0], visit_charts.days(now, zone)[0]
    first_month = Month(today.year, today.month).plus(1 - _MONTHS)
    slots, days, months, delivered, visits = await all_of(
        api.get("/api/usage", {**names, "by": "slot", "together": "true", "from": first_hour.isoformat()}),
        api.get("/api/usage", {**names, "by": "day", "zone": "tenant", "from": first_day.isoformat()}),
        api.get("/api/usage", {**names, "by": "month", "zone": "tenant", "from": str(first_month)}),
        api.get("/api/deliveries/delivered", names),
        api.get("/api/visits/initials", names) if shows_visits else _nothing(),
    )
    recent = periods.recent(days["rows"], slots["rows"], now, zone)
    return {
        "title": tenant.partition("/")[2],
        "zone": zone,
        "zone_name": str(zone),
        "now": now.isoformat(),
        "state": sentences(row, now),
        "today": periods.sums(recent["Today"], _COUNTS),
        "waiting": row["backlog"],
        "hours": visit_charts.by_hour(slots["rows"], now, zone),
        "days": visit_charts.by_day(days["rows"], now, zone),
        "months": _by_month(months["rows"]),
        "periods": list(recent),
        "kinds": periods.counts(_KINDS, recent),
        "delivered_to": functools.partial(periods.delivered_to, delivered),
        "more_delivered": delivered["areMore"],
        "destinations": row["destinations"],
        "visits": visits["rows"] if shows_visits else None,
    }


async def _nothing() -> None:
    """Replace a question that is not asked."""


_COUNTS = ("visits", "repeats", "delivered", "died")

# Count in `GET /api/usage` -> words for a customer.
_KINDS = {"visits": "visits", "delivered": "delivered", "died": "deliveries that failed for good"}


def _by_month(rows: Sequence[Row]) -> list[list[str | int]]:
    """Return the months with a count, the newest first, with the counts over all listeners."""
    months = sorted({row["period"] for row in rows}, reverse=True)
    return [
        [month, *periods.sums([row for row in rows if row["period"] == month], _COUNTS).values()] for month in months
    ]


# Hold reason -> when the hold ends; the other reasons are mistakes in settings.
_HELD_UNTIL = {
    "TenantSuspended": "until the suspension ends",
    "ListenerSuspended": "until the suspension ends",
    "DestinationPaused": "until the pause ends",
    "QuotaExceeded": "until the next month or a higher quota",
}


def sentences(tenant: Row, now: datetime.datetime) -> list[str]:
    """Say how a tenant is, in a customer's words. Pure; ``tenant``: a ``GET /api/tenants`` row."""
    if tenant["state"] != "Active":
        lines = ["Visits are suspended."]
    elif tenant["lastArrival"] is None:
        refused = tenant["today"]["refused"]
        lines = [
            f"No visit was accepted yet; {refused:,} were refused today." if refused else "No visit has arrived yet."
        ]
    elif tenant["silentListeners"] or tenant["refusingListeners"]:
        lines = [f"The last arrival was {attention.ago(tenant['lastArrival'], now)} ago, which is unusually long."]
        if tenant["refusingListeners"]:
            lines = ["Some visits are not accepted at present."]
    else:
        lines = [f"Visits arrive; the last one {attention.ago(tenant['lastArrival'], now)} ago."]
    for is_rejecting, effect in ((False, "are tried again"), (True, "are not tried again")):
        names = [
            destination["name"].partition("/")[2]
            for destination in tenant["destinations"]
            if destination["isFailing"] and destination["isRejecting"] is is_rejecting
        ]
        if names:
            lines.append(f"Deliveries to {' and '.join(names)} fail at present, and {effect}.")
    count_by_end: dict[str, int] = {}
    for reason, count in tenant["held"].items():
        until = _HELD_UNTIL.get(reason, "until a setting is corrected")
        count_by_end[until] = count_by_end.get(until, 0) + count
    lines += [
        f"{listings.counted(count, 'delivery')} {'is' if count == 1 else 'are'} held {until}."
        for until, count in count_by_end.items()
    ]
    if count_by_end:
        duration = listings.counted(tenant["retention"]["bodyDays"], "day")
        lines.append(f"Held deliveries are kept for at most {duration}.")
    if tenant["dead"]:
        lines.append(f"{listings.counted(tenant['dead'], 'delivery')} failed for good.")
    return lines
