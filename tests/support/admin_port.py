"""An admin port over a real store, for tests."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import msgspec

from support import command_line, engines, ingest_samples, samples
from usher_gateway import documents, metrics, model, settings
from usher_gateway.access import audit, link_sessions, tokens
from usher_gateway.access.kubernetes_tokens import KubernetesTokens
from usher_gateway.access.seal import Seals
from usher_gateway.admin import parts, routes, server
from usher_gateway.admin.metrics_page import MetricsPage
from usher_gateway.admin.try_limits import TryTurns
from usher_gateway.config import SourceStatus
from usher_gateway.delivery import holds
from usher_gateway.delivery.stepping import ErasureSteps, ReplaySteps, StepRunner
from usher_gateway.ingest import identity
from usher_gateway.ingest.counters import ArrivalCounters
from usher_gateway.ingest.cpu_limits import TenantBudgets
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.insight import health, journal, run_state
from usher_gateway.insight.tenants import TenantTracker
from usher_gateway.pages.brand import Brand
from usher_gateway.pages.customer import CustomerPages
from usher_gateway.pages.proxies import Proxies
from usher_gateway.pages.server import PageServer
from usher_gateway.pages.sessions import Sessions
from usher_gateway.words import states

KEYS = model.derive_keys(bytes(32))
BODY = b'{"visitor":{"ref":7}}'
EMAIL = "ada@example.com"


class Served:
    """The parts that a test reads and changes."""

    def __init__(
        self,
        bench: engines.Bench,
        data: Path,
        brand: Brand | None = None,
        **proxies: Any,
    ) -> None:
        self.bench, self.data = bench, data
        self.tokens = tokens.load_or_create(data)
        self.seals = Seals(KEYS.page)
        self.book = tokens.TokenBook(data, self.tokens, self.seals)
        self.state = run_state.RunState()
        self.state.open_public_port()
        self.arrivals = ArrivalCounters()
        watcher = ingest_samples.RecordingWatcher()
        self.registry = ListenerRegistry(
            keys=KEYS, expressions=watcher, counters=self.arrivals, budgets=TenantBudgets()
        )
        self.port = 0
        self.audit = audit.AuditLog(store=bench.store, now=bench.clock)
        self.links = link_sessions.LinkSessions(
            store=bench.store,
            seals=self.seals,
            audit=self.audit,
            snapshot=lambda: self.state.snapshot,
            now=bench.clock,
        )
        self.proxies = Proxies(seals=self.seals, **proxies)
        self.pages = PageServer(
            sessions=Sessions(self.seals, time.monotonic),
            proxies=self.proxies,
            customers=CustomerPages(links=self.links, proxies=self.proxies, brand=brand or Brand(), now=lambda: 0.0),
            base_url=lambda: self.url,
        )
        self.sample_sender: Any = mock.Mock()
        self.paused_routes: set[str] = set()
        self.health = states.DestinationHealth.Healthy
        self.error: str | None = None
        self.circuit = "Closed"  # Health, error and circuit of every destination
        self.is_refusing = False  # The listener lobby refuses every arrival
        self.refused_reason: str | None = None  # Why it does; None in the tests that need no reason
        self.held = holds.HeldRoute("crm", "DestinationPaused", "")
        """The route whose deliveries are held, with the Secret or field that they lack."""
        steps = ReplaySteps(
            store=bench.store,
            now=lambda: time.time_ns() // 1_000,
            holds_of=samples.no_holds,
            mark_of_route=samples.no_marks,
            is_paused=lambda route: route.route in self.paused_routes,
            ask_store=lambda: None,
        )
        self.replays = StepRunner("replay", steps.take_all)
        erasing = ErasureSteps(
            store=bench.store, now=bench.clock, forget_cancelled=lambda _: None, mark_of_route=samples.no_marks
        )
        self.erasures = StepRunner("erasure", erasing.take_all)
        self.mend()

    def create_token(self, name: str, scopes: Sequence[tokens.Scope], **limits: Any) -> str:
        """Create a token before the first request; return it."""
        token = f"usher_{name}"
        entry = tokens.TokenEntry(
            name=name, digest=hashlib.sha256(token.encode()).hexdigest(), scopes=tuple(scopes), **limits
        )
        self.book._entries[bytes.fromhex(entry.digest)] = entry
        return token

    def mend(self, **fields: tuple[str, ...]) -> None:
        """Set the fields of the listener lobby."""
        document = documents.ListenerDocument(
            namespace="agency",
            name="lobby",
            tenant=documents.TenantDocument("acme"),
            addresses=(
                documents.Address("hooks.example.com", "/v1/abcdefghijklmnopqrstuvwxyz"),
                documents.Address("www.acme.example", "/hooks/purple.php", (("k", "secret7"),)),
            ),
            fields=documents.DEFAULT_FIELDS | fields,
            routes=(documents.Route("crm", "agency/crm"),),
        )
        crm = documents.DestinationDocument("agency", "crm", "https://crm.example")
        self.put(document, {crm.key: crm})

    def edit(self, **changes: Any) -> None:
        """Change the document of the listener lobby."""
        snapshot = self.state.snapshot
        self.put(msgspec.structs.replace(snapshot.listeners["agency/lobby"], **changes), snapshot.destinations)

    def put(self, listener: documents.ListenerDocument, destinations: dict[str, documents.DestinationDocument]) -> None:
        """Put one listener and destinations into force."""
        snapshot = documents.Snapshot({listener.key: listener}, destinations)
        self.registry.apply(snapshot, now=0.0)
        self.state.apply(snapshot, 0)

    def parts(self) -> parts.Parts:
        source = [metrics.gauge("usher_test", "A number.", [], {(): 7})]
        clock = mock.Mock(now=self.bench.clock, jump=lambda: 0, steady=lambda: 0)
        return parts.Parts(
            settings=settings.Settings(backup_days=35),
            keys=KEYS,
            clock=clock,
            state=self.state,
            source=mock.Mock(**{"status.return_value": SourceStatus(origin="files")}),
            store=self.bench.store,
            server=mock.Mock(),
            certificates=None,
            pipeline=mock.Mock(mark_of_route=samples.no_marks),
            registry=self.registry,
            counters=self.arrivals,
            expressions=mock.Mock(),
            worker=mock.Mock(),
            route_documents=mock.Mock(is_paused=lambda route: route.route in self.paused_routes),
            dispatcher=mock.Mock(spec=["forget_cancelled", "ask_store", "until_trial"], until_trial=lambda _: 0),
            hold_reviewer=mock.Mock(current_holds=samples.no_holds),
            held_routes=mock.Mock(of=lambda _: [self.held]),
            sample_sender=self.sample_sender,
            erasure_forwarder=mock.Mock(),
            health=self.health_tracker(),
            tenants=TenantTracker(
                state=self.state,
                arrivals=self.arrivals,
                is_failing=lambda _: True,
                is_rejecting=self.is_rejecting,
                store=self.bench.store,
                clock=clock,
                quota_used={},
            ),
            metrics_page=MetricsPage(lambda: iter(source)),
            audit=self.audit,
            links=self.links,
            replays=self.replays,
            erasures=self.erasures,
            try_turns=TryTurns(),
            releasing=asyncio.Lock(),
        )

    def is_rejecting(self, _: str) -> bool:
        return states.has_rejecting_error(self.health, self.error)

    def health_tracker(self) -> mock.Mock:
        tracker: mock.Mock = mock.create_autospec(health.HealthTracker, instance=True)
        changes: journal.Changes[states.Key, states.State]
        changes = journal.Changes("c.1", complete=True, present={}, removed=[])
        tracker.since.return_value = changes
        tracker.document.return_value = states.DocumentState("Listener", "agency/lobby", "aa", None, vanished=False)
        state = states.ListenerState(
            receiving="Receiving",
            verified_since=None,
            verified_addresses=(),
            probed_addresses=(),
            refusing=False,
            refused_reason=None,
            missing=None,
            quarantined_share=0.2,
            quarantining=True,
            company_mismatch=False,
            times_untrusted=False,
            untrusted_times_share=0.0,
            untrusted_time_reason=None,
            unexpected_sources=False,
            held_deliveries=(
                {"route": "crm", "reason": "DestinationPaused", "missing": "", "since": "2025-11-25T12:00:00.000Z"},
            ),
            degraded_routes=(),
            retired_arrivals={},
        )
        tracker.listener.side_effect = lambda *_: msgspec.structs.replace(state, refused_reason=self.refused_reason)
        tracker.listener_states.side_effect = lambda: {
            "agency/lobby": msgspec.structs.replace(state, refusing=self.is_refusing)
        }
        tracker.destination.side_effect = lambda *_: states.DestinationState(
            self.health, self.circuit, error=self.error, status=None, unresolved=None
        )
        tracker.last_error.return_value = None
        tracker.present_error.return_value = None
        tracker.is_rejecting.side_effect = self.is_rejecting
        return tracker

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, *, token: str | None = None, **changes: Any) -> tuple[int, Any]:
        """Send a request; return the status and the answer's JSON (or bytes)."""
        token = self.tokens.operate if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.url + path, **changes) as answer,
        ):
            content = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            return answer.status, await answer.json(content_type=None) if is_json else content

    async def get(self, path: str) -> Any:
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        return answer

    async def post(self, path: str, **selection: Any) -> Any:
        status, answer = await self.ask("POST", path, json=selection)
        assert status == 200, answer
        return answer

    async def command(self, *arguments: str, **environment: str) -> command_line.CommandRun:
        """Run a command of `usher` that asks this admin port."""
        return await command_line.usher(*arguments, USHER_ADMIN=self.url, USHER_DATA=str(self.data), **environment)

    async def output_of(self, *arguments: str, **environment: str) -> str:
        """Run a command that must succeed; return what it printed."""
        run = await self.command(*arguments, **environment)
        assert run.code == 0, run.err
        return run.out


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    kubernetes_tokens: KubernetesTokens | None = None,
    brand: Brand | None = None,
    engine: engines.Engine | None = None,
    **proxies: Any,
) -> AsyncIterator[Served]:
    """Run an admin port with an empty store, by default on SQLite. ``proxies``: arguments of `Proxies`."""
    bench = engines.Bench(engine or engines.Sqlite(), folder)
    await bench.open()
    served = Served(bench, folder, brand, **proxies)
    stepping = [asyncio.create_task(runner.run()) for runner in (served.replays, served.erasures)]
    try:
        admin_server = server.AdminServer(
            routes=(
                *routes.make_routes(served.parts()),
                *served.pages.routes(),
            ),
            tokens=served.book,
            endpoint=settings.Endpoint("127.0.0.1", 0),
            hosts=("usher.internal",),
            kubernetes_tokens=kubernetes_tokens,
        )
        async with admin_server as admin, served.pages:
            served.port = admin.port
            yield served
    finally:
        for task in stepping:
            task.cancel()
        await asyncio.gather(*stepping, return_exceptions=True)
        await bench.store.close()
        bench.engine.forget(folder)


def person_of(listener: model.ListenerName, field: identity.PersonField = "email", value: str = EMAIL) -> bytes:
    """Return the person key that the listener's tenant has for a value; by default Ada's."""
    keys = identity.PersonKeys(KEYS, listener.namespace, listener.tenant)
    return keys.key(field, identity.normalise_person(field, value))


async def add_ada(served: Served) -> None:
    """Store two visits of Ada at acme, of which one is delivered, one at globex, and another guest's."""
    bench = served.bench
    delivered, *_ = await bench.accept(
        samples.arrival("a", person_keys=(person_of(samples.LOBBY),)),
        samples.arrival("b", person_keys=(person_of(samples.LOBBY),)),
        samples.arrival("c", listener=samples.BAR, person_keys=(person_of(samples.BAR),), if_visit=()),
        samples.arrival("other"),
    )
    bench.store.settle(samples.settlement(delivered.deliveries[0], model.SettledAs.Delivered, status=200))
    await bench.store.flush()


async def fill(served: Served) -> None:
    """Fill the store with a delivered, a dead, a skipped, a held and a quarantined visit."""
    bench = served.bench
    delivered, dead, *_ = await bench.accept(
        samples.arrival("a"),
        samples.arrival("b"),
        samples.arrival("c", if_visit=(samples.skip(model.SkipReason.Filter),)),
        samples.arrival("d", if_visit=(samples.plan(hold=model.HoldReason.DestinationPaused),)),
        samples.quarantined("q", body=BODY),
    )
    bench.store.settle(samples.settlement(delivered.deliveries[0], model.SettledAs.Delivered, status=200))
    bench.store.settle(
        samples.settlement(
            dead.deliveries[0],
            model.SettledAs.Dead,
            status=400,
            error="Status",
            answer=b"no such field",
            milliseconds=12,
        )
    )
    await bench.store.flush()
