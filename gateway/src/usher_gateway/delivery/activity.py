"""Records for each destination how its attempts ended: the last error, since when and how often, and the recovery.

The recorder keeps this in memory and saves changes every few seconds, together with listeners' activity. An
attempt therefore writes nothing, and a destination that never fails is saved once. The functions are pure.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from usher_gateway import documents, model
from usher_gateway.delivery.circuit import OPENS_AFTER
from usher_gateway.delivery.outcome import AnswerError, Outcome
from usher_gateway.destinations import SendError
from usher_gateway.store.base import DestinationActivity

# A destination that took deliveries before is failing once it has taken none for this long since its first failure.
# Otherwise the health of one that fails now and then would change every few seconds.
FAILING_AFTER = 30 * model.MICROSECONDS

# Errors that do not pass by themselves, so that one is enough.
_CERTAIN = frozenset((AnswerError.Gone, SendError.AddressForbidden))

# Errors that say something about one visit, so that only a row of them says something about the destination.
_OF_THE_DELIVERY = frozenset((AnswerError.Rejected, AnswerError.RejectedByRule))


def succeeded(activity: DestinationActivity, now: int) -> DestinationActivity:
    """Return the activity after a delivery; the same object if nothing changes."""
    if activity.failures and not activity.recovered_at:
        return msgspec.structs.replace(activity, has_succeeded=True, recovered_at=now)
    return activity if activity.has_succeeded else msgspec.structs.replace(activity, has_succeeded=True)


def failed(activity: DestinationActivity, error: str, status: int, now: int) -> DestinationActivity:
    """Return the activity after an attempt that failed."""
    is_first = not activity.failures or activity.recovered_at > 0
    return msgspec.structs.replace(
        activity,
        error=str(error),
        status=status,
        failed_at=now,
        failing_since=now if is_first else activity.failing_since,
        failures=1 if is_first else activity.failures + 1,
        recovered_at=0,
    )


def is_tried(activity: DestinationActivity) -> bool:
    """Return whether anything was sent."""
    return activity.has_succeeded or activity.failures > 0


def is_failing(activity: DestinationActivity, now: int) -> bool:
    """Return whether the last failures say that the destination does not take deliveries."""
    if not activity.failures or activity.recovered_at:
        return False
    if not activity.has_succeeded or activity.failures >= OPENS_AFTER or activity.error in _CERTAIN:
        return True
    return activity.error not in _OF_THE_DELIVERY and now - activity.failing_since >= FAILING_AFTER


def _is_newer(theirs: DestinationActivity, ours: DestinationActivity) -> bool:
    changed_at = max(ours.failed_at, ours.recovered_at)
    return not is_tried(ours) or max(theirs.failed_at, theirs.recovered_at) > changed_at


class _Entry(msgspec.Struct, frozen=True):
    """A destination's activity at its present URL."""

    url: str
    activity: DestinationActivity


class ActivityRecorder:
    """Records the results of attempts by destination, for its health and its metrics. ``key``: ``Keys.document``."""

    def __init__(self, *, key: bytes) -> None:
        self._key = key
        self._entries: dict[str, _Entry] = {}
        self._saved: dict[str, DestinationActivity] = {}
        """Saved activity for destinations that this gateway has not asked for yet."""
        self._unsaved: set[str] = set()

    def merge(self, saved: Mapping[str, DestinationActivity]) -> None:
        """Continue with what an earlier gateway saved, or another one has saved since.

        Skips forbidden addresses, because this gateway may allow them.
        """
        for key, theirs in saved.items():
            if theirs.error == SendError.AddressForbidden:
                continue
            entry = self._entries.get(key)
            if entry is None:
                self._saved[key] = theirs
            elif entry.activity.url_digest == theirs.url_digest and _is_newer(theirs, entry.activity):
                self._entries[key] = _Entry(entry.url, theirs)

    def of(self, document: documents.DestinationDocument) -> DestinationActivity:
        """Return a destination's activity at its document's URL."""
        entry = self._entries.get(document.key)
        if entry is not None and entry.url == document.url:
            return entry.activity
        digest = documents.url_digest(document.url, self._key)
        saved = self._saved.pop(document.key, None)
        is_same = saved is not None and saved.url_digest == digest
        activity = saved if saved is not None and is_same else DestinationActivity(url_digest=digest)
        self._entries[document.key] = _Entry(document.url, activity)
        return activity

    def note(self, document: documents.DestinationDocument, result: Outcome, status: int, now: int) -> None:
        """Record the result of an attempt that was sent."""
        activity = self.of(document)
        if result.kind is model.SettledAs.Delivered:
            changed = succeeded(activity, now)
        else:
            changed = failed(activity, result.error, status, now)
        if changed is not activity:
            self._entries[document.key] = _Entry(document.url, changed)
            self._unsaved.add(document.key)

    def keep_only(self, destinations: Collection[str]) -> None:
        """Forget destinations that were removed."""
        for key in self._entries.keys() - set(destinations):
            del self._entries[key]

    def take_unsaved(self) -> dict[str, DestinationActivity]:
        """Return the activity that changed since the last call."""
        unsaved, self._unsaved = self._unsaved, set()
        return {key: self._entries[key].activity for key in unsaved if key in self._entries}

    def save_again(self, keys: Iterable[str]) -> None:
        """Return these destinations from `take_unsaved` again, because they could not be saved."""
        self._unsaved.update(keys)
