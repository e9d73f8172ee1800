"""Configuration from a cluster: a stream of snapshots, live within a second of what an operator publishes.

Nothing here can stop a gateway: while the API server is away, what is in force stays in force, and a gateway that
starts meanwhile begins with what it kept on its own disk.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncGenerator, Callable

import msgspec
import structlog

from usher_gateway import config_secret, documents, model
from usher_gateway.config import cluster_access, last_good, list_watch, published, source, watch_stream
from usher_gateway.resources import conditions

_log = structlog.get_logger(__name__)

_SLICE = 50
"""So many Secrets are read before others get their turn on the event loop."""

_LOGGED = 50

_KEY_HINT = (
    "give this gateway the operator's: the entry install.key of the Secret usher-install-key, in --data or as "
    "USHER_INSTALL_KEY"
)


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a cluster's configuration is, and how it is followed."""

    keys: model.Keys
    access: cluster_access.Access
    namespace: str
    data: pathlib.Path
    """Folder of the cache."""
    trusted_proxies: tuple[str, ...] = ()
    """Of this gateway, beside those of documents."""
    limits: list_watch.Limits = list_watch.Limits()
    cache_after_seconds: float = 10.0
    """The first list may take so long before the cache is used."""
    gather_seconds: float = 0.02
    """From a change to its snapshot: what comes together is applied together."""
    pause_seconds: float = 0.1
    """From one snapshot to the next, at least."""
    keep_pause_seconds: float = 5.0
    """From one writing of the cache to the next, at least."""


class ClusterSource:
    """Follows a configuration namespace."""

    def __init__(self, options: ClusterOptions, check: published.Check, now: Callable[[], int]) -> None:
        """``now``: the wall clock, microseconds."""
        self._options, self._now = options, now
        self._published = published.Published(options.keys.document, check, options.trusted_proxies)
        self._watch = list_watch.ListWatch(options.access, options.namespace, self, options.limits)
        self._origin: source.Origin | None = None
        self._heard_at = 0
        self._running: dict[config_secret.Identity, published.State | None] = {}
        """What changed with the snapshots that run, and was not asked for yet."""
        self._touched = asyncio.Event()
        self._listed = asyncio.Event()
        self._to_keep = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        """The last writing of the cache: a thread cannot be stopped."""

    def status(self) -> source.Status:
        """See source.Source."""
        return source.Status(
            origin=self._origin,
            rejected=tuple(self._problem(one) for one in self._published.rejected),
            waits_for=self._waits_for(),
            vanished=self._published.vanished,
            heard_at=self._heard_at,
        )

    def _waits_for(self) -> str:
        namespace, rejected = self._options.namespace, self._published.rejected
        if self._published.in_force:
            return ""
        if not self._listed.is_set():
            return (
                f"namespace {namespace} was not read yet: the API server must answer, and let this account list there"
            )
        if self._is_of_another_key():
            return f"{_wrong_key(self._options.keys)}; {_KEY_HINT}"
        return f"no document in namespace {namespace} can be run: see the log, or /api/config" if rejected else ""

    def _is_of_another_key(self) -> bool:
        """Whether all that is published was made with another install key."""
        codes = {one.code for one in self._published.rejected}
        return not self._published.in_force and codes == {model.DocumentHashError.code}

    def take_touched(self) -> dict[config_secret.Identity, published.State | None]:
        """See source.Source."""
        running, self._running = self._running, {}
        return running

    async def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """See source.Source. Ends only by being closed."""
        await self._restore()
        jobs = {"watch configuration": self._watch.run, "keep configuration": self._keep}
        tasks = [asyncio.create_task(job(), name=name) for name, job in jobs.items()]
        try:
            await self._first()
            is_first = True
            while True:
                self._touched.clear()
                touched = self._published.take_touched()
                if self._published.is_changed or (is_first and self._is_configuration()):
                    is_first = False
                    yield self._snapshot()
                    self._to_keep.set()
                self._running |= touched  # only now: what was yielded runs when the next one is asked for
                await asyncio.sleep(self._options.pause_seconds)
                await self._touched.wait()
                await asyncio.sleep(self._options.gather_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._writing is not None:
                # Not before it has ended: two writings at once would spoil the file. _write_cache() told its error.
                await asyncio.gather(self._writing, return_exceptions=True)
            if self._to_keep.is_set() and self._origin == "cluster":
                await self._write_cache()

    def _is_configuration(self) -> bool:
        """Whether nothing is really meant, where nothing is in force: with another install key all is rejected."""
        return bool(self._published.in_force) or not self._published.rejected

    def _snapshot(self) -> documents.Snapshot:
        snapshot = self._published.snapshot()
        _log.info(
            "configuration_applied",
            source=self._origin,
            listeners=len(snapshot.listeners),
            destinations=len(snapshot.destinations),
            rejected=len(self._published.rejected),
            vanished=len(self._published.vanished),
        )
        return snapshot

    async def _first(self) -> None:
        """Wait for the first list; where it does not come in time, for nothing that the cache can give."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.cache_after_seconds):
                await self._listed.wait()
        if not self._listed.is_set() and self._published.in_force:
            _log.warning("configuration_from_cache", namespace=self._options.namespace)
            self._origin = "cache"
            return
        await self._listed.wait()

    # what the watch tells (list_watch.Sink)

    async def listed(self, secrets: list[published.Secret]) -> None:
        """All there is at one moment."""
        fresh = [secret for secret in secrets if not self._published.is_known(secret)]
        rejected = []
        for index, secret in enumerate(fresh):
            rejected.append(self._published.put(secret))
            if index % _SLICE == 0:
                await asyncio.sleep(0)
        self._tell_rejected([one for one in rejected if one is not None])
        self._tell_vanished(self._published.retain({secret.name for secret in secrets}, self._now()))
        if not secrets:
            _log.warning("configuration_namespace_is_empty", namespace=self._options.namespace)
        self._origin, self._heard_at = "cluster", self._now()
        self._listed.set()
        self._touched.set()

    def happened(self, event: watch_stream.Event) -> None:
        """One change, or a sign of life."""
        self._heard_at = self._now()
        if event.type == "Bookmark":
            return
        if event.type == "Gone":
            identity = self._published.take_away(event.secret.name, self._now())
            self._tell_vanished([identity] if identity is not None else [])
        elif not self._published.is_known(event.secret):
            rejected = self._published.put(event.secret)
            self._tell_rejected([rejected] if rejected is not None else [])
        self._touched.set()

    def _tell_rejected(self, rejected: list[published.Rejected]) -> None:
        """One line for each, but one for all where the cause is one."""
        if rejected and self._is_of_another_key():
            _log.error(
                "install_key_differs", rejected=len(rejected), error=_wrong_key(self._options.keys), hint=_KEY_HINT
            )
            return
        for one in rejected[:_LOGGED]:
            kind, key = one.identity or ("", "")
            _log.error(
                "document_rejected",
                secret=one.secret,
                kind=kind,
                document=key,
                code=one.code,
                error=one.message,
                hint=one.hint,
            )
        if len(rejected) > _LOGGED:
            _log.error("more_documents_rejected", count=len(rejected) - _LOGGED)

    @staticmethod
    def _tell_vanished(identities: list[config_secret.Identity]) -> None:
        for kind, key in identities[:_LOGGED]:
            _log.error("document_vanished", kind=kind, document=key, hint="it is served on; only a tombstone removes")
        if len(identities) > _LOGGED:
            _log.error("more_documents_vanished", count=len(identities) - _LOGGED)

    def _problem(self, rejected: published.Rejected) -> conditions.Problem:
        where = f"Secret {self._options.namespace}/{rejected.secret}"
        resource = " ".join(rejected.identity) if rejected.identity else ""
        message = f"{rejected.code}: {rejected.message}"
        return conditions.Problem(where, 0, "", message, rejected.hint, "error", resource, rejected.code)

    # the cache

    async def _restore(self) -> None:
        options = self._options
        try:
            kept = await asyncio.to_thread(last_good.read, options.data, options.keys.cache)
        except model.ConfigurationError as error:
            _log.error("configuration_cache_ignored", error=str(error), hint=error.hint)
            return
        for kind, key in self._published.restore(kept or ()):
            _log.error("cached_document_ignored", kind=kind, document=key)

    async def _keep(self) -> None:
        """Write the cache after changes, not too often. Runs until cancelled."""
        while True:
            await self._to_keep.wait()
            if self._origin == "cluster":
                await self._write_cache()
            await asyncio.sleep(self._options.keep_pause_seconds)

    async def _write_cache(self) -> None:
        options, kept = self._options, list(self._published.in_force)
        self._to_keep.clear()
        write = asyncio.to_thread(last_good.write, options.data, kept, options.keys.cache)
        self._writing = asyncio.create_task(write, name="write configuration cache")
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            _log.error("configuration_not_kept", error=type(error).__name__, hint="see the disk of --data")


def _wrong_key(keys: model.Keys) -> str:
    mine = model.key_fingerprint(keys.install)
    return f"what is published was made with another install key than this gateway's (fingerprint {mine})"
