"""Run kubectl as users do: documents in, JSON and text out."""

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import kubeconfigs

LIMIT_SECONDS = 120.0


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
