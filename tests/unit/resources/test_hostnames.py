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
