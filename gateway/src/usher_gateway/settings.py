"""A gateway's settings: frozen and read once. docs/settings.md lists their flags and variables."""

import errno
import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from usher_gateway import model
from usher_gateway.ingest import server

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


class Endpoint(msgspec.Struct, frozen=True):
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only programs on this machine can connect."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of ``usher run``."""

    files: tuple[Path, ...] = ()
    """Manifests, or folders with manifests. The gateway watches them."""
    from_cluster: bool = False
    """Read the configuration from the Secrets that the operator writes, and not from files."""
    config_namespace: str = "usher-config"
    """The namespace where the operator's Secrets are."""
    kubeconfig: Path | None = None
    """How to reach the API server; None: with the pod's service account."""
    data: Path = Path("data")
    """Folder for the SQLite store, the install key and the tokens; created if it is missing."""
    store: str | None = None
    """A PostgreSQL database's address, which may contain a password; None: an SQLite file in ``data``."""
    store_password_file: Path | None = None
    """File with the database password."""
    store_durability: Literal["Local", "Replicated"] = "Local"
    """Local: an acknowledged visit survives if the database server crashes. Replicated: also if the server is lost."""
    migrate: bool = True
    """Make the migrations that the database lacks at the start; False: refuse to start without them."""
    listen: Endpoint = Endpoint("127.0.0.1", 8080)
    """The public port, to which Purple posts."""
    admin: Endpoint = Endpoint("127.0.0.1", 9090)
    """The admin port with health, metrics and the API. Do not expose it to the internet."""
    admin_host: tuple[str, ...] = ()
    """Names, besides IP addresses and ``localhost``, by which programs may address the admin port."""
    tls_cert: Path | None = None
    """PEM chain. With ``tls_key`` the public port serves https, and the gateway loads renewed files."""
    tls_key: Path | None = None
    """PEM key for ``tls_cert``."""
    tls_dir: Path | None = None
    """Folder with further certificates, each served for its own names."""
    trusted_proxies: tuple[str, ...] = ()
    """CIDRs: proxies whose ``X-Forwarded-For`` the gateway trusts."""
    allow_destination: tuple[str, ...] = ()
    """Exceptions from the address guard: CIDR, HOST[:PORT] or ``loopback``."""
    removal_limit: int | None = None
    """From files: how many listeners, and destinations, in a namespace may be removed within ten minutes without a
    confirmation. None: as the ListenerClasses say, else 5, or 10 % in a larger namespace."""
    admin_tokens: Path | None = None
    """Folder with the admin tokens, if not ``data``: a mounted Secret that all gateways in an install share."""
    receipt_days: int = 1_095
    """Days that an erasure's receipt is kept."""
    backup_days: int = 0
    """Days that the store's backups are kept, as erasure receipts say; 0: they do not say it."""
    admin_kubernetes_tokens: bool = False
    """Let Kubernetes users use the admin port, with the rights that the API server says they have."""
    admin_token_audience: str | None = None
    """The audience that a Kubernetes token must have; None: the API server's."""
    brand: Path | None = None
    """YAML file with the agency's name, colour, logo and contact, for the customers' pages."""
    page_proxies: tuple[str, ...] = ()
    """CIDRs: reverse proxies that log people in for the pages, and whose headers say who they are."""
    page_user_header: str = "X-Forwarded-User"
    """The header in which such a proxy sends the user's name."""
    page_groups_header: str = "X-Forwarded-Groups"
    """The one with the user's groups, with commas between them."""
    page_role: tuple[str, ...] = ()
    """``GROUP=ROLE``: what the people in a group may do on the pages."""
    time_scale: float = 1.0
    """How many times as fast the gateway's clock runs. Time limits for I/O stay real."""
    accept_clock: bool = False
    """Accept the wall clock at the start, even if it is far after the last time in the store."""
    accept_min_free_bytes: int = 1024**3
    """Below this free disk space the gateway answers arrivals with 503; 0: no limit."""
    attempts_min_free_bytes: int = 256 * 1024**2
    """Below this free disk space the gateway sends nothing, because it could not store results; 0: no limit."""
    limits: server.ServerLimits = server.ServerLimits()
    """Limits on the public port."""
    lane_bytes: int = 256 * 1024 * 1024
    """The most body bytes in lanes and attempts, for all destinations together; the rest waits in the store."""
    max_attempts: int | None = None
    """The most attempts in flight, for all destinations together. None: by memory and file descriptors, up to 4,096."""
    drain_seconds: float = 10.0
    """How long a stop waits for open connections and running attempts."""

    @property
    def has_loopback_exception(self) -> bool:
        """True if destinations on loopback are allowed because only programs on this machine reach the public port.

        Behind a proxy the public port is on loopback too, but the senders, and maybe the tenants, are anywhere.
        """
        return self.listen.is_loopback and not self.trusted_proxies


def parse_endpoint(text: str) -> Endpoint:
    """Parse ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (all addresses).

    Raises:
        ConfigurationError: the text has none of these forms.
    """
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not HOST:PORT", "Write it like 127.0.0.1:8080 or [::1]:8080.")
    return Endpoint(host or "0.0.0.0", int(port))  # noqa: S104 - the usual meaning of `:8080`


def cannot_listen(flag: str, endpoint: Endpoint, error: OSError) -> model.ConfigurationError:
    """Return the error for a port that cannot be opened; ``flag`` is the flag that sets the port."""
    number = error.errno or 0
    hints = {
        errno.EADDRINUSE: f"Is another gateway running? Choose another {flag}.",
        errno.EADDRNOTAVAIL: f"Give {flag} an address of this machine.",
        errno.EACCES: f"Ports below 1024 need rights: CAP_NET_BIND_SERVICE, or choose another {flag}.",
    }
    reason = os.strerror(number) if number in hints else error.strerror
    where = f"{endpoint.host}:{endpoint.port}"
    return model.ConfigurationError(f"cannot listen on {where}: {reason}", hints.get(number, f"Choose another {flag}."))


def check_settings(settings: Settings) -> None:
    """Reject settings that cannot work together.

    Raises:
        ConfigurationError: it names the settings and says what to do.
    """
    if settings.from_cluster and settings.files:
        raise model.ConfigurationError("--from-cluster and files exclude each other", "Give one of the two.")
    if not settings.from_cluster and not settings.files:
        raise model.ConfigurationError(
            "there is no configuration to run", "Name files or folders of manifests, or give --from-cluster."
        )
    if not _LABEL.fullmatch(settings.config_namespace):
        raise model.ConfigurationError(
            "--config-namespace is not a valid name of a namespace", "Write it like usher-config."
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise model.ConfigurationError("--tls-cert and --tls-key go together", "Give both, or neither.")
    if settings.admin_token_audience is not None and not settings.admin_kubernetes_tokens:
        raise model.ConfigurationError(
            "--admin-token-audience needs --admin-kubernetes-tokens", "Give both, or only the latter."
        )
    _check_store(settings)
    _check_proxies(settings)
    if settings.removal_limit is not None and settings.removal_limit < 0:
        raise model.ConfigurationError("--removal-limit must not be negative", "Try 20.")
    if settings.time_scale != 1.0:
        if not settings.listen.is_loopback or not settings.admin.is_loopback:
            raise model.ConfigurationError(
                "--time-scale is for development: only on loopback", "Listen on 127.0.0.1, or leave --time-scale out."
            )
        if not 0 < settings.time_scale <= 100_000:
            raise model.ConfigurationError("--time-scale must be above 0 and at most 100000", "Try 60.")


def _check_proxies(settings: Settings) -> None:
    for flag, networks in (("--trusted-proxies", settings.trusted_proxies), ("--page-proxies", settings.page_proxies)):
        for network in networks:
            is_everybody = _parse_network(flag, network).prefixlen == 0
            if is_everybody and flag == "--page-proxies":
                raise model.ConfigurationError(
                    f"--page-proxies must not have {network}, which is everybody",
                    "Anyone who reaches the port could name the user. Write the addresses of the proxies.",
                )
    if bool(settings.page_proxies) != bool(settings.page_role):
        raise model.ConfigurationError(
            "--page-proxies and --page-role go together", "Give both, such as --page-role desk=look, or neither."
        )


def _check_store(settings: Settings) -> None:
    if settings.store is not None:
        check_store_address(settings.store)
    if settings.store_password_file is not None and settings.store is None:
        raise model.ConfigurationError("--store-password-file needs --store", "Give both, or neither.")
    if settings.store_durability == "Replicated" and settings.store is None:
        raise model.ConfigurationError(
            "--store-durability Replicated needs --store", "An SQLite file is on one disk; only PostgreSQL replicates."
        )
    if not settings.migrate and settings.store is None:
        raise model.ConfigurationError("--no-migrate needs --store", "Only tables in PostgreSQL have an owner.")


def check_store_address(address: str) -> None:
    """Reject a store address that is not a PostgreSQL address.

    Raises:
        ConfigurationError: it does not show the address, which may contain a password.
    """
    if not address.startswith(("postgresql://", "postgres://")):
        raise model.ConfigurationError(
            "--store is not the address of a PostgreSQL database", "Write it like postgresql://USER@HOST/DATABASE."
        )


def read_store_password(file: Path | None) -> str | None:
    """Return the password from the file that --store-password-file names; None without a file.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if file is None:
        return None
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise model.ConfigurationError(f"{file} cannot be read: {reason}", "Check --store-password-file.") from None


def _parse_network(flag: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise model.ConfigurationError(
            f"{flag}: {text!r} is not a CIDR", "Write it like 10.0.0.0/8 or fd00::/8."
        ) from error
