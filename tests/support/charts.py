"""Render and install the chart with helm, as users do."""

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from local_cluster import helm

CHART = Path(__file__).parents[2] / "charts" / "usher"
# Arguments of a rendering for a cluster with Usher's definitions and those of the Prometheus operator.
OTHER_APIS = (
    "--api-versions=usher.dev/v1alpha1/ListenerClass",
    "--api-versions=monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions=monitoring.coreos.com/v1/PodMonitor",
    "--api-versions=monitoring.coreos.com/v1/PrometheusRule",
)
_LIMIT_SECONDS = 120
# By default helm sends at most 100 requests at once and then 5/s, and an upgrade has more.
_UNTHROTTLED = {"HELM_BURST_LIMIT": "1000", "HELM_QPS": "1000"}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """helm failed; the text is its error output."""


def run(*arguments: str, limit_seconds: float = _LIMIT_SECONDS) -> str:
    """Run helm and return its output.

    Raises:
        HelmError: It ended with an error.
    """
    done = subprocess.run(
        [helm.find(), *arguments],
        env=os.environ | _UNTHROTTLED,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_seconds,
    )
    if done.returncode != 0:
        raise HelmError(done.stderr)
    return done.stdout


def render(*arguments: str, release: str = "usher", namespace: str = "usher-system") -> str:
    return run("template", release, str(CHART), f"--namespace={namespace}", *arguments)


_rendered_once = functools.cache(render)


def objects(*arguments: str, **about: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of the chart by kind and ``namespace/name`` (or name)."""
    objects_by_key = {}
    for document in yaml.load_all(_rendered_once(*arguments, **about), _LOADER):
        if document is not None:
            metadata = document["metadata"]
            path = f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else metadata["name"]
            assert (document["kind"], path) not in objects_by_key
            objects_by_key[document["kind"], path] = document
    return objects_by_key


def is_hook(document: dict[str, Any]) -> bool:
    """Return whether helm applies an object only on an occasion, such as `helm test`."""
    return "helm.sh/hook" in document["metadata"].get("annotations", {})
