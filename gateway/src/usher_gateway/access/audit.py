"""The audit log: an entry for every look at a person or a body and for every change, without personal data.

Each entry is in the store, where ``GET /api/audit`` finds it, and in the gateway's log.
"""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal, NamedTuple, get_args

import structlog

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Caller
from usher_gateway.store.base import AuditEntry
from usher_gateway.store.records import Records
from usher_gateway.timing import TokenBucket

_audit_log = structlog.get_logger("usher_gateway.audit")
_log = structlog.get_logger(__name__)

Action = Literal[
    "find person",
    "show body",
    "show answer",
    "show initials",
    "show urls",
    "export person",
    "suppress person",
    "unsuppress person",
    "forward erasure",
    "erase person",
    "cancel erasure",
    "test destination",
    "try",
    "redrive",
    "cancel",
    "retry",
    "replay",
    "cancel replay",
    "resume replay",
    "release",
    "create link",
    "open link",
    "revoke link",
]
ACTIONS: tuple[Action, ...] = get_args(Action)

# What limited tokens for the same tenants may write into the log, because its entries stay for 750 days.
_ENTRIES_PER_SECOND, _ENTRIES_AT_ONCE = 2.0, 1_000

_NAMED_DELIVERIES = 20  # Most deliveries of a change that its entry names


@dataclasses.dataclass
class Changed:
    """Counts a change's rows while it runs."""

    count: int = 0
    """Rows."""
    id: bytes | None = None
    """The erasure or replay id that it started."""
    deliveries: list[bytes] = dataclasses.field(default_factory=list)
    """Changed deliveries' ids; the entry names the first ones."""

    def described(self, selection: Mapping[str, object]) -> Mapping[str, object]:
        """Return a selection with the id, and with the first changed deliveries' ids."""
        ids = {} if self.id is None else {"id": model.format_id(self.id)}
        named = [model.format_id(identifier) for identifier in self.deliveries[:_NAMED_DELIVERIES]]
        return {**selection, **ids, **({"deliveries": named} if named else {})}


class Actor(NamedTuple):
    """A caller, and the place from which its request came."""

    caller: Caller
    peer: str
    """Address from which the request came; ``""`` if it is not known."""


class AuditLog:
    """Records what callers of the admin port see and change.

    Args:
        store: keeps the entries.
        now: microseconds.
    """

    def __init__(self, *, store: Records, now: Callable[[], int]) -> None:
        self._store, self._now = store, now
        self._buckets: dict[str, TokenBucket] = {}  # Tenants of limited tokens -> the entries that they may cause

    async def record_before_answer(
        self, actor: Actor, action: Action, selection: Mapping[str, object], count: int
    ) -> None:
        """Record what a caller is about to see or send. Without the entry, the caller gets no answer.

        Raises:
            StoreUnavailableError: the entry cannot be stored now.
            ProblemError: limited tokens for these tenants cause too many entries.
        """
        self._check_rate(actor.caller)
        await self._store.add_audit_entry(self._entry(actor, action, selection, count))

    @contextlib.asynccontextmanager
    async def change(self, actor: Actor, action: Action, selection: Mapping[str, object]) -> AsyncIterator["Changed"]:
        """Record what the block changes; it sets the count. An error is recorded too: a part may be done.

        The entry then has ``interrupted`` in its selection. One that cannot be stored is in the log alone.

        Raises:
            ProblemError: limited tokens for these tenants cause too many entries. Nothing was changed then.
        """
        self._check_rate(actor.caller)
        changed = Changed()
        try:
            yield changed
        except (ProblemError, model.NotFoundError):  # the request is wrong, so nothing was changed
            raise
        except BaseException:
            interrupted = {**changed.described(selection), "interrupted": True}
            await self._record(self._entry(actor, action, interrupted, changed.count))
            raise
        await self._record(self._entry(actor, action, changed.described(selection), changed.count))

    def _check_rate(self, caller: Caller) -> None:
        if caller.permitted is None or caller.is_link:  # links have limits of their own
            return
        now = time.monotonic()
        bucket = self._buckets.setdefault(caller.tenants, TokenBucket(_ENTRIES_PER_SECOND, _ENTRIES_AT_ONCE, now))
        if not bucket.take(now):
            detail = (
                f"the audit log takes {_ENTRIES_PER_SECOND:g} entries per second of looks and changes with tokens for "
                "the same tenants"
            )
            raise ProblemError(429, "TooManyChanges", detail, "wait a second; a change may select many rows")

    async def _record(self, entry: AuditEntry) -> None:
        try:
            await self._store.add_audit_entry(entry)
        except model.StoreUnavailableError as error:
            _log.error("audit_entry_not_stored", action=entry.action, reason=str(error))

    def _entry(self, actor: Actor, action: Action, selection: Mapping[str, object], count: int) -> AuditEntry:
        """Log an entry, and return it for the store."""
        who, peer = actor.caller.name, actor.peer
        _audit_log.info("audit", who=who, action=action, selection=dict(selection), count=count, peer=peer)
        return AuditEntry(at=self._now(), who=who, action=action, selection=selection, count=count, peer=peer)
