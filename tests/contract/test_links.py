"""A link opens once, until it expires, is revoked, or its tenant is gone."""

from support import engines, samples
from usher_gateway.store.base import KeptTimes, Link

HOUR, NOW = samples.HOUR, samples.NOW
DAY = 24 * HOUR
ACME = KeptTimes(meter_months={"agency/acme": 25})


async def add(bench: engines.Bench, name: str, **changes: int) -> Link:
    values = {"created_at": NOW, "expires_at": NOW + 30 * DAY} | changes
    link = Link(id=name, tenant="agency/acme", shows_visits=name == "shows", **values)
    await bench.store.add_link(link, samples.digest(name))
    return link


async def test_link_is_found_by_its_id_and_by_the_digest_of_its_token(bench: engines.Bench) -> None:
    link = await add(bench, "shows")
    assert await bench.store.find_link("shows") == link
    assert await bench.store.find_link_by_digest(samples.digest("shows")) == link
    assert await bench.store.find_link("other") is None
    assert await bench.store.find_link_by_digest(samples.digest("other")) is None


async def test_links_are_listed_with_the_newest_first(bench: engines.Bench) -> None:
    old, new = await add(bench, "old"), await add(bench, "new", created_at=NOW + 1)
    assert await bench.store.list_links() == [new, old]


async def test_link_opens_once(bench: engines.Bench) -> None:
    await add(bench, "a")
    assert [await bench.store.open_link("a", NOW + 1), await bench.store.open_link("a", NOW + 2)] == [True, False]
    (link,) = await bench.store.list_links()
    assert (link.opened_at, link.used_at) == (NOW + 1, NOW + 1)


async def test_expired_link_does_not_open(bench: engines.Bench) -> None:
    await add(bench, "a")
    assert await bench.store.open_link("a", NOW + 30 * DAY) is False


async def test_revoked_link_does_not_open(bench: engines.Bench) -> None:
    await add(bench, "a")
    assert [await bench.store.revoke_link("a", NOW + 1), await bench.store.revoke_link("a", NOW + 2)] == [True, False]
    assert await bench.store.open_link("a", NOW + 3) is False
    (link,) = await bench.store.list_links()
    assert link.revoked_at == NOW + 1


async def test_last_use_of_a_link_only_moves_on(bench: engines.Bench) -> None:
    await add(bench, "a")
    for at in (NOW + 5, NOW + 3):
        await bench.store.use_link("a", at)
    (link,) = await bench.store.list_links()
    assert link.used_at == NOW + 5


async def test_link_of_a_tenant_that_came_back_stays_revoked(bench: engines.Bench) -> None:
    await add(bench, "a")
    await bench.store.prune(NOW + 2 * HOUR, KeptTimes())
    await bench.store.prune(NOW + 3 * HOUR, ACME)
    assert await bench.store.open_link("a", NOW + 4 * HOUR) is False


async def test_link_of_a_tenant_that_this_gateway_does_not_know_yet_stays(bench: engines.Bench) -> None:
    await add(bench, "a")
    await bench.store.prune(NOW + HOUR // 2, KeptTimes())
    assert await bench.store.open_link("a", NOW + HOUR) is True


async def test_ended_links_are_deleted_after_30_days(bench: engines.Bench) -> None:
    for name in ("expired", "revoked", "in use"):
        await add(bench, name, expires_at=NOW + (1 if name == "expired" else 90) * DAY)
    await bench.store.revoke_link("revoked", NOW + DAY)
    await bench.store.prune(NOW + 31 * DAY, ACME)
    assert len(await bench.store.list_links()) == 3
    await bench.store.prune(NOW + 31 * DAY + 1, ACME)
    assert [link.id for link in await bench.store.list_links()] == ["in use"]
