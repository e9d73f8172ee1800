"""Reads and watches agencies' Secrets, in the namespaces that the platform admitted.

The operator may read a namespace's Secrets if the platform bound the ClusterRole `usher-agency` there. When a plan
first needs a namespace's Secrets, the operator asks the API server whether it may read them (SelfSubjectAccessReview),
lists them, and watches them from then on. If the platform bound the role in all namespaces at once, one list and one
watch serve them all.

The operator notices a binding that comes or goes because it watches the bindings with the role's name. While
namespaces are not admitted, it also asks again for one every few seconds, because a binding may have any name.
"""

import asyncio
import functools

import structlog

from usher_gateway.kube import is_older
from usher_gateway.kube.client import ApiError, Client, JsonObject, WatchEvent
from usher_gateway.kube.reflector import Reflector
from usher_operator.run.workqueue import Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import AGENCY_ROLE, Key, SecretAccess
from usher_operator.watch.resync import jittered
from usher_operator.watch.watches import EventHandler, log_failure

_log = structlog.get_logger(__name__)

_BINDINGS = "/apis/rbac.authorization.k8s.io/v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_VERBS = ("list", "get", "watch")  # Without one of them, a key would fail for ever before its status is written
_EVERYWHERE = ""  # Stands for all namespaces at once

# Interval between questions about namespaces that are not admitted: one question, however many there are.
_ASK_AGAIN_SECONDS = 5.0

# When to ask after a binding changed: the API server applies it a moment later, and other API servers after that.
_BINDING_DELAYS_SECONDS = (0.2, 3.0)

_CONCURRENT_READS = 4  # Namespaces that are listed at the same time; each needs the memory of one page


class AgencySecrets:
    """Keeps the admitted namespaces' Secrets in the cache."""

    def __init__(self, *, client: Client, cache: Cache, queue: Workqueue[Key], handler: EventHandler) -> None:
        self._client, self._cache, self._queue, self._handler = client, cache, queue, handler
        self._requested: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: dict[str, asyncio.Task[None] | None] = {}
        """Each requested namespace's watch; None until it starts."""
        self._reflectors: dict[str, Reflector[JsonObject]] = {}
        self._denied: dict[str, None] = {}  # Namespaces that are not admitted; the first one is asked about next
        self._reads = asyncio.Semaphore(_CONCURRENT_READS)
        self._start_version = ""

    async def read_start(self) -> None:
        """Read all namespaces' Secrets if all are admitted. Otherwise plans request them one by one."""
        while True:
            try:
                is_admitted = await self._is_admitted(_EVERYWHERE)
                self._start_version = await self._read(_EVERYWHERE) if is_admitted else ""
                self._set(_EVERYWHERE, "Permitted" if is_admitted else "Denied")
            except ApiError as error:
                _log.warning("agency_secrets_not_read", error=str(error))
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
            else:
                break
        if is_admitted:
            self._requested.put_nowait(_EVERYWHERE)

    def request(self, namespace: str) -> None:
        """Start to read and watch a namespace, unless that was requested before."""
        if namespace not in self._tasks:
            self._tasks[namespace] = None
            self._requested.put_nowait(namespace)

    def read_again(self) -> None:
        """End every watch and read its namespace again, because watches missed changes."""
        for reflector in self._reflectors.values():
            reflector.read_again()

    async def run(self, seconds: float) -> None:
        """Watch the requested namespaces and the bindings, until cancelled; read everything once per period."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_beside_watches(seconds), name="read agencies' Secrets")
            for plural in ("rolebindings", "clusterrolebindings"):
                group.create_task(self._watch_bindings(plural), name=f"watch {plural}")
            group.create_task(self._ask_again(), name="ask for admission")
            while True:
                namespace = await self._requested.get()
                self._stop(namespace)
                if namespace and self._cache.secret_access(_EVERYWHERE) == "Permitted":
                    continue
                task = group.create_task(self._watch(namespace), name=f"watch the Secrets of {namespace or 'all'}")
                self._tasks[namespace] = task

    async def _watch(self, namespace: str) -> None:
        async def read() -> str:
            version, self._start_version = self._start_version, ""
            if version:
                return version
            async with self._reads:
                if await self._is_admitted(namespace):
                    version = await self._read(namespace)
                    self._set(namespace, "Permitted")
                    return version
            self._deny(namespace)
            await asyncio.Future()  # run() replaces this task when it asks again
            raise AssertionError("unreachable")

        def on_event(event: WatchEvent[JsonObject]) -> None:
            if event.type == "BOOKMARK":
                self._handler.saw_event(kinds.AGENCY_SECRET)
            else:
                self._handler.handle(kinds.AGENCY_SECRET, event.type, event.item)

        collection, selector = kinds.AGENCY_SECRET.collection(namespace), kinds.AGENCY_SECRET.selector
        on_failure = functools.partial(log_failure, path=collection)
        reflector = self._reflectors[namespace] = Reflector(
            self._client, collection, JsonObject, read=read, on_event=on_event, on_failure=on_failure, selector=selector
        )
        await reflector.run()

    async def _read_beside_watches(self, seconds: float) -> None:
        """Read every admitted namespace once per period, because a watch may miss a change."""
        while True:
            await asyncio.sleep(jittered(seconds))
            for namespace in [name for name in self._reflectors if self._cache.secret_access(name) == "Permitted"]:
                try:
                    await self._read(namespace)
                except ApiError as error:
                    _log.warning("agency_secrets_not_read", namespace=namespace, error=str(error))
                if self._cache.secret_access(namespace) != "Permitted":
                    self._forget(namespace)  # its admission ended meanwhile

    async def _read(self, namespace: str) -> str:
        """List a namespace's Secrets into the cache; returns the list's resourceVersion.

        The list is right about every Secret that did not change in the cache meanwhile, even if the cache has a later
        version, as after a restore of etcd.
        """
        kind, cached_versions = kinds.AGENCY_SECRET, self._cache.versions(kinds.AGENCY_SECRET, namespace)
        listed: set[tuple[str, str]] = set()
        version = ""
        async for page in self._client.pages(kind.collection(namespace), JsonObject, selector=kind.selector):
            version = version or page.resource_version
            for raw in page.items:
                name = raw["metadata"]["namespace"], raw["metadata"]["name"]
                listed.add(name)
                current_version = self._cache.version_of(kind, *name)
                if current_version == cached_versions.get(name) or not is_older(
                    raw["metadata"]["resourceVersion"], current_version[1]
                ):
                    self._queue.add_all(self._cache.put(kind, raw))
        for name in cached_versions.keys() - listed:
            if self._cache.version_of(kind, *name) == cached_versions[name]:
                self._queue.add_all(self._cache.remove(kind, *name))
        return version

    async def _is_admitted(self, namespace: str) -> bool:
        """Return whether the operator may read Secrets in each way that it needs."""
        for verb in _VERBS:
            attributes = {"verb": verb, "resource": "secrets", "namespace": namespace}
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
            answer = await self._client.create(_REVIEWS, review, is_fenced=False)
            if not answer["status"]["allowed"]:
                return False
        return True

    def _set(self, namespace: str, access: SecretAccess) -> None:
        former_access = self._cache.secret_access(namespace)
        if access == former_access:
            return
        if namespace:
            _log.info("namespace_admission_changed", namespace=namespace, access=access, before=former_access)
        elif access == "Permitted":
            for other in [admitted for admitted in self._tasks if admitted]:
                self._stop(other)
        self._denied.pop(namespace, None)
        self._queue.add_all(self._cache.set_secret_access(namespace, access))

    def _deny(self, namespace: str) -> None:
        self._forget(namespace)
        self._set(namespace, "Denied")
        if namespace:
            self._denied[namespace] = None

    def _forget(self, namespace: str) -> None:
        """Forget a namespace's Secrets; `""`: those of all namespaces that have no watch of their own."""
        for place, name in self._cache.versions(kinds.AGENCY_SECRET, namespace):
            if namespace or place not in self._reflectors:
                self._queue.add_all(self._cache.remove(kinds.AGENCY_SECRET, place, name))

    def _stop(self, namespace: str) -> None:
        self._denied.pop(namespace, None)
        self._reflectors.pop(namespace, None)
        task = self._tasks.pop(namespace, None)
        if task is not None:
            task.cancel()

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            needing = {key.namespace for key in self._cache.records if key.kind in {"Listener", "Destination"}}
            for namespace in self._tasks.keys() - needing - {_EVERYWHERE}:
                self._stop(namespace)
                self._forget(namespace)
                self._set(namespace, "Unknown")
            namespace = next(iter(self._denied), _EVERYWHERE)
            if namespace:
                self._requested.put_nowait(namespace)

    async def _watch_bindings(self, plural: str) -> None:
        """Ask again for a namespace whenever its binding with the role's name changes."""
        path, loop = f"{_BINDINGS}/{plural}", asyncio.get_running_loop()
        selector = f"metadata.name={AGENCY_ROLE}"

        async def read() -> str:
            version = ""
            async for page in self._client.pages(path, JsonObject, field_selector=selector):
                version = page.resource_version
            return version

        def on_event(event: WatchEvent[JsonObject]) -> None:
            namespace = event.item["metadata"].get("namespace", _EVERYWHERE)
            if event.type != "BOOKMARK" and (namespace in self._tasks or not namespace):
                for seconds in _BINDING_DELAYS_SECONDS:
                    loop.call_later(seconds, self._requested.put_nowait, namespace)

        on_failure = functools.partial(log_failure, path=path)
        await Reflector(
            self._client, path, JsonObject, read=read, on_event=on_event, on_failure=on_failure, field_selector=selector
        ).run()
