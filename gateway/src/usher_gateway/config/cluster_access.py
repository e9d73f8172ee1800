"""How the API server is reached and what proves who we are: a pod's service account, or a kubeconfig file."""

import base64
import binascii
import contextlib
import os
import pathlib
import ssl
import tempfile
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from usher_gateway import model

SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds token and CA. Source: Kubernetes, Accessing the API from a Pod."""

_HINT = "give --kubeconfig FILE, or run in a pod with `automountServiceAccountToken: true`"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """One API server and one account. Files are read anew for every use: tokens and CAs are rotated."""

    server: str
    """URL without a slash at its end."""
    ca_file: pathlib.Path | None = None
    ca_data: bytes = b""
    """PEM; with neither, the system's authorities are trusted."""
    server_name: str = ""
    """What the server's certificate must be for, where that is not the URL's host."""
    verify: bool = True
    token: str = ""
    token_file: pathlib.Path | None = None
    certificate: bytes = b""
    """PEM chain and key of a client certificate, one after the other."""

    def headers(self) -> dict[str, str]:
        """What authenticates a request.

        Raises:
            ConfigurationError: the token's file cannot be read.
        """
        token = self.token
        if self.token_file is not None:
            token = _read(self.token_file).decode("ascii", "replace").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def ssl_context(self) -> ssl.SSLContext | None:
        """The client's side of TLS; None for plain http.

        Raises:
            ConfigurationError: a certificate, key or authority cannot be used.
        """
        if not self.server.startswith("https:"):
            return None
        authorities = _read(self.ca_file) if self.ca_file is not None else self.ca_data
        try:
            context = ssl.create_default_context(cadata=authorities.decode("ascii") or None)
            if not self.verify:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self.certificate:
                _load_certificate(context, self.certificate)
        except (ssl.SSLError, ValueError) as error:
            message = f"the certificates for the API server cannot be used: {type(error).__name__}"
            raise model.ConfigurationError(message, "they must be PEM, and the key must fit its certificate") from None
        return context


def find_access(kubeconfig: pathlib.Path | None, environ: Mapping[str, str]) -> Access:
    """The API server that is meant: of a kubeconfig file if one is named, else of the pod's service account.

    Raises:
        ConfigurationError: there is neither, or it cannot be used.
    """
    if kubeconfig is not None:
        if os.pathsep in str(kubeconfig):
            raise model.ConfigurationError(
                "several kubeconfig files are named", "give one: kubectl config view --flatten"
            )
        return parse_kubeconfig(_read(kubeconfig), kubeconfig.parent)
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        raise model.ConfigurationError("this is no pod, and no kubeconfig file is named", _HINT)
    port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT") or "443"
    token_file = SERVICE_ACCOUNT / "token"
    _read(token_file)
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Access(server=server, ca_file=SERVICE_ACCOUNT / "ca.crt", token_file=token_file)


def parse_kubeconfig(content: bytes, folder: pathlib.Path) -> Access:
    """The API server of a kubeconfig's current context; ``folder``: what its relative paths start from.

    Source: Kubernetes, kubeconfig (v1) reference.

    Raises:
        ConfigurationError: it is none, or asks for what Usher cannot do.
    """
    try:
        value: Any = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _bad("it is not YAML") from error
    if not isinstance(value, dict):
        raise _bad("it is no mapping")
    context = _named(value, "contexts", "context", value.get("current-context"))
    cluster = _named(value, "clusters", "cluster", context.get("cluster"))
    user = _named(value, "users", "user", context.get("user")) if context.get("user") else {}
    for name in ("exec", "auth-provider", "username"):
        if user.get(name):
            raise _bad(f"its user has `{name}`, which Usher does not support", "use a token or a client certificate")
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise _bad("its cluster has no `server` that starts with https://")
    certificate = _data(user, "client-certificate", folder)
    return Access(
        server=server.rstrip("/"),
        ca_file=_path(cluster, "certificate-authority", folder),
        ca_data=_decoded(cluster, "certificate-authority-data"),
        server_name=str(cluster.get("tls-server-name") or ""),
        verify=cluster.get("insecure-skip-tls-verify") is not True,
        token=str(user.get("token") or ""),
        token_file=None if user.get("token") else _path(user, "tokenFile", folder),
        certificate=certificate + b"\n" + _data(user, "client-key", folder) if certificate else b"",
    )


def _named(value: dict[Any, Any], group: str, field: str, name: object) -> dict[Any, Any]:
    items = value.get(group)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(field), dict):
            found: dict[Any, Any] = item[field]
            return found
    raise _bad(f"it has no {field} {name!r}", "kubectl config get-contexts shows what there is")


def _path(value: dict[Any, Any], field: str, folder: pathlib.Path) -> pathlib.Path | None:
    path = value.get(field)
    return folder / path if isinstance(path, str) and path and not value.get(f"{field}-data") else None


def _decoded(value: dict[Any, Any], field: str) -> bytes:
    try:
        return base64.b64decode(str(value.get(field) or ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(f"its `{field}` is not base64") from error


def _data(value: dict[Any, Any], field: str, folder: pathlib.Path) -> bytes:
    path = _path(value, field, folder)
    return _read(path) if path is not None else _decoded(value, f"{field}-data")


def _bad(what: str, hint: str = "give a kubeconfig file that works with kubectl") -> model.ConfigurationError:
    return model.ConfigurationError(f"the kubeconfig file cannot be used: {what}", hint)


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise model.ConfigurationError(f"{path} cannot be read: {error.strerror}", _HINT) from error


def _load_certificate(context: ssl.SSLContext, content: bytes) -> None:
    """The standard library reads keys from files only: one that nobody else may read, and not for long."""
    descriptor, name = tempfile.mkstemp(prefix="usher-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(OSError):
            pathlib.Path(name).unlink()
