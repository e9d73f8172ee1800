"""How a receiver answers, and for how long. Pure."""

from typing import Literal

import msgspec

EVERY_PATH = "*"
"""The path of a rule that holds wherever no other does."""

Kind = Literal["Answer", "Hang", "Reset", "Drip", "Garbage", "Huge"]
"""``Answer``: HTTP as it should be, with the given status. ``Hang``: no answer until the peer gives up. ``Reset``: the
connection is reset. ``Drip``: the answer comes a byte a second. ``Garbage``: something that is not HTTP.
``Huge``: an answer of 300 MB."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are answered."""

    kind: Kind = "Answer"
    status: int = 200
    delay_seconds: float = 0.0
    retry_after: str = ""
    """Value of Retry-After: seconds or a date."""
    location: str = ""
    """Value of Location, for a redirect."""
    success_header: bool = False
    """Answer ``wifiWebhookListener: 1``, as a listener of Purple does, with every 2xx."""

    def __post_init__(self) -> None:
        """Refuse what no HTTP answer can have."""
        if not 200 <= self.status <= 599:
            raise ValueError("status must be from 200 to 599")
        if self.delay_seconds < 0:
            raise ValueError("delay_seconds must not be negative")
        if not (self.retry_after + self.location).isprintable():
            raise ValueError("retry_after and location must be printable")

    @property
    def takes(self) -> bool:
        """Whether a request that is answered so is taken: the sender need not bring it again."""
        return self.kind in {"Answer", "Huge"} and self.status < 300


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A behaviour from ``begins`` to before ``ends``, in seconds of the receiver's monotonic clock."""

    behaviour: Behaviour
    begins: float
    ends: float


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the control endpoint is told: a behaviour for a path, after some seconds, for some seconds."""

    path: str = EVERY_PATH
    after_seconds: float = 0.0
    for_seconds: float | None = None
    """None: until told otherwise."""
    kind: Kind = "Answer"
    status: int = 200
    delay_seconds: float = 0.0
    retry_after: str = ""
    location: str = ""
    success_header: bool | None = None
    """None: as before."""


class Rules:
    """What holds at which path at which moment: the newest rule for the path, else for every path, else the usual."""

    def __init__(self, usual: Behaviour) -> None:
        self.usual = usual
        self._by_path: dict[str, list[Rule]] = {}

    def add(self, path: str, rule: Rule) -> None:
        """A further rule for a path; it goes before older ones. One that holds at once and for ever replaces them."""
        rules = self._by_path.setdefault(path, [])
        if rule.ends == float("inf"):
            rules[:] = [each for each in rules if each.begins < rule.begins]
        rules.insert(0, rule)
        del rules[16:]

    def at(self, path: str, now: float) -> Behaviour:
        """The behaviour in force."""
        for name in (path, EVERY_PATH):
            for rule in self._by_path.get(name, ()):
                if rule.begins <= now < rule.ends:
                    return rule.behaviour
        return self.usual


def of_command(command: Command, before: Behaviour) -> Behaviour:
    """The behaviour that a command asks for, where ``before`` holds now.

    Raises:
        ValueError: no HTTP answer can be like that.
    """
    if not command.path.startswith("/") and command.path != EVERY_PATH:
        raise ValueError("path must begin with / or be *")
    if command.after_seconds < 0 or (command.for_seconds or 0) < 0:
        raise ValueError("after_seconds and for_seconds must not be negative")
    return Behaviour(
        kind=command.kind,
        status=command.status,
        delay_seconds=command.delay_seconds,
        retry_after=command.retry_after,
        location=command.location,
        success_header=before.success_header if command.success_header is None else command.success_header,
    )
