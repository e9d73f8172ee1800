"""The client for destinations, and the values that it takes and returns.

HTTP is the only destination type so far, so these values are HTTP's. Another type's client translates them, for
example into a status. ARCHITECTURE.md lists the files for a new type.
"""

import enum
from collections.abc import Callable, Mapping

import msgspec

from usher_gateway import documents

MAX_ANSWER_BYTES = 1024  # How many bytes of an answer's body a client reads


MAX_JUDGED_BYTES = 64 * 1024  # How many bytes a client reads if the body decides what the answer means


class SendError(enum.StrEnum):
    """Why an attempt got no answer. Codes only: a peer's own words never get into logs, metrics or the store."""

    Timeout = "Timeout"
    """The destination sent no complete response head within its time limit, or did not finish the TLS handshake."""
    NameNotResolved = "NameNotResolved"
    AddressForbidden = "AddressForbidden"
    ConnectError = "ConnectError"
    """The connection was refused, the address was unreachable, or there was no connection within the time limit."""
    TLSAuthorityUnknown = "TLSAuthorityUnknown"
    """The certificate is from an authority that is not trusted, or the peer does not send its whole chain."""
    TLSNameMismatch = "TLSNameMismatch"
    """The certificate is valid, but for another name."""
    TLSDateInvalid = "TLSDateInvalid"
    """The certificate has ended, or is not valid yet."""
    TLSError = "TLSError"
    """The TLS handshake failed for another reason, such as a peer without TLS 1.2 or one that takes too long."""
    Reset = "Reset"
    """The connection ended before the response head was complete."""
    BadAnswer = "BadAnswer"
    """The peer sent something that is not HTTP/1.x, or a response head over the limits."""
    TokenRefused = "TokenRefused"
    """The token endpoint issued no token that can be used."""
    TokenUnavailable = "TokenUnavailable"
    """The token endpoint did not answer, or is overloaded."""
    TokenKeyInvalid = "TokenKeyInvalid"
    """The private key for the token endpoint cannot be used."""
    BadRequest = "BadRequest"
    """The URL or a header cannot be sent. The client sent nothing."""


# Error -> the setting that is likely to correct it.
HINTS: Mapping[str, str] = {
    SendError.AddressForbidden: "if it may be reached, --allow-destination (in the chart: gateway.allowDestinations) "
    "must name the address",
    SendError.TLSAuthorityUnknown: "http.tls.authoritySecretRef of the Destination can name its authority",
    SendError.TLSNameMismatch: "http.tls.serverName of the Destination can give the name in the certificate",
}


class DestinationRequest(msgspec.Struct):
    """One HTTP request to a destination. The client adds ``Host``, ``Content-Length`` and nothing else."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    is_url_secret: bool = False
    """True: the URL has personal data or a credential, so the client keeps no trace of it."""
    reads_answer: bool = False
    """True: the outcome depends on the answer's body, so the client reads up to ``MAX_JUDGED_BYTES`` of it."""
    tls: documents.Tls | None = None
    destination: str = ""
    """``namespace/name``. The request uses no other destination's connection, and resolves the URL's host in its
    namespace's share."""
    tenant: str = ""
    """Whose visit is sent; the tenants of a namespace share its handshakes."""
    charge: Callable[[float], None] | None = None
    """Called with the CPU seconds that the handshake and the answer took beyond those for an ordinary answer."""
    may_send: Callable[[], bool] | None = None
    """Asked right before the request is written. False: the client sends nothing, and the answer is withdrawn."""


class DestinationAnswer(msgspec.Struct):
    """A destination's answer. If it did not answer, ``error`` is set and ``status`` is 0."""

    status: int = 0
    headers: Mapping[str, str] = {}
    """Header names compare without case."""
    body: bytes = b""
    """The first ``MAX_ANSWER_BYTES``, or ``MAX_JUDGED_BYTES``, as sent (never decompressed)."""
    error: SendError | None = None
    is_complete: bool = True
    """False if the body was longer, or its end is missing."""
    is_withdrawn: bool = False
    """True: no request was written, because ``DestinationRequest.may_send`` did not allow it any more."""
