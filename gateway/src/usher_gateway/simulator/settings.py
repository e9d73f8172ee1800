"""A simulation's settings, and the parsers for what a user types. They never print a credential."""

import base64
import os
import re
import ssl
from pathlib import Path
from typing import Literal

import msgspec

from usher_gateway import model
from usher_gateway.simulator import books, schedule


class SimulatorTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One listener to post to, with its visitors' company."""

    url: str
    name: str = ""
    """Its name in the books; empty: a shortened URL."""
    company: schedule.Company = schedule.Company()
    pattern: schedule.Pattern | None = None
    """Its plan's contents; None: as in the settings."""
    headers: tuple[tuple[str, str], ...] = ()
    """The portal's credentials as headers. Their values are never printed."""


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A simulation's settings. ``time_scale`` scales simulated seconds, and never requests' time limits."""

    targets: tuple[SimulatorTarget, ...]
    pattern: schedule.Pattern = schedule.Pattern()
    time_scale: float = 1.0
    connect: tuple[str, int] | None = None
    """Connect to this host and port instead of those in the URLs."""
    tls: Literal["Verify", "Insecure"] = "Verify"
    ca: str = ""
    """File with the authority for the listener's certificate; empty: the system's authorities."""
    concurrency: int = 256
    """The most requests at the same time per listener."""
    limit_seconds: float = books.LIMIT_SECONDS
    retry_seconds: float = books.RETRY_SECONDS
    """In simulated seconds."""
    disable_seconds: float = books.DISABLE_SECONDS
    """In simulated seconds."""
    patience_seconds: float = 60.0
    """In real seconds. After everything was sent, the run ends if this time would pass without an acknowledgement."""
    validate: bool = True
    """Begin with the portal's "Save and Validate" in each of its shapes."""
    validate_only: bool = False


def tls_context(settings: SimulatorSettings) -> ssl.SSLContext:
    """Return the sender's TLS context. Purple posts only to listeners with a valid certificate.

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


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECRET_HINT = "give env:NAME for an environment variable, or file:PATH for a file that holds the value"  # noqa: S105


def seconds(text: str, flag: str) -> float:
    """Parse a duration such as ``90``, ``30m`` or ``24h``, and return seconds.

    Raises:
        ConfigurationError: the text is not a duration, or it is 0.
    """
    match = _DURATION.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise model.ConfigurationError(f"{flag}: not a duration: {text!r}", "write it as 90, 30m or 24h")
    return value


def secret(source: str, flag: str) -> str:
    """Return the credential in ``env:NAME`` or ``file:PATH``, without the line break at its end.

    Raises:
        ConfigurationError: it does not exist. The message names the flag and not the text, which may be a secret.
    """
    kind, _, place = source.partition(":")
    if kind == "env" and place in os.environ:
        value = os.environ[place]
    elif kind == "file":
        try:
            value = Path(place).read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise model.ConfigurationError(f"{flag}: the file cannot be read", _SECRET_HINT) from None
    else:
        reason = "the environment variable is not set" if kind == "env" else "not a source of a credential"
        raise model.ConfigurationError(f"{flag}: {reason}", _SECRET_HINT)
    value = value.rstrip("\r\n")
    if not value or not value.isprintable():
        raise model.ConfigurationError(f"{flag}: the value is empty or not one printable line", _SECRET_HINT)
    return value


def credentials(basic: str, headers: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the headers that authenticate the sender.

    Args:
        basic: a source of ``user:password``, or empty.
        headers: texts such as ``NAME=SOURCE``.

    Raises:
        ConfigurationError: a source does not exist, or a name is not valid for a header.
    """
    pairs = []
    if basic:
        value = secret(basic, "--basic")
        pairs.append(("Authorization", f"Basic {base64.b64encode(value.encode()).decode()}"))
    for header in headers:
        name, separator, source = header.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise model.ConfigurationError("--header: not NAME=SOURCE", "write it as X-Key=env:ACME_KEY")
        pairs.append((name, secret(source, "--header")))
    return tuple(pairs)
