"""Configuration from a cluster: a stream of snapshots, at most a second behind the config Secrets.

The watch reports changes. Once a minute the source also compares all Secrets' names and versions with the API server,
because a watch can miss changes, for example after a restore of etcd. The list counts: an older document in it replaces
the one in force.

Nothing here can stop a gateway. While the API server is away, the configuration in force stays in force, and a gateway
that starts meanwhile begins with the cache on its own disk.

A document with new expressions comes into force once these are compiled, in turns with other namespaces.
"""

import asyncio
import contextlib
import pathlib
import random
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec
import structlog

from usher_gateway import config_secret, documents, model
from usher_gateway.config import DocumentStatus, Origin, SourceStatus, cache, published
from usher_gateway.expressions.turns import compiling_turns
from usher_gateway.kube.client import ApiError, Client, ClientLimits, WatchEvent
from usher_gateway.kube.reflector import Reflector, ReflectorTiming
from usher_gateway.resources import conditions
from usher_gateway.timing import EventLoopTurns

_log = structlog.get_logger(__name__)

# Bounds for a client that reads config Secrets: each has at most 1 MiB of data.
CLIENT_LIMITS = ClientLimits(connections=2, line_bytes=4 * 1024 * 1024, request_seconds=60.0)

_LOGGED = 50

_HINTS = {
    0: "the API server must be up, and reachable from here",
    401: "the API server does not accept the credentials: see --kubeconfig. In a pod, the ServiceAccount must "
    "exist; if it was made again, delete the pod, which then gets a new token",
    403: "the account needs `list` and `watch` on Secrets in this namespace",
    404: "the server is not a Kubernetes API server: see --kubeconfig",
}

_KEY_HINT = (
    "give this gateway the operator's key: the entry install.key of the Secret usher-install-key, in --data or as "
    "USHER_INSTALL_KEY"
)


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cluster's configuration is, and how the gateway follows it."""

    keys: model.Keys
    namespace: str
    data: pathlib.Path  # Folder of the cache
    trusted_proxies: tuple[str, ...] = ()  # This gateway's own, added to those of each Listener
    timing: ReflectorTiming = ReflectorTiming()
    cache_after_seconds: float = 10.0  # The gateway uses the cache if the first list takes longer
    gather_seconds: float = 0.02  # From a change to its snapshot: changes that arrive together are applied together
    pause_seconds: float = 0.1  # Least time between two snapshots
    cache_pause_seconds: float = 5.0  # Least time between two writes of the cache
    silence_seconds: float = 180.0
    """While the API server was silent for this long, an unknown address may be one that was published meanwhile."""
    check_seconds: float = 60.0  # From one comparison with the API server to the next, up to a tenth more or less
    grace_seconds: float = 1.0  # The event of a change may arrive this long after a list that has the change


class ClusterSource:
    """Follows one namespace's config Secrets."""

    def __init__(
        self,
        options: ClusterOptions,
        *,
        client: Client,
        check: published.DocumentCheck,
        now: Callable[[], int],
    ) -> None:
        """Prepare a source; `snapshots()` opens the client, and closes it.

        ``check`` raises for a document that this gateway cannot run.
        """
        self._options = options
        self._client = client
        self._now = now
        self._published = published.PublishedDocuments(
            key=options.keys.document, check=check, trusted_proxies=options.trusted_proxies
        )
        self._path = f"/api/v1/namespaces/{options.namespace}/secrets"
        self._reflector = Reflector(
            client,
            self._path,
            published.PublishedSecret,
            read=self._list,
            on_event=self._on_event,
            on_failure=self._on_failure,
            selector=config_secret.SELECTOR,
            timing=options.timing,
        )
        self._turns = compiling_turns()
        self._waiting: dict[str, published.DecodedSecret] = {}
        """Secret name -> its newest version, while that version's expressions are not compiled."""
        self._unread: set[str] = set()
        """Secrets (names) that are absent from a list, or newer in it, while the list is applied."""
        self._compiling: dict[str, asyncio.Task[None]] = {}  # Namespace -> the task that compiles its waiting documents
        self._has_mark = False
        """True once everything was read that the operator had published at a time when it had published everything."""
        self._marked_listeners: dict[str, int] = {}  # Mark (name of its Secret) -> ``marked_listeners``
        self._has_cache = False
        self._was_complete = False
        self._origin: Origin | None = None
        self._heard_at = 0
        self._touched_in_force: dict[config_secret.Identity, DocumentStatus | None] = {}
        """Documents that changed with snapshots in force, until take_touched() returns them."""
        self._touched = asyncio.Event()
        self._listed = asyncio.Event()
        self._cache_is_old = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        """The cache's last write, because a thread cannot be cancelled."""

    def status(self) -> SourceStatus:
        """See Source."""
        return SourceStatus(
            origin=self._origin,
            rejected=tuple(self._problem(rejected) for rejected in self._published.rejected),
            waits_for=self._waits_for(),
            is_empty=self._is_empty,
            vanished=self._published.vanished,
            vanished_documents=self._published.vanished_documents,
            heard_at=self._heard_at,
        )

    @property
    def _is_empty(self) -> bool:
        return self._listed.is_set() and not self._published.in_force and not self._published.rejected

    def _waits_for(self) -> str:
        namespace, rejected = self._options.namespace, self._published.rejected
        if self._published.in_force:
            return ""
        if not self._listed.is_set():
            return (
                f"namespace {namespace} was not read yet: the API server must answer, and let this account list there"
            )
        if self._has_other_key():
            return f"{_key_message(self._options.keys)}; {_KEY_HINT}"
        if rejected:
            return f"no document in namespace {namespace} can be run: see the log, or /api/config"
        return f"namespace {namespace} has no document yet: the operator publishes one per Listener and Destination"

    def _has_other_key(self) -> bool:
        """Return whether every published document was made with another install key."""
        codes = {rejected.code for rejected in self._published.rejected}
        return not self._published.in_force and codes == {model.DocumentHashError.code}

    def take_touched(self) -> dict[config_secret.Identity, DocumentStatus | None]:
        """See Source."""
        touched = self._touched_in_force
        self._touched_in_force = {}
        return touched

    async def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """See Source. Ends only when it is closed."""
        await self._restore()
        async with self._client:
            jobs = {
                "watch configuration": self._reflector.run,
                "check configuration": self._check_repeatedly,
                "write configuration cache": self._update_cache,
            }
            tasks = [asyncio.create_task(job(), name=name) for name, job in jobs.items()]
            try:
                await self._wait_for_first()
                while True:
                    self._touched.clear()  # before reading, so that what changes during the yield is read afterwards
                    touched = self._published.take_touched()
                    is_other = self._is_complete != self._was_complete and bool(self._published.in_force)
                    if self._published.is_changed or is_other:
                        yield self._snapshot()
                        self._cache_is_old.set()
                    self._touched_in_force |= touched  # now the consumer asked again, so the snapshot is in force
                    await asyncio.sleep(self._options.pause_seconds)
                    await self._touched.wait()
                    await asyncio.sleep(self._options.gather_seconds)
            finally:
                tasks += self._compiling.values()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._writing is not None:
                    # Two writes at once would damage the file. _write_cache() has logged the error.
                    await asyncio.gather(self._writing, return_exceptions=True)
                if self._cache_is_old.is_set() and self._origin == "cluster":
                    await self._write_cache()

    def _snapshot(self) -> documents.Snapshot:
        self._was_complete = self._is_complete
        snapshot = self._published.snapshot(self._waiting.keys() | self._unread)
        snapshot = msgspec.structs.replace(snapshot, is_complete=self._was_complete)
        _log.info(
            "configuration_applied",
            source=self._origin,
            complete=snapshot.is_complete,
            listeners=len(snapshot.listeners),
            destinations=len(snapshot.destinations),
            rejected=len(self._published.rejected),
            vanished=len(self._published.vanished),
        )
        return snapshot

    async def _wait_for_first(self) -> None:
        """Wait for the first list, or for less time if the cache has documents."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.cache_after_seconds):
                await self._listed.wait()
        if not self._listed.is_set() and self._has_cache:
            _log.warning("configuration_loaded_from_cache", namespace=self._options.namespace)
            self._origin = "cache"
            return
        await self._listed.wait()

    async def _list(self) -> str:
        """Read all Secrets; returns the list's version. A list that fails half way changes nothing."""
        secrets: list[published.PublishedSecret] = []
        version = ""
        pages = self._client.pages(self._path, published.PublishedSecret, selector=config_secret.SELECTOR, attempts=1)
        marks: list[published.PublishedSecret] = []
        async for page in pages:
            secrets += [secret for secret in page.items if not secret.is_mark]
            marks += [secret for secret in page.items if secret.is_mark]
            version = page.resource_version
        await self._apply_list(secrets)
        self._note_marks(marks)
        return version

    async def _apply_list(self, secrets: list[published.PublishedSecret]) -> None:
        fresh = [secret for secret in secrets if not self._published.is_known(secret)]
        names = {secret.metadata.name for secret in secrets}
        rejected = []
        turns = EventLoopTurns()
        self._unread = {secret.metadata.name for secret in fresh} | (self._published.versions.keys() - names)
        self._waiting.clear()  # the list has a version at least as new
        for secret in fresh:
            decoded = self._published.decode(secret)
            # not the transforms, which are compiled when they are first evaluated, because a start must not take longer
            await self._turns.prepare(published.filters_of(decoded.document), has_pauses=False)
            rejected.append(self._published.take(decoded, self._now()))
            self._unread.discard(secret.metadata.name)
            await turns.give_way()
        self._log_rejected([document for document in rejected if document is not None])
        self._log_vanished(self._published.retain(names, self._now()))
        self._unread.clear()
        if not secrets:
            _log.warning("empty_configuration_namespace_found", namespace=self._options.namespace)
        self._origin = "cluster"
        self._heard_at = self._now()
        self._listed.set()
        self._touched.set()

    async def _check_repeatedly(self) -> None:
        """Read everything again when the watch missed a change. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._options.check_seconds * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load
            try:
                if self._listed.is_set() and await self._has_missed_changes():
                    _log.warning("watch_missed_changes", namespace=self._options.namespace)
                    self._reflector.read_again()
            except ApiError as error:
                self._on_failure(error, 0)
            self._touched.set()  # an unknown address may be a new one after a long silence, or not any more

    async def _has_missed_changes(self) -> bool:
        """Return whether a version differs from a list and has not changed since before that list."""
        earlier_versions = self._versions()
        listed: dict[str, str] = {}
        pages = self._client.pages(
            self._path, published.PublishedSecret, selector=config_secret.SELECTOR, is_metadata_only=True, attempts=1
        )
        async for page in pages:
            listed |= {item.metadata.name: item.version for item in page.items if not item.is_mark}
            self._note_marks([item for item in page.items if item.is_mark])
        self._heard_at = self._now()
        await asyncio.sleep(self._options.grace_seconds)
        current_versions = self._versions()
        return any(
            listed.get(name) != current_versions.get(name) and current_versions.get(name) == earlier_versions.get(name)
            for name in listed.keys() | earlier_versions.keys()
        )

    def _versions(self) -> dict[str, str]:
        """The last version read of each Secret, also of those that wait."""
        return {**self._published.versions, **{name: decoded.secret.version for name, decoded in self._waiting.items()}}

    def _on_event(self, event: WatchEvent[published.PublishedSecret]) -> None:
        self._heard_at = self._now()
        if event.type == "BOOKMARK":
            return
        if event.item.is_mark:
            if event.type != "DELETED":
                self._note_marks([event.item])
            return
        secret = event.item
        self._waiting.pop(secret.metadata.name, None)
        if event.type == "DELETED":
            identity = self._published.remove_secret(secret.metadata.name, self._now())
            self._log_vanished([identity] if identity is not None else [])
        elif not self._published.is_known(secret):
            decoded = self._published.decode(secret)
            if not self._turns.are_prepared(decoded.expressions):
                self._wait_for_compilation(decoded)
                return
            self._take(decoded)
        self._touched.set()

    def _take(self, decoded: published.DecodedSecret) -> None:
        rejected = self._published.take(decoded, self._now())
        self._log_rejected([rejected] if rejected is not None else [])
        self._note_marks([])
        self._touched.set()

    def _note_marks(self, marks: Iterable[published.PublishedSecret]) -> None:
        """Note that everything was read once, if as many Listeners are in force as a mark counted."""
        self._marked_listeners |= {mark.metadata.name: mark.marked_listeners for mark in marks}
        if self._has_mark or not self._marked_listeners:
            return
        listeners = sum(envelope.kind == "Listener" for envelope in self._published.in_force)
        if listeners >= min(self._marked_listeners.values()):
            self._has_mark = True
            self._touched.set()

    @property
    def _is_complete(self) -> bool:
        """True if an unknown address is not valid: no document of a Listener is missing, and none can be newer."""
        silence_seconds = (self._now() - self._heard_at) / model.MICROSECONDS
        is_known = self._has_mark and not self._published.lacks_listener
        return is_known and silence_seconds < self._options.silence_seconds

    def _wait_for_compilation(self, decoded: published.DecodedSecret) -> None:
        namespace = decoded.namespace
        self._waiting[decoded.secret.metadata.name] = decoded
        if namespace not in self._compiling:
            compiling = self._compile_waiting(namespace)
            self._compiling[namespace] = asyncio.create_task(compiling, name="compile expressions")

    async def _compile_waiting(self, namespace: str) -> None:
        """Compile the expressions in a namespace's waiting documents, and take each document once that is done."""
        try:
            while True:
                decoded = next((waiting for waiting in self._waiting.values() if waiting.namespace == namespace), None)
                if decoded is None:
                    return  # no await from here to the end, so that no document can begin to wait for a task that ends
                await self._turns.prepare(decoded.expressions, has_pauses=True)
                name = decoded.secret.metadata.name
                if self._waiting.get(name) is decoded:  # it was not replaced or removed meanwhile
                    del self._waiting[name]
                    self._take(decoded)
        finally:
            del self._compiling[namespace]

    def _on_failure(self, error: model.UsherError, failures: int) -> None:
        status = error.status if isinstance(error, ApiError) else None
        hint = error.hint or _HINTS.get(status, "") if status is not None else error.hint
        _log.warning(
            "configuration_not_read",
            namespace=self._options.namespace,
            error=str(error),
            hint=hint,
            failures=failures,
        )

    def _log_rejected(self, rejected: list[published.RejectedDocument]) -> None:
        """Log one line per document, or a single line if the cause is another install key."""
        if rejected and self._has_other_key():
            _log.error(
                "install_key_mismatch_found",
                rejected=len(rejected),
                error=_key_message(self._options.keys),
                hint=_KEY_HINT,
            )
            return
        for document in rejected[:_LOGGED]:
            kind, key = document.identity or ("", "")
            _log.error(
                "document_rejected",
                secret=document.secret,
                kind=kind,
                document=key,
                code=document.code,
                error=document.message,
                hint=document.hint,
            )
        if len(rejected) > _LOGGED:
            _log.error("more_documents_rejected", count=len(rejected) - _LOGGED)

    @staticmethod
    def _log_vanished(identities: list[config_secret.Identity]) -> None:
        for kind, key in identities[:_LOGGED]:
            _log.error("document_vanished", kind=kind, document=key, hint="it stays in force; only a tombstone removes")
        if len(identities) > _LOGGED:
            _log.error("more_documents_vanished", count=len(identities) - _LOGGED)

    def _problem(self, rejected: published.RejectedDocument) -> conditions.Problem:
        where = f"Secret {self._options.namespace}/{rejected.secret}"
        resource = " ".join(rejected.identity) if rejected.identity else ""
        message = f"{rejected.code}: {rejected.message}"
        return conditions.Problem(where, 0, "", message, rejected.hint, "error", resource, rejected.code)

    async def _restore(self) -> None:
        options = self._options
        try:
            cached = await asyncio.to_thread(cache.read, options.data, options.keys.cache)
        except model.ConfigurationError as error:
            _log.error("configuration_cache_ignored", error=str(error), hint=error.hint)
            return
        turns = EventLoopTurns()
        for envelope in cached:
            await self._turns.prepare(published.filters_of(envelope.document), has_pauses=False)
            if not self._published.restore(envelope):
                kind, key = envelope.identity
                _log.error("cached_document_ignored", kind=kind, document=key)
            await turns.give_way()
        self._has_cache = bool(self._published.in_force)

    async def _update_cache(self) -> None:
        """Write the cache after changes, with a pause between two writes. Runs until cancelled."""
        while True:
            await self._cache_is_old.wait()
            if self._origin == "cluster":
                await self._write_cache()
            await asyncio.sleep(self._options.cache_pause_seconds)

    async def _write_cache(self) -> None:
        options, cached = self._options, list(self._published.in_force)
        self._cache_is_old.clear()  # before the write, so that what changes during the write causes another one
        write = asyncio.to_thread(cache.write, options.data, cached, options.keys.cache)
        self._writing = asyncio.create_task(write, name="write configuration cache file")
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            _log.error("configuration_not_cached", error=type(error).__name__, hint="see the disk of --data")


def _key_message(keys: model.Keys) -> str:
    fingerprint = model.key_fingerprint(keys.install)
    return f"another install key than this gateway's (fingerprint {fingerprint}) made the published documents"
