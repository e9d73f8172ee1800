"""Circuits that several gateways share: who may make the next trial, and what all of them know."""

import asyncio
import contextlib

import asyncpg
import pytest

from support import databases, engines, samples, slow_proxy
from support.gateways import wait_until
from usher_gateway.delivery import circuit
from usher_gateway.delivery.shared_circuits import _MAX_CHANGES, CircuitNews, SharedCircuits
from usher_gateway.store.base import CircuitChange, CircuitEvent, OpenCircuit, TrialTimes
from usher_gateway.store.postgresql import circuits
from usher_gateway.store.postgresql.connections import CONNECT_SECONDS
from usher_gateway.timing import Clock

Gateways = list[engines.Bench]
CRM = "agency/crm"
OPENED, FAILED, CLOSED = [CircuitChange(CRM, event, f"Error{event.value}") for event in CircuitEvent]
TIMES = TrialTimes(60.0, 5.0)


@pytest.fixture
async def known(gateways: Gateways) -> Gateways:
    """Two gateways on a database that knows the destination, because there was a visit."""
    await gateways[0].accept(samples.arrival("a"))
    return gateways


async def exchange(
    bench: engines.Bench, *changes: CircuitChange, trials: tuple[str, ...] = (), times: TrialTimes = TIMES
) -> OpenCircuit | None:
    """Return the open circuit of the destination, if there is one."""
    found = await bench.store.exchange_circuits(changes, trials, times)
    assert len(found) <= 1
    return found[0] if found else None


async def trial_in(bench: engines.Bench, *changes: CircuitChange) -> float:
    found = await exchange(bench, *changes)
    assert found is not None
    return found.trial_in_seconds


def let_pass(bench: engines.Bench, seconds: int) -> None:
    """Let the database think that time has passed since the circuit changed."""
    statement = f"update circuits set trial_at = trial_at - interval '{seconds} s'"
    databases.server().execute(statement, databases.name_of(bench.place))


async def test_opened_circuit_is_open_at_the_other_gateway(known: Gateways) -> None:
    first, second = known
    assert await exchange(second) is None
    await exchange(first, OPENED)
    found = await exchange(second)
    assert found is not None
    assert (found.destination, found.error, found.is_claimed) == (CRM, "ErrorOpened", False)
    assert 50 < found.trial_in_seconds <= 60


async def test_closed_circuit_is_closed_at_the_other_gateway(known: Gateways) -> None:
    first, second = known
    await exchange(first, OPENED)
    await exchange(second, CLOSED)
    assert await exchange(first) is None


async def test_failure_after_the_closing_does_not_open_the_circuit(known: Gateways) -> None:
    """It is the result of an attempt that began while the circuit was open."""
    first, second = known
    await exchange(first, OPENED)
    await exchange(first, CLOSED)
    assert await exchange(second, FAILED) is None


async def test_trial_is_claimed_by_one_gateway_when_it_is_due(known: Gateways) -> None:
    await exchange(known[0], OPENED)
    for bench in known:
        found = await exchange(bench, trials=(CRM,))
        assert found is not None
        assert not found.is_claimed, "not due"
    for _ in range(30):
        let_pass(known[0], 66)
        both = await asyncio.gather(*[exchange(bench, trials=(CRM,)) for bench in known])
        assert [one.is_claimed for one in both if one is not None].count(True) == 1


async def test_next_trial_starts_a_minute_after_the_claim_ends(known: Gateways) -> None:
    """As after the gateway that claimed it was killed: it may have sent the request at the end of its claim."""
    first, second = known
    await exchange(first, OPENED)
    let_pass(first, 61)
    claim = await exchange(first, trials=(CRM,))
    assert claim is not None
    assert claim.is_claimed
    assert 55 < await trial_in(second) - 5 <= 60


async def test_only_the_gateway_that_claimed_moves_the_trial_to_an_earlier_time(known: Gateways) -> None:
    first, second = known
    await exchange(first, OPENED)
    let_pass(first, 61)
    await exchange(first, trials=(CRM,))
    assert await trial_in(second, FAILED) > 60
    assert await trial_in(first, FAILED) <= 60
    let_pass(first, 30)
    assert 50 < await trial_in(second, FAILED) <= 60


async def test_opening_again_does_not_move_the_trial_to_an_earlier_time(known: Gateways) -> None:
    first, second = known
    await exchange(first, OPENED)
    let_pass(first, 61)
    await exchange(first, trials=(CRM,))
    assert await trial_in(second, OPENED) > 60


async def test_circuit_without_a_trial_for_a_day_is_forgotten(known: Gateways) -> None:
    first, second = known
    await exchange(first, OPENED)
    let_pass(first, 86_000)
    assert await exchange(second) is not None
    let_pass(first, 1_000)
    await exchange(second)
    assert await exchange(second) is None


async def test_trial_is_due_after_the_clock_of_the_server_was_set_back(known: Gateways) -> None:
    first, second = known
    await exchange(first, OPENED)
    let_pass(first, -3_600)
    assert await trial_in(second) == 0
    found = await exchange(second, trials=(CRM,))
    assert found is not None
    assert found.is_claimed
    assert 60 < await trial_in(first) <= 65


async def test_many_changes_are_told_in_time_if_each_answer_takes_long(known: Gateways) -> None:
    """Thousands of destinations may begin to fail at once, because they are behind the same provider."""
    name = databases.name_of(known[0].place)
    keys = [f"agency/crm-{number}" for number in range(_MAX_CHANGES)]
    databases.server().execute(f"insert into destinations (key) select unnest('{{{','.join(keys)}}}'::text[])", name)
    async with slow_proxy.SlowProxy(databases.server().port) as proxy:
        connection = await asyncpg.connect(f"postgresql://gateway@127.0.0.1:{proxy.port}/{name}")
        proxy.delay_seconds = 0.1
        for event in CircuitEvent:
            async with asyncio.timeout(CONNECT_SECONDS), connection.transaction():
                changes = [CircuitChange(key, event, event.value) for key in keys]
                found = await circuits.exchange(connection, 1, changes, [], TIMES)
            errors = [] if event is CircuitEvent.Closed else [event.value] * _MAX_CHANGES
            assert [one.error for one in found] == errors
        await connection.close()


class Follower:
    """A gateway that keeps the news about circuits."""

    def __init__(self, bench: engines.Bench) -> None:
        self.news: list[CircuitNews] = []
        self.failures: list[set[str]] = []
        self.circuits = SharedCircuits(
            store=bench.store,
            clock=Clock(),
            apply=self.news.append,
            try_alone=lambda trials, _: self.failures.append(set(trials)),
        )

    def is_ready(self) -> bool:
        return self.circuits.is_ready

    @property
    def open(self) -> set[str]:
        return set(self.news[-1].open)


async def test_followers_are_told_what_changed_elsewhere(known: Gateways) -> None:
    first, second = map(Follower, known)
    assert not first.is_ready()
    first.circuits.note(CRM, CircuitEvent.Opened, "ServerError")
    first.circuits.note(CRM, CircuitEvent.Failed, "TimedOut")
    await first.circuits.exchange()
    await second.circuits.exchange()
    assert first.is_ready()
    assert second.news[-1].open[CRM].error == "TimedOut"
    second.circuits.note(CRM, CircuitEvent.Closed)
    await second.circuits.tell_last()
    await first.circuits.exchange()
    assert first.open == set()


async def test_change_during_an_exchange_counts_more_than_what_it_read(known: Gateways) -> None:
    first = Follower(known[0])
    first.circuits.note(CRM, CircuitEvent.Opened, "ServerError")
    exchanging = asyncio.create_task(first.circuits.exchange())
    await asyncio.sleep(0)  # it has taken what it tells
    first.circuits.note(CRM, CircuitEvent.Closed)
    await exchanging
    assert first.open == {CRM}
    assert set(first.news[-1].changing) == {CRM}
    await first.circuits.exchange()
    assert first.open == set()


async def test_failed_exchange_is_repeated(known: Gateways) -> None:
    first = Follower(known[0])
    server, name = databases.server(), databases.name_of(known[0].place)
    server.execute("alter table circuits rename to away", name)
    first.circuits.note(CRM, CircuitEvent.Opened, "ServerError")
    await first.circuits.refresh([CRM])
    assert first.is_ready(), "the database must not stop other deliveries"
    assert first.failures == [set()], "no trial before it has failed for a minute"
    server.execute("alter table away rename to circuits", name)
    await first.circuits.exchange()
    assert first.open == {CRM}


async def test_gateway_tries_alone_while_exchanges_fail(known: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Follower(known[0])
    databases.server().execute("alter table circuits rename to away", databases.name_of(known[0].place))
    await first.circuits.exchange()
    monkeypatch.setattr(circuit, "TRIAL_EVERY", 0)
    await first.circuits.refresh([CRM])
    await first.circuits.exchange()
    assert first.failures[-1] == {CRM}


async def test_change_wakes_the_exchange(known: Gateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usher_gateway.delivery.shared_circuits.EXCHANGE_SECONDS", 3_600.0)
    first = Follower(known[0])
    task = asyncio.create_task(first.circuits.run())
    await wait_until(first.is_ready)
    first.circuits.note(CRM, CircuitEvent.Opened, "ServerError")
    await wait_until(lambda: first.open == {CRM})
    await known[1].store.exchange_circuits([CLOSED], [], TIMES)
    first.circuits.ask()
    await wait_until(lambda: first.open == set())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
