"""How to reach the API server and log in: a pod's service account, or kubeconfig files.

A pod's files are read here. The `kubernetes` package reads kubeconfig files, because users of managed clusters log in
with exec plugins and OIDC; it is imported only when a kubeconfig is used. `Access` loads the credentials again every
minute, in a thread: files are rotated, and a plugin may take seconds.
"""

import asyncio
import contextlib
import os
import pathlib
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import yaml

from usher_gateway import model

if TYPE_CHECKING:
    import kubernetes.client

_log = structlog.get_logger(__name__)

# Where a pod finds its token and CA. Source: Kubernetes, Accessing the API from a Pod.
SERVICE_ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")

_REFRESH_SECONDS = 60.0
_REJECTED_SECONDS = 1.0  # Rejected credentials are loaded again at most this often

# A plugin that gives a certificate runs again after this time, because the package does not say when it expires.
_PLUGIN_CERTIFICATE_SECONDS = 300.0

_HINT = "give --kubeconfig FILE, or run in a pod with `automountServiceAccountToken: true`"
_KUBECTL_HINT = "give a kubeconfig file that works with kubectl"
_EXTRA_HINT = "install usher-gateway[kubeconfig], or run in a pod"


class ApiConnection(msgspec.Struct, frozen=True, kw_only=True):
    """One API server and the credentials for it, as loaded at one moment."""

    server: str
    """URL without a trailing slash."""
    authorization: str = ""
    """The `Authorization` header's value; `""`: no header."""
    authorities: bytes = b""
    """The CA's certificates in PEM; `b""`: the system's CAs."""
    server_name: str = ""
    """Name that the server's certificate must have; `""`: the URL's host."""
    verify: bool = True
    certificate: bytes = b""
    """PEM client certificate chain; `b""`: none."""
    key: bytes = b""
    """The client certificate's private key in PEM."""

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def ssl_context(self) -> ssl.SSLContext | None:
        """The client's TLS settings; None for plain http.

        Raises:
            ConfigurationError: a certificate, key or CA is invalid.
        """
        if not self.server.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.authorities.decode("ascii") or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                _load_certificate(context, self.certificate + b"\n" + self.key)
        except (ssl.SSLError, ValueError) as error:
            message = f"the certificates for the API server cannot be used: {type(error).__name__}"
            raise model.ConfigurationError(message, "they must be PEM, and the key must fit its certificate") from None
        return context


class Access:
    """The current connection. A reload that fails keeps the previous connection and logs a warning."""

    def __init__(self, load: Callable[[bool], ApiConnection], refresh_seconds: float = _REFRESH_SECONDS) -> None:
        """`load` blocks; its argument says whether the API server has rejected the previous credentials."""
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._connection: ApiConnection | None = None
        self._loaded_at = 0.0
        self._is_rejected = False
        self._lock = asyncio.Lock()
        """Held while the credentials are loaded, so that concurrent requests wait for one loading."""

    def load(self) -> ApiConnection:
        """Load now. Blocks, so call it only before the event loop has other work.

        Raises:
            ConfigurationError: the credentials cannot be loaded.
        """
        self._connection = self._load(self._is_rejected)
        self._loaded_at = time.monotonic()
        self._is_rejected = False
        return self._connection

    async def connection(self) -> ApiConnection:
        """The connection, loaded again in a thread when it is due.

        Raises:
            ConfigurationError: no connection was loaded so far, and none can be loaded.
        """
        async with self._lock:
            if self._connection is None:
                return await asyncio.to_thread(self.load)
            wait = _REJECTED_SECONDS if self._is_rejected else self._refresh_seconds
            if time.monotonic() - self._loaded_at >= wait:
                try:
                    return await asyncio.to_thread(self.load)
                except model.ConfigurationError as error:
                    self._loaded_at = time.monotonic()
                    _log.warning("credentials_not_refreshed", error=str(error), hint=error.hint)
            return self._connection

    def reject(self) -> None:
        """Load again before one of the next requests, because the API server answered 401."""
        self._is_rejected = True


def find_access(kubeconfig: pathlib.Path | None, environ: Mapping[str, str], default_kubeconfig: str = "") -> Access:
    """Access by the named kubeconfig, else by the pod's service account, else by the default kubeconfig.

    Blocks while it loads the credentials once, so that a mistake is reported before anything starts.

    A kubeconfig may be several paths, joined by `os.pathsep`.

    Raises:
        ConfigurationError: there is none of these, or it cannot be used.
    """
    named = str(kubeconfig) if kubeconfig is not None else ""
    if not named and not (SERVICE_ACCOUNT / "token").exists():
        named = default_kubeconfig
    access = Access(Kubeconfig(named).load if named else lambda _: load_service_account(environ))
    access.load()
    return access


def default_kubeconfig(environ: Mapping[str, str]) -> str:
    """The kubeconfig that kubectl uses: `KUBECONFIG`, else `~/.kube/config`."""
    return environ.get("KUBECONFIG") or str(pathlib.Path(environ.get("HOME", "/")) / ".kube" / "config")


def load_service_account(environ: Mapping[str, str]) -> ApiConnection:
    """A pod's connection.

    Raises:
        ConfigurationError: this is not a pod, or it has no token.
    """
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        raise model.ConfigurationError("this process runs outside a pod, and no kubeconfig is named", _HINT)
    port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT") or "443"
    return ApiConnection(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        authorization=f"Bearer {_read(SERVICE_ACCOUNT / 'token').decode('ascii', 'replace').strip()}",
        authorities=_read(SERVICE_ACCOUNT / "ca.crt"),
    )


class Kubeconfig:
    """Loads the current context from kubeconfig files. Reuses a plugin's token until five minutes before it expires."""

    def __init__(self, paths: str) -> None:
        """`paths`: one path, or several joined by `os.pathsep`, as in `KUBECONFIG`."""
        self._paths = paths
        self._configuration: kubernetes.client.Configuration | None = None
        self._loaded: ApiConnection | None = None
        self._read_at = 0.0

    def load(self, is_rejected: bool = False) -> ApiConnection:
        """The connection. Blocks; runs an exec plugin if the user has one and its token is missing or old.

        Raises:
            ConfigurationError: a file cannot be read or used, or the user's plugin gives no credentials.
        """
        context = _Context.read(self._paths)
        if self._loaded is None or is_rejected or not self._can_reuse(context):
            self._loaded = self._read(context)
            self._read_at = time.monotonic()
        assert self._configuration is not None
        return msgspec.structs.replace(self._loaded, authorization=_authorization(self._configuration))

    def _can_reuse(self, context: "_Context") -> bool:
        """Return whether the credentials are still good. Without a plugin they are read again, which costs little."""
        if not context.has_plugin:
            return False
        has_token = self._loaded is not None and bool(self._loaded.authorization)
        return has_token or time.monotonic() - self._read_at < _PLUGIN_CERTIFICATE_SECONDS

    def _read(self, context: "_Context") -> ApiConnection:
        try:
            import kubernetes.client
            import kubernetes.config
        except ImportError:
            raise model.ConfigurationError(
                "reading a kubeconfig needs the `kubernetes` package, which is not installed", _EXTRA_HINT
            ) from None
        configuration = kubernetes.client.Configuration()
        # The package writes keys to files. They are read at once, and deleted with this folder.
        with tempfile.TemporaryDirectory(prefix="usher-") as folder:
            try:
                kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
                    self._paths,
                    client_configuration=configuration,
                    persist_config=context.is_writable,  # an OIDC provider may accept each refresh token only once
                    temp_file_path=folder,
                )
                connection = ApiConnection(
                    server=context.server,
                    authorization=_authorization(configuration),
                    authorities=_optional(configuration.ssl_ca_cert),
                    server_name=configuration.tls_server_name or "",
                    verify=bool(configuration.verify_ssl),
                    certificate=_optional(configuration.cert_file),
                    key=_optional(configuration.key_file),
                )
            except Exception as error:  # noqa: BLE001
                # Plugins and OIDC providers fail with several libraries' errors, whose texts may hold a token.
                raise _unusable(f"the credentials cannot be loaded: {type(error).__name__}") from None
        if context.has_user and not connection.authorization and not connection.certificate and context.is_https:
            raise _unusable("its user gives no token and no client certificate", _KUBECTL_HINT)
        self._configuration = configuration
        return connection


class _Context(msgspec.Struct, frozen=True):
    """The current context, as far as error messages and token reuse need it."""

    server: str
    has_user: bool
    has_plugin: bool
    is_writable: bool

    @property
    def is_https(self) -> bool:
        return self.server.startswith("https:")

    @classmethod
    def read(cls, paths: str) -> "_Context":
        """Read the files; the first one wins.

        Raises:
            ConfigurationError: they cannot be read, or lack something; the message names it and holds no secret.
        """
        named = [pathlib.Path(path).expanduser() for path in paths.split(os.pathsep) if path]
        existing_paths = [path for path in named if path.exists()] or named[:1]
        contents = [_mapping(_read(path)) for path in existing_paths]
        current = next((content["current-context"] for content in contents if content.get("current-context")), None)
        context = _named(contents, "contexts", "context", current)
        cluster = _named(contents, "clusters", "cluster", context.get("cluster"))
        user = _named(contents, "users", "user", context.get("user")) if context.get("user") else {}
        server = cluster.get("server")
        if not isinstance(server, str) or not server.startswith(("https://", "http://")):
            raise _unusable("its cluster has no `server` that starts with https://")
        if cluster.get("proxy-url"):
            raise _unusable("its cluster has `proxy-url`, which Usher does not support")
        return cls(
            server=server.rstrip("/"),
            has_user=bool(context.get("user")),
            has_plugin=bool(user.get("exec")),
            is_writable=all(os.access(path, os.W_OK) for path in existing_paths),
        )


def _mapping(content: bytes) -> dict[Any, Any]:
    try:
        value: Any = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable("it is not YAML") from error
    if not isinstance(value, dict):
        raise _unusable("it is not a mapping")
    return value


def _named(contents: list[dict[Any, Any]], group: str, field: str, name: object) -> dict[Any, Any]:
    for value in contents:
        items = value.get(group)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(field), dict):
                entry: dict[Any, Any] = item[field]
                return entry
    raise _unusable(f"it has no {field} {name!r}", "kubectl config get-contexts lists the contexts")


def _authorization(configuration: "kubernetes.client.Configuration") -> str:
    """The header's value. The package runs an exec plugin here if its token is about to expire."""
    setting = configuration.auth_settings().get("BearerToken")
    value = str(setting["value"]).strip() if setting else ""
    return value if " " in value else ""  # scheme and token


def _unusable(problem: str, hint: str = _KUBECTL_HINT) -> model.ConfigurationError:
    return model.ConfigurationError(f"the kubeconfig file cannot be used: {problem}", hint)


def _optional(path: str | None) -> bytes:
    return pathlib.Path(path).read_bytes() if path else b""


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise model.ConfigurationError(f"{path} cannot be read: {error.strerror}", _HINT) from error


def _load_certificate(context: ssl.SSLContext, content: bytes) -> None:
    """Load through a file that only this user can read, because `ssl` does not load keys from memory."""
    descriptor, name = tempfile.mkstemp(prefix="usher-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        context.load_cert_chain(name)
    finally:
        with contextlib.suppress(OSError):
            pathlib.Path(name).unlink()
