"""Makes a key's children match its plan. ``ChildWriter`` applies the wanted ones, ``ChildRemover`` removes others.

A Certificate that counts against a namespace's hostnames stays for 7 days after its hostname was given up, marked
with the time. Otherwise a namespace could use up an issuer's certificates by giving up hostnames for others.

The operator removes a document in two steps. Once the removal guard allows the removal, the config Secret becomes a
tombstone; when the tombstone is old enough, the remover deletes it.

A gateway that was away for longer than a tombstone stays may run documents that have no config Secret any more. The
remover writes tombstones for them too, under the removal limit, because after a restore of etcd a gateway may be the
last to have listeners that users still want. A gateway's wrong report removes no document that has a config Secret
or that a plan wants.
"""

import datetime
import functools
import time
from collections.abc import Callable
from typing import Any

import structlog

from usher_gateway import config_secret, model
from usher_gateway.kube.client import ApiError, Client
from usher_gateway.resources.removal_limit import Removal
from usher_operator.plan import children
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import Workqueue
from usher_operator.state import child_labels, kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import DesiredChild, Key, ObjectRef, Plan
from usher_operator.write.removals import RemovalGuard
from usher_operator.write.rewrites import RewriteBackoff

_log = structlog.get_logger(__name__)

_INVALID = 422

# The error's reason if another owner's object has a child's name. It is never written.
NAME_TAKEN = "NameTaken"

# Delay before a hostname is reconciled after one of its documents changed, so that changes of many documents of one
# hostname cause one write.
_HOSTNAME_DELAY_SECONDS = 0.1

_GATEWAYS_SECONDS = 5.0  # Interval at which gateways' reports are read again for an old tombstone

# How long a Certificate counts after its hostname was given up. Source: Let's Encrypt limits the certificates of a
# registered domain in 7 days.
_UNUSED_CERTIFICATE_SECONDS = 7 * 86400.0

_SMALL_BYTES = 64 * 1024  # A document of this size, in base64, is written without a pause
# How fast a worker writes larger documents. One edit of a Secret may change thousands of documents of 1 MB. These
# delay the writes of everybody, and without a limit they fill etcd before it compacts.
_BYTES_PER_SECOND = 256 * 1024


class ChildWriter:
    """Writes the children that plans want, unless they are in place already.

    Args:
        on_published: called after a document or a tombstone was written.
        on_applied: called with a key whose documents are as planned. A plan that leaves them as they are, because
            nothing is published now or gateways were not asked yet, does not count if there is no document.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        metrics: OperatorMetrics,
        on_published: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        on_applied: Callable[[Key], None] = lambda _: None,
    ) -> None:
        self._api, self._cache, self._queue = api, cache, queue
        self._metrics = metrics
        self._on_published, self._on_applied, self._clock = on_published, on_applied, clock
        self._verified: dict[ObjectRef, str] = {}
        """Each child's digest as it was after our last write, or when it was first found to be as wanted."""
        self._unverified: set[ObjectRef] = set()
        self._rewrites: RewriteBackoff[ObjectRef] = RewriteBackoff()
        self._desired: dict[ObjectRef, str] = {}  # `DesiredChild.desired` of the last write of each child
        self._pauses: dict[Key, float] = {}  # Seconds to pause after the large documents that were written
        self._managers: dict[ObjectRef, str] = {}  # The field manager that last changed a child that is contested

    def take_pause(self, key: Key) -> float:
        """Return for how many seconds the worker has to pause after what it wrote for a key. Forgets the pause."""
        return self._pauses.pop(key, 0.0)

    def rewrite_all(self) -> None:
        """Apply every child again except Secrets, whose content shows drift; an apply without changes is free."""
        self._unverified = {ref for ref in self._cache.child_index.by_ref if ref.kind != "Secret"}

    def forget(self, ref: ObjectRef) -> None:
        """Forget a child that was deleted."""
        self._verified.pop(ref, None)
        self._desired.pop(ref, None)
        self._managers.pop(ref, None)
        self._rewrites.forget(ref)

    async def apply(self, plan: Plan) -> list[ApiError]:
        """Write the children that a plan wants, and return the failures, after every child was tried."""
        failures = []
        for child in plan.children or ():
            is_repeated = self._desired.get(child.ref) == child.desired  # an edit never waits
            if self._is_in_place(child) or (is_repeated and self.must_wait(plan.key, child.ref)):
                continue
            try:
                await self.write(plan.key, child.ref, child.manifest)
            except ApiError as error:
                failures.append(error)
        is_planned = plan.children is not None or self._cache.child_index.published(plan.key) is not None
        if is_planned and not failures:
            self._on_applied(plan.key)
        return failures

    def must_wait(self, key: Key, ref: ObjectRef) -> bool:
        """Return whether something else changes a child so often that its next write waits; the key is queued then."""
        seconds = self._rewrites.seconds_left(ref, self._stored_digest(ref), self._clock())
        if seconds > 0:
            self._queue.add_after(key, seconds)
        return seconds > 0

    def _stored_digest(self, ref: ObjectRef) -> str:
        existing = self._cache.child_index.by_ref.get(ref)
        return existing.digest if existing is not None else ""

    def conflict_of(self, plan: Plan) -> str:
        """Name what changes a plan's child again and again; ``""`` if nothing does."""
        for child in plan.children or ():
            seconds = self._rewrites.conflict_seconds_left(child.ref, self._clock())
            if seconds > 0:
                self._queue.add_after(plan.key, seconds)  # the end of the conflict causes no event
                manager = self._managers.get(child.ref, "")
                by = f"the field manager `{manager}`" if manager else "another program"
                return f"{child.ref.kind} `{child.ref.name}` is changed by {by}"
        return ""

    async def _note_manager(self, path: str, ref: ObjectRef) -> None:
        """Note who last changed a contested child."""
        raw = await self._api.get(path, missing_ok=True) or {"metadata": {}}
        own = kinds.field_manager(self._cache.settings.controller_name)
        entries = [entry for entry in raw["metadata"].get("managedFields") or () if entry.get("manager") != own]
        manager = str(max(entries, key=lambda entry: str(entry.get("time", "")))["manager"]) if entries else ""
        if self._managers.get(ref) != manager:
            _log.warning("child_changed_again", kind=ref.kind, namespace=ref.namespace, name=ref.name, manager=manager)
        self._managers[ref] = manager

    def _is_in_place(self, child: DesiredChild) -> bool:
        existing = self._cache.child_index.by_ref.get(child.ref)
        if existing is None or existing.state.desired != child.desired or child.ref in self._unverified:
            return False
        if child.ref.kind == "Secret":
            return existing.digest == kinds.digest_of(child.manifest)
        return self._verified.setdefault(child.ref, existing.digest) == existing.digest

    async def write(self, key: Key, ref: ObjectRef, manifest: dict[str, Any]) -> None:
        """Write one child of a key.

        Raises:
            ApiError: the API server did not accept it, or somebody else's object has its name (`NAME_TAKEN`).
        """
        kind = self._cache.kind_of(ref)
        path = kind.path(ref.namespace, ref.name)
        if ref in self._cache.child_index.foreign:
            self._note_taken(ref)
            raise _name_taken(path, "a child of another install has this name")
        # read before the write, because the watch may report the write before the answer arrives
        previous_child = self._cache.child_index.by_ref.get(ref)
        if previous_child is not None and key.kind == "Hostname" and previous_child.key != key:
            raise _name_taken(path, "the object of another hostname has this name")
        if previous_child is None and ref.namespace != self._cache.settings.configuration_namespace:
            await self._refuse_foreign(path, ref, key)
        stored_digest = self._stored_digest(ref)
        if self._rewrites.is_conflict(ref, stored_digest):
            await self._note_manager(path, ref)
        try:
            raw = await self._api.apply(path, manifest)
        except ApiError as error:
            if (
                error.status != _INVALID
                or ref not in self._cache.child_index.by_ref
                or not await self._delete_unwritable(path, manifest)
            ):
                raise
            raw = await self._api.apply(path, manifest)
        size = len((manifest.get("data") or {}).get(config_secret.DATA_KEY, ""))
        if size > _SMALL_BYTES:
            self._pauses[key] = (size - _SMALL_BYTES) / _BYTES_PER_SECOND
        self._rewrites.written(ref, kinds.digest_of(raw), stored_digest, self._clock())
        self._desired[ref] = manifest["metadata"].get("annotations", {}).get(config_secret.DESIRED_ANNOTATION, "")
        self._take_answer(key, kind, raw, previous_child.resource_version if previous_child is not None else "")
        self._unverified.discard(ref)
        existing = self._cache.child_index.by_ref.get(ref)
        if existing is not None:
            self._verified[ref] = kinds.digest_of(raw)
            self._report(key, previous_child, existing)
            if existing.state.status != (previous_child.state.status if previous_child is not None else {}):
                self._queue.add(key)  # the cache has the status from the answer, so no event will report it
        _log.debug("child_written", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def _report(self, key: Key, previous_child: kinds.ChildRecord | None, existing: kinds.ChildRecord) -> None:
        if existing.is_config:
            self._metrics.published.set(time.time())
            self._on_published()
            if existing.tombstone:
                _log.info("document_removed", kind=key.kind, document=key.path)
            else:
                is_new = previous_child is None or bool(previous_child.tombstone)
                change = "new" if is_new else "edited"
                _log.info("document_published", kind=key.kind, document=key.path, change=change)
        elif existing.state.ref.kind != "Secret":
            ref = existing.state.ref
            _log.info("child_applied", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    async def _delete_unwritable(self, path: str, manifest: dict[str, Any]) -> bool:
        """Delete one of our Secrets if it is immutable or has another type, since no write can change either.

        Gateways keep serving its document until it is written again. Returns whether the Secret was deleted.
        """
        if manifest["kind"] != "Secret":
            return False
        raw = await self._api.get(path, missing_ok=True)
        if raw is None or not (raw.get("immutable") or raw.get("type") != manifest.get("type", "Opaque")):
            return False
        await self._api.delete(path, raw["metadata"]["uid"])
        _log.warning("child_recreated", path=path)
        return True

    async def _refuse_foreign(self, path: str, ref: ObjectRef, key: Key) -> None:
        """Raise if an object with that name exists that this operator did not make, or made for another hostname.

        An object whose labels were removed but that this operator applied earlier is ours. The configuration namespace
        belongs to the operator alone, so this is not called for it.
        """
        raw = await self._api.get(path, missing_ok=True)
        if raw is None:
            return
        labels = raw["metadata"].get("labels") or {}
        managers = {entry.get("manager") for entry in raw["metadata"].get("managedFields") or ()}
        settings = self._cache.settings
        install = labels.get(config_secret.INSTALL_LABEL, settings.install_label)
        if kinds.field_manager(settings.controller_name) not in managers or install != settings.install_label:
            self._note_taken(ref)
            raise _name_taken(path, "an object that this operator did not make has this name")
        owner = child_labels.owner_of(raw["metadata"].get("annotations") or {})
        if key.kind == "Hostname" and owner not in {None, key}:
            raise _name_taken(path, "the object of another hostname has this name")

    def _note_taken(self, ref: ObjectRef) -> None:
        """Note that a Secret has a child's name, so that the next plan says so instead of writing it."""
        if self._cache.kind_of(ref) is kinds.AGENCY_SECRET:
            self._queue.add_all(self._cache.note_missing(f"{ref.namespace}/{ref.name}", "NotLabelled"))

    def _take_answer(self, key: Key, kind: kinds.WatchedKind, raw: dict[str, Any], version_at_start: str) -> None:
        """Put the server's answer into the cache, so that the next plan sees it and its watch event changes nothing."""
        for changed in self._cache.take_answer(kind, raw, version_at_start) - {key}:
            if changed.kind == "Hostname":
                self._queue.add_after(changed, _HOSTNAME_DELAY_SECONDS)
            else:
                self._queue.add(changed)


class ChildRemover:
    """Removes the children that plans no longer want.

    Args:
        tombstone_seconds: age at which a tombstone is deleted.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        writer: ChildWriter,
        removal_guard: RemovalGuard,
        tombstone_seconds: float,
    ) -> None:
        self._api, self._cache, self._queue, self._writer = api, cache, queue, writer
        self._removal_guard, self._tombstone_seconds = removal_guard, tombstone_seconds

    def withdraw(self, plan: Plan) -> None:
        """Withdraw the request to remove a document that a plan wants, or that neither Secret nor gateway has."""
        if plan.key.kind not in {"Listener", "Destination"} or (
            plan.children is None and plan.retiring is None and not plan.keeps_vanished
        ):
            return
        is_gone = self._cache.child_index.published(plan.key) is None and not self._cache.reports.stale_uid(plan.key)
        if is_gone or plan.retiring is not None or _wants_document(plan) or plan.keeps_vanished:
            self._removal_guard.withdraw(plan.key)

    async def remove(self, plan: Plan) -> list[ApiError]:
        """Remove the children that a plan does not want, and return the failures, after every child was tried."""
        if plan.children is None or self._is_needed(plan):
            return []
        failures = []
        staying = {*plan.staying, *(child.ref for child in plan.children)}
        unwanted = [child for child in self._cache.child_index.of(plan.key) if child.state.ref not in staying]
        steps = [functools.partial(self._remove, child) for child in unwanted]
        for step in (*steps, functools.partial(self._remove_stale, plan)):
            try:
                await step()
            except ApiError as error:
                failures.append(error)
        return failures

    async def _remove_stale(self, plan: Plan) -> None:
        """Write a tombstone for a document that only a gateway has, also over the tombstone of a former object."""
        key, uid = plan.key, self._cache.reports.stale_uid(plan.key)
        removal, child = removal_of(key, uid), self._cache.child_index.config_of(key)
        if not uid or removal is None or _wants_document(plan):
            return
        if child is not None and (child.published is not None or child.owner_uid == uid):
            return
        if not self._removal_guard.request(removal):
            return
        name = config_secret.secret_name(key.kind, key.path)
        ref = kinds.ref_of(kinds.SECRET, self._cache.settings.configuration_namespace, name)
        if child is None and await self._api.get(kinds.SECRET.path(ref.namespace, name), missing_ok=True) is not None:
            return  # the watch will report it
        _log.warning("stale_document_removed", kind=key.kind, document=key.path)
        await self._write_tombstone(key, ref, uid, 0)

    def _is_needed(self, plan: Plan) -> bool:
        """True if a hostname that no listener wants still has documents whose removal is halted or not decided."""
        if plan.key.kind != "Hostname" or plan.children:
            return False
        published = self._cache.listeners_at(plan.key.name)
        return any(
            self._removal_guard.is_waiting(Key("Listener", document.namespace, document.name)) for document in published
        )

    async def _remove(self, child: kinds.ChildRecord) -> None:
        ref = child.state.ref
        removal = removal_of(child.key, child.owner_uid, child.resource_version)
        if child.counts_for:
            await self._remove_certificate(child)
        elif not child.is_config or removal is None:
            await self._delete(child)
        elif child.tombstone:
            seconds_left = self._seconds_left(child.tombstone, self._tombstone_seconds)
            if seconds_left <= 0 and self._frees_served_hostname(child):
                seconds_left = _GATEWAYS_SECONDS
            if seconds_left > 0:
                self._queue.add_after(child.key, seconds_left)
                return
            await self._delete(child)
        elif self._removal_guard.request(removal):
            await self._write_tombstone(child.key, ref, child.owner_uid, child.owner_generation)

    def _frees_served_hostname(self, child: kinds.ChildRecord) -> bool:
        """Return whether a tombstone holds a hostname at which a gateway may still serve the former owner."""
        return bool(child.tenant_hostnames.hostnames) and self._cache.reports.may_run(child.key)

    async def _remove_certificate(self, child: kinds.ChildRecord) -> None:
        """Mark a Certificate as unused, or delete it if it has been unused for long enough."""
        ref, since = child.state.ref, child.unused_since
        if not since:
            if self._writer.must_wait(child.key, ref):
                return
            raw = await self._api.get(kinds.CERTIFICATE.path(ref.namespace, ref.name), missing_ok=True)
            if raw is None:
                return  # the watch will report it
            since = self._timestamp()
            unused = children.build_unused_certificate(
                child.key.name, raw["spec"], self._cache.settings, counts_for=child.counts_for, since=since
            )
            await self._writer.write(child.key, ref, unused.manifest)
        seconds_left = self._seconds_left(since, _UNUSED_CERTIFICATE_SECONDS)
        if seconds_left > 0:
            self._queue.add_after(child.key, seconds_left)
        else:
            await self._delete(child)

    def _seconds_left(self, written_at: str, lifetime: float) -> float:
        """Seconds until an object may be deleted, by a timestamp in it; an unreadable one counts as long ago."""
        try:
            written = datetime.datetime.fromisoformat(written_at).timestamp()
        except ValueError:
            return 0.0
        return lifetime - max(0.0, self._cache.time / model.MICROSECONDS - written)

    def _timestamp(self) -> str:
        now = datetime.datetime.fromtimestamp(self._cache.time / model.MICROSECONDS, datetime.UTC)
        return now.isoformat(timespec="seconds").replace("+00:00", "Z")

    async def _delete(self, child: kinds.ChildRecord) -> None:
        ref = child.state.ref
        kind = self._cache.kind_of(ref)
        await self._api.delete(kind.path(ref.namespace, ref.name), child.uid)
        # its own key too, because what the plan reads may depend on the child
        self._queue.add_all(self._cache.remove(kind, ref.namespace, ref.name))
        self._writer.forget(ref)
        _log.info("child_deleted", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    async def _write_tombstone(self, key: Key, ref: ObjectRef, owner_uid: str, generation: int) -> None:
        keys, kind, settings, written_at = self._cache.keys, key.kind, self._cache.settings, self._timestamp()
        assert keys is not None
        assert kind in {"Listener", "Destination"}
        owner = config_secret.Owner(key.namespace, key.name, owner_uid, settings.install_label)
        existing = self._cache.child_index.config_of(key)
        held = existing.tenant_hostnames if existing is not None and existing.tenant_hostnames.tenant else None
        envelope = config_secret.tombstone_of(kind, owner, generation, written_at, keys.document, held=held)
        await self._writer.write(key, ref, children.build_config_secret(envelope, settings, ref.name).manifest)
        self._removal_guard.withdraw(key)
        self._queue.add(key)  # its next plan reads that no document is in force, and its removal waits for the age


def _name_taken(path: str, message: str) -> ApiError:
    return ApiError(409, NAME_TAKEN, f"apply {path}", message)


def _wants_document(plan: Plan) -> bool:
    labels = [child.manifest["metadata"].get("labels", {}) for child in plan.children or ()]
    return any(config_secret.CONFIG_LABEL in child_labels for child_labels in labels)


def removal_of(key: Key, owner_uid: str = "", version: str = "") -> Removal | None:
    """The removal of the document that a key publishes; None for keys that publish none."""
    match key.kind:
        case "Listener" | "Destination":
            return Removal(key.kind, key.namespace, key.name, uid=owner_uid, version=version)
    return None
