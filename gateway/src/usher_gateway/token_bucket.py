"""A token bucket for rate limits. Pure: the caller passes the time."""

MIN_BURST = 1.0


class TokenBucket:
    """Allows ``rate`` takes per second on average, and up to ``burst`` at once.

    ``now`` is in seconds of a clock that never goes back. If it does go back, the bucket earns nothing until the clock
    has caught up.
    """

    __slots__ = ("_burst", "_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self._burst = max(MIN_BURST, burst)
        self._tokens = self._burst
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token. Returns False if there is none."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def seconds_until_token(self) -> float:
        """Return how long after the last ``take`` the next token is there."""
        return max(0.0, 1.0 - self._tokens) / self.rate
