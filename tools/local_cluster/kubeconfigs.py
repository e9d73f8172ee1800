"""Kubeconfig files: how a client reaches an API server, and as whom."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Endpoint:
    """An API server's URL and the certificate (PEM) of the authority that vouches for it."""

    server: str
    authority: bytes


def with_certificate(endpoint: Endpoint, certificate: Path, key: Path) -> str:
    """A kubeconfig for whom the certificate names."""
    return _text(endpoint, {"client-certificate-data": _data(certificate), "client-key-data": _data(key)})


def with_token(endpoint: Endpoint, token: str, namespace: str = "default") -> str:
    """A kubeconfig for a service account."""
    return _text(endpoint, {"token": token}, namespace)


def with_token_file(endpoint: Endpoint, file: str, namespace: str = "default") -> str:
    """A kubeconfig for a service account whose token is in a file beside it, and may be renewed there."""
    return _text(endpoint, {"tokenFile": file}, namespace)


def write(path: Path, text: str) -> Path:
    """Writes a kubeconfig so that only its owner may read it."""
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
