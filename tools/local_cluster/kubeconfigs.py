"""Kubeconfig files: the address of an API server, and a client's credentials."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Endpoint:
    """An API server's URL and the certificate (PEM) of its authority."""

    server: str
    authority: bytes


def with_certificate(endpoint: Endpoint, certificate: Path, key: Path) -> str:
    """Build a kubeconfig with a client certificate."""
    return _text(endpoint, {"client-certificate-data": _data(certificate), "client-key-data": _data(key)})


def with_token(endpoint: Endpoint, token: str, namespace: str = "default") -> str:
    """Build a kubeconfig with a service account's token."""
    return _text(endpoint, {"token": token}, namespace)


def with_token_file(endpoint: Endpoint, file: str, namespace: str = "default") -> str:
    """Build a kubeconfig with a service account's token file, which may be renewed."""
    return _text(endpoint, {"tokenFile": file}, namespace)


def write(path: Path, text: str) -> Path:
    """Write a kubeconfig that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
    return path


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _text(endpoint: Endpoint, user: dict[str, str], namespace: str = "default") -> str:
    cluster = {
        "server": endpoint.server,
        "certificate-authority-data": base64.b64encode(endpoint.authority).decode(),
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "usher",
            "contexts": [{"name": "usher", "context": {"cluster": "usher", "user": "usher", "namespace": namespace}}],
            "clusters": [{"name": "usher", "cluster": cluster}],
            "users": [{"name": "usher", "user": user}],
        }
    )
