"""Gateways on one database tell each other which destinations they know."""

from support import engines
from usher_gateway.delivery.other_gateways import HOLD_AFTER_SECONDS, UnknownDestinations

Gateways = list[engines.Bench]
CRM, MAIL = "agency/crm", "agency/mail"


class Seconds:
    """A monotonic clock that changes only when a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_told_destinations_are_seen_by_the_others_until_the_gateway_ends(gateways: Gateways) -> None:
    first, second = [bench.store for bench in gateways]
    assert await second.destinations_of_others([CRM]) == [frozenset()]
    await first.tell_destinations({CRM, MAIL})
    assert await second.destinations_of_others([CRM, "agency/other"]) == [{CRM}]
    assert await first.destinations_of_others([CRM]) == [frozenset()]
    await first.tell_destinations({MAIL})
    assert await second.destinations_of_others([CRM, MAIL]) == [{MAIL}]
    await first.close()
    assert await second.destinations_of_others([CRM, MAIL]) == []


async def test_destination_that_another_gateway_knows_is_left_to_it(gateways: Gateways) -> None:
    first, second = [bench.store for bench in gateways]
    clock = Seconds()
    owner, unknown = UnknownDestinations(store=first, now=clock), UnknownDestinations(store=second, now=clock)
    owner.apply([CRM])
    await owner.tell()
    await unknown.look_up([CRM])
    clock.now += 10 * HOLD_AFTER_SECONDS
    await unknown.look_up([CRM])
    assert unknown.is_left_to_others(CRM)
    assert not owner.is_left_to_others(CRM)


async def test_destination_that_nobody_knows_is_held_after_a_minute(gateways: Gateways) -> None:
    first, second = [bench.store for bench in gateways]
    clock = Seconds()
    unknown = UnknownDestinations(store=second, now=clock)
    assert unknown.is_left_to_others(CRM), "before the others were asked"
    await unknown.look_up([CRM])
    clock.now += HOLD_AFTER_SECONDS - 1
    assert unknown.is_left_to_others(CRM)
    clock.now += 1
    assert not unknown.is_left_to_others(CRM)
    await first.tell_destinations({CRM})
    await unknown.look_up([CRM])
    assert unknown.is_left_to_others(CRM), "a gateway that knows it has started"


async def test_gateway_that_is_alone_holds_deliveries_of_unknown_destinations_at_once(gateways: Gateways) -> None:
    first, second = [bench.store for bench in gateways]
    await first.tell_destinations({CRM})
    await first.close()
    unknown = UnknownDestinations(store=second, now=Seconds())
    await unknown.look_up([CRM])
    assert not unknown.is_left_to_others(CRM)


async def test_changed_destinations_are_told_at_most_every_five_seconds(gateways: Gateways) -> None:
    first, second = [bench.store for bench in gateways]
    clock = Seconds()
    owner = UnknownDestinations(store=first, now=clock)
    owner.apply([MAIL])
    await owner.tell()
    owner.apply([MAIL, CRM])
    await owner.tell()
    assert await second.destinations_of_others([CRM]) == [frozenset()]
    clock.now += 5
    await owner.tell()
    assert await second.destinations_of_others([CRM]) == [{CRM}]
