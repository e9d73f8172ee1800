"""Run kubectl as users do: documents in, JSON and text out."""

import asyncio
import base64
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import kubeconfigs

LIMIT_SECONDS = 120.0
_ESTABLISHED_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class KubectlError(Exception):
    """kubectl failed; ``said`` is its error output."""

    def __init__(self, arguments: tuple[str, ...], code: int, said: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} ended with {code}: {said}")
        self.code, self.said = code, said


@dataclass(frozen=True)
class Kubectl:
    """kubectl with a kubeconfig. Its caches are in a folder of the test run."""

    program: Path
    kubeconfig: Path
    cache: Path

    async def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl and return its standard output.

        Raises:
            KubectlError: It ended with an error.
        """
        return await asyncio.to_thread(self.run, *arguments, stdin=stdin)

    async def json(self, *arguments: str, stdin: str = "") -> Any:
        """Run kubectl with ``--output=json`` and decode the result; a ``get`` of several objects returns their list."""
        answer = json.loads(await self(*arguments, "--output=json", stdin=stdin))
        return answer["items"] if answer["kind"] == "List" else answer

    async def apply(self, *documents: Mapping[str, Any] | str) -> None:
        """Apply documents, given as mappings or YAML."""
        for_input = [each if isinstance(each, str) else json.dumps(each) for each in documents]
        await self("apply", "--filename=-", stdin="\n---\n".join(for_input))

    def run(self, *arguments: str, stdin: str = "", limit_seconds: float = LIMIT_SECONDS) -> str:
        """Run kubectl synchronously, for fixtures that are not asynchronous."""
        done = subprocess.run(
            [self.program, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.cache}", *arguments],
            input=stdin,
            env={name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_seconds,
        )
        if done.returncode != 0:
            raise KubectlError(arguments, done.returncode, done.stderr)
        return done.stdout

    def wait_established(self, *definitions: str) -> None:
        """Wait until the API server serves the custom resources of definitions, or of all that exist.

        `kubectl wait` is not used, because it fails if it looks before the server has written the first status.

        Raises:
            KubectlError: It took more than a minute.
        """
        arguments = ("get", "customresourcedefinitions", *definitions, "--output=json")
        deadline = time.monotonic() + _ESTABLISHED_SECONDS
        while True:
            answer = json.loads(self.run(*arguments))
            items = answer["items"] if answer["kind"] == "List" else [answer]
            late = [each["metadata"]["name"] for each in items if not _is_established(each)]
            if not late:
                return
            if time.monotonic() > deadline:
                raise KubectlError(arguments, 0, f"not established: {', '.join(late)}")
            time.sleep(_LOOK_SECONDS)


def _is_established(definition: Any) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def endpoint(call: Kubectl) -> kubeconfigs.Endpoint:
    """Return the API server that a kubeconfig leads to.

    Raises:
        ValueError: the kubeconfig does not contain the authority's certificate.
    """
    view = json.loads(call.run("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    told = view["clusters"][0]["cluster"]
    authority = told.get("certificate-authority-data")
    if not authority:
        raise ValueError(f"{call.kubeconfig} must name the authority of the API server (certificate-authority)")
    return kubeconfigs.Endpoint(told["server"], base64.b64decode(authority))
