"""Settings of a gateway: frozen, read once. Each has a flag of ``usher run`` and an environment variable."""

from pathlib import Path

import msgspec

from usher_gateway import model
from usher_gateway.ingest import receive


class Endpoint(msgspec.Struct, frozen=True):
    """Where a port listens."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of ``usher run``."""

    files: tuple[Path, ...]
    data: Path = Path("data")
    listen: Endpoint = Endpoint("127.0.0.1", 8080)
    admin: Endpoint = Endpoint("127.0.0.1", 9090)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    allow_destination: tuple[str, ...] = ()
    time_scale: float = 1.0
    accept_min_free_bytes: int = 1024**3
    accept_min_free_ratio: float = 0.10
    attempts_min_free_bytes: int = 256 * 1024**2
    limits: receive.Limits = receive.Limits()
    """Of the public port."""
    lane_bytes: int = 256 * 1024 * 1024
    max_attempts: int = 512
    """Attempts in flight, all destinations together."""
    drain_seconds: float = 10.0


def parse_endpoint(text: str) -> Endpoint:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT`` (all addresses).

    Raises:
        ConfigurationError: it is neither.
    """
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isdecimal() or int(port) > 65_535:
        raise model.ConfigurationError(f"{text!r} is not HOST:PORT", "Write it like 127.0.0.1:8080 or [::1]:8080.")
    return Endpoint(host or "0.0.0.0", int(port))  # noqa: S104 - what `:8080` means everywhere


def check(settings: Settings) -> None:
    """Refuse combinations that cannot work.

    Raises:
        ConfigurationError: says which, and what to do.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise model.ConfigurationError("--tls-cert and --tls-key go together", "Give both, or neither.")
    if settings.time_scale != 1.0:
        if not settings.listen.is_loopback or not settings.admin.is_loopback:
            raise model.ConfigurationError(
                "--time-scale is for development: only on loopback", "Listen on 127.0.0.1, or leave --time-scale out."
            )
        if not 0 < settings.time_scale <= 100_000:
            raise model.ConfigurationError("--time-scale must be above 0 and at most 100000", "Try 60.")
