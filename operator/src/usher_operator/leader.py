"""Who of several replicas works: a Lease, renewed by its holder, taken over once it has not changed for long enough.

Age is counted by the local monotonic clock from the moment at which a change of the record was seen, never by the times
written in it: clocks of machines that differ by a minute change nothing. Source: client-go's leaderelection.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog

from usher_gateway.kube.client import ApiError, Client, Raw
from usher_operator.settings import OperatorSettings

_log = structlog.get_logger(__name__)

GROUP_PATH = "/apis/coordination.k8s.io/v1"
"""Where the API server has Leases."""

NAME = "usher-operator"
"""The LeaderLease, in the operator's namespace."""

_ATTEMPTS = 2
"""So many requests that take their whole time fit into the deadline: one that is never answered must not cost the
LeaderLease, and a server that is only slow must not either."""

_NO_RIGHT = "the account needs the rights of operator/rbac/operator.yaml"
_NO_NAMESPACE = "the namespace that --namespace names must exist"


class LeaseRecord(msgspec.Struct, frozen=True):
    """What a LeaderLease says, as far as it decides anything."""

    holder: str = ""
    duration_seconds: float = 0.0
    transitions: int = 0
    resource_version: str = ""


class LeaseDecision(msgspec.Struct, frozen=True):
    """What to do now; for ``Wait``: for how long at most."""

    action: Literal["Create", "Take", "Renew", "Wait"]
    seconds: float = 0.0


class ObservedLease:
    """The record as last seen, and since when it has not changed."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self.record: LeaseRecord | None = None
        self._since = 0.0

    def see(self, record: LeaseRecord | None, now: float) -> None:
        """Note what the server says. ``now``: monotonic seconds, taken before the server was asked."""
        if self.record is None or record is None or record.resource_version != self.record.resource_version:
            self._since = now
        self.record = record

    def decide(self, now: float) -> LeaseDecision:
        """What follows at a moment."""
        record = self.record
        if record is None:
            return LeaseDecision("Create")
        if record.holder == self._identity:
            return LeaseDecision("Renew")
        left = self._since + record.duration_seconds - now
        if not record.holder or left <= 0:
            return LeaseDecision("Take")
        return LeaseDecision("Wait", left)


def read(raw: dict[str, Any]) -> LeaseRecord:
    """The record in a LeaderLease as the server sends it."""
    spec = raw.get("spec") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration_seconds=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=raw["metadata"].get("resourceVersion", ""),
    )


class LeaderLease:
    """One replica's part in the election. ``clock``: monotonic seconds."""

    def __init__(self, api: Client, settings: OperatorSettings, clock: Callable[[], float]) -> None:
        self._api, self._clock, self._timing = api, clock, settings.timing
        self._namespace = settings.namespace
        self.identity = settings.identity
        self._observed = ObservedLease(self.identity)
        self._acquired = ""
        self._renewed = 0.0
        self.reached_at: float | None = None
        """When the LeaderLease was last read or written."""
        self.is_leader = False

    @property
    def may_write(self) -> bool:
        """Whether this replica leads beyond doubt: one that slept for too long finds out here, before it writes."""
        return self.is_leader and self._clock() - self._renewed < self._timing.renew_deadline

    async def acquire(self) -> None:
        """Wait until this replica is the leader; the LeaderLease is watched, so that a release is seen at once."""
        while not self.is_leader:
            decision: LeaseDecision | None = None
            try:
                async with asyncio.timeout(self._attempt_seconds):
                    decision = await self._look()
                    if decision.action != "Wait":
                        await self._write(decision.action)
                if decision.action == "Wait":
                    await self._watch(decision.seconds)
            except (ApiError, TimeoutError) as error:
                await self._not_reached(error, is_new=decision is not None and decision.action == "Create")
        _log.info("lease_acquired", identity=self.identity)

    async def hold(self) -> None:
        """Renew until that has not worked for the deadline, or somebody else holds the LeaderLease; then return."""
        while (left := self._renewed + self._timing.renew_deadline - self._clock()) > 0:
            await asyncio.sleep(min(left, self._timing.retry))
            try:
                async with asyncio.timeout(self._attempt_seconds):
                    await self._write("Renew")
            except (ApiError, TimeoutError) as error:
                if not await self._still_ours(error):
                    break
        self.is_leader = False
        _log.error("lease_lost", identity=self.identity)

    async def release(self) -> None:
        """Give the LeaderLease up, so that the standby need not wait. Best effort."""
        if not self.is_leader:
            return
        self.is_leader = False
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(1.5):
                await self._write("Release")
                _log.info("lease_released", identity=self.identity)

    async def _not_reached(self, error: Exception, *, is_new: bool) -> None:
        """Wait a moment before the next look; where somebody else was faster, look at once.

        ``is_new``: the LeaderLease was to be created, so what was not found is its namespace.
        """
        status, reason = (error.status, error.reason) if isinstance(error, ApiError) else (0, "TimeoutError")
        if status == 409 or (status == 404 and not is_new):
            return
        hint = {401: _NO_RIGHT, 403: _NO_RIGHT, 404: _NO_NAMESPACE}.get(status, "")
        _log.warning("lease_not_reached", namespace=self._namespace, status=status, reason=reason, hint=hint)
        await asyncio.sleep(self._timing.retry)

    async def _still_ours(self, error: Exception) -> bool:
        """After a failed renewal: whether to go on trying."""
        if not isinstance(error, ApiError):
            return True
        _log.warning("lease_not_renewed", status=error.status, reason=error.reason)
        if error.status not in {404, 409}:
            return True
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(self._attempt_seconds):
                decision = await self._look()
                if decision.action == "Create":
                    await self._write("Create")
                return decision.action in {"Create", "Renew"}
        return True

    @property
    def _attempt_seconds(self) -> float:
        return self._timing.renew_deadline / _ATTEMPTS

    @property
    def _path(self) -> str:
        return f"{GROUP_PATH}/namespaces/{self._namespace}/leases"

    async def _look(self) -> LeaseDecision:
        asked = self._clock()
        raw = await self._api.get(f"{self._path}/{NAME}", missing_ok=True, attempts=1)
        if raw is not None:  # else not even its namespace need be there
            self.reached_at = self._clock()
        self._acquired = ((raw or {}).get("spec") or {}).get("acquireTime") or ""
        self._observed.see(read(raw) if raw is not None else None, asked)
        return self._observed.decide(self._clock())

    async def _watch(self, seconds: float) -> None:
        """Return when the LeaderLease has changed, or after ``seconds``."""
        record = self._observed.record
        assert record is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                changes = self._api.watch(
                    self._path, Raw, resource_version=record.resource_version, field_selector=f"metadata.name={NAME}"
                )
                async for event in changes:
                    if event.type != "BOOKMARK":
                        return
                await asyncio.sleep(self._timing.retry)  # the server ended the stream

    async def _write(self, action: str) -> None:
        record = self._observed.record or LeaseRecord()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if action in {"Create", "Take"}:
            self._acquired = now
        spec = {
            "holderIdentity": "" if action == "Release" else self.identity,
            "leaseDurationSeconds": 1 if action == "Release" else round(self._timing.lease),
            "acquireTime": self._acquired or now,
            "renewTime": now,
            "leaseTransitions": record.transitions + (action == "Take"),
        }
        metadata = {"name": NAME, "namespace": self._namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        asked = self._clock()
        if action == "Create":
            raw = await self._api.create(self._path, body, attempts=1, is_fenced=False)
        else:
            metadata["resourceVersion"] = record.resource_version
            raw = await self._api.replace(f"{self._path}/{NAME}", body, attempts=1)
        self.reached_at, self._renewed = self._clock(), asked
        self._observed.see(read(raw), asked)
        self.is_leader = action != "Release"
