"""Sends a request as its destination wants it: with a token, and to where it is redirected."""

import time
import urllib.parse
from collections.abc import Callable

import msgspec

from usher_gateway import documents
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.oauth import AccessTokens

_FOLLOWED = (302, 303)

_KEPT = "%/:?=&~+!$,;'@()*[]"  # Characters of a path or query that are not encoded again
_LEAST_SECONDS = 0.1  # A second request's time limit, if the first has used nearly all the attempt's time


class Sender:
    """Sends the requests of attempts."""

    def __init__(self, client: DestinationClient, now: Callable[[], float] = time.monotonic) -> None:
        self._client, self._now = client, now
        self.tokens = AccessTokens(client, now)

    async def send(self, request: DestinationRequest, destination: documents.DestinationDocument) -> DestinationAnswer:
        """Send a request; return the answer that counts. Raises only ``CancelledError``.

        Returns within the destination's ``timeout_seconds``. If the destination refuses the token (401), this sends the
        request once more with a new one. If it redirects to a host that its document lists, this gets the answer there.
        """
        deadline = self._now() + destination.timeout_seconds
        answer = await self._send_authorized(request, destination, deadline)
        if answer.status in _FOLLOWED and destination.redirect_hosts:
            url = _target(request.url, answer.headers.get("location", ""), destination.redirect_hosts)
            if url is not None:
                return await self._send_by(_redirected(request, url), deadline)
        return answer

    async def _send_authorized(
        self, request: DestinationRequest, destination: documents.DestinationDocument, deadline: float
    ) -> DestinationAnswer:
        if destination.oauth2 is None:
            return await self._send_by(request, deadline)
        answer = DestinationAnswer()
        for _ in range(2):
            token = await self.tokens.get(destination, deadline, request.charge)
            if isinstance(token, SendError):
                return DestinationAnswer(error=token)
            headers = [*request.headers, ("authorization", f"Bearer {token}")]
            refused, answer = answer, await self._send_by(msgspec.structs.replace(request, headers=headers), deadline)
            if answer.is_withdrawn and refused.status == 401:
                return refused  # because that request was written
            if answer.status != 401:
                break
            self.tokens.forget(destination.key, token)
        return answer

    async def _send_by(self, request: DestinationRequest, deadline: float) -> DestinationAnswer:
        return await self._client.send(request, max(_LEAST_SECONDS, deadline - self._now()))


def _target(url: str, location: str, hosts: tuple[str, ...]) -> str | None:
    """Return the URL to which an answer redirects, if it may be followed.

    It is put together again, so that nothing else could read another host from it.
    """
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(url, location))
        is_listed = parts.scheme == "https" and parts.hostname in hosts and parts.port in {None, 443}
        path, query = (urllib.parse.quote(part, safe=_KEPT) for part in (parts.path, parts.query))
    except ValueError:  # also for bytes that are not UTF-8
        return None
    if not is_listed or "@" in parts.netloc:
        return None
    return urllib.parse.urlunsplit(("https", str(parts.hostname), path, query, ""))


def _redirected(request: DestinationRequest, url: str) -> DestinationRequest:
    """Return the request for the answer: without body and credentials. Source: RFC 9110 §15.4.4.

    It is never withdrawn, because the request before it was written.
    """
    headers = [(name, value) for name, value in request.headers if name in {"webhook-id", "user-agent"}]
    return msgspec.structs.replace(
        request, method="GET", url=url, headers=headers, body=b"", tls=None, is_url_secret=True, may_send=None
    )
