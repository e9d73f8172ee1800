"""The settings of a simulation, and the parsers for what a user types. They never print a credential."""

import base64
import os
import re
import ssl
from pathlib import Path
from typing import Literal

import msgspec

from usher_gateway import model
from usher_gateway.simulator import bodies, books, schedule


class SimulatorTarget(msgspec.Struct, frozen=True, kw_only=True):
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

    targets: tuple[SimulatorTarget, ...]
    pattern: schedule.Pattern = schedule.Pattern()
    time_scale: float = 1.0
    connect: tuple[str, int] | None = None
    """Connect to this host and port whatever the URLs say."""
    tls: Literal["Verify", "Insecure"] = "Verify"
    ca: str = ""
    """File with the certificate authority that signed the listener's certificate; empty: the system's."""
    concurrency: int = 256
    """Requests under way at the same time, for each listener."""
    limit_seconds: float = books.LIMIT_SECONDS
    retry_seconds: float = books.RETRY_SECONDS
    """Simulated."""
    disable_seconds: float = books.DISABLE_SECONDS
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


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECRET_HINT = "give env:NAME for an environment variable, or file:PATH for a file that holds the value"  # noqa: S105


def seconds(text: str, flag: str) -> float:
    """A duration such as ``90``, ``30m`` or ``24h`` in seconds.

    Raises:
        ConfigurationError: it is none, or it is nothing.
    """
    match = _DURATION.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise model.ConfigurationError(f"{flag}: not a duration: {text!r}", "write it as 90, 30m or 24h")
    return value


def host_and_port(text: str, flag: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT``, or ``:PORT`` for every address of this machine.

    Raises:
        ConfigurationError: it is no such thing.
    """
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = (
        separator and port.isascii() and port.isdigit() and int(port) <= 65_535 and (bare != host or ":" not in host)
    )
    if not valid:
        raise model.ConfigurationError(f"{flag}: not HOST:PORT: {text!r}", "write it as 127.0.0.1:8443 or [::1]:8443")
    return bare, int(port)


def secret(source: str, flag: str) -> str:
    """The credential that ``env:NAME`` or ``file:PATH`` holds, without the line's end.

    Raises:
        ConfigurationError: it is not there; the message names the flag, never the text given, which may be a secret.
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
    """The headers that prove the sender; ``basic``: a source of ``user:password``, ``headers``: ``NAME=SOURCE``.

    Raises:
        ConfigurationError: a source is not there, or a name is no header's.
    """
    found = []
    if basic:
        value = secret(basic, "--basic")
        found.append(("Authorization", f"Basic {base64.b64encode(value.encode()).decode()}"))
    for each in headers:
        name, separator, source = each.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise model.ConfigurationError("--header: not NAME=SOURCE", "write it as X-Key=env:ACME_KEY")
        found.append((name, secret(source, "--header")))
    return tuple(found)
