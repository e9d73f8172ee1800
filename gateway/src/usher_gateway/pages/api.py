"""The gateway's API, as pages call it."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

Row = Mapping[str, Any]  # A row of an answer of the API
Values = Mapping[str, Any]  # The values of a template
Form = Mapping[str, str]  # The fields of a form

_SECONDS = 20.0


class ApiProblemError(Exception):
    """A problem that the API answered with. Source: RFC 9457."""

    def __init__(self, status: int, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, detail, hint


def find_row(rows: Sequence[Row], kind: str, request: web.Request) -> Row:
    """Return the row that the names in a request's path select.

    Raises:
        ApiProblemError: there is none. ``kind``: the row's kind, for a person.
    """
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    for row in rows:
        if (row["namespace"], row["name"]) == (namespace, name):
            return row
    raise ApiProblemError(404, f"no {kind} `{namespace}/{name}` is in force", "")


async def all_of(*questions: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the answers to questions that are asked at once.

    Raises:
        ApiProblemError: from the first that failed; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(question, name="ask the API for a page") for question in questions]
    except* ApiProblemError as errors:
        failure = errors.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise failure


class Api:
    """Asks the API with one session's token.

    Args:
        client: sends the requests.
        base_url: the admin port's URL.
        token: returns the session's token; each request gets one that lasts a minute.
    """

    def __init__(self, client: aiohttp.ClientSession, base_url: str, token: Callable[[], str]) -> None:
        self._client, self._base_url, self._token = client, base_url, token

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Return the answer to a GET request.

        Raises:
            ApiProblemError: the API answered with a problem.
        """
        return msgspec.json.decode(await self.get_bytes(path, parameters))

    async def get_bytes(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """Return the answer to a GET request as it is. Raises the same."""
        return await self._ask("GET", path, params=parameters or {})

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Return the answer to a POST request. Raises the same."""
        return msgspec.json.decode(await self._ask("POST", path, json=body))

    async def _ask(self, method: str, path: str, **content: Any) -> bytes:
        headers = {"Authorization": f"Bearer {self._token()}"}
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        try:
            async with self._client.request(
                method, self._base_url + path, headers=headers, timeout=timeout, **content
            ) as answer:
                body = await answer.read()
            problem = msgspec.json.decode(body) if answer.status >= 400 else {}
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            raise ApiProblemError(503, "the gateway did not answer in time", "load the page again") from None
        if problem:
            raise ApiProblemError(answer.status, str(problem.get("detail", "")), str(problem.get("hint", "")))
        return body
