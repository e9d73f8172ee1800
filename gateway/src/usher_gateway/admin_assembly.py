"""Builds the admin port with its handlers, and the pages that it serves."""

import dataclasses
import time
from collections.abc import Callable

from usher_gateway import documents, model
from usher_gateway.admin import (
    api,
    audit,
    changes,
    erasures,
    health,
    kubernetes_tokens,
    links,
    persons,
    records,
    replays,
    run_state,
    server,
    status,
    tokens,
    usage,
)
from usher_gateway.admin.person_lookup import PersonLookup
from usher_gateway.admin.samples import SampleHandlers
from usher_gateway.admin.seal import Seals
from usher_gateway.admin.tenants import TenantTracker
from usher_gateway.admin.tries import TryHandlers
from usher_gateway.admin.urls import UrlHandlers
from usher_gateway.config import Source
from usher_gateway.delivery.dispatcher import Dispatcher
from usher_gateway.delivery.erasure_forwarding import ErasureForwarder
from usher_gateway.delivery.held_routes import HeldRoutes
from usher_gateway.delivery.holds import HoldReviewer
from usher_gateway.delivery.sample import SampleSender
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.pages import brand, proxies
from usher_gateway.pages.customer import CustomerPages
from usher_gateway.pages.server import PageServer
from usher_gateway.pages.sessions import Sessions
from usher_gateway.settings import Settings
from usher_gateway.store.base import IsPaused, MarkOfRoute
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of the gateway that its admin port shows and changes."""

    settings: Settings
    keys: model.Keys
    clock: Clock
    state: run_state.RunState
    source: Source
    store: Store
    registry: ListenerRegistry
    dispatcher: Dispatcher
    hold_reviewer: HoldReviewer
    held_routes: HeldRoutes
    sample_sender: SampleSender
    erasure_forwarder: ErasureForwarder
    health: health.HealthTracker
    tenants: TenantTracker
    tokens: tokens.TokenBook
    kubernetes_tokens: kubernetes_tokens.KubernetesTokens | None
    metrics_page: server.MetricsPage
    mark_of_route: MarkOfRoute
    is_paused: IsPaused
    wake_replays: Callable[[], None]
    wake_erasures: Callable[[], None]

    def snapshot(self) -> documents.Snapshot:
        """Return the configuration in force."""
        return self.state.snapshot

    @property
    def seals(self) -> Seals:
        """Seals the cookies of the pages and the addresses of customer links."""
        return Seals(self.keys.page)


def make_admin_server(parts: Parts) -> tuple[PageServer, server.AdminServer]:
    """Return the pages and the admin port, which serves them."""
    audit_log = audit.AuditLog(store=parts.store, now=parts.clock.now)
    link_sessions = links.LinkSessions(
        store=parts.store, seals=parts.seals, audit=audit_log, snapshot=parts.snapshot, now=parts.clock.now
    )
    pages = _make_pages(parts, link_sessions, lambda: admin_server.url)
    admin_server = server.AdminServer(
        routes=(*make_api_routes(parts, audit_log, link_sessions), *pages.routes()),
        tokens=parts.tokens,
        endpoint=parts.settings.admin,
        hosts=parts.settings.admin_host,
        kubernetes_tokens=parts.kubernetes_tokens,
    )
    return pages, admin_server


def make_api_routes(
    parts: Parts, audit_log: audit.AuditLog, link_sessions: links.LinkSessions
) -> tuple[server.AdminRoute, ...]:
    """Return the routes of the admin port except those of the pages."""
    snapshot = parts.snapshot
    check_names = api.NameCheck(store=parts.store, snapshot=snapshot).check
    person_lookup = PersonLookup(store=parts.store, keys=parts.keys, check_names=check_names, snapshot=snapshot)
    gateway_status = status.GatewayStatus(
        state=parts.state,
        tracker=parts.health,
        source=parts.source,
        registry=parts.registry,
        store=parts.store,
        clock=parts.clock,
        tenants=parts.tenants,
        check_names=check_names,
        receipt_days=parts.settings.receipt_days,
        backup_days=parts.settings.backup_days,
    )
    return server.make_routes(
        status=gateway_status,
        usage=usage.UsageHandlers(store=parts.store, now=parts.clock.now, check_names=check_names, snapshot=snapshot),
        records=records.RecordHandlers(
            store=parts.store,
            now=parts.clock.now,
            listeners=lambda: parts.registry.listeners,
            keys=parts.keys,
            check_names=check_names,
            destination=gateway_status.destination,
            held_routes=parts.held_routes.of,
            audit=audit_log,
        ),
        changes=changes.ChangeHandlers(
            store=parts.store,
            now=parts.clock.now,
            listeners=lambda: parts.registry.listeners,
            forget_cancelled=parts.dispatcher.forget_cancelled,
            ask_store=parts.dispatcher.ask_store,
            holds_of=parts.hold_reviewer.current_holds,
            check_names=check_names,
            audit=audit_log,
        ),
        replays=replays.ReplayHandlers(
            store=parts.store,
            now=parts.clock.now,
            mark_of_route=parts.mark_of_route,
            is_paused=parts.is_paused,
            check_names=check_names,
            forget_cancelled=parts.dispatcher.forget_cancelled,
            wake=parts.wake_replays,
            audit=audit_log,
        ),
        audit=audit_log,
        persons=persons.PersonHandlers(
            store=parts.store,
            lookup=person_lookup,
            audit=audit_log,
            now=parts.clock.now,
            refusing=gateway_status.refusing_listeners,
            forget_cancelled=parts.dispatcher.forget_cancelled,
        ),
        erasures=erasures.ErasureHandlers(
            store=parts.store,
            keys=parts.keys,
            lookup=person_lookup,
            audit=audit_log,
            now=parts.clock.now,
            wake=parts.wake_erasures,
            forwarder=parts.erasure_forwarder,
            store_type="SQLite" if parts.settings.store is None else "PostgreSQL",
            backup_days=parts.settings.backup_days,
        ),
        samples=SampleHandlers(
            sender=parts.sample_sender,
            snapshot=snapshot,
            held_routes=parts.held_routes.of,
            check_names=check_names,
            audit=audit_log,
        ),
        tries=TryHandlers(
            store=parts.store,
            keys=parts.keys,
            snapshot=snapshot,
            now=parts.clock.now,
            check_names=check_names,
            audit=audit_log,
        ),
        urls=UrlHandlers(snapshot=snapshot, audit=audit_log),
        links=links.LinkHandlers(
            store=parts.store, sessions=link_sessions, audit=audit_log, check_names=check_names, now=parts.clock.now
        ),
        metrics_page=parts.metrics_page,
    )


def _make_pages(parts: Parts, link_sessions: links.LinkSessions, base_url: Callable[[], str]) -> PageServer:
    settings, seals = parts.settings, parts.seals
    page_proxies = proxies.Proxies(
        seals=seals,
        networks=settings.page_proxies,
        user_header=settings.page_user_header,
        groups_header=settings.page_groups_header,
        roles=settings.page_role,
    )
    return PageServer(
        sessions=Sessions(seals, time.monotonic),
        proxies=page_proxies,
        customers=CustomerPages(links=link_sessions, proxies=page_proxies, brand=brand.load_brand(settings.brand)),
        base_url=base_url,
    )
