"""What an API server sends: pages of a list, and the lines of a watch. Pure: bytes in, values out.

Source: Kubernetes API concepts, Retrieving large results sets in chunks, and Efficient detection of changes.
"""

from typing import Literal

import msgspec

from usher_gateway import config_secret, model
from usher_gateway.config import published

MAX_LINE_BYTES = 4 * 1024 * 1024
"""Longest line of a watch: one Secret, of at most 1 MiB in base64, with its metadata."""


class FeedError(model.UsherError):
    """What came is not what an API server sends."""


class ExpiredError(model.UsherError):
    """The version to go on from is too old (410): all must be listed anew."""


class AnswerError(model.UsherError):
    """The API server refuses or fails for now."""

    def __init__(self, status: int, retry_after_seconds: float = 0.0, hint: str = "") -> None:
        super().__init__(f"the API server answered {status}", hint)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Page(msgspec.Struct, frozen=True):
    """One page of a list."""

    secrets: list[published.Secret]
    version: str
    """resourceVersion of the list: what a watch goes on from."""
    more: str
    """Token of the next page; ``""`` after the last one."""


class Event(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: Literal["Put", "Gone", "Bookmark"]
    secret: published.Secret


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata
    data: dict[str, str] | None = None


class _ListMetadata(msgspec.Struct, frozen=True, rename={"version": "resourceVersion", "more": "continue"}):
    version: str
    more: str = ""


class _List(msgspec.Struct, frozen=True):
    kind: Literal["SecretList"]
    metadata: _ListMetadata
    items: list[_Object] | None = None


class _Line(msgspec.Struct, frozen=True):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True):
    code: int = 0


_decode_list = msgspec.json.Decoder(_List).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_status = msgspec.json.Decoder(_Status).decode


class Lines:
    """Cuts a stream into lines, however it comes in pieces."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends; empty ones are left out.

        Raises:
            FeedError: a line is too long.
        """
        first, *rest = piece.split(b"\n")
        self._parts.append(first)
        self._length += len(first)
        if self._length > self._max_line_bytes:
            raise FeedError(f"a line of the watch has more than {self._max_line_bytes} bytes")
        if not rest:
            return []
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts, self._length = [rest[-1]], len(rest[-1])
        return [line for line in lines if line.strip()]


def read_page(content: bytes) -> Page:
    """One page of a list.

    Raises:
        FeedError: it is none.
    """
    try:
        found = _decode_list(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FeedError(f"a list of Secrets cannot be read: {type(error).__name__}") from None
    if not found.metadata.version:
        raise FeedError("a list of Secrets has no version")
    return Page([_secret(item) for item in found.items or ()], found.metadata.version, found.metadata.more)


def read_event(line: bytes) -> Event:
    """One line of a watch.

    Raises:
        ExpiredError: the server cannot go on from this version.
        AnswerError: the server ends the watch for another reason.
        FeedError: it is no event.
    """
    try:
        found = _decode_line(line)
        if found.type == "ERROR":
            code = _decode_status(found.object).code
            raise ExpiredError("the watch is too old") if code == 410 else AnswerError(code)
        secret = _secret(_decode_object(found.object))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FeedError(f"a line of the watch cannot be read: {type(error).__name__}") from None
    if not secret.version or (not secret.name and found.type != "BOOKMARK"):
        raise FeedError("an event of the watch has no name or version")
    if found.type == "BOOKMARK":
        return Event("Bookmark", secret)
    return Event("Gone" if found.type == "DELETED" else "Put", secret)


def _secret(item: _Object) -> published.Secret:
    metadata = item.metadata
    owner = metadata.annotations.get(config_secret.OWNER_ANNOTATION, "")
    return published.Secret(metadata.name, metadata.resource_version, owner, item.data)
