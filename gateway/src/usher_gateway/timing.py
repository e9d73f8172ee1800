"""The gateway's clock for windows, schedules, expiry and days, token buckets, and event loop turns.

Time limits for I/O use the event loop's own clock and are never scaled.
"""

import asyncio
import time

import structlog

from usher_gateway import model

_log = structlog.get_logger(__name__)

MIN_BURST = 1.0

JUMP = 60 * model.MICROSECONDS  # The wall clock jumped ahead if it gained more than this against the steady clock

# At a start, the wall clock jumped ahead if it is more than this after the last time in the store.
LONGEST_STOP = model.HOUR

# A wall clock that jumped ahead is accepted after it ran for this long without another jump.
STEADY = model.HOUR

_TURN_SECONDS = 0.002

_HINT = (
    "retention and expiry wait until the clock is set back, or for an hour; if it is right, start with --accept-clock"
)


def _since_boot_ns() -> int:
    """Return nanoseconds by a clock that never goes back and, where the system has one, counts a suspend too."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Clock:
    """The wall clock in microseconds, or (for development) a clock that runs ``scale`` times as fast from its start.

    Steps that cannot be undone (retention, expiry) use confirmed(): it does not follow a wall clock that jumps ahead,
    because a clock that is wrong by years for seconds would end everything.
    """

    def __init__(self, scale: float = 1.0, start: int | None = None) -> None:
        """Start a scaled clock at ``start`` (microseconds), such as another process's current time; default: now."""
        self.scale = scale
        self._start = time.time_ns() // 1000 if start is None else start
        self._since_boot = _since_boot_ns()
        self._confirmed_offset = self._offset()
        """The wall clock minus the steady clock, when the wall clock was last known to be right."""
        self._jumped_offset: int | None = None  # The same since the wall clock jumped ahead; None: it did not
        self._jumped_at = 0  # Steady time of the jump

    def now(self) -> int:
        """Return the current instant (microseconds since the epoch, UTC)."""
        return time.time_ns() // 1000 if self.scale == 1.0 else self.since_start()

    def since_start(self) -> int:
        """Return the start instant plus the steady time since, which no jump of the wall clock changes."""
        elapsed = (_since_boot_ns() - self._since_boot) // 1000
        return self._start + int(elapsed * self.scale)

    def steady(self) -> int:
        """Return microseconds by a clock that never goes back and runs as fast as now(): for circuits and rates."""
        return int(_since_boot_ns() // 1000 * self.scale)

    def real_seconds(self, microseconds: int) -> float:
        """Return the real seconds in which this clock advances by ``microseconds``."""
        return microseconds / model.MICROSECONDS / self.scale

    def start_from(self, stored: int, *, accept: bool) -> None:
        """Compare the clock with the last confirmed time in the store (0: none), unless it is accepted as it is."""
        if stored and not accept and self.now() - stored > LONGEST_STOP:
            self._confirmed_offset = stored - self.steady()
            self.confirmed()

    def confirmed(self) -> int:
        """Return the time up to which retention and expiry may act: now(), or earlier while a jump is unconfirmed."""
        steady, offset = self.steady(), self._offset()
        if offset <= self._confirmed_offset + JUMP:
            if self._jumped_offset is not None:
                _log.info("clock_corrected")
            self._confirm(offset)
        elif self._jumped_offset is None or abs(offset - self._jumped_offset) > JUMP:
            self._jumped_offset, self._jumped_at = offset, steady
            _log.warning("clock_jumped", seconds=self.jump() // model.MICROSECONDS, hint=_HINT)
        elif steady - self._jumped_at >= STEADY:
            _log.warning("clock_jump_accepted", seconds=self.jump() // model.MICROSECONDS)
            self._confirm(offset)
        return steady + self._confirmed_offset

    def jump(self) -> int:
        """Return by how much the clock jumped ahead, as of the last confirmed(); 0: the clock is confirmed."""
        return 0 if self._jumped_offset is None else self._jumped_offset - self._confirmed_offset

    def _confirm(self, offset: int) -> None:
        self._confirmed_offset, self._jumped_offset = offset, None

    def _offset(self) -> int:
        return self.now() - self.steady()


class TokenBucket:
    """Allows ``rate`` takes per second on average, and up to ``burst`` at once. It starts full, or with ``tokens``.

    ``now`` is in seconds by a clock that never goes back. If it does go back, the bucket earns nothing until the clock
    has caught up.
    """

    __slots__ = ("_burst", "_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, burst: float, now: float, tokens: float | None = None) -> None:
        self.rate = rate
        self._burst = max(MIN_BURST, burst)
        self._tokens = self._burst if tokens is None else min(self._burst, tokens)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token. Returns False if there is none."""
        if self.tokens(now) < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def tokens(self, now: float) -> float:
        """Return how many tokens there are."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self.rate)
        self._filled_at = now
        return self._tokens

    def seconds_until_token(self) -> float:
        """Return how long after the last ``take`` the next token is there."""
        return max(0.0, 1.0 - self._tokens) / self.rate


class EventLoopTurns:
    """Divides long work on the event loop into turns of about 2 ms, so that arrivals need not wait for all of it."""

    def __init__(self) -> None:
        self.used_seconds = 0.0  # CPU time of the turns that have ended
        self._started = time.thread_time()

    async def give_way(self) -> None:
        """End the turn if it has taken its time: everything else that is ready runs before the next one."""
        if time.thread_time() - self._started >= _TURN_SECONDS:
            self.used_seconds += time.thread_time() - self._started
            await asyncio.sleep(0)
            self._started = time.thread_time()
