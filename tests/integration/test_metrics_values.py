"""Metrics count skips, consecutive refusals, and held deliveries by reason."""

from pathlib import Path

from prometheus_client import parser

from support import gateway as support
from support import leaks, wire

ROUTES = support.MANIFESTS.replace(
    "routes: []",
    "routes: [{name: quiet, state: Paused, destinationRef: {name: crm}}, {name: lost, destinationRef: {name: crm}}]",
)


def values(gateway: support.RunningGateway, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the values of a metric's samples by their labels."""
    families = parser.text_string_to_metric_families(gateway.exposition())
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


async def test_skips_and_consecutive_refusals_are_counted_per_listener(tmp_path: Path) -> None:
    assert ROUTES != support.MANIFESTS
    async with support.running(tmp_path, ROUTES) as gateway:
        await gateway.wait_configured()
        for _ in range(2):
            target = gateway.target()
            assert (await wire.exchange(gateway.port, wire.request(target, b"", method="DELETE"))).status == 405
        refused = values(gateway, "usher_listener_consecutive_refusals")
        (labels,) = refused
        assert refused[labels] == 2
        body = b'{"user": {"id": 7, "firstName": "' + leaks.PERSON.encode() + b'", "venue": {"id": 1}}}'
        assert (await gateway.post(body)).acknowledges
        assert values(gateway, "usher_listener_consecutive_refusals")[labels] == 0
        assert values(gateway, "usher_listener_last_arrival_timestamp_seconds")[labels] > 1_700_000_000
        (skipped,) = values(gateway, "usher_skipped_total").items()
        assert dict(skipped[0])["reason"] == "Paused"
        assert skipped[1] == 1


async def test_held_deliveries_are_counted_by_reason(tmp_path: Path) -> None:
    async with support.running(tmp_path, ROUTES) as gateway:
        await gateway.wait_configured()
        assert (await gateway.post(b'{"user": {"id": 7, "venue": {"id": 1}}}')).acknowledges
        counts = await gateway.gateway.store.open_counts()
        assert counts.held == {"DestinationNotFound": 1}
        assert counts.backlog == 0
        assert counts.oldest_in_backlog == b""
