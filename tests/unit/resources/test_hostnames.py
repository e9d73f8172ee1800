import msgspec
import pytest

from usher_gateway.resources import hostnames, listener_class


@pytest.mark.parametrize(
    ("pattern", "hostname", "matches"),
    [
        ("*.x.example", "a.x.example", True),
        ("*.x.example", "a.b.x.example", True),
        ("*.x.example", "x.example", False),
        ("*.x.example", "ax.example", False),
        ("x.example", "x.example", True),
        ("x.example", "a.x.example", False),
    ],
)
def test_wildcard_matches_one_or_more_labels(pattern: str, hostname: str, matches: bool) -> None:
    assert hostnames.matches(pattern, hostname) is matches


@pytest.mark.parametrize(
    ("pattern", "other", "overlaps"),
    [
        ("a.example", "a.example", True),
        ("a.example", "b.example", False),
        ("www.a.example", "*.a.example", True),
        ("*.a.example", "x.www.a.example", True),
        ("a.example", "*.a.example", False),
        ("*.a.example", "a.example", False),
        ("*.a.example", "*.a.example", True),
        ("*.a.example", "*.www.a.example", True),
        ("*.www.a.example", "*.a.example", True),
        ("*.a.example", "*.b.example", False),
        ("*.a.example", "www.ba.example", False),
    ],
)
def test_patterns_overlap_if_they_allow_a_common_hostname(pattern: str, other: str, overlaps: bool) -> None:
    assert hostnames.first_overlap(["own.example", pattern], [other]) == (pattern if overlaps else None)


@pytest.mark.parametrize(
    ("operator", "values", "labels", "chosen"),
    [
        ("In", ["a"], {"k": "a"}, True),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {}, True),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("Exists", [], {"k": ""}, True),
        ("DoesNotExist", [], {"k": ""}, False),
    ],
)
def test_selector_selects_namespaces(operator: str, values: list[str], labels: dict[str, str], chosen: bool) -> None:
    selector = {"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}
    namespaces = msgspec.convert({"from": "Selector", "selector": selector}, listener_class.Namespaces)
    assert hostnames.permits(namespaces, labels) is chosen


FIRST, SECOND = ("agency", "first"), ("agency", "second")


@pytest.mark.parametrize(
    ("claims", "held_by", "owner"),
    [
        ([FIRST, SECOND], [], FIRST),
        ([FIRST, SECOND], [SECOND], SECOND),
        ([FIRST], [SECOND], SECOND),
        ([FIRST, SECOND], [FIRST, SECOND], FIRST),
    ],
)
def test_hostname_belongs_to_its_holder_else_to_the_first_claim(
    claims: list[hostnames.Owner], held_by: list[hostnames.Owner], owner: hostnames.Owner
) -> None:
    named = [("shop.example.org", owner) for owner in claims]
    assert hostnames.owners_of(named, {"shop.example.org": held_by}) == {"shop.example.org": owner}
