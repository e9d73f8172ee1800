"""An audit log for a cluster whose own log is not readable: a proxy records requests in the same format."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from local_cluster import kubeconfigs
from support import audit, faulty_proxy

_TESTS = Path(__file__).parents[1]
_LIMIT_SECONDS = 20
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_LACKED_RIGHT = ('User "', '" cannot ')
"""Parts of an authorizer's message. Admission refuses with the same status and another message."""


@contextlib.contextmanager
def running(upstream: kubeconfigs.Endpoint, folder: Path) -> Iterator[tuple[kubeconfigs.Endpoint, audit.Log]]:
    """Run a recording proxy in a separate process, so that it does not share the tests' event loop.

    The proxy ends with the ``with`` block, and with this process.
    """
    folder.mkdir()
    log = audit.Log(folder / "asked.log")
    log.path.touch()
    environment = {**os.environ, "PYTHONPATH": f"{_TESTS}:{_TESTS.parent / 'tools'}"}
    command = [sys.executable, "-m", "support.recording", str(log.path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(upstream) + b"\n")
        process.stdin.flush()
        yield msgspec.json.decode(process.stdout.readline(), type=kubeconfigs.Endpoint), log
        process.stdin.close()
        process.wait(_LIMIT_SECONDS)


async def _serve(path: Path) -> None:
    read = asyncio.get_running_loop().run_in_executor
    upstream = msgspec.json.decode(await read(None, sys.stdin.buffer.readline), type=kubeconfigs.Endpoint)
    with path.open("ab", buffering=0) as log:
        async with faulty_proxy.running(upstream, path.parent) as proxy:
            proxy.answered = lambda answered: log.write(json.dumps(event(answered)).encode() + b"\n")
            sys.stdout.buffer.write(msgspec.json.encode(proxy.endpoint) + b"\n")
            sys.stdout.flush()
            await read(None, sys.stdin.buffer.read)


def event(answered: faulty_proxy.Answered) -> dict[str, Any]:
    """Return a request and its answer in the format of an audit log."""
    asked, said = answered.asked, answered.body
    named = reference(asked.path)
    lacked_right = answered.status == 403 and all(part.encode() in said.replace(b"\\", b"") for part in _LACKED_RIGHT)
    return {
        "user": {"username": user(answered.authorization)},
        "verb": _verb(asked, named),
        "requestURI": asked.path + (f"?{asked.query}" if asked.query else ""),
        "objectRef": named,
        "responseStatus": {"code": answered.status},
        "userAgent": asked.agent,
        "annotations": {"authorization.k8s.io/decision": "forbid" if lacked_right else "allow"},
    }


def user(authorization: str) -> str:
    """Return the subject of a service account's token, or ``""`` for another authorization."""
    parts = authorization.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        return ""
    return str(json.loads(base64.urlsafe_b64decode(parts[1] + "==")).get("sub", ""))


def reference(path: str) -> dict[str, str]:
    """Return the resource that a path names, or an empty dict."""
    match path.strip("/").split("/"):
        case ["api", _, *rest] | ["apis", _, _, *rest] if rest:
            return _named(rest)
    return {}


def _named(parts: list[str]) -> dict[str, str]:
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in {"status", "finalize"}:
            parts = parts[2:]
    keys = ("resource", "name", "subresource")
    return {"namespace": namespace, **dict(zip(keys, parts, strict=False))}


def _verb(asked: faulty_proxy.Asked, named: dict[str, str]) -> str:
    is_one = "name" in named
    if asked.method == "DELETE":
        return "delete" if is_one else "deletecollection"
    if asked.watches:
        return "watch"
    return _VERBS.get(asked.method) or ("get" if is_one or not named else "list")


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
