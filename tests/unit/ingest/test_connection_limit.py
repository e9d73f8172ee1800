"""Which connection of the public port gives way if there are too many."""

import pytest

from usher_gateway.ingest.connection_limit import ConnectionLimit, UnfinishedLimit, source_of


def limit_of(connections: int, per_source: int = 1_000) -> ConnectionLimit[str]:
    return ConnectionLimit(connections=connections, per_source=per_source)


def test_longest_waiting_stranger_gives_way_first() -> None:
    limit = limit_of(3)
    for name in ("purple", "first", "second"):
        limit.add(name, name)
    limit.work("purple")
    limit.wait("purple", is_known=True)
    limit.work("first")
    limit.wait("first", is_known=False)
    assert limit.is_full("new")
    assert limit.longest_waiting("new") == "second"
    limit.remove("second")
    limit.remove("first")
    assert limit.longest_waiting("new") == "purple"


def test_connection_that_answers_does_not_give_way() -> None:
    limit = limit_of(1)
    limit.add("busy", "a")
    limit.work("busy")
    assert limit.is_full("b")
    assert limit.longest_waiting("b") is None


def test_source_over_its_limit_gives_way_to_itself() -> None:
    limit = limit_of(100, per_source=2)
    limit.add("other", "10.0.0.1")
    limit.add("one", "10.0.0.2")
    limit.add("two", "10.0.0.2")
    assert not limit.is_full("10.0.0.1")
    assert limit.is_full("10.0.0.2")
    assert limit.longest_waiting("10.0.0.2") == "one"
    limit.work("one")
    limit.work("two")
    assert limit.longest_waiting("10.0.0.2") is None


def test_removed_connection_leaves_room() -> None:
    limit = limit_of(1, per_source=1)
    limit.add("one", "a")
    limit.remove("one")
    limit.remove("one")
    assert not limit.is_full("a")
    limit.wait("one", is_known=True)  # its last request may end after it was removed
    assert limit.longest_waiting("a") is None


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", ""),
    ],
)
def test_source_is_an_address_or_a_network_of_64_bits(address: str, source: str) -> None:
    assert source_of(address) == source


def unfinished_of(members: int, total_bytes: int = 1_000_000) -> UnfinishedLimit[str]:
    return UnfinishedLimit(members=members, total_bytes=total_bytes)


@pytest.mark.parametrize(
    ("members", "bodies", "gives_way"),
    [
        pytest.param(4, ["o b s2", "x a s1", "y a s3", "z a s4"], "x", id="oldest of an owner over its half"),
        pytest.param(
            8, ["s0 l0 s", "s1 l1 s", "s2 l2 s", "s3 l3 s", "e l9 t", "s4 l4 s"], "s0", id="oldest of a source"
        ),
        # All tenants have one source behind a proxy, and a sender may know the URLs of several listeners.
        pytest.param(
            16,
            ["n n p", "a1 a p", "b1 b p", "a2 a p", "b2 b p", "a3 a p", "b3 b p", "a4 a p", "b4 b p"],
            "a1",
            id="listener with most over the limit of a source",
        ),
        pytest.param(
            4,
            ["o l9 agency s9", "a0 l0 acme s0", "a1 l1 acme s1", "a2 l2 acme s2"],
            "a0",
            id="oldest of a tenant over its half",
        ),
        pytest.param(6, ["purple a p", "x a s", "y a s", "z a s"], "x", id="source with most of a listener"),
        pytest.param(4, ["o a s1", "x b s2", "y c s2", "z d s3", "last e s4"], "x", id="owner with most in total"),
    ],
)
def test_body_gives_way_over_a_limit_of_bodies(members: int, bodies: list[str], gives_way: str) -> None:
    """Each body is its name and its owners, from the narrowest to the widest."""
    limit = unfinished_of(members)
    for body in bodies:
        name, *owners = body.split()
        assert limit.in_excess(name) is None
        limit.add(name, tuple(owners))
    assert limit.in_excess(name) == gives_way
    limit.remove(gives_way)
    assert limit.in_excess(name) is None


def test_body_of_another_listener_does_not_give_way_over_the_limit_of_a_listener() -> None:
    limit = unfinished_of(4)
    limit.add("other", ("b", "acme", "10.0.0.1"))
    for number in range(3):
        limit.add(f"a{number}", ("a", "acme", "10.0.0.1"))
    assert limit.in_excess("a2") == "a0"


def test_tenant_with_most_bodies_gives_way_however_many_listeners_it_has() -> None:
    limit = unfinished_of(16, total_bytes=1_600)
    for name in ("n1", "n2"):
        limit.add(name, ("n", "neighbour", "proxy"), 150)
    for number in range(6):
        limit.add(f"a{number}", (f"l{number}", "acme", "proxy"), 80)
        assert limit.in_excess(f"a{number}") is None
    limit.add("a6", ("l6", "acme", "proxy"))
    assert limit.in_excess("a6") == "a0"
    limit.remove("a0")
    limit.grow("a6", 130)
    assert limit.in_excess("a6") == "a6"


def test_listener_with_most_bytes_gives_way_over_a_sources_limit_of_bytes() -> None:
    limit = unfinished_of(100, total_bytes=1_000)
    limit.add("neighbour", ("n", "proxy"), 90)
    for name in ("a1", "a2", "a3", "b1", "b2", "b3"):
        limit.add(name, (name[0], "proxy"), 68)
        assert limit.in_excess(name) is None
    limit.grow("b3", 3)
    assert limit.in_excess("b3") == "b3"


def test_largest_body_gives_way_over_a_limit_of_bytes() -> None:
    limit = unfinished_of(100, total_bytes=1_000)
    limit.add("small", ("a", "10.0.0.1"), 100)
    limit.add("large", ("a", "10.0.0.2"), 350)
    limit.grow("small", 50)
    assert limit.in_excess("small") is None
    limit.grow("small", 1)
    assert limit.in_excess("small") == "large"
    limit.remove("large")
    limit.remove("large")
    limit.grow("large", 500)
    assert limit.in_excess("small") is None
    assert len(limit) == 1


def test_owner_with_most_bytes_gives_way_over_the_limit_in_total() -> None:
    limit = unfinished_of(100, total_bytes=1_000)
    limit.add("most", ("a", "10.0.0.1"), 450)
    limit.add("less", ("b", "10.0.0.2"), 300)
    limit.add("least", ("c", "10.0.0.3"), 251)
    assert limit.in_excess("least") == "most"
