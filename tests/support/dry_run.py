"""Ask an API server what it would do with a document, without storing it."""

import io
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from support import api, clusters

_STRICT = {"fieldValidation": "Strict"}  # Reject unknown fields and duplicate keys, as kubectl does


@dataclass(frozen=True)
class Answer:
    """The server's answer: the object as it would be stored, or the reason for the refusal."""

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
        """Return the refused fields; empty if the text itself could not be parsed."""
        causes = (self.body.get("details") or {}).get("causes") or []
        return [cause["field"] for cause in causes if cause.get("field", "<nil>") != "<nil>"]


class Server:
    """A client of the API server with the administrator's account."""

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
        return await self._ask("POST", collection.path, text, {} if keep else {"dryRun": "All"}, "application/yaml")

    async def apply(self, resource: api.Resource, text: str, *, keep: bool = False) -> Answer:
        """Apply a document. Fields that an earlier apply set and that it leaves out are removed."""
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
