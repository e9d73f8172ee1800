"""An agency with some days of visits and some troubles, on a real gateway: its pages have something to show."""

import contextlib
import datetime
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from support import engines, gateway, gateways, samples, waiting, wire
from usher_gateway import documents, model, simulator
from usher_gateway.config import install_key
from usher_gateway.insight import health
from usher_gateway.store.base import ListenerActivity

EMAIL = "grace.hopper@example.org"  # Of a person with a visit

_PEOPLE = (("Grace", "Hopper"), ("Ada", "Lovelace"), ("Alan", "Turing"), ("Mary", "Jackson"), ("Edsger", "Dijkstra"))
# Tenant -> visits in the busiest hour of its history.
_BUSIEST_HOUR = {"harbour-hotels": 8, "corner-cafes": 5, "river-stadium": 3, "old-inn": 2, "city-museum": 3}

_SILENT_HOURS = {"old-inn": 31}  # Tenant -> how long its last visit is ago

# Tenant -> visits of the present hour. The deliveries of all except the stadium fail, wait or are held.
_TO_POST = {"harbour-hotels": 8, "corner-cafes": 4, "river-stadium": 3, "city-museum": 3}


def _resource(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name} if kind == "ListenerClass" else {"name": name, "namespace": "agency"}
    return {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _listener(tenant: str, *routes: dict[str, Any], **spec: Any) -> dict[str, Any]:
    address = {"name": "wifi", "hostname": f"{tenant}.test", "path": "/wifi"}
    given = {"tenantRef": {"name": tenant}, "addresses": [address], "authentication": {"type": "None"}}
    return _resource("Listener", tenant, **given, routes=list(routes), **spec)


def _manifests(receiver: str) -> list[dict[str, Any]]:
    zones = {"city-museum": {"timeZone": "Asia/Tokyo"}}
    tenants = [_resource("Tenant", name, **zones.get(name, {})) for name in (*_BUSIEST_HOUR, "park-spa", "arena")]
    destinations = [
        _resource("Destination", name, type="HTTP", state=state, http={"url": f"{receiver}/{name}"})
        for name, state in (("crm", "Active"), ("mailer", "Active"), ("warehouse", "Active"), ("loyalty", "Paused"))
    ]
    return [
        _resource(
            "ListenerClass",
            "public",
            controllerName="usher.dev/usher",
            hostname="hooks.test",
            allowedHostnames=[{"hostname": "*.test"}],
        ),
        *tenants,
        *destinations,
        _listener("harbour-hotels", gateways.route("crm", "crm"), gateways.route("stock", "warehouse")),
        _listener("corner-cafes", gateways.route("welcome", "mailer")),
        _listener("river-stadium", gateways.route("crm", "crm")),
        _listener("old-inn", gateways.route("crm", "crm"), silence={"afterSeconds": 86_400}),
        _listener("city-museum", gateways.route("members", "loyalty")),
        _listener("park-spa", gateways.route("crm", "crm")),
        _listener(
            "arena", gateways.route("crm", "crm"), allowedSources={"ranges": ["203.0.113.0/24"], "policy": "Enforce"}
        ),
    ]


class Agency:
    """The running agency."""

    def __init__(self, running: gateway.RunningGateway) -> None:
        self.gateway = running
        self.url, self.token, self.ask = running.gateway.admin.url, running.token, running.ask

    async def link(self) -> str:
        """Return the address of a new link of a customer."""
        link = await self.ask("POST", "/api/links", tenant="agency/harbour-hotels", days=30, lastVisits=True)
        return str(self.url + link["path"])

    async def post(self, tenant: str, number: int = 0, body: bytes | None = None, status: int = 200) -> None:
        """Post a visit, or another body, as Purple does."""
        first, last = _PEOPLE[number % len(_PEOPLE)]
        user = {
            "id": 1_000 + number,
            "firstName": first,
            "lastName": last,
            "email": f"{first}.{last}@example.org".lower(),
        }
        visit = {"user": user | {"venue": {"id": 7, "name": "Lobby"}}, "companyId": 8}
        request = wire.request("/wifi", body or json.dumps(visit).encode(), headers={"Host": f"{tenant}.test"})
        assert (await wire.exchange(self.gateway.port, request)).status == status

    async def rows(self, path: str) -> list[Any]:
        return list((await self.ask("GET", path))["rows"])

    async def _wait_rows(self, path: str, satisfied: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait until the rows of a list satisfy a check; return them."""
        return await waiting.until(lambda: self.rows(path), satisfied)


@contextlib.asynccontextmanager
async def running(folder: Path, days: int) -> AsyncIterator[Agency]:
    """Run the agency with visits of some days. Deliveries of visits that were just posted fail, wait or are held."""
    behaviours = {"/mailer": simulator.Behaviour(status=400), "/warehouse": simulator.Behaviour(status=503)}
    data = folder / "data"
    data.mkdir()
    await _write_history(data, days)
    async with simulator.Receiver() as receiver:
        for path, behaviour in behaviours.items():
            receiver.set_behaviour(path, behaviour)
        async with gateway.running(folder, _manifests(receiver.url), brand=_write_brand(folder)) as started:
            agency = Agency(started)
            await _make_day(agency)
            yield agency


def _write_brand(folder: Path) -> Path:
    file = folder / "brand.yaml"
    file.write_text("{name: Harbour Agency, contact: Ada at support@harbour.example, colour: '#0a7d5c'}")
    return file


async def _make_day(agency: Agency) -> None:
    """Post visits, start a replay and an erasure, and create a link."""
    for tenant, visits in _TO_POST.items():
        for number in range(visits):
            await agency.post(tenant, number)
    await agency.post("corner-cafes", body=b"[]")
    for number in range(health.REFUSING_FROM):
        await agency.post("arena", number, status=403)
    dead = await agency._wait_rows("/api/deliveries?state=dead", lambda rows: len(rows) == _TO_POST["corner-cafes"])
    await agency._wait_rows("/api/deliveries?state=held", lambda rows: len(rows) == _TO_POST["city-museum"])
    await agency.ask("POST", "/api/replays", ids=[dead[-2]["visit"]], state="dead")
    await agency.ask("POST", "/api/persons/suppress", value="mary.jackson@example.org", field="email")
    await agency.ask("POST", "/api/persons/erase", value="alan.turing@example.org", field="email")
    await agency._wait_rows("/api/persons/erasures", lambda rows: rows[0]["status"] == "completed")
    await agency._wait_rows("/api/replays", lambda rows: rows[0]["state"] == "done")


async def _write_history(data: Path, days: int) -> None:
    """Write delivered visits, until the full hour."""
    key = install_key.load_install_key(data, {})
    names = {"key_fingerprint": model.key_fingerprint(key), "names_key": model.derive_keys(key).name}
    bench = engines.Bench(engines.Sqlite(), data, **names)
    now = datetime.datetime.now(datetime.UTC).replace(minute=0, second=0, microsecond=0)
    bench.clock.now = _microseconds(now - datetime.timedelta(days=days))
    await bench.open()
    activity: dict[model.ListenerName, ListenerActivity] = {}
    for day in reversed(range(days)):
        hours = [now - datetime.timedelta(days=day, hours=number) for number in range(24, 0, -1)]
        bench.clock.now = _microseconds(hours[-1])
        arrivals = [arrival for hour in hours for arrival in _arrivals(hour, now - hour)]
        for arrival, accepted in zip(arrivals, await bench.accept(*arrivals), strict=True):
            activity[arrival.listener] = ListenerActivity(arrival.received_at, {arrival.address: 1})
            (delivery,) = accepted.deliveries
            settlement = samples.settlement(delivery, model.SettledAs.Delivered, arrival.received_at, status=200)
            bench.store.settle(settlement)
        await bench.store.flush()
    await bench.store.save_activity(activity)
    await bench.store.close()


def _arrivals(hour: datetime.datetime, age: datetime.timedelta) -> list[model.Arrival]:
    """Return the visits of an hour at all tenants."""
    at = _microseconds(hour)
    daylight = 0.3 + 0.7 * max(0.0, math.sin(math.pi * (hour.hour - 6) / 17))
    weekend = 1.5 if hour.weekday() >= 5 else 1.0
    arrivals = []
    for tenant, busiest in _BUSIEST_HOUR.items():
        listener = model.ListenerName("agency", tenant, tenant)
        route = samples.plan(samples.route("crm", listener))
        number = (
            0 if age < datetime.timedelta(hours=_SILENT_HOURS.get(tenant, 0)) else round(busiest * daylight * weekend)
        )
        times = [at + visitor * samples.HOUR // number for visitor in range(number)]
        of_tenant = {"listener": listener, "address": documents.Address(f"{tenant}.test", "/wifi").id}
        arrivals += [samples.arrival(f"{tenant} {time}", time, if_visit=(route,), **of_tenant) for time in times]
    return arrivals


def _microseconds(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) * model.MICROSECONDS
