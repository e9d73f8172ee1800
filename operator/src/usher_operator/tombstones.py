"""How long removals have been said. Pure."""

import datetime

from usher_operator.view import ObjectRef


class Tombstones:
    """Counts each one's time: as old as it says when it is first seen, from then on by a clock that only grows.

    So a wall clock that is set forward ends none too early, and one that is set back keeps none for longer.
    """

    def __init__(self) -> None:
        self.seconds = 600.0
        """Age at which a tombstone may go."""
        self._ends: dict[ObjectRef, tuple[str, float]] = {}
        """What it says, and when by the steady clock its time is over."""

    def left(self, ref: ObjectRef, said_at: str, wall: datetime.datetime, steady: float) -> float:
        """Seconds until it may go; none or less where it may go now.

        Args:
            ref: the config Secret.
            said_at: when the removal was said (RFC 3339); unreadable means long ago.
            wall: the time.
            steady: the same by a clock that only grows, in seconds.
        """
        known = self._ends.get(ref)
        if known is None or known[0] != said_at:
            known = (said_at, steady + self.seconds - max(0.0, _age(said_at, wall)))
            self._ends[ref] = known
        return known[1] - steady

    def forget(self, ref: ObjectRef) -> None:
        """It is gone."""
        self._ends.pop(ref, None)


def _age(said_at: str, wall: datetime.datetime) -> float:
    try:
        said = datetime.datetime.fromisoformat(said_at)
    except ValueError:
        return float("inf")
    return (wall - said).total_seconds()
