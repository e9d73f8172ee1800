"""Where the API server is and how one proves oneself: the pod's service account, or a kubeconfig."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopf
import yaml

from usher_gateway import model

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HINT = "Give --kubeconfig a file with a current context whose user has a token or a client certificate."


def load(kubeconfig: Path | None, environ: Mapping[str, str]) -> kopf.ConnectionInfo:
    """The connection as it is now; tokens in files are read anew at each call.

    Raises:
        ConfigurationError: there is none, or it is of a kind that is not supported.
    """
    if kubeconfig is None and (_ACCOUNT / "token").exists():
        return _service_account(environ)
    named = environ.get("KUBECONFIG") or str(Path(environ.get("HOME", "/")) / ".kube" / "config")
    path = kubeconfig or Path(named.split(os.pathsep)[0])
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is no YAML"
        raise model.ConfigurationError(f"cannot read the kubeconfig {path}: {reason}", _HINT) from error
    try:
        return _context(content, path.parent)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise model.ConfigurationError(f"the kubeconfig {path} has no usable current context", _HINT) from error


def tls_context(info: kopf.ConnectionInfo) -> ssl.SSLContext | bool:
    """What to verify the server with.

    Raises:
        ConfigurationError: certificates or keys cannot be used.
    """
    if info.server.startswith("http://"):
        return True
    try:
        return info.as_ssl_context()
    except (OSError, ValueError) as error:
        raise model.ConfigurationError("certificates or keys of the API connection cannot be used", _HINT) from error


def _service_account(environ: Mapping[str, str]) -> kopf.ConnectionInfo:
    host = environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    return kopf.ConnectionInfo(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_path=str(_ACCOUNT / "ca.crt"),
        token=(_ACCOUNT / "token").read_text("ascii").strip(),
    )


def _context(content: Any, folder: Path) -> kopf.ConnectionInfo:
    context = _named(content["contexts"], content["current-context"])["context"]
    cluster = _named(content["clusters"], context["cluster"])["cluster"]
    user = _named(content["users"], context["user"])["user"] or {}
    unsupported = {"exec", "auth-provider", "proxy-url"} & (user.keys() | cluster.keys())
    if unsupported:
        raise model.ConfigurationError(f"the kubeconfig uses `{min(unsupported)}`, which is not supported", _HINT)
    token = user.get("token")
    if user.get("tokenFile"):
        token = (folder / user["tokenFile"]).read_text("ascii").strip()
    return kopf.ConnectionInfo(
        server=cluster["server"].rstrip("/"),
        ca_path=_path(folder, cluster.get("certificate-authority")),
        ca_data=cluster.get("certificate-authority-data"),
        insecure=cluster.get("insecure-skip-tls-verify"),
        certificate_path=_path(folder, user.get("client-certificate")),
        certificate_data=user.get("client-certificate-data"),
        private_key_path=_path(folder, user.get("client-key")),
        private_key_data=user.get("client-key-data"),
        username=user.get("username"),
        password=user.get("password"),
        token=token,
    )


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _path(folder: Path, name: str | None) -> str | None:
    return str(folder / name) if name else None
