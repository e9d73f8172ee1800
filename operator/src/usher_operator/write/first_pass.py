"""Tells gateways when everything that the cluster declared at a leader's start was published once.

An operator publishes documents one by one. A new gateway cannot tell a URL that does not exist from one whose document
is still missing, so it answers 503 at unknown addresses until it reads the mark, and 404 from then on. The mark is a
Secret beside the documents, so that a gateway that restarts while no operator runs reads it too. It says how many
Listeners have a document, so that such a gateway notices if somebody deleted one.

A key that waits or fails, such as one whose namespace's Secrets cannot be read, delays the mark only for a while. While
nothing is published at all, such as with another install key, the mark waits for as long as that lasts.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from usher_gateway.kube.client import ApiError, Client
from usher_operator.plan import children
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.values import Key

_log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 30.0  # The pass counts as complete if no further key was reconciled for this long
_REPEAT_SECONDS = 10.0  # Interval at which the mark is written again, with the present number

_RETRY_SECONDS = 5.0


class FirstPass:
    """Waits until each key was reconciled once, and then writes the mark.

    While ``may_publish`` returns False, no document is published, so the pass does not end. ``is_idle`` returns whether
    no key waits for a worker: who deletes the mark may have deleted the documents too, which come first. ``listeners``
    returns how many Listeners have a document.
    """

    def __init__(
        self,
        *,
        api: Client,
        settings: OperatorSettings,
        may_publish: Callable[[], bool],
        is_idle: Callable[[], bool],
        listeners: Callable[[], int],
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._api, self._may_publish, self._is_idle, self._listeners = api, may_publish, is_idle, listeners
        self._settings, self._patience_seconds = settings, patience_seconds
        self._left: set[Key] = set()
        self._progress = asyncio.Event()

    def begin(self, keys: Iterable[Key]) -> None:
        """Wait for these keys."""
        self._left = {key for key in keys if key.kind in {"Listener", "Destination"}}

    def done(self, key: Key) -> None:
        """Note that a key's children are as planned."""
        if key in self._left:
            self._left.discard(key)
            self._progress.set()

    async def run(self) -> None:
        """Write the mark after the first pass, and again at an interval, until cancelled."""
        await self._wait()
        while True:
            mark = children.build_mark(self._settings, self._listeners())
            try:
                await self._api.apply(kinds.SECRET.path(mark.ref.namespace, mark.ref.name), mark.manifest)
            except ApiError as error:
                _log.warning("first_pass_not_marked", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_REPEAT_SECONDS)
                while not self._is_idle():  # noqa: ASYNC110 - the queue tells nobody when it gets empty
                    await asyncio.sleep(_RETRY_SECONDS)

    async def _wait(self) -> None:
        while self._left:
            self._progress.clear()
            may_end = self._may_publish()  # if not, the keys need time once documents are published again
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience_seconds):
                    await self._progress.wait()
            if may_end and self._may_publish() and not self._progress.is_set():
                _log.warning("first_pass_ended_early", waiting=len(self._left))
                return
        _log.info("first_pass_ended")
