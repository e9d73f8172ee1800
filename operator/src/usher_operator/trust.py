"""Whether what is known may be acted upon: while a reason stands here, nothing is published or removed."""

import asyncio

import structlog

_log = structlog.get_logger(__name__)


class Trust:
    """Reasons to hold still, by topic."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._whole = asyncio.Event()
        self._whole.set()

    def doubt(self, topic: str, reason: str) -> None:
        """Hold still; said once per topic and reason."""
        if self.reasons.get(topic) != reason:
            _log.error("holding_still", topic=topic, reason=reason)
        self.reasons[topic] = reason
        self._whole.clear()

    def restore(self, topic: str) -> None:
        """A reason is gone."""
        if self.reasons.pop(topic, None) is not None:
            _log.info("going_on", topic=topic)
        if not self.reasons:
            self._whole.set()

    async def wait(self) -> None:
        """Until there is no reason left."""
        await self._whole.wait()
