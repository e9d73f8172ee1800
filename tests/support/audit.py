"""The audit log of the API server: requests, users and answers."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LONGEST_LINE = 1 << 16
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Asked:
    """A request that the API server answered."""

    user: str
    verb: str
    uri: str
    """Path and query."""
    resource: str
    """Plural with the subresource, such as ``listeners/status``; ``""`` if the path names no resource."""
    namespace: str
    name: str
    status: int
    lacked_right: bool = False
    """True if the account lacked the permission, and False if admission refused, as in a terminating namespace."""

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


@dataclass(frozen=True)
class Log:
    """The audit log of a local cluster."""

    path: Path

    def position(self) -> int:
        """Return the end of the last complete line, for ``since``."""
        with self.path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            start = log.seek(max(0, size - _LONGEST_LINE))
            return start + log.read(size - start).rfind(b"\n") + 1

    def since(self, position: int = 0, user: str = "") -> list[Asked]:
        """Return the requests after a position, of one user or of all users except the cluster's own components.

        The API server writes a line after it sent the answer, so a test's own request may appear a moment later.
        """
        with self.path.open("rb") as log:
            log.seek(position)
            # A search for the name is much faster than parsing the lines of all users.
            lines = [line for line in log if line.endswith(b"\n") and user.encode() in line]
        return [asked for asked in map(parse, lines) if user in {"", asked.user}]

    def refusals(self, user: str) -> Iterator[Asked]:
        """Yield the requests for which a user lacked the permission."""
        return (asked for asked in self.since(0, user) if asked.lacked_right)


def account_name(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def parse(line: bytes) -> Asked:
    event: dict[str, Any] = json.loads(line)
    named = event.get("objectRef", {})
    subresource = f"/{named['subresource']}" if "subresource" in named else ""
    return Asked(
        user=event["user"]["username"],
        verb=event["verb"],
        uri=event["requestURI"],
        resource=named.get("resource", "") + subresource,
        namespace=named.get("namespace", ""),
        name=named.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
        lacked_right=event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
    )
