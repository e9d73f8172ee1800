"""What Purple makes of an answer, and of a hook that keeps failing. Pure.

Source: purple.md, The webhook: only 200 with ``wifiWebhookListener: 1`` within 10 s is success.
"""

import enum

import msgspec

SUCCESS_HEADER = "wifiWebhookListener"
"""The header that a listener has to answer with."""

SUCCESS_VALUE = "1"
"""Its value."""

LIMIT_SECONDS = 10.0
"""How long Purple waits for an answer, counted from connecting."""

RETRY_SECONDS = 10_800.0
"""How long after a failure Purple sends again: 3 h."""

DISABLE_SECONDS = 259_200.0
"""After how long a time of nothing but failures the hook is disabled. Purple says "prolonged": 72 h is our guess."""

_COME_BACK_LATER = (408, 425, 429)


class Outcome(enum.Enum):
    """How a request ended, from the sender's side."""

    Acknowledged = "acknowledged"
    WrongStatus = "wrong status"
    HeaderMissing = "header missing"
    HeaderWrong = "header wrong"
    TimedOut = "timed out"
    Unreachable = "unreachable"
    TLSFailed = "TLS failed"
    Broken = "connection broken"
    HungUp = "hung up"
    """The sender itself went away: the plan said so."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The end of a request. ``seconds`` counts from connecting; ``status`` is 0 where there was no answer."""

    outcome: Outcome
    status: int = 0
    seconds: float = 0.0

    @property
    def is_wrong(self) -> bool:
        """Whether a listener that answers so would never satisfy Purple, however often it tries."""
        if self.outcome is Outcome.WrongStatus:
            return self.status < 500 and self.status not in _COME_BACK_LATER
        return self.outcome in {Outcome.HeaderMissing, Outcome.HeaderWrong, Outcome.TLSFailed}


def judge(status: int, header: str | None) -> Outcome:
    """What Purple makes of a complete answer with this status and this value of the header."""
    if status != 200:
        return Outcome.WrongStatus
    if header is None:
        return Outcome.HeaderMissing
    return Outcome.Acknowledged if header.strip() == SUCCESS_VALUE else Outcome.HeaderWrong


class Hook:
    """Whether Purple still posts to a listener: it stops after a prolonged time of nothing but failures."""

    def __init__(self, disable_seconds: float = DISABLE_SECONDS) -> None:
        self._disable_seconds = disable_seconds
        self._failing_since: float | None = None
        self.disabled = False

    def succeeded(self) -> None:
        """An answer was right: whatever failed before is forgiven."""
        self._failing_since = None

    def failed(self, now: float) -> bool:
        """An answer was wrong or missing at ``now`` (simulated seconds). True if this just disabled the hook."""
        if self._failing_since is None:
            self._failing_since = now
        just_disabled = not self.disabled and now - self._failing_since >= self._disable_seconds
        self.disabled = self.disabled or just_disabled
        return just_disabled
