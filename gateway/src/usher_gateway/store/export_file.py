"""The file of `usher export`: a magic line, then frames, the last of which counts the others.

A frame is a length (4 bytes, big-endian), a digest (32 bytes), and a payload of that length. The digest is BLAKE2b-256
over the digest of the frame before (zero bytes at the start), the length, and the payload, so a frame that is changed,
missing or moved shows. The payload is MessagePack, compressed with zlib: an array of a kind and rows. The first frame
has the kind ``start`` and the last one ``end``, each with one row: an object. docs/moving-between-stores.md describes
the rows.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from usher_gateway import model

FORMAT = 1
"""The version of the format. A reader refuses other versions."""

START, END = "start", "end"
"""The kinds of the first and of the last frame."""

_MAGIC = b"usher-export\n"
_HEAD = struct.Struct(">I32s")
_CHUNK_ROWS = 1_000
_CHUNK_BYTES = 4 * 1024 * 1024
_LONGEST_PAYLOAD = 256 * 1024 * 1024
"""A payload is at most a chunk and one row, so a longer one is damage. The limit bounds the memory of a reader."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, list[msgspec.Raw]]).decode


class Start(msgspec.Struct, frozen=True):
    """The row of the first frame."""

    format: int
    key_fingerprint: str
    usher: str
    """The release that wrote the file."""


class End(msgspec.Struct, frozen=True):
    """The row of the last frame."""

    counts: dict[str, int]
    """Kind -> rows."""


class Chunk(msgspec.Struct, frozen=True):
    """A frame that a reader has checked."""

    number: int
    """1 for the first frame after ``start``."""
    digest: str
    """Hex. It covers the file up to here, so equal digests mean equal beginnings."""
    kind: str
    rows: list[bytes]
    """Each row as MessagePack."""


class ExportWriter:
    """Writes the frames of a file."""

    def __init__(self, file: BinaryIO, start: Start) -> None:
        self._file = file
        self._digest = bytes(32)
        self._kind = START
        self._rows: list[bytes] = []
        self._bytes = 0
        self._counts: dict[str, int] = {}
        file.write(_MAGIC)
        self._write(START, [_encode(start)])

    def add(self, kind: str, row: bytes) -> None:
        """Add a row. All rows of a kind come together."""
        if kind != self._kind or len(self._rows) >= _CHUNK_ROWS or self._bytes >= _CHUNK_BYTES:
            self._flush()
            self._kind = kind
        self._rows.append(row)
        self._bytes += len(row)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def end(self) -> None:
        """Write the last frames."""
        self._flush()
        self._write(END, [_encode(End(self._counts))])

    def _flush(self) -> None:
        if self._rows:
            self._write(self._kind, self._rows)
            self._rows = []
            self._bytes = 0

    def _write(self, kind: str, rows: list[bytes]) -> None:
        payload = zlib.compress(_encode((kind, [msgspec.Raw(row) for row in rows])), level=1)
        self._digest = _digest_of(self._digest, payload)
        self._file.write(_HEAD.pack(len(payload), self._digest) + payload)


class ExportReader:
    """Reads and checks the frames of a file.

    Raises:
        ExportFileError: the file is damaged, or not an export; the message names the place.
        InstallKeyError: another install key made the file.
    """

    def __init__(self, file: BinaryIO, name: str, *, key_fingerprint: str) -> None:
        self._file = file
        self._name = name
        self._digest = bytes(32)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise model.ExportFileError(f"{name} is not a file of `usher export`", "Name the file that it wrote.")
        kind, rows = self._read()
        self.start = self._object(kind, START, rows, Start)
        if self.start.format != FORMAT:
            raise model.ExportFileError(
                f"{name} has format {self.start.format}, and this release reads {FORMAT}",
                f"Use the release that wrote it ({self.start.usher}) or a later one.",
            )
        if self.start.key_fingerprint != key_fingerprint:
            raise model.InstallKeyError(
                "another install key made this file", "Use the install.key or USHER_INSTALL_KEY of the exported store."
            )

    def chunks(self) -> Iterator[Chunk]:
        """Yield all frames between the first and the last one, then check the counts of the last one."""
        counts: dict[str, int] = {}
        number = 0
        while True:
            kind, rows = self._read()
            if kind == END:
                break
            number += 1
            counts[kind] = counts.get(kind, 0) + len(rows)
            yield Chunk(number, self._digest.hex(), kind, [bytes(row) for row in rows])
        if self._object(kind, END, rows, End).counts != counts or self._file.read(1):
            raise self._damaged(self._file.tell())

    def _read(self) -> tuple[str, list[msgspec.Raw]]:
        place = self._file.tell()
        head = self._file.read(_HEAD.size)
        length, digest = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, b"")
        if length > _LONGEST_PAYLOAD:
            raise self._damaged(place)
        payload = self._file.read(length)
        if not digest or len(payload) < length:
            raise model.ExportFileError(
                f"{self._name} ends at byte {place + len(head) + len(payload)}, before its end record",
                "Copy or export it again.",
            )
        if _digest_of(self._digest, payload) != digest:
            raise self._damaged(place)
        self._digest = digest
        try:
            plain = zlib.decompressobj().decompress(payload, _LONGEST_PAYLOAD)
            return _decode(plain)
        except (zlib.error, msgspec.DecodeError):
            raise self._damaged(place) from None

    def _object(self, kind: str, expected: str, rows: list[msgspec.Raw], of: type[Any]) -> Any:
        try:
            if kind == expected and len(rows) == 1:
                return msgspec.msgpack.decode(rows[0], type=of)
        except msgspec.DecodeError:
            pass
        raise self._damaged(self._file.tell())

    def _damaged(self, place: int) -> model.ExportFileError:
        return model.ExportFileError(f"{self._name} is damaged at byte {place}", "Copy or export it again.")


def _digest_of(before: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(before + len(payload).to_bytes(4) + payload, digest_size=32).digest()
