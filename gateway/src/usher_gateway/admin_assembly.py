"""Builds the admin port and the pages that it serves."""

import time
from collections.abc import Callable

from usher_gateway.admin import server
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.routes import make_routes
from usher_gateway.admin.seal import Seals
from usher_gateway.pages import brand, proxies
from usher_gateway.pages.customer import CustomerPages
from usher_gateway.pages.server import PageServer
from usher_gateway.pages.sessions import Sessions


def make_admin_server(parts: Parts) -> tuple[PageServer, server.AdminServer]:
    """Return the pages and the admin port, which serves them."""
    pages = _make_pages(parts, lambda: admin_server.url)
    admin_server = server.AdminServer(
        routes=(*make_routes(parts), *pages.routes()),
        tokens=parts.tokens,
        endpoint=parts.settings.admin,
        hosts=parts.settings.admin_host,
        kubernetes_tokens=parts.kubernetes_tokens,
    )
    return pages, admin_server


def _make_pages(parts: Parts, base_url: Callable[[], str]) -> PageServer:
    settings, seals = parts.settings, Seals(parts.keys.page)
    page_proxies = proxies.Proxies(
        seals=seals,
        networks=settings.page_proxies,
        user_header=settings.page_user_header,
        groups_header=settings.page_groups_header,
        roles=settings.page_role,
    )
    return PageServer(
        sessions=Sessions(seals, time.monotonic),
        proxies=page_proxies,
        customers=CustomerPages(links=parts.links, proxies=page_proxies, brand=brand.load_brand(settings.brand)),
        base_url=base_url,
    )
