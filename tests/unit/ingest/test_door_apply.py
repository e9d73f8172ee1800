"""A change of configuration touches what it is about, and ends where applying everything anew would."""

import random
from typing import Any, cast

from unit.ingest import samples
from usher_gateway import clock, documents
from usher_gateway.ingest import door as doors
from usher_gateway.store.base import Store


def door() -> doors.Door:
    return doors.Door(cast("Store", None), clock.Clock(), samples.KEYS, samples.Watch(), lambda _: None)


def listener(name: str, destination: str = "crm", **changes: Any) -> documents.Listener:
    routes = (documents.Route("r", f"agency/{destination}"),)
    addresses = (documents.Address("hooks.test", f"/{name}"),)
    return samples.listener(name=name, routes=routes, **({"addresses": addresses} | changes))


def snapshot(listeners: list[documents.Listener], destinations: list[documents.Destination]) -> documents.Snapshot:
    return documents.Snapshot({one.key: one for one in listeners}, {one.key: one for one in destinations})


async def test_only_what_a_change_is_about_is_made_anew() -> None:
    found = door()
    a, b, c = listener("a"), listener("b"), listener("c", "mailer")
    crm, mailer = samples.destination(name="crm"), samples.destination(name="mailer")
    assert found.apply(snapshot([a, b, c], [crm, mailer])) == 3
    before = dict(found.listeners)

    assert found.apply(snapshot([a, listener("b", window_seconds=7), c], [crm, mailer])) == 1
    assert found.listeners["agency/a"] is before["agency/a"]
    assert found.listeners["agency/b"].window == 7_000_000

    paused = samples.destination(name="mailer", state="Paused")
    assert found.apply(snapshot([a, listener("b", window_seconds=7), c], [crm, paused])) == 1
    assert found.listeners["agency/a"] is before["agency/a"]
    assert found.listeners["agency/c"] is not before["agency/c"]

    assert found.apply(snapshot([a, listener("b", window_seconds=7), c], [crm])) == 1


async def test_many_changes_one_by_one_end_where_one_would() -> None:
    random_ = random.Random(7)
    found = door()
    listeners: dict[str, documents.Listener] = {}
    destinations: dict[str, documents.Destination] = {}
    for _ in range(300):
        name, other = random_.choice("abcdef"), random_.choice("xyz")
        if random_.random() < 0.3:
            listeners.pop(name, None)
        else:
            places = tuple(documents.Address("hooks.test", f"/{place}") for place in random_.sample("123456", 2))
            listeners[name] = listener(name, other, addresses=places)
        if random_.random() < 0.3:
            destinations.pop(other, None)
        else:
            destinations[other] = samples.destination(name=other, state=random_.choice(["Active", "Paused"]))
        wanted = snapshot(list(listeners.values()), list(destinations.values()))
        found.apply(wanted)
        fresh = door()
        fresh.apply(wanted)
        assert {key: live.document for key, live in found.listeners.items()} == wanted.listeners
        for place in "123456":
            assert _answers(found, place) == _answers(fresh, place)


def _answers(found: doors.Door, place: str) -> tuple[str, Any] | None:
    """Which listener answers at a place, and where its only route leads."""
    match = found._addresses.find("hooks.test", f"/{place}", 0)
    if match is None:
        return None
    live = match.listener
    [planned] = live.planner._routes
    return live.document.name, (planned._destination_hold, planned._definition.destination)
