"""The operator's settings: frozen, read once. docs/operator.md lists their flags and environment variables."""

import re
import urllib.parse
from pathlib import Path

import msgspec

from usher_gateway import config_secret, model


class AdminAddress(msgspec.Struct, frozen=True):
    """Address on which the admin port listens."""

    host: str
    port: int


class GatewayService(msgspec.Struct, frozen=True):
    """The Service whose ready endpoints are the gateways' admin ports."""

    namespace: str
    name: str
    port: str = ""
    """The port's name or number; ``""`` means the port called ``admin``, or the only port."""


class BackendService(msgspec.Struct, frozen=True):
    """The Service to which Ingress and HTTPRoute send requests, in the data plane's namespace."""

    service_name: str = "usher-gateway"
    service_port: int = 80


class OperatorTiming(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's intervals and time limits."""

    resync_seconds: float = 600.0
    """Interval between complete lists of the cluster; jitter is added."""
    watch_check_seconds: float = 60.0
    """Interval between metadata-only lists that find what the watches missed; jitter is added."""
    removal_settle_seconds: float = 2.0
    """Removals are decided this long after the last request, all together."""
    max_removal_settle_seconds: float = 30.0
    """Removals are decided at the latest this long after the first request."""
    tombstone_seconds: float = 600.0
    """Age at which a tombstone is deleted. A namespace's removals within this time count together."""
    stale_document_seconds: float = 60.0
    """A document of this install that a gateway runs without its config Secret for this long is removed there."""
    gateway_poll_seconds: float = 2.0
    """How often the operator polls the gateways while every document is in force everywhere. A hold shows in a
    condition within 5 s."""
    gateway_poll_pending_seconds: float = 1.0
    """Interval between two polls while some ready gateway does not run a document yet."""
    lease_seconds: float = 15.0
    """How long a Lease is valid after its last renewal."""
    renew_deadline_seconds: float = 10.0
    """A leader that could not renew the Lease for this long ends itself."""
    lease_retry_seconds: float = 2.0
    """Interval between two renewals, and between two attempts to get the Lease."""
    max_watch_silence_seconds: float = 150.0
    """The operator is not alive if a watch has not reported a change for this long."""
    max_loop_lag_seconds: float = 10.0
    """The operator is not alive while its event loop is this late."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings for ``usher-operator run``."""

    kubeconfig: Path | None = None
    """None means the pod's service account, else ``KUBECONFIG`` or ``~/.kube/config``."""
    namespace: str = "usher-system"
    """The operator's own namespace: Lease, install key, admin tokens."""
    configuration_namespace: str = "usher-config"
    """The config Secrets' namespace."""
    data_plane_namespace: str = "usher-system"
    """Where Ingress, HTTPRoute and Certificate are written, and the gateway's GatewayService is."""
    controller_name: str = "usher.dev/usher"
    """The operator serves ListenerClasses with this controller name. It also identifies the install."""
    identity: str = ""
    """Holder name in the Lease; ``""`` means the host's name and a random part."""
    gateways: tuple[str, ...] = ()
    """URLs of the gateways' admin ports; empty means the ready endpoints of ``gateway_service``."""
    gateway_service: GatewayService | None = None
    backend: BackendService = BackendService()
    gateway_api: bool = True
    """Watch and write HTTPRoutes if the cluster has them."""
    cert_manager: bool = True
    """Watch and write Certificates if the cluster has them."""
    checks_routes: bool = False
    """Check whether each hostname leads to a gateway."""
    admin: AdminAddress = AdminAddress("127.0.0.1", 9091)
    """Address for health and metrics."""
    workers: int = 16
    """How many keys are reconciled at the same time."""
    timing: OperatorTiming = OperatorTiming()

    @property
    def install_label(self) -> str:
        """``controller_name`` as a label value, which identifies this install's children."""
        return config_secret.install_label(self.controller_name)

    def check(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: a setting cannot work.
        """
        if not re.fullmatch(r"[-a-z0-9.]+/[-A-Za-z0-9._~/]+", self.controller_name):
            raise model.ConfigurationError(
                f"--controller-name {self.controller_name!r} is not DOMAIN/NAME", "Try usher.dev/usher."
            )
        for url in self.gateways:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.netloc:
                raise model.ConfigurationError(
                    f"--gateways: {url!r} is not a URL", "Write it like http://127.0.0.1:9090."
                )
        if self.gateways and self.gateway_service is not None:
            raise model.ConfigurationError(
                "--gateways and --gateway-service cannot be used together", "Use one of them."
            )
        if not 1 <= self.workers <= 256:
            raise model.ConfigurationError("--workers must be from 1 to 256", "Try 16.")


def parse_endpoint(text: str) -> AdminAddress:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (all addresses).

    Raises:
        ConfigurationError: the text has another form.
    """
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not HOST:PORT", "Write it like 127.0.0.1:9091 or [::1]:9091.")
    return AdminAddress(host or "0.0.0.0", int(port))  # noqa: S104 - what `:9091` means everywhere


def parse_service(text: str) -> GatewayService:
    """``NAMESPACE/NAME`` or ``NAMESPACE/NAME:PORT``.

    Raises:
        ConfigurationError: the text has another form.
    """
    match = re.fullmatch(r"([-a-z0-9]{1,63})/([-a-z0-9]{1,63})(?::([-a-z0-9]{1,63}))?", text)
    if match is None:
        raise model.ConfigurationError(
            f"{text!r} is not NAMESPACE/NAME[:PORT]", "Write it like usher-system/usher-gateway:admin."
        )
    return GatewayService(match[1], match[2], match[3] or "")


def parse_backend(text: str) -> BackendService:
    """``NAME:PORT``.

    Raises:
        ConfigurationError: the text has another form.
    """
    name, separator, port = text.rpartition(":")
    if not separator or not re.fullmatch(r"[-a-z0-9]{1,63}", name) or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not NAME:PORT", "Write it like usher-gateway:80.")
    return BackendService(name, int(port))
