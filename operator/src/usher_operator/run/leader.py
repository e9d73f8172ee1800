"""Leader election with a Lease: one replica works, and another takes over when the leader stops renewing the Lease.

A replica counts the age of the Lease by its own monotonic clock, from the moment at which it saw the record change. It
never reads the times in the record, so machines' clocks may differ by a minute. Source: client-go's leaderelection.

Each renewal also saves the leader's confirmed time (`confirmed_clock`), from which the next leader goes on, and the
settings by which the next leader sees that the install changed (`install_change`).
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_operator.settings import OperatorSettings
from usher_operator.state.confirmed_clock import ConfirmedClock

_log = structlog.get_logger(__name__)

GROUP_PATH = "/apis/coordination.k8s.io/v1"  # API path of Leases
NAME = "usher-operator"  # Name of the Lease, in the operator's namespace
CONFIRMED_TIME_ANNOTATION = "usher.dev/confirmed-time"  # The leader's confirmed time at the last renewal (RFC 3339)

_CONTROLLER_NAME_ANNOTATION = "usher.dev/controller-name"
_CONFIGURATION_NAMESPACE_ANNOTATION = "usher.dev/configuration-namespace"

# Requests that fit into the renew deadline if each takes its whole time. So one request without an answer does not cost
# the Lease. The limit holds for each request, not for a reading and a write together, so that a replica leads also
# while the server is slow. Source: client-go's leader election clients.
_REQUESTS = 2

_RELEASE_SECONDS = 1.5

_NO_ACCOUNT = (
    "its account must exist; if its ServiceAccount was made again, delete the pod, which then gets a new token"
)
_NO_RIGHT = "the account needs the rights of operator/rbac/operator.yaml"
_NO_NAMESPACE = "the namespace that --namespace names must exist"


class SavedInstall(msgspec.Struct, frozen=True):
    """The leader's settings in the Lease; ``""``: it has none."""

    controller_name: str = ""
    configuration_namespace: str = ""


class LeaseRecord(msgspec.Struct, frozen=True):
    """The Lease fields on which a decision depends."""

    holder: str = ""
    duration_seconds: float = 0.0
    transitions: int = 0
    resource_version: str = ""
    confirmed_time: int = 0
    """The time that the leader saved, in microseconds; 0: none."""
    install: SavedInstall = SavedInstall()


class LeaseDecision(msgspec.Struct, frozen=True):
    """The next action. ``seconds``: how long to wait at most."""

    action: Literal["Create", "Take", "Renew", "Wait"]
    seconds: float = 0.0


class ObservedLease:
    """The record as last read, and since when it has not changed."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self.record: LeaseRecord | None = None
        self._since = 0.0

    def see(self, record: LeaseRecord | None, now: float) -> None:
        """Note a record that the server sent. ``now``: monotonic seconds, taken before the request."""
        if self.record is None or record is None or record.resource_version != self.record.resource_version:
            self._since = now
        self.record = record

    def decide(self, now: float, *, is_leader: bool) -> LeaseDecision:
        """Decide what to do at a moment in monotonic seconds.

        A replica that does not lead waits for a Lease with its own name too: a restore of etcd may have put the name
        back while another replica leads.
        """
        record = self.record
        if record is None:
            return LeaseDecision("Create")
        if is_leader and record.holder == self._identity:
            return LeaseDecision("Renew")
        seconds_left = self._since + record.duration_seconds - now
        if not record.holder or seconds_left <= 0:
            return LeaseDecision("Take")
        return LeaseDecision("Wait", seconds_left)


def read_lease(raw: dict[str, Any]) -> LeaseRecord:
    """Read a Lease's record as the server sends it."""
    spec, annotations = raw.get("spec") or {}, raw["metadata"].get("annotations") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration_seconds=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=raw["metadata"].get("resourceVersion", ""),
        confirmed_time=_read_time(annotations.get(CONFIRMED_TIME_ANNOTATION, "")),
        install=SavedInstall(
            annotations.get(_CONTROLLER_NAME_ANNOTATION, ""), annotations.get(_CONFIGURATION_NAMESPACE_ANNOTATION, "")
        ),
    )


def _read_time(text: str) -> int:
    """Read a time as microseconds; 0 if the text is not one."""
    try:
        return round(datetime.datetime.fromisoformat(text).timestamp() * model.MICROSECONDS)
    except ValueError:
        return 0


class LeaderLease:
    """One replica's part in the election.

    Args:
        confirmed_clock: goes on from the time in the Lease when this replica leads, and is saved there with each
            renewal.
    """

    def __init__(
        self,
        api: Client,
        settings: OperatorSettings,
        *,
        clock: Callable[[], float],
        confirmed_clock: ConfirmedClock,
    ) -> None:
        self._api, self._clock, self._timing = api, clock, settings.timing
        self._confirmed_clock = confirmed_clock
        self._install = SavedInstall(settings.controller_name, settings.configuration_namespace)
        self.saved_install = SavedInstall()
        """The settings in the Lease: the previous leader's, until `save_install`."""
        self._namespace = settings.namespace
        self.identity = settings.identity
        self._observed = ObservedLease(self.identity)
        self._acquired = ""
        self._renewed = 0.0
        self.reached_at: float | None = None  # When the Lease was last read or written; None before that
        self.is_leader = False

    @property
    def may_write(self) -> bool:
        """True if this replica certainly leads. A process that was suspended for too long must not write any more."""
        return self.is_leader and self._clock() - self._renewed < self._timing.renew_deadline_seconds

    async def acquire(self) -> None:
        """Wait until this replica is the leader. It watches the Lease, so that it notices a release at once."""
        while not self.is_leader:
            decision: LeaseDecision | None = None
            try:
                decision = await self._read()
                if decision.action == "Wait":
                    await self._watch(decision.seconds)
                else:
                    self._continue()
                    await self._write(decision.action)
            except (ApiError, TimeoutError) as error:
                await self._not_reached(error, is_new=decision is not None and decision.action == "Create")
        _log.info("lease_acquired", identity=self.identity)

    def save_install(self) -> None:
        """Save this leader's settings with the next renewal."""
        self.saved_install = self._install

    def _continue(self) -> None:
        """Go on from what the previous leader saved."""
        record = self._observed.record or LeaseRecord()
        self.saved_install = record.install
        if record.confirmed_time:
            self._confirmed_clock.start_from(record.confirmed_time)

    async def hold(self) -> None:
        """Renew the Lease; return when no renewal has succeeded within the deadline or another replica holds it."""
        while (seconds_left := self._renewed + self._timing.renew_deadline_seconds - self._clock()) > 0:
            await asyncio.sleep(min(seconds_left, self._timing.lease_retry_seconds))
            try:
                await self._write("Renew")
            except (ApiError, TimeoutError) as error:
                if not await self._may_retry(error):
                    break
        self.is_leader = False
        _log.error("lease_lost", identity=self.identity)

    async def release(self) -> None:
        """Release the Lease, so that the standby does not have to wait. Best effort. Cancel `hold` before."""
        if not self.is_leader:
            return
        self.is_leader = False
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                while not await self._try_release():
                    await self._read()
                    if self._observed.record is None or self._observed.record.holder != self.identity:
                        return
                _log.info("lease_released", identity=self.identity)

    async def _try_release(self) -> bool:
        """Return False after a conflict: the server may carry out a cancelled renewal at any moment."""
        try:
            await self._write("Release")
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True

    async def _not_reached(self, error: Exception, *, is_new: bool) -> None:
        """Log the failure and wait before the next attempt; return at once if another replica was faster.

        ``is_new``: the Lease was to be created, so a 404 means that its namespace does not exist.
        """
        status, reason = (error.status, error.reason) if isinstance(error, ApiError) else (0, "TimeoutError")
        if status == 409 or (status == 404 and not is_new):
            return
        hint = {401: _NO_ACCOUNT, 403: _NO_RIGHT, 404: _NO_NAMESPACE}.get(status, "")
        _log.warning("lease_not_reached", namespace=self._namespace, status=status, reason=reason, hint=hint)
        await asyncio.sleep(self._timing.lease_retry_seconds)

    async def _may_retry(self, error: Exception) -> bool:
        """Return True to try again after a failed renewal.

        After a conflict it reads the Lease and renews it at once, because the other write may be this replica's earlier
        renewal whose answer was lost.
        """
        if not isinstance(error, ApiError):
            return True
        _log.warning("lease_not_renewed", status=error.status, reason=error.reason)
        if error.status not in {404, 409}:
            return True
        with contextlib.suppress(ApiError, TimeoutError):
            decision = await self._read()
            if decision.action not in {"Create", "Renew"}:
                return False
            await self._write(decision.action)
        return True

    def _time_limit(self) -> asyncio.Timeout:
        return asyncio.timeout(self._timing.renew_deadline_seconds / _REQUESTS)

    @property
    def _path(self) -> str:
        return f"{GROUP_PATH}/namespaces/{self._namespace}/leases"

    async def _read(self) -> LeaseDecision:
        asked_at = self._clock()
        async with self._time_limit():
            raw = await self._api.get(f"{self._path}/{NAME}", missing_ok=True, attempts=1)
        if raw is not None:  # a 404 may also mean that the namespace does not exist
            self.reached_at = self._clock()
        self._acquired = ((raw or {}).get("spec") or {}).get("acquireTime") or ""
        self._observed.see(read_lease(raw) if raw is not None else None, asked_at)
        return self._observed.decide(self._clock(), is_leader=self.is_leader)

    async def _watch(self, seconds: float) -> None:
        """Wait until the Lease has changed, at most for ``seconds``."""
        record = self._observed.record
        assert record is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                changes = self._api.watch(
                    self._path,
                    JsonObject,
                    resource_version=record.resource_version,
                    field_selector=f"metadata.name={NAME}",
                )
                async for event in changes:
                    if event.type != "BOOKMARK":
                        return
                await asyncio.sleep(self._timing.lease_retry_seconds)  # the server ended the stream

    async def _write(self, action: str) -> None:
        record = self._observed.record or LeaseRecord()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if action in {"Create", "Take"}:
            self._acquired = now
        spec = {
            "holderIdentity": "" if action == "Release" else self.identity,
            "leaseDurationSeconds": 1 if action == "Release" else round(self._timing.lease_seconds),
            "acquireTime": self._acquired or now,
            "renewTime": now,
            "leaseTransitions": record.transitions + (action == "Take"),
        }
        confirmed_time = model.format_time(self._confirmed_clock.now())
        metadata: dict[str, Any] = {
            "name": NAME,
            "namespace": self._namespace,
            "annotations": {
                CONFIRMED_TIME_ANNOTATION: confirmed_time,
                _CONTROLLER_NAME_ANNOTATION: self.saved_install.controller_name,
                _CONFIGURATION_NAMESPACE_ANNOTATION: self.saved_install.configuration_namespace,
            },
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        # The renewal counts from before the request. A standby counts from when it sees the new record, which is later,
        # so this replica stops writing before a standby takes the Lease.
        asked_at = self._clock()
        async with self._time_limit():
            if action == "Create":
                raw = await self._api.create(self._path, body, attempts=1, is_fenced=False)
            else:
                metadata["resourceVersion"] = record.resource_version
                raw = await self._api.replace(f"{self._path}/{NAME}", body, attempts=1)
        self.reached_at, self._renewed = self._clock(), asked_at
        self._observed.see(read_lease(raw), asked_at)
        self.is_leader = action != "Release"
