"""What a simulation is told."""

import ssl
from pathlib import Path
from typing import Literal

import msgspec

from usher_gateway import model
from usher_gateway.simulator import answer, bodies, schedule


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One listener to post to, with the company whose visitors it hears of."""

    url: str
    name: str = ""
    """How the books call it; empty: a shortened URL."""
    company: bodies.Company = bodies.Company()
    pattern: schedule.Pattern | None = None
    """What is sent to this listener; None: as everywhere."""
    headers: tuple[tuple[str, str], ...] = ()
    """Credentials that the portal was given, as headers; their values are never shown."""


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation. Times in simulated seconds run ``time_scale`` times as fast; limits of requests never do."""

    targets: tuple[Target, ...]
    pattern: schedule.Pattern = schedule.Pattern()
    time_scale: float = 1.0
    connect: tuple[str, int] | None = None
    """Connect to this host and port whatever the URLs say."""
    tls: Literal["Verify", "Insecure"] = "Verify"
    ca: str = ""
    """File with the certificate authority that signed the listener's certificate; empty: the system's."""
    concurrency: int = 256
    """Requests under way at the same time, for each listener."""
    limit_seconds: float = answer.LIMIT_SECONDS
    retry_seconds: float = answer.RETRY_SECONDS
    """Simulated."""
    disable_seconds: float = answer.DISABLE_SECONDS
    """Simulated."""
    patience_seconds: float = 60.0
    """Real: once everything was sent, the run ends when it would go on for so long without an acknowledgement."""
    validate: bool = True
    """Begin with the portal's "Save and Validate" in each shape."""
    validate_only: bool = False


def tls_context(settings: SimulatorSettings) -> ssl.SSLContext:
    """The TLS settings of the sender: Purple posts only where the certificate is valid.

    Raises:
        ConfigurationError: the CA file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
    except (OSError, ssl.SSLError) as error:
        hint = "give a readable file with the CA's certificate in PEM form"
        raise model.ConfigurationError(f"{Path(settings.ca).name}: no certificates could be read", hint) from error
    if settings.tls == "Insecure":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
