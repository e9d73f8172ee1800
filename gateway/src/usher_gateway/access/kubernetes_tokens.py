"""Kubernetes tokens at the admin port: the API server knows their users, and what these may do.

A TokenReview names a token's user. SubjectAccessReviews say what the user may do: the scope ``persons:find`` is the
verb ``find`` on the virtual resource ``persons`` in the group ``usher.dev``. Where the user has that right in the whole
cluster, it sees all; else it sees the namespaces in which it has the right. No verb is Kubernetes' own (``get``,
``list``), so that a role that may read every resource does not give personal data.

The gateway keeps each decision about a token and a scope for a minute. It keeps digests and not the tokens.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple, Self, TypeVar

import msgspec

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Caller, Scope
from usher_gateway.kube.client import ApiError, Client, ClientLimits

_GROUP = "usher.dev"

# Callers of the admin port take at most these connections from the API server, however many they are.
CLIENT_LIMITS = ClientLimits(connections=8, connect_seconds=2.0, request_seconds=4.0)

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_ATTEMPTS = 2  # The second one has fresh credentials, if the API server rejected those of the gateway

# How long a caller waits for the API server. With 8 connections that is enough for thousands of namespaces.
_DECISION_SECONDS = 10.0

_KEPT_SECONDS = 60.0
_MAX_DECISIONS = 1_000
# Token reviews, for a scope each, that run, or were rejected in the last minute. More tokens have to wait.
_MAX_STRANGERS = 100

_MAX_NAME_LENGTH = 400  # A service account's name has at most 339 characters

_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)

_HINT = "try again; the gateway's own tokens work without the API server"
_FORBIDDEN_HINT = "the gateway's account needs the rights in operator/rbac/optional/kubernetes-tokens.yaml"


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    """Empty if the reviewed token is not valid."""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] = []


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _Decision(NamedTuple):
    """The API server's decision about a token and a scope; the task runs until it is there."""

    task: asyncio.Task[Caller | None]
    expires_at: float

    @property
    def is_accepted(self) -> bool:
        """True if the token has a user."""
        return self.task.done() and not self.task.cancelled() and not self.task.exception() and bool(self.task.result())


_Status = TypeVar("_Status")


class KubernetesTokens:
    """Finds the caller of a request with a Kubernetes token. Use it inside ``async with``.

    Args:
        client: asks the API server; it is opened and closed here.
        namespaces: returns the namespaces that a caller may ask about.
        audience: what a token must be made for; None: for the API server itself.
        now: returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        client: Client,
        namespaces: Callable[[], Awaitable[Collection[str]]],
        audience: str | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._namespaces, self._audience, self._now = client, namespaces, audience, now
        self._decisions: dict[tuple[bytes, Scope], _Decision] = {}
        """The one that was used last is the last. An accepted token stays after its minute, to be no stranger then."""

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [decision.task for decision in self._decisions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    async def caller_of(self, authorization: str, scope: Scope) -> Caller | None:
        """Return the caller that an Authorization header proves, with its right to a scope; None: no such token.

        Raises:
            ProblemError: the caller has that right nowhere, or the API server cannot be asked.
            StoreUnavailableError: the store does not say which namespaces there are.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not _JWT.fullmatch(token):
            return None
        caller = await asyncio.shield(self._decision(token, scope))
        if caller is not None and scope not in caller.scopes:
            resource, _, verb = scope.partition(":")
            detail = f"`{caller.name}` may not {verb} {resource}.{_GROUP} in any namespace"
            hint = f"bind a role with the verb {verb} on {resource} of {_GROUP}, and try again in a minute"
            raise ProblemError(403, "Forbidden", detail, hint)
        return caller

    def _decision(self, token: str, scope: Scope) -> asyncio.Task[Caller | None]:
        """Return the task that asks about a token, which concurrent requests share."""
        key = hashlib.sha256(token.encode()).digest(), scope
        now = self._now()
        decision = self._decisions.get(key)
        if decision is None or now >= decision.expires_at:
            self._forget_expired(now)
            self._refuse_strangers(key[0])
            self._make_room(key)
            task = asyncio.create_task(self._decide(token, scope), name="review a token")
            task.add_done_callback(lambda done: self._forget_failed(key, done))
            decision = _Decision(task, now + _KEPT_SECONDS)
        self._decisions.pop(key, None)
        self._decisions[key] = decision
        return decision.task

    def _forget_expired(self, now: float) -> None:
        for key, decision in list(self._decisions.items()):
            if now >= decision.expires_at and not decision.is_accepted:
                del self._decisions[key]

    def _refuse_strangers(self, digest: bytes) -> None:
        """Refuse a token that was accepted for no scope, if too many came in the last minute."""
        accepted = {token_digest for (token_digest, _), decision in self._decisions.items() if decision.is_accepted}
        strangers = sum(token_digest not in accepted for token_digest, _ in self._decisions)
        if digest not in accepted and strangers >= _MAX_STRANGERS:
            detail = "too many tokens were rejected in the last minute"
            raise ProblemError(429, "TooManyTokens", detail, "try again in a minute; the gateway's own tokens work")

    def _make_room(self, key: tuple[bytes, Scope]) -> None:
        """Make room for a new decision in place of an older one with the same key, or the one used longest ago."""
        self._decisions.pop(key, None)
        while len(self._decisions) >= _MAX_DECISIONS:
            del self._decisions[next(iter(self._decisions))]

    def _forget_failed(self, key: tuple[bytes, Scope], task: asyncio.Task[Caller | None]) -> None:
        """Ask again at the next request, if the API server could not be asked."""
        has_failed = task.cancelled() or task.exception() is not None
        if has_failed and key in self._decisions and self._decisions[key].task is task:
            del self._decisions[key]

    async def _decide(self, token: str, scope: Scope) -> Caller | None:
        try:
            async with asyncio.timeout(_DECISION_SECONDS):
                user = await self._review(token)
                return None if user is None else await self._caller(user, scope)
        except* (ApiError, model.ConfigurationError, TimeoutError) as errors:
            failure = errors.exceptions[0]  # what is raised inside of `except*` leaves it in a group
        is_forbidden = isinstance(failure, ApiError) and failure.status == 403
        detail = "the API server does not say whose this token is, or what its user may do"
        raise ProblemError(503, "KubernetesUnavailable", detail, _FORBIDDEN_HINT if is_forbidden else _HINT)

    async def _review(self, token: str) -> _User | None:
        """Return a token's user; None if it has none, or an audit log cannot show the user's name."""
        spec: dict[str, Any] = {"token": token}
        if self._audience is not None:
            spec["audiences"] = [self._audience]
        status = await self._ask(_TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", spec, _TokenStatus)
        # An API server that knows no audiences answers without them. Source: Kubernetes API, TokenReviewStatus.
        is_for_usher = self._audience is None or self._audience in status.audiences
        name = status.user.username
        has_usable_name = name.isprintable() and 0 < len(name) <= _MAX_NAME_LENGTH
        return status.user if status.authenticated and is_for_usher and has_usable_name else None

    async def _caller(self, user: _User, scope: Scope) -> Caller:
        permitted = await self._permitted(user, scope)
        if permitted is not None and not permitted:
            return Caller(user.username, frozenset(), permitted)
        scopes = {scope}
        if scope is Scope.DeliveriesWrite:  # the preview of a replay shows visits
            visible = await self._permitted(user, Scope.VisitsRead)
            if visible is None or (permitted is not None and permitted <= visible):
                scopes.add(Scope.VisitsRead)
        return Caller(user.username, frozenset(scopes), permitted, has_unknown_scopes=True)

    async def _permitted(self, user: _User, scope: Scope) -> frozenset[str] | None:
        """Return what `Caller.permitted` is for a scope; empty if the user has the right in no namespace."""
        if await self._may(user, scope, namespace=""):
            return None
        namespaces = await self._namespaces()
        async with asyncio.TaskGroup() as group:
            answers = {
                namespace: group.create_task(self._may(user, scope, namespace), name="review an access")
                for namespace in namespaces
            }
        return frozenset(f"{namespace}/*" for namespace, answer in answers.items() if answer.result())

    async def _may(self, user: _User, scope: Scope, namespace: str) -> bool:
        """Return whether a user has a right in a namespace; `""`: in the whole cluster."""
        resource, _, verb = scope.partition(":")
        attributes = {"group": _GROUP, "resource": resource, "verb": verb, "namespace": namespace}
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "resourceAttributes": attributes,
        }
        status = await self._ask(_ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec, _AccessStatus)
        return status.allowed

    async def _ask(
        self, path: str, version: str, kind: str, spec: dict[str, Any], status_type: type[_Status]
    ) -> _Status:
        body = {"apiVersion": version, "kind": kind, "spec": spec}
        answer = await self._client.create(path, body, attempts=_ATTEMPTS, is_fenced=False)
        try:
            return msgspec.convert(answer.get("status"), status_type)
        except msgspec.ValidationError as error:
            raise ApiError(0, type(error).__name__, f"create {path}") from None
