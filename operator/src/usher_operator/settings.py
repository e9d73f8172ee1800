"""Settings of the operator: frozen, read once. docs/operator.md lists the flags and variables that they come from."""

import re
import urllib.parse
from pathlib import Path

import msgspec

from usher_gateway import config_secret, model


class AdminAddress(msgspec.Struct, frozen=True):
    """Where a port listens."""

    host: str
    port: int


class GatewayService(msgspec.Struct, frozen=True):
    """A GatewayService whose ready endpoints are asked."""

    namespace: str
    name: str
    port: str = ""
    """Name or number of the port; ``""``: the only one, or the one called ``admin``."""


class BackendService(msgspec.Struct, frozen=True):
    """What Ingress and HTTPRoute send requests to; in the data plane's namespace."""

    service_name: str = "usher-gateway"
    service_port: int = 80


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Every wait of the operator, in seconds."""

    resync: float = 600.0
    """From one complete reading of the cluster to the next; jitter is added."""
    settle: float = 2.0
    """Removals are gathered until so long after the last one, and judged together."""
    settle_most: float = 30.0
    """Removals are judged at the latest so long after the first one."""
    tombstone: float = 600.0
    """Age at which a tombstone is deleted."""
    observe: float = 5.0
    """From one sweep over the gateways to the next; documents that are not in force everywhere are asked for sooner."""
    observe_pending: float = 1.0
    """The same while some document is not in force on every ready gateway."""
    lease: float = 15.0
    """How long a Lease is good for after its last renewal."""
    renew_deadline: float = 10.0
    """A leader that could not renew for so long ends itself."""
    retry: float = 2.0
    """From one renewal to the next."""
    warn: float = 30.0
    """What never held yet is warned of by an Event only after so long."""
    watch_silence: float = 150.0
    """Not alive once a watch has not told of a change for so long after it was made."""
    loop_lag: float = 10.0
    """Not alive while the event loop runs so late."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of ``usher-operator run``."""

    kubeconfig: Path | None = None
    """None: the service account of the pod, else ``KUBECONFIG`` or ``~/.kube/config``."""
    namespace: str = "usher-system"
    """The operator's own: Lease, install key, admin tokens."""
    configuration_namespace: str = "usher-config"
    """Where configuration Secrets are written."""
    data_plane_namespace: str = "usher-system"
    """Where Ingress, HTTPRoute and Certificate are written, and the gateway's GatewayService is."""
    controller_name: str = "usher.dev/usher"
    """ListenerClasses with this name are served; it also names the install."""
    identity: str = ""
    """Who holds the Lease; ``""``: the host's name and a random part."""
    gateways: tuple[str, ...] = ()
    """Admin ports of the gateways, as URLs; empty: the ready endpoints of ``gateway_service``."""
    gateway_service: GatewayService | None = None
    backend: BackendService = BackendService()
    gateway_api: bool = True
    """Whether HTTPRoutes are watched and written, where the cluster knows them."""
    cert_manager: bool = True
    """Whether Certificates are watched and written, where the cluster knows them."""
    admin: AdminAddress = AdminAddress("127.0.0.1", 9091)
    """Health and metrics."""
    workers: int = 16
    """Keys reconciled at the same time."""
    timing: Timing = Timing()

    @property
    def install(self) -> str:
        """``controller_name`` fit for a label: what tells this install's children from another's."""
        return config_secret.install_label(self.controller_name)

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigurationError: says what, and what to do.
        """
        if not re.fullmatch(r"[-a-z0-9.]+/[-A-Za-z0-9._~/]+", self.controller_name):
            raise model.ConfigurationError(
                f"--controller-name {self.controller_name!r} has not the form DOMAIN/NAME", "Try usher.dev/usher."
            )
        for url in self.gateways:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.netloc:
                raise model.ConfigurationError(f"--gateways: {url!r} is no URL", "Write it like http://127.0.0.1:9090.")
        if self.gateways and self.gateway_service is not None:
            raise model.ConfigurationError("--gateways and --gateway-service exclude each other", "Give one of them.")
        if not 1 <= self.workers <= 256:
            raise model.ConfigurationError("--workers must be from 1 to 256", "Try 16.")


def parse_endpoint(text: str) -> AdminAddress:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (all addresses).

    Raises:
        ConfigurationError: it is neither.
    """
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not HOST:PORT", "Write it like 127.0.0.1:9091 or [::1]:9091.")
    return AdminAddress(host or "0.0.0.0", int(port))  # noqa: S104 - what `:9091` means everywhere


def parse_service(text: str) -> GatewayService:
    """``NAMESPACE/NAME`` or ``NAMESPACE/NAME:PORT``.

    Raises:
        ConfigurationError: it is neither.
    """
    found = re.fullmatch(r"([-a-z0-9]{1,63})/([-a-z0-9]{1,63})(?::([-a-z0-9]{1,63}))?", text)
    if found is None:
        raise model.ConfigurationError(
            f"{text!r} is not NAMESPACE/NAME[:PORT]", "Write it like usher-system/usher-gateway:admin."
        )
    return GatewayService(found[1], found[2], found[3] or "")


def parse_backend(text: str) -> BackendService:
    """``NAME:PORT``.

    Raises:
        ConfigurationError: it is not.
    """
    name, separator, port = text.rpartition(":")
    if not separator or not re.fullmatch(r"[-a-z0-9]{1,63}", name) or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not NAME:PORT", "Write it like usher-gateway:80.")
    return BackendService(name, int(port))
