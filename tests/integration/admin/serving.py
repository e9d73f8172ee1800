"""An admin port over a real store, for tests."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client

from contract import engines, samples
from usher_gateway import documents, model
from usher_gateway.admin import context, server, tokens
from usher_gateway.ingest import find

KEYS = model.derive_keys(bytes(32))
BODY = b'{"visitor":{"ref":7}}'


class Silent:
    def expression_failed(self, listener: str, route: str, code: str) -> None:
        pass

    def expression_held(self, listener: str, route: str) -> None:
        pass


class Served:
    """What a test looks at and turns."""

    def __init__(self, bench: engines.Bench, data: Path) -> None:
        self.bench, self.data = bench, data
        self.tokens = tokens.load_or_create(data)
        self.reasons: list[str] = []
        self.live: dict[str, find.LiveListener] = {}
        self.port = 0
        self.mend()

    def mend(self, **fields: tuple[str, ...]) -> None:
        """Let the listener lobby understand its bodies by these fields."""
        document = documents.Listener(
            namespace="agency",
            name="lobby",
            tenant=documents.Tenant("acme"),
            addresses=(
                documents.Address("hooks.example.com", "/v1/abcdefghijklmnopqrstuvwxyz"),
                documents.Address("www.acme.example", "/hooks/purple.php", (("k", "secret7"),)),
            ),
            fields=documents.DEFAULT_FIELDS | fields,
            routes=(documents.Route("crm", "agency/crm"),),
        )
        crm = documents.Destination("agency", "crm", "https://crm.example")
        self.live = {document.key: find.LiveListener(document, {crm.key: crm}, KEYS, Silent(), 0.0)}

    def context(self) -> context.AdminContext:
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.Gauge("usher_test", "A number.", registry=registry).set(7)
        return context.AdminContext(
            store=self.bench.store,
            now=self.bench.clock,
            tokens=self.tokens,
            registry=registry,
            ready=lambda: self.reasons,
            config_state=lambda cursor: {"cursor": "c.1", "complete": cursor != "c.0", "documents": []},
            listeners_state=lambda: {"agency/lobby": {"applied": "aa", "lastArrival": None}},
            listeners=lambda: self.live,
            destinations_state=lambda: {"agency/crm": {"state": "Active", "host": "crm.example"}},
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, *, token: str | None = None, **changes: Any) -> tuple[int, Any]:
        """Status, and the answer's JSON (or bytes)."""
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


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    """An admin port over an empty store."""
    bench = engines.Bench(engines.Sqlite(), folder)
    await bench.open()
    served = Served(bench, folder)
    try:
        async with server.AdminServer(served.context(), "127.0.0.1", 0) as admin:
            served.port = admin.port
            yield served
    finally:
        await bench.store.close()


async def fill(served: Served) -> None:
    """A visit delivered, a visit dead, a skipped one, a held one, a quarantined one."""
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
            dead.deliveries[0], model.SettledAs.Dead, status=400, error="Status", answer=b"no such field"
        )
    )
    await bench.store.flush()
