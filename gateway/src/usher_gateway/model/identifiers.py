"""The names of listeners, and the ids of arrivals and deliveries.

An id is a UUIDv7 that the gateway makes. Its first 63 significant bits are also the key that orders rows.

Source: RFC 9562 §5.7 (UUIDv7) and §6.2 method 1 (a dedicated counter in the bits after the timestamp).
"""

import os
import struct
import time
import uuid
from collections.abc import Callable

import msgspec

_COUNTER_BITS = 15
_RANDOM_BITS = 59


class ListenerName(msgspec.Struct, frozen=True, order=True):
    """A listener's full name with its tenant: the key for all meters.

    ``namespace`` is the isolation boundary (agency or company); ``tenant`` and ``listener`` are names inside it.
    """

    namespace: str
    tenant: str
    listener: str

    @property
    def key(self) -> str:
        """``namespace/listener``: a listener's name is unique inside a namespace."""
        return f"{self.namespace}/{self.listener}"

    @property
    def tenant_key(self) -> str:
        """``namespace/tenant``."""
        return f"{self.namespace}/{self.tenant}"


class IdFactory:
    """Makes ids that always grow, even if the clock is set back or the process restarts.

    ``next_key`` returns a row key (63-bit int: 48 bits of Unix milliseconds, 15 bits of counter); ``id_of`` returns the
    UUIDv7 (16 bytes) that contains it. Not thread-safe.
    """

    def __init__(
        self, now_ms: Callable[[], int] | None = None, floor: int = 0, *, slot: int = 0, slots: int = 1
    ) -> None:
        """Start above ``floor``, the highest row key in use.

        If several factories share the keys, each gets its own number among ``slots``: its keys' remainder.
        """
        self._now_ms = now_ms or _unix_milliseconds
        self._slot, self._slots = slot, slots
        self._last = floor - floor % slots + slot
        self._low = 1 << 63 | int.from_bytes(os.urandom(8)) >> (64 - _RANDOM_BITS)
        """The second half of every id except the counter's last three bits: variant and random bits."""

    def next_key(self) -> int:
        """Return the next row key: above every earlier one, and close to the current millisecond."""
        candidate = (self._now_ms() << _COUNTER_BITS) + self._slot
        self._last = candidate if candidate > self._last else self._last + self._slots
        return self._last

    def next_keys(self, count: int) -> range:
        """Return the next ``count`` keys and read the clock once."""
        first = self.next_key()
        self._last = first + max(count - 1, 0) * self._slots
        return range(first, first + count * self._slots, self._slots)

    def id_of(self, key: int) -> bytes:
        """Return the UUIDv7 (16 bytes) for a row key that this factory made."""
        high = (key >> _COUNTER_BITS) << 16 | 0x7000 | (key >> 3 & 0xFFF)
        return _HALVES.pack(high, self._low | (key & 7) << _RANDOM_BITS)


_HALVES = struct.Struct(">QQ")


def _unix_milliseconds() -> int:
    return time.time_ns() // 1_000_000


def key_of(identifier: bytes) -> int:
    """Return the row key inside a UUIDv7 (16 bytes) made by an IdFactory."""
    number = int.from_bytes(identifier)
    milliseconds = number >> 80
    counter = ((number >> 64) & 0xFFF) << 3 | ((number >> _RANDOM_BITS) & 0b111)
    return milliseconds << _COUNTER_BITS | counter


def instant_of(key: int) -> int:
    """Return when a row key was made, in microseconds."""
    return (key >> _COUNTER_BITS) * 1_000


def key_before(key: int, microseconds: int) -> int:
    """Return a row key as it was made that long before another one."""
    return max(0, key - (microseconds // 1_000 << _COUNTER_BITS))


def format_id(identifier: bytes) -> str:
    """Return an id (16 bytes) as text in the usual form with dashes."""
    digits = identifier.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_id(text: str) -> bytes:
    """Return the 16 bytes for an id given as text.

    Raises:
        ValueError: ``text`` is not a UUID.
    """
    return uuid.UUID(text).bytes
