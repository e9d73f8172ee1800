"""Headers of all answers of the pages, which let a browser only show them; the stylesheet, the script and the icon."""

import importlib.resources

from aiohttp import web

# Of every answer. Source: CSP level 3, Fetch, Referrer Policy.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


class StaticFiles:
    """The stylesheet, the script and the icon."""

    def __init__(self) -> None:
        files = importlib.resources.files(__package__ or "").joinpath("static")
        self._contents = {name: files.joinpath(name).read_bytes() for name in _STATIC}

    def answer(self, name: str) -> web.Response | None:
        """Return a file; None if there is none of this name."""
        if name not in self._contents:
            return None
        return web.Response(body=self._contents[name], content_type=_STATIC[name], headers=HEADERS)


def redirect(path: str) -> web.Response:
    """Lead a browser to another page, which it reads with GET."""
    return web.Response(status=303, headers={**HEADERS, "Location": path})
