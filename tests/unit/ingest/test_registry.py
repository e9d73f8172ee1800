import asyncio
import random
from typing import Any

import pytest

from support import ingest_samples
from usher_gateway import documents, expressions
from usher_gateway.expressions import programs
from usher_gateway.ingest.registry import ListenerRegistry, Match


def registry_of(*listeners: documents.ListenerDocument) -> ListenerRegistry:
    registry = ingest_samples.registry()
    registry.apply(documents.Snapshot({document.key: document for document in listeners}, {}), now=0.0)
    return registry


def registry_at(*addresses: documents.Address) -> ListenerRegistry:
    return registry_of(ingest_samples.listener(addresses=addresses))


def find(registry: ListenerRegistry, target: str, now: int = 0) -> Match:
    match = registry.find("hooks.test", target, now)
    assert match is not None
    return match


def address(host: str = "hooks.test", path: str = "/v1/t", **more: object) -> documents.Address:
    return documents.Address(host, path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["hooks.test", "HOOKS.Test", "hooks.test.", "hooks.test:443", "hooks.test.:8443", "hooks.test:"]
)
def test_host_is_compared_as_a_name(host: str) -> None:
    assert registry_at(address()).find(host, "/v1/t", 0) is not None


@pytest.mark.parametrize(
    "host", ["", "hooks", "hooks.test.evil", "xhooks.test", "[hooks.test]", "hooks.test@x", " hooks.test", "\udcff"]
)
def test_other_hosts_are_not_found(host: str) -> None:
    assert registry_at(address()).find(host, "/v1/t", 0) is None


def test_host_can_be_an_ipv6_address() -> None:
    addresses = registry_at(address("[2001:db8::1]"))
    assert addresses.find("[2001:DB8::1]:443", "/v1/t", 0) is not None
    assert addresses.find("[2001:db8::2]", "/v1/t", 0) is None


@pytest.mark.parametrize("target", ["/v1/t", "/v1/t?", "/v1/t?a=b&c"])
def test_unexpected_query_is_ignored(target: str) -> None:
    assert registry_at(address()).find("hooks.test", target, 0) is not None


@pytest.mark.parametrize(
    "target", ["/v1/T", "/v1/t/", "//v1/t", "/v1/%74", "/v1/t#x", "/", "", "*", "v1/t", "/v1/t%00"]
)
def test_path_is_compared_as_sent(target: str) -> None:
    assert registry_at(address()).find("hooks.test", target, 0) is None


def test_address_with_the_most_matching_query_pairs_wins() -> None:
    plain, one_pair, two_pairs = address(), address(query=(("k", "7"),)), address(query=(("k", "7"), ("v", "a b")))
    addresses = registry_at(plain, two_pairs, one_pair)
    for query, expected in (
        ("", plain),
        ("?k=8", plain),
        ("?k=7", one_pair),
        ("?x=1&k=7", one_pair),
        ("?v=a+b&k=7", two_pairs),
        ("?k=7&v=a%20b&z", two_pairs),
    ):
        match = find(addresses, "/v1/t" + query)
        assert match.address == expected


@pytest.mark.parametrize("query", ["k", "k=", "k=8", "K=7", "kk=7", "k=7;", "%zz=1", "=&=", "k=%"])
def test_address_without_its_query_pairs_is_not_found(query: str) -> None:
    assert registry_at(address(query=(("k", "7"),))).find("hooks.test", f"/v1/t?{query}", 0) is None


def test_empty_query_value_can_be_required() -> None:
    assert registry_at(address(query=(("k", ""),))).find("hooks.test", "/v1/t?k=", 0) is not None


def test_expired_token_is_not_found() -> None:
    addresses = registry_at(address(until=100, action="Hold"))
    match = find(addresses, "/v1/t", 99)
    assert match.address.action == "Hold"
    assert addresses.find("hooks.test", "/v1/t", 100) is None


def test_expired_address_gives_way_to_a_less_specific_one() -> None:
    addresses = registry_at(address(), address(query=(("k", "7"),), until=100))
    match = find(addresses, "/v1/t?k=7", 100)
    assert match.address.query == ()


def test_listeners_of_one_host_are_distinguished_by_path() -> None:
    names = ("a", "b", "c")
    registry = registry_of(
        *[ingest_samples.listener(name=name, addresses=(address(path=f"/v1/{name}"),)) for name in names]
    )
    for name in names:
        match = find(registry, f"/v1/{name}")
        assert match.listener.name.listener == name


def test_removed_listener_leaves_the_others_at_its_path() -> None:
    first = ingest_samples.listener(addresses=(address(),), name="first")
    with_query = (address(query=(("k", "7"),)), address(path="/other"))
    second = ingest_samples.listener(addresses=with_query, name="second")
    registry = registry_of(first, second)
    registry.apply(documents.Snapshot({first.key: first}, {}), now=0.0)
    match = find(registry, "/v1/t?k=7")
    assert match.listener.document is first
    assert registry.find("hooks.test", "/other", 0) is None
    registry.apply(documents.Snapshot({}, {}), now=0.0)
    assert registry.find("hooks.test", "/v1/t", 0) is None


def test_precedence_at_one_address_does_not_depend_on_order() -> None:
    rivals = [ingest_samples.listener(addresses=(address(),), name=name) for name in ("b", "a", "c")]
    for order in (rivals, rivals[::-1]):
        match = find(registry_of(*order), "/v1/t")
        assert match.listener.name.listener == "a"


def test_retired_address_gives_way_to_the_listener_that_claims_it() -> None:
    retired = ingest_samples.listener(addresses=(address(retired_at=1),), name="a")
    present = ingest_samples.listener(addresses=(address(),), name="b")
    match = find(registry_of(retired, present), "/v1/t")
    assert match.listener.document is present


def listener(name: str, destination: str = "crm", **changes: Any) -> documents.ListenerDocument:
    routes = changes.pop("routes", (documents.Route("r", f"agency/{destination}"),))
    addresses = (documents.Address("hooks.test", f"/{name}"),)
    return ingest_samples.listener(name=name, routes=routes, **({"addresses": addresses} | changes))


def snapshot(
    listeners: list[documents.ListenerDocument], destinations: list[documents.DestinationDocument]
) -> documents.Snapshot:
    return documents.Snapshot(
        {document.key: document for document in listeners}, {target.key: target for target in destinations}
    )


def test_apply_rebuilds_only_the_listeners_that_a_change_affects() -> None:
    registry = ingest_samples.registry()
    a, b, c = listener("a"), listener("b"), listener("c", "mailer")
    crm, mailer = ingest_samples.destination(name="crm"), ingest_samples.destination(name="mailer")
    assert registry.apply(snapshot([a, b, c], [crm, mailer]), now=0.0) == 3
    previous_listeners = dict(registry.listeners)

    assert registry.apply(snapshot([a, listener("b", window_seconds=7), c], [crm, mailer]), now=0.0) == 1
    assert registry.listeners["agency/a"] is previous_listeners["agency/a"]
    assert registry.listeners["agency/b"].window == 7_000_000

    paused = ingest_samples.destination(name="mailer", state="Paused")
    assert registry.apply(snapshot([a, listener("b", window_seconds=7), c], [crm, paused]), now=0.0) == 1
    assert registry.listeners["agency/a"] is previous_listeners["agency/a"]
    assert registry.listeners["agency/c"] is not previous_listeners["agency/c"]

    assert registry.apply(snapshot([a, listener("b", window_seconds=7), c], [crm]), now=0.0) == 1


def filtered(name: str, routes: int) -> documents.ListenerDocument:
    """Build a listener with a filter on each of its routes, which takes several milliseconds to compile."""
    chain = "<".join(["1"] * 400)
    filters = [f"visit.email == '{name} {number}' || {chain}" for number in range(routes)]
    return listener(
        name,
        routes=tuple(documents.Route(f"r{number}", "agency/crm", when=when) for number, when in enumerate(filters)),
    )


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the expressions that are compiled from now on; the cache keeps none of them on its own."""
    sources: list[str] = []

    class NotedProgram(expressions.Program):
        def __init__(self, source: str, where: expressions.Where) -> None:
            sources.append(source)
            super().__init__(source, where)

    monkeypatch.setattr(programs, "Program", NotedProgram)
    monkeypatch.setattr(programs, "_cache", programs._ProgramCache(max_characters=0))
    return sources


def test_edit_of_a_destination_compiles_no_filter_again(compiled: list[str]) -> None:
    registry = ingest_samples.registry()
    listeners = [filtered(name, 4) for name in "abc"]
    registry.apply(snapshot(listeners, [ingest_samples.destination()]), now=0.0)
    assert len(compiled) == 12
    assert registry.apply(snapshot(listeners, [ingest_samples.destination(state="Paused")]), now=0.0) == 3
    assert len(compiled) == 12


async def test_other_tasks_run_between_the_filters_that_a_change_compiles(compiled: list[str]) -> None:
    registry = ingest_samples.registry()
    numbers: set[int] = set()

    async def note_compiled() -> None:
        while True:
            numbers.add(len(compiled))
            await asyncio.sleep(0)

    other = asyncio.create_task(note_compiled())
    documents_of_both = snapshot([filtered("a", 8), filtered("b", 8)], [])
    prepared = await registry.prepare_changed(documents_of_both, now=0.0)
    other.cancel()
    assert len(compiled) == 16
    assert len(numbers) > 8, "most filters end a turn of the event loop"
    assert not registry.listeners
    registry.apply(documents_of_both, 0.0, prepared)
    assert len(compiled) == 16
    assert registry.listeners.keys() == {"agency/a", "agency/b"}


def test_many_changes_end_in_the_same_state_as_one() -> None:
    chance = random.Random(7)
    registry = ingest_samples.registry()
    listeners: dict[str, documents.ListenerDocument] = {}
    destinations: dict[str, documents.DestinationDocument] = {}
    for _ in range(300):
        name, other = chance.choice("abcdef"), chance.choice("xyz")
        if chance.random() < 0.3:
            listeners.pop(name, None)
        else:
            places = tuple(documents.Address("hooks.test", f"/{place}") for place in chance.sample("123456", 2))
            listeners[name] = listener(name, other, addresses=places)
        if chance.random() < 0.3:
            destinations.pop(other, None)
        else:
            destinations[other] = ingest_samples.destination(name=other, state=chance.choice(["Active", "Paused"]))
        expected = snapshot(list(listeners.values()), list(destinations.values()))
        registry.apply(expected, now=0.0)
        fresh = ingest_samples.registry()
        fresh.apply(expected, now=0.0)
        assert {key: live.document for key, live in registry.listeners.items()} == expected.listeners
        for place in "123456":
            assert _answers(registry, place) == _answers(fresh, place)


def _answers(registry: ListenerRegistry, place: str) -> tuple[str, Any] | None:
    """Which listener answers at a place, and where its only route leads."""
    match = registry.find("hooks.test", f"/{place}", 0)
    if match is None:
        return None
    live = match.listener
    [planned] = live.planner._routes
    return live.document.name, (planned._destination_hold, planned._definition.destination)
