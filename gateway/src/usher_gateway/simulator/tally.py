"""What a receiver counts, per path."""

import msgspec

from usher_gateway.simulator import verify

MAX_PATHS = 1_000
"""Further paths are counted together, so that a stray sender cannot fill the memory."""

OTHER_PATHS = "(other paths)"
"""Under which name."""


class Counts(msgspec.Struct, kw_only=True):
    """The counts of one path. ``received`` is requests; ``taken`` is those answered with 2xx."""

    received: int = 0
    taken: int = 0
    distinct: int = 0
    """Different ``webhook-id`` among what was taken: deliveries."""
    duplicates: int = 0
    """What was taken although its ``webhook-id`` had been taken before."""
    without_id: int = 0
    """Requests without ``webhook-id``: not from Usher, or not by the standard."""
    signatures_good: int = 0
    signatures_missing: int = 0
    signatures_bad: int = 0
    signatures_stale: int = 0
    bytes_received: int = 0
    last_seen: int = 0
    """Microseconds; 0 means never."""

    @property
    def signatures_wrong(self) -> int:
        """Requests whose signature could not be trusted."""
        return self.signatures_missing + self.signatures_bad + self.signatures_stale


class Tally:
    """The counts and ids of every path. Not thread-safe."""

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}
        self._received: dict[str, dict[str, int]] = {}
        self._taken: dict[str, dict[str, int]] = {}

    def name_of(self, path: str) -> str:
        """Under which name a path is counted."""
        return path if path in self.counts or len(self.counts) < MAX_PATHS else OTHER_PATHS

    def receive(self, path: str, identifier: str, size: int, now: int) -> Counts:
        """Count a request that came in whole; ``identifier``: its ``webhook-id``, or ``""``."""
        name = self.name_of(path)
        counts = self.counts.setdefault(name, Counts())
        counts.received += 1
        counts.bytes_received += size
        counts.last_seen = now
        if identifier:
            _add(self._received, name, identifier)
        else:
            counts.without_id += 1
        return counts

    def take(self, path: str, identifier: str) -> None:
        """Count that a received request is being answered with 2xx."""
        name = self.name_of(path)
        counts = self.counts[name]
        counts.taken += 1
        if not identifier:
            return
        if _add(self._taken, name, identifier) == 1:
            counts.distinct += 1
        else:
            counts.duplicates += 1

    def received_ids(self, path: str) -> dict[str, int]:
        """How often each ``webhook-id`` was received."""
        return dict(self._received.get(self.name_of(path), {}))

    def taken_ids(self, path: str) -> dict[str, int]:
        """How often each ``webhook-id`` was taken."""
        return dict(self._taken.get(self.name_of(path), {}))


def note_signature(counts: Counts, signature: verify.Signature) -> None:
    """Count what verify() said."""
    match signature:
        case verify.Signature.Good:
            counts.signatures_good += 1
        case verify.Signature.Missing:
            counts.signatures_missing += 1
        case verify.Signature.Bad:
            counts.signatures_bad += 1
        case verify.Signature.Stale:
            counts.signatures_stale += 1


def _add(ids: dict[str, dict[str, int]], name: str, identifier: str) -> int:
    of_path = ids.setdefault(name, {})
    times = of_path[identifier] = of_path.get(identifier, 0) + 1
    return times
