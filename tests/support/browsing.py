"""A browser without JavaScript at the pages of a served admin port."""

import contextlib
import html
import http.cookies
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import aiohttp

from support import admin_port


class Page(NamedTuple):
    """An answer."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def words(self) -> str:
        """The text without tags, with single blanks."""
        return " ".join(html.unescape(re.sub("<[^>]*>", " ", self.text)).split())

    @property
    def csrf(self) -> str:
        """The token of the page's forms."""
        return str(re.findall(r'name="csrf" value="([^"]*)"', self.text)[0])

    @property
    def confirm(self) -> str:
        """The value of the button that confirms."""
        return str(re.findall(r'name="confirm" value="([^"]*)"', self.text)[0])


class Browser:
    """One session."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client, self._url = client, url

    @property
    def cookies(self) -> dict[str, http.cookies.Morsel[str]]:
        return {cookie.key: cookie for cookie in self._client.cookie_jar}

    async def get(self, path: str, *headers: tuple[str, str]) -> Page:
        """Follow a link, with more headers."""
        async with self._client.get(self._url + path, headers=headers) as answer:
            return Page(answer.status, await answer.text(), answer.headers)

    async def send(self, path: str, page: Page, **fields: str) -> Page:
        return await self.post(path, csrf=page.csrf, **fields)

    async def post(self, path: str, **fields: str) -> Page:
        """Send a form as it is."""
        async with self._client.post(self._url + path, data=fields) as answer:
            return Page(answer.status, await answer.text(), answer.headers)


@contextlib.asynccontextmanager
async def opened(served: admin_port.Served, token: str | None = None) -> AsyncIterator[Browser]:
    """Enter the pages of a served admin port with a token; the default is the operate token."""
    async with entered(served.url, token or served.tokens.operate) as browser:
        yield browser


async def words_of(served: admin_port.Served, path: str) -> str:
    """Return the words of a page as the operate token sees it."""
    async with opened(served) as browser:
        page = await browser.get(path)
    assert page.status == 200, page.words
    return page.words


@contextlib.asynccontextmanager
async def entered(url: str, token: str) -> AsyncIterator[Browser]:
    headers = {"Authorization": f"Bearer {token}"}
    async with _client() as client:
        async with client.post(f"{url}/api/pages/tickets", headers=headers) as answer:
            ticket = await answer.json()
        browser = Browser(client, url)
        await browser.get(ticket["path"])
        yield browser


@contextlib.asynccontextmanager
async def visitor(
    served: admin_port.Served, cookies: Mapping[str, str] | None = None, **headers: str
) -> AsyncIterator[Browser]:
    """Return a browser without a session. Each of its requests has the headers, named like ``X_Forwarded_User``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with _client(cookies=cookies, headers=named) as client:
        yield Browser(client, served.url)


def _client(**settings: Any) -> aiohttp.ClientSession:
    jar = aiohttp.CookieJar(unsafe=True)  # it takes cookies of IP addresses too
    return aiohttp.ClientSession(cookie_jar=jar, **settings)
