import pytest

from unit.ingest import samples
from usher_gateway import documents
from usher_gateway.ingest import find


def book(*addresses: documents.Address, name: str = "wifi") -> find.AddressBook:
    made = find.AddressBook()
    made.add(samples.live(samples.listener(addresses=addresses, name=name)))
    return made


def address(host: str = "hooks.test", path: str = "/v1/t", **more: object) -> documents.Address:
    return documents.Address(host, path, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["hooks.test", "HOOKS.Test", "hooks.test.", "hooks.test:443", "hooks.test.:8443", "hooks.test:"]
)
def test_a_host_is_a_name(host: str) -> None:
    assert book(address()).find(host, "/v1/t", 0) is not None


@pytest.mark.parametrize(
    "host", ["", "hooks", "hooks.test.evil", "xhooks.test", "[hooks.test]", "hooks.test@x", " hooks.test", "\udcff"]
)
def test_other_hosts_are_unknown(host: str) -> None:
    assert book(address()).find(host, "/v1/t", 0) is None


def test_a_host_may_be_an_ipv6_address() -> None:
    addresses = book(address("[2001:db8::1]"))
    assert addresses.find("[2001:DB8::1]:443", "/v1/t", 0) is not None
    assert addresses.find("[2001:db8::2]", "/v1/t", 0) is None


@pytest.mark.parametrize("target", ["/v1/t", "/v1/t?", "/v1/t?a=b&c"])
def test_a_query_that_nobody_asked_for_is_ignored(target: str) -> None:
    assert book(address()).find("hooks.test", target, 0) is not None


@pytest.mark.parametrize(
    "target", ["/v1/T", "/v1/t/", "//v1/t", "/v1/%74", "/v1/t#x", "/", "", "*", "v1/t", "/v1/t%00"]
)
def test_a_path_is_compared_as_sent(target: str) -> None:
    assert book(address()).find("hooks.test", target, 0) is None


def test_of_addresses_at_one_path_the_one_with_most_pairs_wins() -> None:
    plain, one, two = address(), address(query=(("k", "7"),)), address(query=(("k", "7"), ("v", "a b")))
    addresses = book(plain, two, one)
    for query, wanted in (
        ("", plain),
        ("?k=8", plain),
        ("?k=7", one),
        ("?x=1&k=7", one),
        ("?v=a+b&k=7", two),
        ("?k=7&v=a%20b&z", two),
    ):
        found = addresses.find("hooks.test", "/v1/t" + query, 0)
        assert found is not None
        assert found.address == wanted


@pytest.mark.parametrize("query", ["k", "k=", "k=8", "K=7", "kk=7", "k=7;", "%zz=1", "=&=", "k=%"])
def test_without_its_pairs_an_address_is_unknown(query: str) -> None:
    assert book(address(query=(("k", "7"),))).find("hooks.test", f"/v1/t?{query}", 0) is None


def test_an_empty_value_can_be_asked_for() -> None:
    assert book(address(query=(("k", ""),))).find("hooks.test", "/v1/t?k=", 0) is not None


def test_an_old_token_is_unknown_from_its_time_on() -> None:
    addresses = book(address(until=100, action="Hold"))
    found = addresses.find("hooks.test", "/v1/t", 99)
    assert found is not None
    assert found.address.action == "Hold"
    assert addresses.find("hooks.test", "/v1/t", 100) is None


def test_what_ended_gives_way_to_what_is_less_exact() -> None:
    addresses = book(address(), address(query=(("k", "7"),), until=100))
    found = addresses.find("hooks.test", "/v1/t?k=7", 100)
    assert found is not None
    assert found.address.query == ()


def test_listeners_of_one_host_are_told_apart_by_path() -> None:
    listeners = {
        f"agency/{name}": samples.live(samples.listener(name=name, addresses=(address(path=f"/v1/{name}"),)))
        for name in ("a", "b", "c")
    }
    addresses = find.AddressBook()
    for listener in listeners.values():
        addresses.add(listener)
    for name in ("a", "b", "c"):
        found = addresses.find("hooks.test", f"/v1/{name}", 0)
        assert found is not None
        assert found.listener.name.listener == name


def test_what_is_removed_leaves_the_others_at_its_place() -> None:
    at_path, with_query = address(), address(query=(("k", "7"),))
    first = samples.live(samples.listener(addresses=(at_path,), name="first"))
    second = samples.live(samples.listener(addresses=(with_query, address(path="/other")), name="second"))
    addresses = find.AddressBook()
    addresses.add(first)
    addresses.add(second)
    addresses.remove(second)
    found = addresses.find("hooks.test", "/v1/t?k=7", 0)
    assert found is not None
    assert found.listener is first
    assert addresses.find("hooks.test", "/other", 0) is None
    addresses.remove(first)
    assert addresses.find("hooks.test", "/v1/t", 0) is None


def test_who_comes_first_at_one_place_does_not_depend_on_the_order_of_events() -> None:
    rivals = [samples.live(samples.listener(addresses=(address(),), name=name)) for name in ("b", "a", "c")]
    for order in (rivals, rivals[::-1]):
        addresses = find.AddressBook()
        for listener in order:
            addresses.add(listener)
        found = addresses.find("hooks.test", "/v1/t", 0)
        assert found is not None
        assert found.listener.name.listener == "a"
