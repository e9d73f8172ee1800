"""The audit log keeps each entry, over a restart too, until its time is over."""

import msgspec
import pytest

from support import engines, samples
from usher_gateway.store.base import AuditEntry, AuditFilter
from usher_gateway.store.jobs import audit

NOW, DAY = samples.NOW, samples.DAY
ANY = AuditFilter()


def entry(at: int = NOW, who: str = "operate", action: str = "redrive", count: int = 3) -> AuditEntry:
    selection = {"tenant": "acme", "ids": 2}
    return AuditEntry(at=at, who=who, action=action, selection=selection, count=count, peer="127.0.0.1")


async def test_entries_outlive_a_crash_and_are_listed_newest_first(bench: engines.Bench) -> None:
    await bench.store.add_audit_entry(entry())
    await bench.store.add_audit_entry(entry(NOW + DAY, action="show body"))
    await bench.reopen(crash=True)
    listed, cursor = await bench.store.audit_entries(ANY, None, 10)
    assert ([each.action for each in listed], cursor) == (["show body", "redrive"], None)
    assert (listed[1].selection, listed[1].count, listed[1].peer) == ({"tenant": "acme", "ids": 2}, 3, "127.0.0.1")
    assert len({each.id for each in listed}) == 2


async def test_filters_and_pages_select_entries(bench: engines.Bench) -> None:
    for number in range(5):
        await bench.store.add_audit_entry(entry(NOW + number * DAY, who=f"token-{number % 2}", count=number))

    async def counts(where: AuditFilter) -> list[int]:
        return [each.count for each in (await bench.store.audit_entries(where, None, 10))[0]]

    assert await counts(AuditFilter(who="token-1")) == [3, 1]
    assert await counts(AuditFilter(action="show body")) == []
    assert await counts(AuditFilter(since=NOW + DAY, until=NOW + 3 * DAY)) == [2, 1]
    first, cursor = await bench.store.audit_entries(ANY, None, 3)
    rest, end = await bench.store.audit_entries(ANY, cursor, 3)
    assert ([each.count for each in (*first, *rest)], end) == ([4, 3, 2, 1, 0], None)
    with pytest.raises(ValueError, match="cursor"):
        await bench.store.audit_entries(ANY, "nonsense", 3)


@pytest.mark.parametrize("reference", ["DSR-8", "DSR_8", "dsr-8"])
async def test_reference_selects_exactly_the_entries_that_have_it(bench: engines.Bench, reference: str) -> None:
    for number, selection in enumerate(
        ({"reference": "DSR-8"}, {"reference": "DSR_8"}, {"reference": "dsr-8"}, {"tenant": '"reference":"DSR-8"'}, {})
    ):
        written = AuditEntry(at=NOW, who="desk", action="find person", selection=selection, count=number, peer="")
        await bench.store.add_audit_entry(written)
    entries, _ = await bench.store.audit_entries(AuditFilter(reference=reference), None, 10)
    assert [each.selection for each in entries] == [{"reference": reference}]


async def test_entries_of_a_tenant_are_selected_page_by_page(bench: engines.Bench) -> None:
    for number, named in enumerate(
        (
            {"tenant": "acme", "namespace": "agency"},
            {"tenant": "zoo", "namespace": "agency"},
            {"tenant": "agency/acme"},
            {"listener": "agency/lobby"},
            {"tenant": "acme", "namespace": "other"},
            {"tenant": "acme", "namespace": None},
        )
    ):
        await bench.store.add_audit_entry(msgspec.structs.replace(entry(count=number), selection=named))

    async def page(tenant: str, cursor: str | None = None, limit: int = 10) -> tuple[list[int], str | None]:
        listed, following = await bench.store.audit_entries(AuditFilter(tenant=tenant), cursor, limit)
        return [each.count for each in listed], following

    assert await page("acme") == ([5, 4, 2, 0], None)
    assert await page("agency/acme") == ([5, 2, 0], None)
    first, cursor = await page("agency/acme", limit=2)
    assert (first, await page("agency/acme", cursor, 2)) == ([5, 2], ([0], None))


async def test_entry_is_deleted_when_its_time_is_over(bench: engines.Bench) -> None:
    await bench.store.add_audit_entry(entry())
    for days, left in ((audit.KEPT_DAYS - 1, 1), (2, 0)):
        bench.clock.now += days * DAY
        await bench.prune_all()
        assert len((await bench.store.audit_entries(ANY, None, 10))[0]) == left
