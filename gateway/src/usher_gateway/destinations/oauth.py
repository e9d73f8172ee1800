"""Access tokens for destinations with OAuth 2.0: client credentials (RFC 6749 §4.4) and JWT bearer (RFC 7523).

A token endpoint gets one request at a time for all a destination's deliveries. A token is renewed before it ends, and
after the destination has refused it. While the endpoint fails, attempts fail without asking it, for longer each time.
What the endpoint answers is never logged.
"""

import asyncio
import base64
import math
import re
import time
import urllib.parse
from collections.abc import Callable, Collection

import msgspec
import structlog

from usher_gateway import documents
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError
from usher_gateway.destinations.http import ORDINARY_SECONDS, DestinationClient

_log = structlog.get_logger(__name__)

# Time limit for a request to a token endpoint. An attempt waits for it only as long as it may take itself.
_REQUEST_SECONDS = 10.0

_RENEW_SECONDS = 60.0  # A token is renewed this long before it ends, or after nine tenths of its time if that is later

_UNKNOWN_LIFE_SECONDS = 300.0
_LONGEST_LIFE_SECONDS = 86_400.0
_ASSERTION_SECONDS = 300  # How long the assertion of a JWT bearer is valid

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 60.0

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # Servers answer 400 to longer headers, as if the visit were wrong
_FORM = "application/x-www-form-urlencoded"


class _TokenAnswer(msgspec.Struct):
    """Source: RFC 6749 §5.1."""

    access_token: str
    token_type: str = ""
    expires_in: float | str | None = None


class _Token(msgspec.Struct, frozen=True):
    """A token, or why there is none, until a moment by the monotonic clock."""

    oauth2: documents.OAuth2
    until: float
    value: str = ""
    error: SendError | None = None
    failures: int = 0


class TokenKeyError(Exception):
    """A private key cannot be used."""


class AccessTokens:
    """The tokens of all destinations. The client asks for them through the same address guard as deliveries."""

    def __init__(self, client: DestinationClient, now: Callable[[], float]) -> None:
        self._client, self._now = client, now
        self._tokens: dict[str, _Token] = {}  # By destination
        self._requests: dict[tuple[str, documents.OAuth2], asyncio.Task[_Token]] = {}
        """By destination and credentials, because a token for others must not get to a URL that has changed too."""

    def current(self, destination: str) -> str:
        """Return a destination's newest token, refused or not, to hide it; ``""`` if there is none."""
        token = self._tokens.get(destination)
        return token.value if token is not None else ""

    async def get(
        self,
        destination: documents.DestinationDocument,
        deadline: float,
        charge: Callable[[float], None] | None = None,
    ) -> str | SendError:
        """Return a token that is valid now, or why there is none. Returns by ``deadline``, on the clock of ``now``.

        ``charge``: see ``DestinationRequest``.
        """
        oauth2, key = destination.oauth2, destination.key
        if oauth2 is None:
            raise ValueError("the destination wants no token")
        token = self._tokens.get(key)
        if token is None or token.oauth2 != oauth2 or self._now() >= token.until:
            task = self._requests.get((key, oauth2))
            if task is None:
                failures = token.failures if token is not None and token.oauth2 == oauth2 else 0
                task = asyncio.create_task(self._renew(destination, oauth2, failures, charge), name="oauth-token")
                self._requests[key, oauth2] = task
                task.add_done_callback(lambda _: self._requests.pop((key, oauth2), None))
            done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - self._now()))
            if not done:
                return SendError.TokenUnavailable
            token = task.result()
        return token.value if token.error is None else token.error

    def keep_only(self, destinations: Collection[str]) -> None:
        """Forget the tokens and the credentials for destinations that are gone."""
        self._tokens = {key: token for key, token in self._tokens.items() if key in destinations}

    def forget(self, destination: str, value: str) -> None:
        """Forget a token that the destination refused, unless another attempt has renewed it."""
        token = self._tokens.get(destination)
        if token is not None and token.value == value:
            self._tokens[destination] = msgspec.structs.replace(token, until=-math.inf)

    async def _renew(
        self,
        destination: documents.DestinationDocument,
        oauth2: documents.OAuth2,
        failures: int,
        charge: Callable[[float], None] | None,
    ) -> _Token:
        try:
            form, seconds = await asyncio.to_thread(_measured_form, oauth2, int(time.time()))
        except TokenKeyError:
            return self._failed(destination.key, oauth2, SendError.TokenKeyInvalid, failures)
        if charge is not None and seconds > ORDINARY_SECONDS:
            charge(seconds)
        headers = [("content-type", _FORM), ("accept", "application/json")]
        if oauth2.grant == "ClientCredentials" and oauth2.client_authentication == "Basic":
            headers.append(("authorization", _basic(oauth2)))
        body = urllib.parse.urlencode(form).encode()
        request = DestinationRequest(
            "POST",
            oauth2.token_url,
            headers,
            body,
            is_url_secret=True,
            reads_answer=True,
            destination=destination.key,
            charge=charge,
        )
        answer = await self._client.send(request, _REQUEST_SECONDS)
        if answer.error is not None or answer.status >= 500 or answer.status == 429:
            return self._failed(destination.key, oauth2, SendError.TokenUnavailable, failures)
        told = _decoded(answer)
        if told is None:
            return self._failed(destination.key, oauth2, SendError.TokenRefused, failures)
        life = _life(told)
        until = self._now() + max(life - _RENEW_SECONDS, life * 0.9)
        token = self._tokens[destination.key] = _Token(oauth2, until, value=told.access_token)
        return token

    def _failed(self, key: str, oauth2: documents.OAuth2, error: SendError, failures: int) -> _Token:
        pause = min(_FIRST_PAUSE_SECONDS * 2.0**failures, _LONGEST_PAUSE_SECONDS)
        _log.warning("token_not_issued", destination=key, error=error.value)
        token = self._tokens[key] = _Token(oauth2, self._now() + pause, error=error, failures=min(failures + 1, 10))
        return token


def _measured_form(oauth2: documents.OAuth2, now: int) -> tuple[dict[str, str], float]:
    """Return a token request's fields, and the CPU seconds that they took, because a signature takes 6 ms."""
    started = time.thread_time()
    return token_form(oauth2, now), time.thread_time() - started


def token_form(oauth2: documents.OAuth2, now: int) -> dict[str, str]:
    """Return a token request's fields. ``now``: seconds since the epoch.

    Raises:
        TokenKeyError: the private key cannot be used.
    """
    form = {"scope": " ".join(oauth2.scopes)} if oauth2.scopes else {}
    if oauth2.grant == "ClientCredentials":
        form |= {"grant_type": "client_credentials"}
        if oauth2.client_authentication == "Form":
            form |= {"client_id": oauth2.client_id, "client_secret": oauth2.client_secret}
        return form
    return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": _assertion(oauth2, now)}


def _assertion(oauth2: documents.OAuth2, now: int) -> str:
    """Return a signed assertion. Source: RFC 7523 §3; ``scope`` as Google's service accounts want it."""
    from cryptography import exceptions  # loaded only if a destination needs it, as joserfc is
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from joserfc import errors, jwk, jwt

    claims: dict[str, str | int] = {
        "iss": oauth2.issuer,
        "aud": oauth2.audience or oauth2.token_url,
        "iat": now,
        "exp": now + _ASSERTION_SECONDS,
    }
    if oauth2.subject:
        claims["sub"] = oauth2.subject
    if oauth2.scopes:
        claims["scope"] = " ".join(oauth2.scopes)
    header = {"alg": "RS256", "kid": oauth2.key_id} if oauth2.key_id else {"alg": "RS256"}
    try:
        # Without a check of the factors, which takes 0.3 s in which no other thread runs. The key is the tenant's own.
        pem = oauth2.private_key.encode()
        key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TokenKeyError
        return jwt.encode(header, claims, jwk.RSAKey.import_key(key))
    except (errors.JoseError, exceptions.UnsupportedAlgorithm, ValueError, TypeError):
        raise TokenKeyError from None  # its text could quote the key


def _basic(oauth2: documents.OAuth2) -> str:
    """Return a client's credentials. Source: RFC 6749 §2.3.1: encoded as in a form."""
    pair = f"{urllib.parse.quote_plus(oauth2.client_id)}:{urllib.parse.quote_plus(oauth2.client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _decoded(answer: DestinationAnswer) -> _TokenAnswer | None:
    """Return what a token endpoint answered; None if it issued no token that can be used."""
    if answer.status != 200 or not answer.is_complete:
        return None
    try:
        told = msgspec.json.decode(answer.body, type=_TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    is_bearer = told.token_type.lower() in {"bearer", ""}
    return told if is_bearer and _TOKEN.fullmatch(told.access_token) else None


def _life(told: _TokenAnswer) -> float:
    """Return for how many seconds a token is valid."""
    try:
        seconds = float(told.expires_in) if told.expires_in is not None else _UNKNOWN_LIFE_SECONDS
    except ValueError:
        seconds = _UNKNOWN_LIFE_SECONDS
    return min(max(1.0, seconds), _LONGEST_LIFE_SECONDS)
