"""People who come through a reverse proxy that has logged them in, such as oauth2-proxy.

The proxy names the user and the user's groups in headers, which count only if it is at a trusted address. Groups have
roles, and a role has scopes. The gateway keeps nothing about a user: each request proves itself.
"""

import enum
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from usher_gateway import model
from usher_gateway.access.seal import Seals
from usher_gateway.access.tokens import Caller, Scope, seal_caller
from usher_gateway.ingest import auth
from usher_gateway.pages.api import ApiProblemError

_CSRF = "csrf of a user"
_LONGEST_NAME = 200


class Role(enum.StrEnum):
    """A group's rights."""

    Look = "look"
    Operate = "operate"
    Privacy = "privacy"


_LOOK = frozenset({Scope.StatusRead, Scope.VisitsRead})
_SCOPES = {
    Role.Look: _LOOK,
    Role.Operate: _LOOK | {Scope.DeliveriesWrite, Scope.LinksWrite},
    Role.Privacy: _LOOK
    | {Scope.BodiesRead, Scope.PersonsFind, Scope.PersonsExport, Scope.PersonsErase, Scope.AuditRead},
}


class Proxies:
    """Finds who comes through a trusted proxy.

    Args:
        seals: this install's seals.
        networks: CIDRs with trusted proxies; without any, no header counts.
        user_header: header with the user's name.
        groups_header: header with the user's group names, separated by commas.
        roles: ``GROUP=ROLE`` each.

    Raises:
        ConfigurationError: a role is not valid.
    """

    def __init__(
        self,
        *,
        seals: Seals,
        networks: Sequence[str] = (),
        user_header: str = "X-Forwarded-User",
        groups_header: str = "X-Forwarded-Groups",
        roles: Iterable[str] = (),
    ) -> None:
        self._seals, self._networks = seals, auth.networks(networks)
        self._user_header, self._groups_header = user_header, groups_header
        self._roles: dict[str, set[Role]] = {}
        for text in roles:
            group, role = _parse_role(text)
            self._roles.setdefault(group, set()).add(role)

    def user(self, request: web.Request) -> str | None:
        """Return the user that a trusted proxy has logged in; None if there is none."""
        if not self._is_trusted(request):
            return None
        names = request.headers.getall(self._user_header, [])
        # A second header would come from the browser, and the proxy has not removed it.
        if len(names) != 1 or not names[0].isprintable() or not 0 < len(names[0].strip()) <= _LONGEST_NAME:
            return None
        return names[0].strip()

    def token_of(self, request: web.Request, user: str) -> Callable[[], str]:
        """Return a source of API tokens that last a minute, with a user's rights.

        Raises:
            ApiProblemError: none of the user's groups has a role.
        """
        values = request.headers.getall(self._groups_header, [])
        caller = self.caller_of(user, values[0] if len(values) == 1 else "")
        return lambda: seal_caller(self._seals, caller)

    def caller_of(self, user: str, groups_text: str) -> Caller:
        """Return a user with the rights that comma-separated groups have. Raises the same."""
        groups = {group.strip() for group in groups_text.split(",")}
        roles = set().union(*[self._roles.get(group, set()) for group in groups])
        if not roles:
            raise ApiProblemError(
                403, "none of your groups may see these pages", "ask who runs Usher: --page-role gives a group a role"
            )
        return Caller(f"user {user}", frozenset[Scope]().union(*[_SCOPES[role] for role in roles]))

    def csrf_token(self, user: str) -> str:
        """Return what each form for a user contains, so that no other site can send one."""
        return self._seals.digest(_CSRF, user)

    def is_secure(self, request: web.Request) -> bool:
        """Return whether the browser came by https."""
        forwarded = request.headers.get("X-Forwarded-Proto", "") if self._is_trusted(request) else ""
        return request.secure or forwarded.partition(",")[0].strip().lower() == "https"

    def _is_trusted(self, request: web.Request) -> bool:
        return auth.is_in(request.remote or "", self._networks)


def _parse_role(text: str) -> tuple[str, Role]:
    group, _, role = text.rpartition("=")
    if not group or role not in set(Role):
        raise model.ConfigurationError(
            f"--page-role: {text!r} is not GROUP=ROLE", f"Write it like desk=look; the roles are {', '.join(Role)}."
        )
    return group, Role(role)
