"""Kopf's events into cache and queue, nothing else: an error in here would be swallowed, so there is no I/O.

Only ``on.event``: kopf writes nothing to any object, no finalizer, no annotation. It never says that its watch began
anew, and never reports what was deleted meanwhile; both are made good here by asking for a complete reading.
"""

import base64
import logging
from collections.abc import Callable
from typing import Any

import kopf

from usher_gateway import model
from usher_gateway.kube.access import Access, Connection
from usher_operator import kinds, removals, resync
from usher_operator.cache import Cache
from usher_operator.health import Health
from usher_operator.metrics import OperatorMetrics
from usher_operator.view import Key
from usher_operator.workqueue import PauseGate, Workqueue

_RESTART_WORDS = "Restarting the watch-stream"
"""What kopf logs (at debug) after a 410, before it lists anew."""

_WATCHING_LOGGER = "kopf._cogs.clients.watching"
_QUIET_SECONDS = 15.0
"""Listed objects of one beginning follow one another faster than this."""


class Relists:
    """Whether a listed object (an event without a type) belongs to a new beginning of a watch.

    ``clock``: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._listed_at: dict[str, float] = {}
        self._streamed: set[str] = set()

    def is_new(self, kind: str, *, is_listed: bool) -> bool:
        """Note an event; True for the first object of a second or later list."""
        now = self._clock()
        if not is_listed:
            self._streamed.add(kind)
            return False
        last = self._listed_at.get(kind, now)
        self._listed_at[kind] = now
        is_second = kind in self._streamed or now - last > _QUIET_SECONDS
        self._streamed.discard(kind)
        return is_second


class Handlers:
    """What happens on an event."""

    def __init__(
        self,
        cache: Cache,
        queue: Workqueue[Key],
        reader: resync.Resync,
        around: tuple[PauseGate, Health, OperatorMetrics],
        clock: Callable[[], float],
    ) -> None:
        self._cache, self._queue, self._resync = cache, queue, reader
        self._trust, self._health, self._metrics = around
        self._relists = Relists(clock)
        self.on_class: Callable[[], None] = lambda: None
        """Called after a ListenerClass changed: it may confirm removals."""
        self.on_arrival: Callable[[kinds.WatchedKind], None] = lambda _: None
        """Called when a definition came, or changed, while the operator runs."""
        self.on_lost: Callable[[removals.DocumentKind], None] = lambda _: None
        """Called when one of our own CRDs goes, with what it takes along: that was not meant to go."""

    def on_event(self, kind: kinds.WatchedKind, type_: str | None, raw: dict[str, Any]) -> None:
        """One event of a kind."""
        self._health.saw_event(kind.name)
        self._metrics.saw_watch(kind.name)
        if self._relists.is_new(kind.name, is_listed=type_ is None):
            self._resync.ask(kind)
        metadata = raw["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        uid, version = self._cache.version_of(kind, namespace, name)
        if type_ == "DELETED":
            keys = self._cache.remove(kind, namespace, name) if uid in {"", metadata["uid"]} else frozenset()
        elif uid == metadata["uid"] and resync.is_older(metadata["resourceVersion"], version):
            return  # what we wrote since was answered with something newer
        else:
            keys = self._cache.put(kind, raw)
        for key in keys:
            self._queue.add(key)
        if kind is kinds.LISTENER_CLASS and keys:
            self.on_class()

    def on_definition(self, type_: str | None, raw: dict[str, Any]) -> None:
        """A CRD came, changed or goes."""
        metadata, spec = raw["metadata"], raw.get("spec") or {}
        plural, group = (spec.get("names") or {}).get("plural"), spec.get("group")
        kind = next((one for one in kinds.ALL if (one.plural, one.group) == (plural, group)), None)
        if kind is None:
            return
        topic = f"definition {plural}"
        if type_ == "DELETED" or "deletionTimestamp" in metadata:
            self._on_lost(kind, topic)
        elif _is_established(raw):
            if type_ is not None or topic in self._trust.reasons:  # at the start everything was read a moment ago
                self._resync.ask(kind)
                self.on_arrival(kind)
            self._trust.resume(topic)

    def _on_lost(self, kind: kinds.WatchedKind, topic: str) -> None:
        """With its definition every object of a kind goes: of our own kinds nobody is believed to have meant that."""
        if kind in kinds.OWN:
            reason = f"the CRD {kind.plural}.{kind.group} was deleted: apply it, and what was of its kind, anew"
            self._trust.pause(topic, reason)
            self.on_lost("Destination" if kind is kinds.DESTINATION else "Listener")
        else:
            for key in self._cache.set_served(kind, served=False):
                self._queue.add(key)


def _is_established(raw: dict[str, Any]) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Established" and one.get("status") == "True" for one in conditions)


def register(handlers: Handlers, watched: tuple[kinds.WatchedKind, ...]) -> kopf.OperatorRegistry:
    """Kopf's registry with one handler per kind, and one for CRDs."""
    registry = kopf.OperatorRegistry()
    for kind in watched:

        async def on_event(event: Any, kind: kinds.WatchedKind = kind, **_: Any) -> None:
            handlers.on_event(kind, event["type"], event["object"])

        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.name, registry=registry)(on_event)

    async def on_definition(event: Any, **_: Any) -> None:
        handlers.on_definition(event["type"], event["object"])

    kopf.on.event("apiextensions.k8s.io", "v1", "customresourcedefinitions", id="CRD", registry=registry)(on_definition)
    return registry


class RestartWatcher(logging.Filter):
    """Notices in kopf's own log that a watch begins anew: also where the list is then empty."""

    def __init__(self, reader: resync.Resync) -> None:
        super().__init__()
        self._resync = reader

    def filter(self, record: logging.LogRecord) -> bool:
        """Ask for a reading of the kind that is named; let warnings through, and nothing below."""
        text = record.getMessage()
        if text.startswith(_RESTART_WORDS):
            for kind in kinds.WATCHED_BY_KOPF:
                if f" {kind.plural}.{kind.version}" in text:
                    self._resync.ask(kind)
        return record.levelno >= logging.WARNING

    def install(self) -> None:
        """Listen."""
        logger = logging.getLogger(_WATCHING_LOGGER)
        logger.setLevel(logging.DEBUG)
        logger.addFilter(self)


class KopfLogin:
    """Gives kopf the operator's own connection."""

    def __init__(self, access: Access) -> None:
        """Load the connection once, so that what kopf cannot use is an error before anything starts."""
        self._access = access
        self._is_first = True
        connection_info(access.load())

    async def log_in(self, **_: Any) -> kopf.ConnectionInfo:
        """Called by kopf at the start, and again after the API server answered 401."""
        if not self._is_first:
            self._access.reject()
        self._is_first = False
        return connection_info(await self._access.connection())


def connection_info(connection: Connection) -> kopf.ConnectionInfo:
    """A connection in kopf's form.

    Raises:
        ConfigurationError: kopf cannot use it.
    """
    if connection.server_name:
        raise model.ConfigurationError(
            "the kubeconfig file has `tls-server-name`, which the operator does not support",
            "use a server whose certificate has the name of its URL",
        )
    scheme, _, token = connection.authorization.partition(" ")
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=base64.b64encode(connection.authorities) or None,
        insecure=not connection.verify,
        scheme=scheme or None,
        token=token or None,
        certificate_data=base64.b64encode(connection.certificate) or None,
        private_key_data=base64.b64encode(connection.key) or None,
    )
