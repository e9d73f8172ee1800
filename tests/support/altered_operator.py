"""The operator with other waiting times and limits: ``python altered_operator.py CHANGES run …``.

CHANGES is the JSON of `Changes`. Everything else is the program as shipped.
"""

import sys

import msgspec

from usher_gateway import model
from usher_operator import cli
from usher_operator.app import Operator
from usher_operator.plan import reports
from usher_operator.settings import OperatorSettings


class Changes(msgspec.Struct, frozen=True):
    """The differences from the shipped program."""

    timing: dict[str, float] = {}
    """Field of settings.OperatorTiming -> seconds."""
    grace_seconds: float | None = None
    """Seconds until `Programmed` becomes False."""


def change_timing(changed: dict[str, float]) -> None:
    """Make every new operator use other waiting times."""
    given = Operator.__init__

    def make(self: Operator, settings: OperatorSettings, environ: dict[str, str]) -> None:
        timing = msgspec.structs.replace(settings.timing, **changed)
        given(self, msgspec.structs.replace(settings, timing=timing), environ)

    Operator.__init__ = make  # type: ignore[method-assign]


def main() -> None:
    changes = msgspec.json.decode(sys.argv.pop(1), type=Changes)
    change_timing(changes.timing)
    if changes.grace_seconds is not None:
        reports.GRACE_MICROSECONDS = round(changes.grace_seconds * model.MICROSECONDS)
    cli.main()


if __name__ == "__main__":
    main()
