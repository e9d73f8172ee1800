"""The first leader's work after the install's settings changed, before it reconciles anything.

Each leader saves its configuration namespace and its `controllerName` in the Lease. If the namespace changed, this one
copies the documents that the previous namespace still has, because they alone know retired addresses and the last good
configuration of resources that are not valid now. It deletes nothing there. If the `controllerName` changed, nobody
serves the classes with the previous one any more, and their plans say so.

At every start the operator names each document that a stored status shows to have run and that it finds nowhere.
"""

import asyncio
from collections.abc import Iterable

import structlog

from usher_gateway import config_secret
from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_operator.plan import ownership
from usher_operator.run.leader import SavedInstall
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import ConditionType, Key, OperatorReason, StatusCondition

_log = structlog.get_logger(__name__)

_RETRY_SECONDS = 5.0
_REFUSED = frozenset({403, 404})
_NOT_READ_HINT = (
    "retired URLs and last good configurations stay behind there: give the operator's account its rights in that "
    "namespace again, and restart the operator"
)
_NOT_FOUND_HINT = (
    "it is neither in the configuration namespace nor in the previous one; gateways keep what they run, and it is "
    "published again from its resources, without retired URLs"
)


async def apply_change(api: Client, cache: Cache, previous: SavedInstall) -> bool:
    """Take over the previous configuration namespace's documents; returns whether that needs no other start."""
    settings, is_complete = cache.settings, True
    if previous.controller_name not in {"", settings.controller_name}:
        _log.error("controller_name_changed", previous=previous.controller_name, present=settings.controller_name)
        cache.abandon_classes(previous.controller_name)
    if previous.configuration_namespace not in {"", settings.configuration_namespace}:
        is_complete = await _take_over(api, cache, previous.configuration_namespace)
    for key in _not_found(cache):
        _log.error("document_not_found", kind=key.kind, document=key.path, hint=_NOT_FOUND_HINT)
    served = len(cache.our_classes())
    if not served and cache.classes:
        names = {name: listener_class.resource.spec.controller_name for name, listener_class in cache.classes.items()}
        _log.warning("no_class_served", controller_name=settings.controller_name, classes=names)
    return is_complete


async def _take_over(api: Client, cache: Cache, namespace: str) -> bool:
    """Copy the documents that the configuration namespace lacks; False if the previous one may not be read."""
    while True:
        try:
            count = 0
            async for page in api.pages(kinds.SECRET.collection(namespace), JsonObject, selector=kinds.SECRET.selector):
                for raw in page.items:
                    count += await _copy(api, cache, raw)
        except ApiError as error:
            _log.error("documents_not_copied", namespace=namespace, error=str(error), hint=_NOT_READ_HINT)
            if error.status in _REFUSED:
                return False
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            current_namespace = cache.settings.configuration_namespace
            _log.warning("documents_copied", previous=namespace, present=current_namespace, count=count)
            return True


async def _copy(api: Client, cache: Cache, raw: JsonObject) -> bool:
    """Copy this install's config Secret, unless the configuration namespace has it."""
    metadata, namespace = raw["metadata"], cache.settings.configuration_namespace
    is_present = kinds.ref_of(kinds.SECRET, namespace, metadata["name"]) in cache.child_index.by_ref
    is_config = config_secret.CONFIG_LABEL in (metadata.get("labels") or {})
    if is_present or not is_config or kinds.is_foreign(raw, cache.settings.controller_name):
        return False
    kept_metadata = {name: metadata[name] for name in ("name", "labels", "annotations") if name in metadata}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**kept_metadata, "namespace": namespace},
        "type": raw.get("type", ""),
        "data": raw.get("data") or {},
    }
    cache.take(kinds.SECRET, await api.apply(kinds.SECRET.path(namespace, metadata["name"]), body))
    return True


def _not_found(cache: Cache) -> list[Key]:
    """The Listeners and Destinations whose document ran by their stored status, and has no config Secret."""
    return sorted(
        key
        for key, record in cache.records.items()
        if key.kind in {"Listener", "Destination"}
        and cache.child_index.config_of(key) is None
        and _has_run(record.parsed.conditions)
        and ownership.owner_of(cache, key) == cache.settings.controller_name
    )


def _has_run(conditions: Iterable[StatusCondition]) -> bool:
    """Return whether a document was in force when the conditions were written, perhaps an older one."""
    for condition in conditions:
        if condition.type == ConditionType.Programmed:
            was_told = condition.status != "Unknown" and condition.reason != OperatorReason.WriteForbidden
            return was_told or "stays in force" in condition.message
    return False
