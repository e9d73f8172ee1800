"""The operator with a clock that is wrong, or with other waits: ``python altered_operator.py CHANGES run …``.

CHANGES is the JSON of `Changes`. What is not changed is the program as it is shipped.
"""

import datetime
import sys
import time

import msgspec

from usher_gateway import model
from usher_operator import cli, programmed, startup
from usher_operator import settings as all_settings


class Changes(msgspec.Struct, frozen=True):
    """What is otherwise than shipped."""

    clock_seconds: float = 0.0
    """By how much the wall clock is fast; the monotonic one is right, as on every machine."""
    timing: dict[str, float] = {}
    """Field of settings.Timing -> seconds."""
    grace_seconds: float | None = None
    """How long `Programmed` waits before it turns False."""


def move_clock(seconds: float) -> None:
    """Everybody who asks for the time gets another one."""
    true_seconds, true_nanoseconds = time.time, time.time_ns

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Moved":
            return super().now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: true_seconds() + seconds
    time.time_ns = lambda: true_nanoseconds() + round(seconds * 1e9)
    datetime.datetime = Moved  # type: ignore[misc]  # for those who look it up when they ask, as the operator does


def change_timing(changed: dict[str, float]) -> None:
    """Operators are made with other waits."""
    given = startup.Operator.__init__

    def make(self: startup.Operator, settings: all_settings.Settings, environ: dict[str, str]) -> None:
        timing = msgspec.structs.replace(settings.timing, **changed)
        given(self, msgspec.structs.replace(settings, timing=timing), environ)

    startup.Operator.__init__ = make  # type: ignore[method-assign]


def main() -> None:
    changes = msgspec.json.decode(sys.argv.pop(1), type=Changes)
    if changes.clock_seconds:
        move_clock(changes.clock_seconds)
    change_timing(changes.timing)
    if changes.grace_seconds is not None:
        programmed.GRACE_MICROSECONDS = round(changes.grace_seconds * model.MICROSECONDS)
    cli.main()


if __name__ == "__main__":
    main()
