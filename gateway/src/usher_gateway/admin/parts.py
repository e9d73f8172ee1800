"""The gateway parts that its admin port shows and changes. Every handler takes them, and so do the metrics."""

import asyncio
import dataclasses

from usher_gateway import model
from usher_gateway.access.audit import AuditLog
from usher_gateway.access.link_sessions import LinkSessions
from usher_gateway.admin.metrics_page import MetricsPage
from usher_gateway.admin.try_limits import TryTurns
from usher_gateway.config import Source
from usher_gateway.delivery.dispatcher import Dispatcher
from usher_gateway.delivery.erasure_forwarding import ErasureForwarder
from usher_gateway.delivery.holds import HeldRoutes, HoldReviewer
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.sample import SampleSender
from usher_gateway.delivery.stepping import StepRunner
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.ingest.certificates import Certificates
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.pipeline import ArrivalPipeline
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.ingest.server import PublicServer
from usher_gateway.insight.health import HealthTracker
from usher_gateway.insight.run_state import RunState
from usher_gateway.insight.tenants import TenantTracker
from usher_gateway.settings import Settings
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Parts:
    """The parts that handlers and metrics use. ``Gateway`` makes them."""

    settings: Settings
    keys: model.Keys
    clock: Clock
    state: RunState
    source: Source
    store: Store
    server: PublicServer
    certificates: Certificates | None
    pipeline: ArrivalPipeline
    registry: ListenerRegistry
    counters: ArrivalCounters
    expressions: ExpressionCounters
    dispatcher: Dispatcher
    worker: DeliveryWorker
    route_documents: RouteDocuments
    hold_reviewer: HoldReviewer
    held_routes: HeldRoutes
    sample_sender: SampleSender
    erasure_forwarder: ErasureForwarder
    replays: StepRunner
    erasures: StepRunner
    health: HealthTracker
    tenants: TenantTracker
    metrics_page: MetricsPage
    audit: AuditLog
    links: LinkSessions
    try_turns: TryTurns
    releasing: asyncio.Lock
    """Held during a release, so that two requests never count the same arrival."""
