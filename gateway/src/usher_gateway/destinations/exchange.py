"""What goes to a destination and what comes back: the values that renderers, senders and outcomes share."""

import enum
from collections.abc import Mapping

import msgspec

MAX_ANSWER_BYTES = 1024
"""How much of an answer's body is read; the connection is closed on a destination that sends more."""


class SendError(enum.StrEnum):
    """Why an attempt has no answer. Codes only: a peer's words never get into logs, metrics or the store."""

    Timeout = "Timeout"
    """No complete head of an answer within the destination's time limit."""
    NameNotResolved = "NameNotResolved"
    AddressForbidden = "AddressForbidden"
    ConnectError = "ConnectError"
    """Refused, unreachable, or no connection within the time limit."""
    TLSError = "TLSError"
    """The handshake failed: certificate not valid for the host, or no protocol in common (TLS 1.2 or later)."""
    Reset = "Reset"
    """The connection ended before the head of an answer was complete."""
    BadAnswer = "BadAnswer"
    """What came back is no HTTP/1.x answer, or its head is over the limits."""
    BadRequest = "BadRequest"
    """The URL or a header cannot be sent: nothing was sent."""


class Request(msgspec.Struct):
    """One HTTP request to a destination. The sender adds ``host``, ``content-length`` and nothing else."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Answer(msgspec.Struct):
    """What a destination answered; or, where ``error`` is set, that it did not (``status`` is 0 then)."""

    status: int = 0
    headers: Mapping[str, str] = {}
    """Names compared without case."""
    body: bytes = b""
    """The first ``MAX_ANSWER_BYTES`` at most, as sent (never decompressed)."""
    error: SendError | None = None
