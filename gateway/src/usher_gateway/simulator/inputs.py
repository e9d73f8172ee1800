"""Reading what a person typed: durations, addresses, and where credentials are. Never shows a credential."""

import base64
import os
import re
from pathlib import Path

from usher_gateway import model

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
