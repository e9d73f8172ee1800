"""The CPU time that the bodies of a listener and of a tenant may take."""

from usher_gateway import model
from usher_gateway.ingest.cpu_limits import BodyBudgets

LOBBY = model.ListenerName("agency", "acme", "lobby")
POOL = model.ListenerName("agency", "acme", "pool")
BAR = model.ListenerName("agency", "acme", "bar")
OTHER = model.ListenerName("agency", "globex", "lobby-of-globex")


def test_ordinary_bodies_never_spend_the_budget() -> None:
    budgets = BodyBudgets(now=lambda: 0.0)
    for _ in range(100_000):
        budgets.charge(LOBBY, 0.0001)
    assert not budgets.is_spent(LOBBY)


def test_expensive_bodies_of_a_listener_stop_only_that_listener() -> None:
    budgets = BodyBudgets(now=lambda: 0.0)
    for _ in range(6):
        assert not budgets.is_spent(LOBBY)
        budgets.charge(LOBBY, 0.02)
    assert budgets.is_spent(LOBBY)
    assert not budgets.is_spent(POOL)
    assert not budgets.is_spent(OTHER)


def test_expensive_bodies_of_several_listeners_stop_their_tenant() -> None:
    budgets = BodyBudgets(now=lambda: 0.0)
    for listener in (LOBBY, POOL):
        budgets.charge(listener, 0.15)
    assert budgets.is_spent(BAR)
    assert not budgets.is_spent(OTHER)


def test_listener_gets_a_twentieth_of_a_core() -> None:
    seconds = 0.0
    budgets = BodyBudgets(now=lambda: seconds)
    budgets.charge(LOBBY, 0.15025)
    seconds = 0.9
    assert budgets.is_spent(LOBBY)
    seconds = 1.1
    assert not budgets.is_spent(LOBBY)


def test_reserved_time_counts_until_it_is_settled() -> None:
    budgets = BodyBudgets(now=lambda: 0.0)
    for _ in range(5):
        budgets.reserve(LOBBY)
    assert budgets.is_spent(LOBBY)
    for _ in range(5):
        budgets.settle(LOBBY, 0.001)
    assert not budgets.is_spent(LOBBY)
