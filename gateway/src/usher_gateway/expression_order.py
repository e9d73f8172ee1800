"""The order of keys in the document that a transform makes, because the native core keeps none in its maps. Pure."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

KeyOrders = Mapping[frozenset[object], tuple[object, ...]]
"""The keys of a map -> the same keys in order."""


def orders_of(maps: Iterable[tuple[object, ...]]) -> KeyOrders:
    """Return the orders of maps, given by their keys. Of maps with the same keys the first one counts."""
    orders: dict[frozenset[object], tuple[object, ...]] = {}
    for keys in maps:
        orders.setdefault(frozenset(keys), keys)
    return orders


def in_order(value: Any, literals: KeyOrders, body: object) -> Any:
    """Return a value whose maps have the order of a map with the same keys: of a literal, else of one in the body.

    Other maps are sorted by key.
    """
    body_orders = functools.cache(lambda: orders_of(_maps_in(body)))

    def ordered(value: Any) -> Any:
        if type(value) is list:
            return [ordered(item) for item in value]
        if type(value) is not dict:
            return value
        if len(value) < 2:
            return {key: ordered(inner) for key, inner in value.items()}
        keys = frozenset(value)
        order = literals.get(keys) or body_orders().get(keys) or sorted(value, key=str)
        return {key: ordered(value[key]) for key in order}

    return ordered(value)


def _maps_in(value: object) -> Iterator[tuple[object, ...]]:
    """Yield the keys of each map in a JSON value, the outer ones first."""
    values = [value]
    for each in values:
        if type(each) is dict:
            values.extend(each.values())
            if len(each) > 1:
                yield tuple(each)
        elif type(each) is list:
            values.extend(each)
