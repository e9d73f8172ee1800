"""Asks every ready gateway's admin port which documents it runs.

A document is in force when every ready gateway runs it. So the operator asks each endpoint in the Service, and not the
Service, which would answer for one gateway. A gateway that is not ready is not asked, but its last answer still says
which hostnames it holds, because it may serve them again.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
import structlog
import yarl

from usher_gateway import config_secret, model
from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.installation import Installation
from usher_operator.run.workqueue import Workqueue
from usher_operator.settings import OperatorSettings
from usher_operator.state.cache import Cache
from usher_operator.state.values import (
    AppliedDocument,
    DestinationReport,
    GatewayReport,
    Key,
    ListenerReport,
    Moment,
    path_key,
)

_log = structlog.get_logger(__name__)

_TIME_LIMITS = aiohttp.ClientTimeout(total=10, sock_connect=2)
_ENDPOINTS_SECONDS = 5.0  # How long a list of the gateways' endpoints is used
_APPLY_SECONDS = 0.2  # Delay between a written document and the next sweep: gateways apply a document within this time

_MOST_BYTES = 64 * 1024 * 1024  # Longest answer; the state of 10,000 Listeners takes about 10 MB

# Errors of decoding and of odd times, for something else than a gateway may answer at the address of one.
_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

_SLICES = "/apis/discovery.k8s.io/v1"


class _Removed(msgspec.Struct):
    kind: config_secret.Kind
    key: str


class _Document(_Removed):
    hash: str | None = None
    rejected: str | None = None


class _Vanished(_Removed):
    since: Moment | None = None
    uid: str = ""
    install: str = ""
    tenant: str | None = None
    hostnames: tuple[str, ...] = ()


class ConfigReport(msgspec.Struct, rename="camel"):
    """The answer to ``GET /api/config``: the fields that the operator uses."""

    cursor: str = ""
    complete: bool = True
    documents: list[_Document] = []
    removed: list[_Removed] = []
    now: Moment | None = None
    vanished: list[_Vanished] = []
    listeners: dict[str, ListenerReport] = {}
    destinations: dict[str, DestinationReport] = {}


_decode = msgspec.json.Decoder(ConfigReport).decode


class GatewayAnswers:
    """One gateway's answers so far."""

    def __init__(self, url: str, settings: OperatorSettings) -> None:
        self._install, self._stale_seconds = settings.install_label, settings.timing.stale_document_seconds
        self.cursor = ""  # Sent with the next request, so that the answer has only what changed since
        self.has_answered = False
        self.report = GatewayReport(name=url)  # As plans read it. Its first three maps change, between plans.

    def take(self, answer: ConfigReport, now: int = 0) -> set[Key]:
        """Take an answer; returns the keys whose state changed. ``now``: the operator's confirmed time."""
        keys = {path_key(entry.kind, entry.key) for entry in (*answer.documents, *answer.removed, *answer.vanished)}
        report = self.report
        keys |= {*report.stale, *_reported_keys(answer)}
        if answer.complete:
            keys |= {*report.applied, *_reported_keys(report)}
        previous_states = {key: self._state(key) for key in keys}
        if answer.complete:
            report.applied.clear()
            report.listeners.clear()
            report.destinations.clear()
        for gone in answer.removed:
            report.applied.pop(path_key(gone.kind, gone.key), None)
            (report.listeners if gone.kind == "Listener" else report.destinations).pop(gone.key, None)
        for document in answer.documents:
            report.applied[path_key(document.kind, document.key)] = AppliedDocument(
                document.hash or "", document.rejected or ""
            )
        ahead = _hours_ahead(answer.now, now)
        for path, listener in answer.listeners.items():
            arrivals = {address: at + ahead for address, at in listener.retired_arrivals.items()}
            report.listeners[path] = msgspec.structs.replace(listener, retired_arrivals=arrivals)
        report.destinations.update(answer.destinations)
        stale_documents = {
            path_key(vanished.kind, vanished.key): vanished.uid
            for vanished in answer.vanished
            if self._is_stale(vanished, answer.now)
        }
        vanished_hostnames = {
            path_key(vanished.kind, vanished.key): config_secret.TenantHostnames(vanished.tenant, vanished.hostnames)
            for vanished in answer.vanished
            if vanished.tenant and vanished.install == self._install
        }
        self.cursor, self.has_answered = answer.cursor, True
        self.report = msgspec.structs.replace(
            report, reachable=True, refuses_token=False, stale=stale_documents, vanished=vanished_hostnames
        )
        return {key for key, state in previous_states.items() if self._state(key) != state}

    def _state(self, key: Key) -> tuple[object, ...]:
        report = self.report
        reports = report.listeners if key.kind == "Listener" else report.destinations
        return report.applied.get(key), reports.get(key.path), report.stale.get(key)

    def _is_stale(self, vanished: _Vanished, now: datetime.datetime | None) -> bool:
        """Return whether this install's document vanished long ago, by the gateway's own clock."""
        if vanished.since is None or now is None or not vanished.uid or vanished.install != self._install:
            return False
        return (now - vanished.since).total_seconds() >= self._stale_seconds

    @property
    def reach(self) -> tuple[str, bool, bool, bool]:
        """Its URL, whether it ever answered, whether it answers now, and whether it refuses the token."""
        return self.report.name, self.has_answered, self.report.reachable, self.report.refuses_token


def _hours_ahead(gateway_time: datetime.datetime | None, now: int) -> datetime.timedelta:
    """Return by how much the confirmed time is ahead of a gateway's clock, in whole hours; 0 if it is not.

    Without it an address in use could end, because its last arrival would count as an old one. Whole hours keep
    documents as they are while clocks differ by minutes.
    """
    if gateway_time is None:
        return datetime.timedelta()
    hours = round((now / model.MICROSECONDS - gateway_time.timestamp()) / 3600)
    return datetime.timedelta(hours=max(0, hours))


def _reported_keys(report: ConfigReport | GatewayReport) -> set[Key]:
    listeners = {path_key("Listener", path) for path in report.listeners}
    return listeners | {path_key("Destination", path) for path in report.destinations}


class GatewayObserver:
    """Asks every ready gateway which documents it runs, and puts the answers into the cache."""

    def __init__(
        self,
        *,
        api: Client,
        settings: OperatorSettings,
        cache: Cache,
        queue: Workqueue[Key],
        installation: Installation,
        metrics: OperatorMetrics,
    ) -> None:
        self._api, self._settings, self._cache, self._queue = api, settings, cache, queue
        self._installation, self._metrics = installation, metrics
        self._gateways: dict[str, GatewayAnswers] = {}  # By URL
        self._endpoints: dict[str, bool] = dict.fromkeys(settings.gateways, True)  # URL -> whether it is ready
        self._listed_at = 0.0
        self._last_reach: list[tuple[str, bool, bool, bool]] | None = None  # Of the ready gateways, in the last sweep
        self._wake = asyncio.Event()

    def ask_soon(self) -> None:
        """Ask the gateways soon, because a document was written."""
        self._wake.set()

    async def run(self) -> None:
        """Ask the gateways until cancelled: often while a document is not in force everywhere, else rarely."""
        # without decompression, which could multiply an answer
        async with aiohttp.ClientSession(timeout=_TIME_LIMITS, trust_env=False, auto_decompress=False) as session:
            while True:
                await self.sweep(session)
                await self._wait()

    async def _wait(self) -> None:
        """Wait until the next sweep is due, a document was written, or a plan says that a gateway is behind."""
        timing, loop = self._settings.timing, asyncio.get_running_loop()
        end = loop.time() + timing.gateway_poll_seconds
        while loop.time() < end:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timing.gateway_poll_seconds, timing.gateway_poll_pending_seconds)):
                    await self._wake.wait()
            if self._wake.is_set():
                await asyncio.sleep(_APPLY_SECONDS)
                break
            if self._cache.behind:
                break
        self._wake.clear()

    async def sweep(self, session: aiohttp.ClientSession) -> None:
        """Ask every ready gateway once."""
        endpoints = await self._list_endpoints()
        if endpoints is None:
            return
        for url in self._gateways.keys() - endpoints.keys():
            del self._gateways[url]
        for url in endpoints.keys() - self._gateways.keys():
            self._gateways[url] = GatewayAnswers(url, self._settings)
        ready = [self._gateways[url] for url, is_ready in endpoints.items() if is_ready]
        changed_keys = await asyncio.gather(*(self._ask(session, gateway) for gateway in ready))
        changed: set[Key] = set().union(*changed_keys)
        reports = tuple(gateway.report for gateway in ready)
        unready = [self._gateways[url].report for url, is_ready in endpoints.items() if not is_ready]
        former_unheard, unheard = self._cache.reports.unheard, self._unheard()
        changed |= self._cache.set_gateways(reports, unready=unready, unheard=unheard)
        for label, is_reachable in (("reachable", True), ("unreachable", False)):
            self._metrics.gateways.labels(label).set(sum(report.reachable is is_reachable for report in reports))
        reach = [gateway.reach for gateway in ready]
        # a gateway that starts makes nobody wait who does not wait yet
        if reach != self._last_reach or (former_unheard and former_unheard != unheard):
            changed |= {key for key in self._cache.all_keys() if key.kind in {"Listener", "Destination"}}
        self._last_reach = reach
        self._queue.add_all(changed)

    def _unheard(self) -> tuple[str, ...]:
        """See ``GatewayReports.unheard``."""
        service = self._settings.gateway_service
        if service is not None and not self._gateways:
            return (f"of Service {service.namespace}/{service.name}",)
        return tuple(url for url, gateway in self._gateways.items() if not gateway.has_answered)

    async def _ask(self, session: aiohttp.ClientSession, gateway: GatewayAnswers) -> set[Key]:
        """Ask one gateway; returns the keys whose state changed."""
        url = yarl.URL(gateway.report.name) / "api/config"
        if gateway.cursor:
            url = url.with_query(since=gateway.cursor)
        headers = {"Authorization": f"Bearer {self._installation.observe_token}", "Accept-Encoding": "identity"}
        try:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    is_refusal = response.status == HTTPStatus.UNAUTHORIZED
                    return self._not_reached(gateway, f"answered {response.status}", refuses_token=is_refusal)
                return gateway.take(_decode(await _read(response.content)), self._cache.time)
        except (aiohttp.ClientError, TimeoutError, OSError, *_UNREADABLE) as error:
            return self._not_reached(gateway, type(error).__name__)

    def _not_reached(self, gateway: GatewayAnswers, reason: str, *, refuses_token: bool = False) -> set[Key]:
        if gateway.report.reachable:
            _log.warning("gateway_not_reached", gateway=gateway.report.name, reason=reason)
        gateway.report = msgspec.structs.replace(gateway.report, reachable=False, refuses_token=refuses_token)
        return set()

    async def _list_endpoints(self) -> Mapping[str, bool] | None:
        """As ``admin_urls``; None if the operator could not list the gateways yet."""
        service = self._settings.gateway_service
        if service is None:
            return self._endpoints
        now = asyncio.get_running_loop().time()
        if self._listed_at and now - self._listed_at < _ENDPOINTS_SECONDS:
            return self._endpoints
        path = f"{_SLICES}/namespaces/{service.namespace}/endpointslices"
        try:
            pages = self._api.pages(path, JsonObject, selector=f"kubernetes.io/service-name={service.name}")
            slices = [raw async for page in pages for raw in page.items]
        except ApiError as error:
            _log.warning("gateways_not_listed", error=str(error))
            return self._endpoints if self._listed_at else None
        self._listed_at = now
        self._endpoints = dict(sorted(admin_urls(slices, service.port).items()))
        return self._endpoints


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Read a whole answer.

    Raises:
        ValueError: it is too long.
    """
    answer = bytearray()
    async for piece in content.iter_any():
        answer += piece
        if len(answer) > _MOST_BYTES:
            raise ValueError("the answer is too long")
    return bytes(answer)


def admin_urls(slices: Iterable[dict[str, Any]], port: str) -> dict[str, bool]:
    """The admin URL of each endpoint in one Service's EndpointSlices, and whether the endpoint is ready.

    Endpoints that end are left out. ``port``: the port's name or number; ``""`` means the port called ``admin``, or the
    only port.
    """
    urls: dict[str, bool] = {}
    for endpoint_slice in slices:
        ports = {str(entry.get("name") or ""): entry.get("port") for entry in endpoint_slice.get("ports") or ()}
        number = int(port) if port.isdecimal() else ports.get(port or "admin")
        if number is None and not port and len(ports) == 1:
            number = next(iter(ports.values()))
        for endpoint in endpoint_slice.get("endpoints") or () if number is not None else ():
            state = endpoint.get("conditions") or {}
            is_ready = bool(state.get("ready", True))
            if is_ready or not state.get("terminating"):
                address = endpoint["addresses"][0]
                host = f"[{address}]" if ":" in address else address
                url = f"http://{host}:{number}"
                urls[url] = is_ready or urls.get(url, False)
    return urls
