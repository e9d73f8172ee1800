"""The parts of the gateway that its admin port shows and changes. Every handler takes them."""

import asyncio
import dataclasses
from collections.abc import Callable

from usher_gateway import model
from usher_gateway.admin.audit import AuditLog
from usher_gateway.admin.health import HealthTracker
from usher_gateway.admin.kubernetes_tokens import KubernetesTokens
from usher_gateway.admin.link_sessions import LinkSessions
from usher_gateway.admin.metrics_page import MetricsPage
from usher_gateway.admin.run_state import RunState
from usher_gateway.admin.tenants import TenantTracker
from usher_gateway.admin.tokens import TokenBook
from usher_gateway.admin.try_limits import TryTurns
from usher_gateway.config import Source
from usher_gateway.delivery.dispatcher import Dispatcher
from usher_gateway.delivery.erasure_forwarding import ErasureForwarder
from usher_gateway.delivery.held_routes import HeldRoutes
from usher_gateway.delivery.holds import HoldReviewer
from usher_gateway.delivery.sample import SampleSender
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.settings import Settings
from usher_gateway.store.base import IsPaused, MarkOfRoute
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that handlers use."""

    settings: Settings
    keys: model.Keys
    clock: Clock
    state: RunState
    source: Source
    store: Store
    registry: ListenerRegistry
    dispatcher: Dispatcher
    hold_reviewer: HoldReviewer
    held_routes: HeldRoutes
    sample_sender: SampleSender
    erasure_forwarder: ErasureForwarder
    health: HealthTracker
    tenants: TenantTracker
    tokens: TokenBook
    kubernetes_tokens: KubernetesTokens | None
    metrics_page: MetricsPage
    audit: AuditLog
    links: LinkSessions
    mark_of_route: MarkOfRoute
    is_paused: IsPaused
    wake_replays: Callable[[], None]
    wake_erasures: Callable[[], None]
    try_turns: TryTurns = dataclasses.field(default_factory=TryTurns)
    releasing: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    """Held during a release, so that two requests never count the same arrival."""
