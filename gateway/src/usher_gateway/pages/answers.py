"""Headers in all the pages' answers, which let a browser only show them; the stylesheet, the script and the icon."""

import functools
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


def static_file(name: str) -> web.Response | None:
    """Return the stylesheet, the script or the icon; None if no file has this name."""
    if name not in _STATIC:
        return None
    return web.Response(body=_content(name), content_type=_STATIC[name], headers=HEADERS)


@functools.cache
def _content(name: str) -> bytes:
    return importlib.resources.files(__package__ or "").joinpath("static", name).read_bytes()


def redirect(path: str) -> web.Response:
    """Lead a browser to another page, which it reads with GET."""
    return web.Response(status=303, headers={**HEADERS, "Location": path})
