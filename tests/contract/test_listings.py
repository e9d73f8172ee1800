"""Listings: pages newest first, with every row once and without personal data."""

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support import engines, samples, source
from usher_gateway import model
from usher_gateway.store.base import Filter, VisitBody

HOUR, NOW = samples.HOUR, samples.NOW
Listing = Callable[[Filter, str | None, int], Awaitable[Any]]


def with_another_end(text: str) -> bytes:
    """Return an id that differs from a given one only in its last, random bit."""
    identifier = model.parse_id(text)
    return identifier[:-1] + bytes([identifier[-1] ^ 1])


async def ids_of_all_pages(listing: Listing, where: Filter, limit: int) -> list[Any]:
    """Follow the cursors of a listing, and return the ids of its rows."""
    identifiers: list[Any] = []
    cursor: str | None = None
    while True:
        page = await listing(where, cursor, limit)
        assert len(page.rows) <= limit
        identifiers += [row["id"] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            return identifiers


async def fill(bench: engines.Bench) -> None:
    """Accept one arrival an hour, for two tenants with three listeners."""
    for number in range(12):
        listener = [samples.LOBBY, samples.POOL, samples.BAR][number % 3]
        plans = (samples.plan(samples.route("crm", listener)), samples.skip(model.SkipReason.Filter, samples.MAILER))
        bench.clock.now = at = NOW + number * HOUR
        changes: dict[str, Any] = {"listener": listener, "if_visit": plans}
        if number == 5:
            changes = {"listener": listener, "quarantine": model.QuarantineReason.NotJSON, "if_visit": ()}
        await bench.accept(samples.arrival(f"{number}", at, **changes))


async def test_pages_contain_every_row_once_newest_first(bench: engines.Bench) -> None:
    await fill(bench)
    listings = ((bench.store.visits, 12), (bench.store.deliveries, 11))
    for limit, (listing, total) in itertools.product((1, 2, 5, 12, 100), listings):
        identifiers = await ids_of_all_pages(listing, Filter(), limit)
        assert len(identifiers) == total
        assert identifiers == sorted(set(identifiers), reverse=True)


async def test_oldest_arrival_is_that_of_permitted_tenants(bench: engines.Bench) -> None:
    await fill(bench)
    assert await bench.store.oldest_arrival(Filter()) == NOW
    permitted = frozenset({f"{samples.BAR.namespace}/{samples.BAR.tenant}"})
    assert await bench.store.oldest_arrival(Filter(permitted=permitted)) == NOW + 2 * HOUR
    assert await bench.store.oldest_arrival(Filter(permitted=frozenset({"agency/nobody"}))) is None


async def test_rows_added_between_pages_do_not_change_the_listing(bench: engines.Bench) -> None:
    await fill(bench)
    first = await bench.store.visits(Filter(), None, 6)
    await bench.accept(samples.arrival("new"))
    second = await bench.store.visits(Filter(), first.next_cursor, 6)
    assert len({row["id"] for row in (*first.rows, *second.rows)}) == 12
    assert second.next_cursor is None


# A filter, and the number of visits that it selects.
VISITS: list[tuple[dict[str, Any], int]] = [
    ({"namespace": "agency"}, 12),
    ({"namespace": "other"}, 0),
    ({"tenant": "acme"}, 8),
    ({"tenant": "acme", "listener": "pool"}, 4),
    ({"counted_as": "Visit"}, 11),
    ({"counted_as": "quarantined"}, 1),
    ({"reason": "NotJSON"}, 1),
    ({"reason": "NoUser"}, 0),
    ({"reason": "Filter"}, 11),
    ({"reason": "Stale"}, 0),
    ({"reason": "Filter", "route": "crm"}, 0),
    ({"route": "crm"}, 11),
    ({"destination": "agency/mailer"}, 11),
    ({"since": NOW + 10 * HOUR}, 2),
    ({"until": NOW + 10 * HOUR}, 10),
    ({"since": NOW + 3 * HOUR, "until": NOW + 4 * HOUR}, 1),
    ({"state": "unreleased", "counted_as": "quarantined"}, 1),
    ({"state": "released"}, 0),
]


async def test_visits_match_the_filter(bench: engines.Bench) -> None:
    await fill(bench)
    for where, count in VISITS:
        assert len(await bench.visits(**where)) == count, where


DELIVERIES: list[tuple[dict[str, Any], int]] = [
    ({"tenant": "globex"}, 3),
    ({"tenant": "acme", "listener": "pool"}, 4),
    ({"route": "crm"}, 11),
    ({"route": "welcome"}, 0),
    ({"destination": "agency/crm"}, 11),
    ({"state": "pending"}, 11),
    ({"state": "dead"}, 0),
    ({"state": "held"}, 0),
    ({"since": NOW + 10 * HOUR}, 2),
    ({"until": NOW}, 0),
]


async def test_deliveries_match_the_filter(bench: engines.Bench) -> None:
    await fill(bench)
    for where, count in DELIVERIES:
        assert len(await bench.deliveries(**where)) == count, where


async def test_held_deliveries_of_all_groups_are_paged_newest_first(bench: engines.Bench) -> None:
    reasons = [model.HoldReason.DestinationPaused, model.HoldReason.SecretNotFound]
    for number in range(10):
        plans = (samples.plan(hold=reasons[number % 2]), samples.plan(samples.MAILER, hold=reasons[0]))
        await bench.accept(samples.arrival(f"{number}", if_visit=plans))
    identifiers = await ids_of_all_pages(bench.store.deliveries, Filter(state="held"), 3)
    assert len(identifiers) == 20
    assert identifiers == sorted(set(identifiers), reverse=True)
    assert len(await bench.deliveries(state="held", reason="SecretNotFound")) == 5
    assert len(await bench.deliveries(state="held", route="welcome")) == 10


async def test_deliveries_of_a_visit_include_replayed_ones(bench: engines.Bench) -> None:
    await fill(bench)
    visit = (await bench.visits(tenant="globex"))[0]
    where = Filter(visit=model.parse_id(visit["id"]))
    assert [row["visit"] for row in (await bench.store.deliveries(where, None, 10)).rows] == [visit["id"]]
    await bench.replay(where=Filter(ids=(model.parse_id(visit["id"]),)))
    both = (await bench.store.deliveries(where, None, 10)).rows
    assert [(row["route"], row["visit"]) for row in both] == [("welcome", visit["id"]), ("crm", visit["id"])]
    crm = model.parse_id(str(both[1]["id"]))
    assert (await bench.store.deliveries(Filter(visit=where.visit, ids=(crm,)), None, 10)).rows == [both[1]]
    assert await bench.store.cancel(where, NOW, lambda _: None) == 2


async def test_unknown_visit_has_no_deliveries_and_is_an_error(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    (delivery,) = await bench.deliveries()
    with pytest.raises(model.NotFoundError, match="no such visit"):
        await bench.store.deliveries(Filter(visit=model.parse_id(delivery["id"])), None, 10)
    with pytest.raises(ValueError, match="visit and replay select deliveries"):
        await bench.store.visits(Filter(visit=model.parse_id(delivery["visit"])), None, 10)


async def test_filter_by_ids_returns_these_rows(bench: engines.Bench) -> None:
    await fill(bench)
    rows = await bench.visits()
    ids = tuple(model.parse_id(row["id"]) for row in rows[3:5])
    assert await bench.visits(ids=ids) == rows[3:5]
    assert await bench.visits(ids=ids, tenant="nobody") == []


async def test_range_of_ids_selects_the_rows_between_both_ends(bench: engines.Bench) -> None:
    await fill(bench)
    for rows_of in (bench.visits, bench.deliveries):
        rows = await rows_of()
        first, last = model.parse_id(rows[4]["id"]), model.parse_id(rows[2]["id"])
        assert await rows_of(id_range=(first, last)) == rows[2:5]
        assert await rows_of(id_range=(first, first)) == rows[4:5]
        assert await rows_of(id_range=(bytes(16), b"\xff" * 16)) == rows


async def test_rows_are_json_without_personal_data(bench: engines.Bench) -> None:
    secret = "jane@example.com"
    arrival = samples.arrival("a", body=secret.encode(), late=True, time_trusted=True)
    (accepted,) = await bench.accept(arrival)
    await bench.settle(accepted.deliveries[0], model.SettledAs.Dead, answer=secret.encode())
    (visit,), (delivery,) = await bench.visits(), await bench.deliveries()
    text = json.dumps([visit, delivery])
    hidden = [secret, *[key.hex() for key in (arrival.fingerprint, arrival.visitor_key, *arrival.person_keys)]]
    assert not any(word in text for word in hidden)
    assert (visit["receivedAt"], visit["late"], visit["bodyKept"]) == ("2025-11-25T12:00:00.000Z", True, True)
    assert (visit["id"], visit["bodyBytes"]) == (delivery["visit"], len(secret))


async def test_api_page_names_every_field_of_a_row(bench: engines.Bench) -> None:
    await bench.accept(
        samples.arrival("a", if_visit=(samples.plan(), samples.skip(model.SkipReason.Filter, samples.MAILER)))
    )
    await bench.replay("Filter")
    (visit,), (delivery, _) = await bench.visits(), await bench.deliveries()
    created, replayed = visit["verdicts"]
    assert "delivery" in created
    assert "replayed" in replayed
    rows = (source.DOCS / "api.md").read_text("utf-8").partition("\n## Rows\n")[2].partition("\n## ")[0]
    unnamed = {name for name in {*visit, *created, *replayed, *delivery} if f"`{name}`" not in rows}
    assert unnamed == set(), "name them in docs/api.md, section Rows"


async def test_body_is_returned_only_for_the_whole_id(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    (visit,) = await bench.visits()
    identifier = model.parse_id(visit["id"])
    assert await bench.store.body(identifier) == (samples.arrival("a").body, b"application/json")
    with pytest.raises(model.NotFoundError):
        await bench.store.body(with_another_end(visit["id"]))
    with pytest.raises(model.NotFoundError):
        await bench.store.answer(identifier)


@pytest.mark.parametrize("body", [b"", b"x" * 200_000, bytes(range(256)) * 400], ids=["empty", "large", "binary"])
async def test_body_is_read_as_it_came(bench: engines.Bench, body: bytes) -> None:
    (accepted,) = await bench.accept(samples.arrival("a", body=body))
    (visit,) = await bench.visits()
    assert await bench.store.body(model.parse_id(visit["id"])) == (body, b"application/json")
    await bench.store.defer([accepted.deliveries[0].key])
    (claimed,) = await bench.claim()
    assert claimed.body == body
    await bench.accept(samples.quarantined("q", body=body))
    (quarantined,) = await bench.store.quarantined(Filter(), 10)
    assert quarantined.body == body


async def test_id_that_differs_in_its_random_part_selects_nothing(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    (visit,), (delivery,) = await bench.visits(), await bench.deliveries()
    other_visit, other_delivery = with_another_end(visit["id"]), with_another_end(delivery["id"])
    assert await bench.visits(ids=(other_visit,)) == []
    assert await bench.deliveries(ids=(other_delivery,)) == []
    assert await bench.store.cancel(Filter(ids=(other_delivery,)), NOW, lambda _: None) == 0


async def test_invalid_cursor_is_rejected(bench: engines.Bench) -> None:
    for cursor in ("", "x", "ü", "AAAA", "A" * 200):
        with pytest.raises(ValueError, match="cursor"):
            await bench.store.visits(Filter(), cursor, 10)


async def test_filter_with_an_unknown_name_is_rejected(bench: engines.Bench) -> None:
    for where in (Filter(counted_as="Vsit"), Filter(reason="Nope"), Filter(state="pending")):
        with pytest.raises(ValueError, match="must be"):
            await bench.store.visits(where, None, 10)


@pytest.mark.parametrize("limit", [3, 100])
async def test_bodies_of_visits_are_read_oldest_first_inside_names_and_time(bench: engines.Bench, limit: int) -> None:
    await fill(bench)
    where = Filter(namespace="agency", tenant="acme", since=NOW + HOUR, until=NOW + 8 * HOUR)
    bodies: list[VisitBody] = []
    while page := await bench.store.visit_bodies(where, limit, bodies[-1].key if bodies else 0):
        bodies += page
    # of the hours 1 to 7, the listener of 2 and 5 is another tenant's; nothing of acme is quarantined
    assert [json.loads(visit.body or b"")["user"]["id"] for visit in bodies] == ["1", "3", "4", "6", "7"]
    assert {(visit.counted_as, visit.content_type) for visit in bodies} == {
        (model.CountedAs.Visit, b"application/json")
    }


async def test_stored_arrivals_are_those_with_a_body_oldest_first(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"), samples.arrival("b"))
    await bench.accept(samples.arrival("short", body_days=1, if_visit=(samples.REPEAT,)))
    keys = [model.key_of(model.parse_id(row["id"])) for row in await bench.visits()]
    bench.clock.now = NOW + 3 * samples.DAY
    await bench.prune_all()
    stored = await bench.store.stored_arrivals(keys)
    assert [arrival.body for arrival in stored] == [b'{"user":{"id":"a"}}', b'{"user":{"id":"b"}}']
    assert {arrival.received_at for arrival in stored} == {NOW}


async def test_reason_company_mismatch_lists_accepted_and_quarantined_arrivals(bench: engines.Bench) -> None:
    mismatch = model.QuarantineReason.CompanyMismatch
    await bench.accept(samples.arrival("own company", NOW))
    await bench.accept(samples.arrival("accepted", NOW + 1, other_company="78"))
    await bench.accept(samples.arrival("set aside", NOW + 2, quarantine=mismatch, if_visit=()))
    page = await bench.store.visits(Filter(reason=mismatch.name), None, 10)
    assert [(row["countedAs"], row["reason"], row["isOtherCompany"]) for row in page.rows] == [
        ("Quarantined", "CompanyMismatch", True),
        ("Visit", None, True),
    ]
    quarantined = await bench.store.visits(Filter(reason=mismatch.name, counted_as="quarantined"), None, 10)
    assert len(quarantined.rows) == 1
    assert [row["isOtherCompany"] for row in (await bench.store.visits(Filter(), None, 10)).rows] == [True, True, False]


async def test_reason_times_untrusted_lists_only_visits_with_a_time(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("trusted", NOW, time_trusted=True))
    await bench.accept(samples.arrival("without any time", NOW + 1))
    await bench.accept(samples.arrival("untrusted", NOW + 2, has_untrusted_time=True))
    (row,) = (await bench.store.visits(Filter(reason="TimesUntrusted"), None, 10)).rows
    assert (row["receivedAt"], row["timeTrusted"]) == (model.format_time(NOW + 2), False)
