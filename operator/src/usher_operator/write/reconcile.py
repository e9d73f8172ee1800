"""Takes keys from the queue: plan, look up what the plan does not know, write children and status."""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

import structlog

from usher_gateway.expressions.turns import checking_turns
from usher_gateway.kube.client import ApiError, Client
from usher_gateway.resources import types
from usher_operator.plan import plan_and_note
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, Plan, WriteFailure
from usher_operator.write.child_writer import NAME_TAKEN, ChildRemover, ChildWriter
from usher_operator.write.removals import RemovalGuard
from usher_operator.write.status_writer import StatusWriter

_log = structlog.get_logger(__name__)

# Interval between lookups of missing Secrets, because the watch reports no Secret without the label.
_LOOKUP_INTERVAL_SECONDS = 5.0

_LOOKUPS_PER_NAMESPACE = 10  # Most missing Secrets of a namespace that are looked up before those of others come again
_LOOKUP_PAUSE_SECONDS = 0.05  # Pause between two lookups: it limits the requests, however many Secrets are missing

# API server answers that a repetition does not change: no permission, a quota, a policy, an invalid object.
_REFUSALS = frozenset({400, 403, 413, 422})

_CONCURRENT_LOOKUPS = 4  # Secrets that are looked up at the same time, because each may have 1 MiB
_MAX_LOOKUPS = 3  # How often a plan may ask for Secrets before its status is written without them


class Reconciler:
    """Makes the cluster match the queued keys' plans.

    Args:
        read_secrets: called with the namespace whose Secrets a plan needs first.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        children: ChildWriter,
        removal_guard: RemovalGuard,
        remover: ChildRemover,
        statuses: StatusWriter,
        metrics: OperatorMetrics,
        read_secrets: Callable[[str], None],
    ) -> None:
        self._api, self._cache, self._queue, self._gate = api, cache, queue, gate
        self._lookups = asyncio.Semaphore(_CONCURRENT_LOOKUPS)
        self._children, self._remover, self._statuses, self._metrics = children, remover, statuses, metrics
        self._removal_guard, self._read_secrets, self._turns = removal_guard, read_secrets, checking_turns()

    async def work(self) -> None:
        """Reconcile one key after the other, until cancelled. Takes no key while the gate is closed."""
        while True:
            await self._gate.wait()
            key = await self._queue.get()
            try:
                if self._gate.reasons:  # the gate closed while this worker waited for a key
                    self._queue.add(key)
                else:
                    await self._try(key)
                    await asyncio.sleep(self._children.take_pause(key))
            finally:
                self._queue.done(key)
            await asyncio.sleep(0)  # a key that needs no I/O must not block the event loop

    async def _try(self, key: Key) -> None:
        begun = time.perf_counter()
        result = "error"
        try:
            await self.reconcile(key)
            self._queue.succeeded(key)
            result = "success"
        except ApiError as error:
            delay = self._queue.retry(key)
            _log.warning("reconcile_failed", kind=key.kind, key=key.path, error=str(error), retry_in=round(delay, 1))
        except Exception as error:  # noqa: BLE001 - one key must not end the worker
            delay = self._queue.retry(key)
            _log.exception("reconcile_failed", kind=key.kind, key=key.path, exc_info=error, retry_in=round(delay, 1))
        finally:
            self._metrics.reconciles.labels(key.kind, result).inc()
            self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - begun)

    async def reconcile(self, key: Key) -> None:
        """Make the cluster match a key's plan.

        Raises:
            ApiError: a part failed; the other parts were written.
        """
        seconds = await self._check_expressions(key)
        if seconds:
            self._queue.add_after(key, seconds)
            return
        planned = await self._plan(key)
        if self._removal_guard.review_retirement(planned):
            planned = await self._plan(key)
        if planned.unread_namespace:
            self._read_secrets(planned.unread_namespace)  # the key is planned again once they were read
            return
        # no await between the plan and the grant, because another worker may plan for the same hostname
        self._queue.add_all(self._cache.grant(key, planned.granted))
        self._cache.set_behind(key, is_behind=planned.is_behind)
        self._remover.withdraw(planned)
        try:
            failures = await self._children.apply(planned)
        finally:
            self._queue.add_all(self._cache.end_grant(key))
        failures += await self._remover.remove(planned)
        await self._statuses.write(self._with_failure(planned, failures))
        if planned.again_at is not None:
            self._queue.add_after(key, max(0.05, (planned.again_at - self._cache.now) / 1e6))
        if failures:
            raise failures[0]

    async def _check_expressions(self, key: Key) -> float:
        """Check a resource's expressions; returns the seconds to wait if its namespace has to wait."""
        declared: list[types.DeclaredExpression] = []
        if key.kind == "Listener" and (listener := self._cache.listener(key.path)):
            declared = listener.resource.expressions
        elif key.kind == "Destination" and (destination := self._cache.destination(key.path)):
            declared = destination.resource.expressions
        sources = ((source, where) for _, source, where in declared)
        return await self._turns.take(key.namespace, sources)

    def _with_failure(self, planned: Plan, failures: list[ApiError]) -> Plan:
        """Note whether a plan's children could be written; returns a plan whose status says so."""
        failure = None
        if failures:
            failure = WriteFailure(str(failures[0]), "Forbidden" if failures[0].status in _REFUSALS else None)
            if failures[0].reason == NAME_TAKEN:
                failure = WriteFailure(str(failures[0]), "NameTaken")
        elif conflict := self._children.conflict_of(planned):
            failure = WriteFailure(conflict, "Contested")
        changed = self._cache.set_write_failure(planned.key, failure)
        self._queue.add_all(changed - {planned.key})
        return plan_and_note(self._cache, planned.key) if planned.key in changed else planned

    async def _plan(self, key: Key) -> Plan:
        """Plan a key, and look up the Secrets that the plan asks for."""
        planned = plan_and_note(self._cache, key)
        for _ in range(_MAX_LOOKUPS):
            if not planned.unknown_secrets:
                break
            for path in planned.unknown_secrets:  # one at a time, so that those of other namespaces need not wait
                await self._look_up(path, key)
            planned = plan_and_note(self._cache, key)
        return planned

    async def look_up_missing_secrets(self) -> None:
        """Look up some missing Secrets in each namespace at an interval, until cancelled.

        One namespace's many Secrets do not delay another's.
        """
        while True:
            await asyncio.sleep(_LOOKUP_INTERVAL_SECONDS)
            for path in self._cache.secrets.missing(_LOOKUPS_PER_NAMESPACE):
                await self._gate.wait()
                try:
                    await self._look_up(path)
                except ApiError as error:
                    _log.warning("secret_lookup_failed", key=path, error=str(error))
                await asyncio.sleep(_LOOKUP_PAUSE_SECONDS)

    async def _look_up(self, path: str, planned: Key | None = None) -> None:
        """Find out why the label-selected watch does not report a Secret, and queue the keys that read another answer.

        ``planned``: the key that is planned again anyway.
        """
        namespace, _, name = path.partition("/")
        try:
            async with self._lookups:
                version_at_start = self._cache.version_of(kinds.AGENCY_SECRET, namespace, name)
                raw = await self._api.get(kinds.SECRET.path(namespace, name), missing_ok=True)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN or namespace != self._cache.settings.data_plane_namespace:
                raise
            self._queue.add_all(self._cache.note_missing(path, "Forbidden") - {planned})
            return
        if self._cache.version_of(kinds.AGENCY_SECRET, namespace, name) != version_at_start:
            return  # the watch reported the Secret meanwhile, and the answer may be older
        if raw is None:
            concerned = self._cache.note_missing(path, "NotFound")
        elif (raw["metadata"].get("labels") or {}).get(types.WATCH_LABEL) == "true":
            concerned = self._cache.put(kinds.AGENCY_SECRET, raw)  # not reported yet, or a value of it was not kept
        else:
            concerned = self._cache.note_missing(path, "NotLabelled")
        self._queue.add_all(concerned - {planned})
