"""Which destinations take no deliveries now, and what that means. Pure; it takes rows of ``GET /api/destinations``."""

from collections.abc import Iterable, Mapping
from typing import Any

from usher_gateway.admin import listings, states

Row = Mapping[str, Any]


def is_not_taking(destination: Row) -> bool:
    """Return whether attempts at a destination fail or cannot be made, also because it is not in force."""
    return destination.get("health") not in states.NOT_FAILING


def warnings(destinations: Iterable[Row], deliveries: Mapping[str, int]) -> list[str]:
    """Return a sentence about each destination that takes no deliveries now.

    ``deliveries``: ``namespace/name`` of a destination -> deliveries that would go there; 0: they are not counted.
    """
    sentences = []
    for row in destinations:
        key, health = f"{row['namespace']}/{row['name']}", row.get("health")
        if key not in deliveries or not is_not_taking(row):
            continue
        error = " ".join([str(row[name]) for name in ("error", "status") if row.get(name)])
        why = ", ".join(filter(None, (health or row["state"], row.get("unresolved") or error)))
        is_one = deliveries[key] == 1
        effect = "it waits until the destination takes it" if is_one else "they wait until it takes some"
        if row["isRejecting"]:
            effect = "it fails for good again" if is_one else "they fail for good again"
        elif health == states.DestinationHealth.Failing:
            effect = f"{'it' if is_one else 'they'} may fail again"
        fails = f"Deliveries to {key} fail now"
        if deliveries[key]:
            fails = f"{listings.counted(deliveries[key], 'delivery')} would go to {key}, which fails now"
        sentences.append(f"{fails} ({why}): {effect}.")
    return sentences
