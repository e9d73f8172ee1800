"""An API server asked what it would do with a document, as text: nothing is kept."""

import io
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from support import api, clusters

_STRICT = {"fieldValidation": "Strict"}
"""As kubectl asks: unknown fields and keys that stand twice are refused."""


@dataclass(frozen=True)
class Answer:
    """What it said: the object as it would be kept, or the reason against it."""

    status: int
    body: dict[str, Any]

    @property
    def is_accepted(self) -> bool:
        return self.status < 300

    @property
    def message(self) -> str:
        return "" if self.is_accepted else str(self.body.get("message", ""))

    @property
    def fields(self) -> list[str]:
        """The fields that it refuses; none where the text itself could not be read strictly."""
        causes = (self.body.get("details") or {}).get("causes") or []
        return [cause["field"] for cause in causes if cause.get("field", "<nil>") != "<nil>"]


class Server:
    """An API server, as the administrator of the tests."""

    def __init__(self, cluster: clusters.Cluster) -> None:
        self._server = cluster.endpoint.server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=api.trusting(cluster.endpoint)),
            headers={"Authorization": f"Bearer {cluster.token}"},
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def create(self, collection: api.Resource, text: str | bytes, *, keep: bool = False) -> Answer:
        """What becomes of a document (YAML or JSON) that is to be created."""
        return await self._ask("POST", collection.path, text, {} if keep else {"dryRun": "All"}, "application/yaml")

    async def apply(self, resource: api.Resource, text: str, *, keep: bool = False) -> Answer:
        """What becomes of a document that is applied: fields that it leaves out go, if they came this way."""
        parameters = {"fieldManager": "corpus", "force": "true"} | ({} if keep else {"dryRun": "All"})
        return await self._ask("PATCH", resource.path, text, parameters, api.APPLY)

    async def _ask(
        self, method: str, path: str, text: str | bytes, parameters: dict[str, str], content_type: str
    ) -> Answer:
        data = io.BytesIO(text if isinstance(text, bytes) else text.encode())
        asked = self._session.request(
            method, self._server + path, params=parameters | _STRICT, data=data, headers={"Content-Type": content_type}
        )
        async with asked as answer:
            body = await answer.json() if "json" in answer.content_type else {"message": await answer.text()}
            return Answer(answer.status, body)
