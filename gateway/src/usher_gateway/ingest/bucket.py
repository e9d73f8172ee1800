"""A token bucket (pure): so many a second, and a second's worth at once."""


class TokenBucket:
    """Allows ``rate`` a second with bursts of the same size; time (seconds, monotonic) comes in."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._tokens = min(float(self._rate), self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
