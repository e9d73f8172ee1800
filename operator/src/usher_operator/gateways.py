"""What gateways say of themselves: asked from every ready gateway, folded into reports that plan() reads.

A document is in force when every ready gateway runs it; so each is asked itself, by its endpoint and not by a Service.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Literal

import aiohttp
import msgspec
import structlog
import yarl

from usher_operator import api as apis
from usher_operator.cache import Cache
from usher_operator.installation import Installation
from usher_operator.metrics import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import AppliedDocument, DestinationReport, GatewayReport, Key, ListenerReport
from usher_operator.workqueue import Workqueue

_log = structlog.get_logger(__name__)

_LIMITS = aiohttp.ClientTimeout(total=10, sock_connect=2)
_ENDPOINTS_SECONDS = 5.0
_FORGET_SECONDS = 0.2
"""After a document was written, so long until gateways are asked: they apply within a moment."""

_SLICES = "/apis/discovery.k8s.io/v1"


class _Document(msgspec.Struct):
    kind: Literal["Listener", "Destination"]
    key: str
    hash: str | None = None
    rejected: str | None = None


class _Removed(msgspec.Struct):
    kind: Literal["Listener", "Destination"]
    key: str


class _DegradedRoute(msgspec.Struct):
    route: str
    reason: str = ""


class _Listener(msgspec.Struct, rename="camel"):
    receiving: str = "NoVisitYet"
    refusing: bool = False
    verified_since: str | None = None
    quarantined_share: float = 0.0
    company_mismatch: bool = False
    degraded_routes: list[_DegradedRoute] = []


class _Destination(msgspec.Struct):
    circuit: str = "Closed"
    error: str | None = None
    gone: bool = False


class ConfigReport(msgspec.Struct, rename="camel"):
    """``GET /api/config``, as much of it as is used."""

    cursor: str = ""
    complete: bool = True
    documents: list[_Document] = []
    removed: list[_Removed] = []
    listeners: dict[str, _Listener] = {}
    destinations: dict[str, _Destination] = {}


_Receiving = Literal["Receiving", "NoVisitYet", "Silent"]
_RECEIVING: dict[str, _Receiving] = {"Receiving": "Receiving", "NoVisitYet": "NoVisitYet", "Silent": "Silent"}

_decode = msgspec.json.Decoder(ConfigReport).decode


class GatewayState:
    """What one gateway has said so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cursor = ""
        self.is_reachable = True
        self.is_heard = False
        """Whether it has ever answered."""
        self._applied: dict[Key, AppliedDocument] = {}
        self._listeners: dict[str, ListenerReport] = {}
        self._destinations: dict[str, DestinationReport] = {}

    def take(self, answer: ConfigReport) -> set[Key]:
        """Fold an answer in; returns the keys of which something else is known now."""
        before = (dict(self._applied), dict(self._listeners), dict(self._destinations))
        if answer.complete:
            self._applied.clear()
            self._listeners.clear()
            self._destinations.clear()
        for gone in answer.removed:
            self._applied.pop(_key(gone.kind, gone.key), None)
            (self._listeners if gone.kind == "Listener" else self._destinations).pop(gone.key, None)
        for one in answer.documents:
            self._applied[_key(one.kind, one.key)] = AppliedDocument(one.hash or "", one.rejected or "")
        for path, state in answer.listeners.items():
            self._listeners[path] = _listener(state)
        for path, found in answer.destinations.items():
            self._destinations[path] = DestinationReport(
                circuit_open=found.circuit == "Open", error=found.error or "", gone=found.gone
            )
        self.cursor, self.is_reachable, self.is_heard = answer.cursor, True, True
        return (
            _changed(before[0], self._applied)
            | {_key("Listener", path) for path in _changed(before[1], self._listeners)}
            | {_key("Destination", path) for path in _changed(before[2], self._destinations)}
        )

    def shown(self) -> GatewayReport:
        """As plan() reads it. The maps are shared: they change only between plans."""
        return GatewayReport(
            name=self.name,
            reachable=self.is_reachable,
            applied=self._applied,
            listeners=self._listeners,
            destinations=self._destinations,
        )


def _listener(state: _Listener) -> ListenerReport:
    receiving = _RECEIVING.get(state.receiving, "NoVisitYet")
    return ListenerReport(
        receiving=receiving,
        verified=state.verified_since is not None,
        refusing=state.refusing,
        quarantined_share=state.quarantined_share,
        slow_routes=tuple(one.route for one in state.degraded_routes if one.reason == "ExpressionTooSlow"),
        company_mismatch=state.company_mismatch,
    )


def _key(kind: Literal["Listener", "Destination"], path: str) -> Key:
    namespace, _, name = path.partition("/")
    return Key(kind, namespace, name)


def _changed(before: dict[Any, Any], after: dict[Any, Any]) -> set[Any]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


class GatewayObserver:
    """Asks the gateways, for ever."""

    def __init__(
        self,
        api: apis.Api,
        settings: OperatorSettings,
        cache: Cache,
        queue: Workqueue[Key],
        around: tuple[Installation, OperatorMetrics],
    ) -> None:
        self._api, self._settings, self._cache, self._queue = api, settings, cache, queue
        self._installation, self._metrics = around
        self._reports: dict[str, GatewayState] = {}
        self._endpoints: tuple[str, ...] = settings.gateways
        self._looked_at = 0.0
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """A document was written: ask soon."""
        self._wake.set()

    async def run(self) -> None:
        """Ask, for ever: often while something is not in force everywhere, else now and then."""
        async with aiohttp.ClientSession(timeout=_LIMITS, trust_env=False) as session:
            while True:
                await self.sweep(session)
                await self._wait()

    async def _wait(self) -> None:
        """Until it is time, a document was written, or one is not in force, which plans tell a moment after a sweep."""
        timing, loop = self._settings.timing, asyncio.get_running_loop()
        end = loop.time() + timing.observe
        while loop.time() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timing.observe, timing.observe_pending)):
                    await self._wake.wait()
            if self._wake.is_set():
                await asyncio.sleep(_FORGET_SECONDS)
                break
            if self._cache.behind:
                break
        self._wake.clear()

    async def sweep(self, session: aiohttp.ClientSession) -> None:
        """Ask every ready gateway once."""
        names = await self._names()
        if names is None:
            return
        is_first = self._cache.gateways is None
        gone = self._reports.keys() - set(names)
        for name in gone:
            del self._reports[name]
        reports = [self._reports.setdefault(name, GatewayState(name)) for name in names]
        before = [(one.name, one.is_heard, one.is_reachable) for one in reports]
        answers = await asyncio.gather(*(self._ask(session, one) for one in reports))
        changed: set[Key] = set().union(*answers)
        now = [(one.name, one.is_heard, one.is_reachable) for one in reports]
        self._cache.set_gateways(tuple(one.shown() for one in reports))
        for state, is_it in (("reachable", True), ("unreachable", False)):
            self._metrics.gateways.labels(state).set(sum(one.is_reachable is is_it for one in reports))
        if is_first or gone or before != now:
            changed |= {key for key in self._cache.all_keys() if key.kind in {"Listener", "Destination"}}
        for key in changed:
            self._queue.add(key)

    async def _ask(self, session: aiohttp.ClientSession, report: GatewayState) -> set[Key]:
        url = yarl.URL(report.name) / "api/config"
        if report.cursor:
            url = url.with_query(since=report.cursor)
        headers = {"Authorization": f"Bearer {self._installation.observe_token}"}
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    return self._unreachable(report, f"answered {response.status}")
                return report.take(_decode(await response.read()))
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
            return self._unreachable(report, type(error).__name__)

    def _unreachable(self, report: GatewayState, reason: str) -> set[Key]:
        if report.is_reachable:
            _log.warning("gateway_not_reached", gateway=report.name, reason=reason)
        report.is_reachable = False
        return set()

    async def _names(self) -> tuple[str, ...] | None:
        """URLs of the admin ports of all ready gateways; None where they are not known."""
        service = self._settings.gateway_service
        if service is None:
            return self._settings.gateways
        now = asyncio.get_running_loop().time()
        if self._looked_at and now - self._looked_at < _ENDPOINTS_SECONDS:
            return self._endpoints
        path = f"{_SLICES}/namespaces/{service.namespace}/endpointslices"
        try:
            pages = [page async for page in self._api.pages(path, f"kubernetes.io/service-name={service.name}")]
        except apis.ApiError as error:
            _log.warning("gateways_not_listed", error=str(error))
            return self._endpoints if self._looked_at else None
        self._looked_at = now
        self._endpoints = tuple(sorted(admin_urls((raw for page in pages for raw in page.items), service.port)))
        return self._endpoints


def admin_urls(slices: Iterable[dict[str, Any]], port: str) -> set[str]:
    """Admin URLs of the ready endpoints of EndpointSlices. ``port``: name or number; ``""``: ``admin``, or the only."""
    found = set()
    for one in slices:
        ports = {str(entry.get("name") or ""): entry.get("port") for entry in one.get("ports") or ()}
        number = int(port) if port.isdecimal() else ports.get(port or "admin")
        if number is None and not port and len(ports) == 1:
            number = next(iter(ports.values()))
        for endpoint in one.get("endpoints") or () if number is not None else ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                address = endpoint["addresses"][0]
                host = f"[{address}]" if ":" in address else address
                found.add(f"http://{host}:{number}")
    return found
