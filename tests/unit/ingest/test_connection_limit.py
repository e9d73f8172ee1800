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


def test_oldest_body_of_an_owner_over_its_half_gives_way() -> None:
    limit = unfinished_of(4)
    limit.add("other", ("b", "10.0.0.2"))
    for name, source in (("first", "10.0.0.1"), ("second", "10.0.0.3")):
        limit.add(name, ("a", source))
        assert limit.in_excess(name) is None
    limit.add("third", ("a", "10.0.0.4"))
    assert limit.in_excess("third") == "first"
    limit.remove("first")
    assert limit.in_excess("third") is None


def test_oldest_body_of_a_source_over_its_limit_gives_way() -> None:
    limit = unfinished_of(8)
    for number in range(4):
        limit.add(f"s{number}", (f"l{number}", "s"))
        assert limit.in_excess(f"s{number}") is None
    limit.add("elsewhere", ("l9", "t"))
    assert limit.in_excess("elsewhere") is None
    limit.add("s4", ("l4", "s"))
    assert limit.in_excess("s4") == "s0"


def test_listener_with_most_bodies_gives_way_over_the_limit_of_a_source() -> None:
    """All tenants have one source behind a proxy, and a sender may know the URLs of several listeners."""
    limit = unfinished_of(16)
    limit.add("neighbour", ("n", "proxy"))
    for name in ("a1", "b1", "a2", "b2", "a3", "b3", "a4"):
        limit.add(name, (name[0], "proxy"))
        assert limit.in_excess(name) is None
    limit.add("b4", ("b", "proxy"))
    assert limit.in_excess("b4") == "a1"


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


def test_oldest_body_of_a_tenant_over_its_half_gives_way() -> None:
    limit = unfinished_of(4)
    limit.add("other", ("b", "agency", "10.0.0.2"))
    for number in range(3):
        limit.add(f"a{number}", (f"l{number}", "acme", f"10.0.0.{number}"))
    assert limit.in_excess("a2") == "a0"


def test_body_of_another_listener_does_not_give_way_over_the_limit_of_a_listener() -> None:
    limit = unfinished_of(4)
    limit.add("other", ("b", "acme", "10.0.0.1"))
    for number in range(3):
        limit.add(f"a{number}", ("a", "acme", "10.0.0.1"))
    assert limit.in_excess("a2") == "a0"


def test_source_with_most_bodies_gives_way_over_the_limit_of_a_listener() -> None:
    limit = unfinished_of(6)
    limit.add("purple", ("a", "p"))
    limit.add("first", ("a", "s"))
    limit.add("second", ("a", "s"))
    assert limit.in_excess("second") is None
    limit.add("third", ("a", "s"))
    assert limit.in_excess("third") == "first"


def test_listener_with_most_bytes_gives_way_over_a_sources_limit_of_bytes() -> None:
    limit = unfinished_of(100, total_bytes=1_000)
    limit.add("neighbour", ("n", "proxy"), 90)
    for name in ("a1", "a2", "a3", "b1", "b2", "b3"):
        limit.add(name, (name[0], "proxy"), 68)
        assert limit.in_excess(name) is None
    limit.grow("b3", 3)
    assert limit.in_excess("b3") == "b3"


def test_owner_with_most_bodies_gives_way_over_the_limit_in_total() -> None:
    limit = unfinished_of(4)
    limit.add("alone", ("a", "10.0.0.1"))
    limit.add("first", ("b", "10.0.0.2"))
    limit.add("second", ("c", "10.0.0.2"))
    limit.add("third", ("d", "10.0.0.3"))
    assert limit.in_excess("third") is None
    limit.add("fourth", ("e", "10.0.0.4"))
    assert limit.in_excess("fourth") == "first"


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
