"""The CPU time that the bodies of a listener and of a tenant may take, and the attempts of a namespace."""

from usher_gateway import model
from usher_gateway.ingest.cpu_limits import BodyBudgets, TenantBudgets

LOBBY = model.ListenerName("agency", "acme", "lobby")
POOL = model.ListenerName("agency", "acme", "pool")
BAR = model.ListenerName("agency", "acme", "bar")
SHARE, BURST_SECONDS = 0.25, 0.05
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


def test_attempts_of_a_tenant_over_its_time_wait_and_its_neighbours_do_not() -> None:
    budgets = TenantBudgets(lambda: 0.0, share=SHARE, burst_seconds=BURST_SECONDS)
    budgets.spend("agency", "acme", 2 * BURST_SECONDS)
    budgets.spend("agency", "globex", BURST_SECONDS / 100)
    waiting = [tenant for tenant in ("acme", "globex", "initech") if budgets.is_spent("agency", tenant)]
    assert waiting == ["acme"]


def test_tenants_with_costly_attempts_share_the_time_of_their_namespace() -> None:
    seconds = 0.0
    budgets = TenantBudgets(lambda: seconds, share=SHARE, burst_seconds=BURST_SECONDS)
    used = dict.fromkeys(range(10), 0.0)
    while seconds < 100.0:
        for tenant in used:
            if not budgets.is_spent("agency", f"t{tenant}"):
                budgets.spend("agency", f"t{tenant}", 0.01)
                used[tenant] += 0.01
        assert not budgets.is_spent("other", "t0")
        seconds += 0.01
    assert 0.9 * SHARE < sum(used.values()) / seconds < 1.1 * SHARE
    assert max(used.values()) < 1.2 * min(used.values())


def test_tenant_gets_all_the_time_of_its_namespace_after_its_neighbours_stop() -> None:
    seconds = 0.0
    budgets = TenantBudgets(lambda: seconds, share=SHARE, burst_seconds=BURST_SECONDS)
    for neighbour in range(100):
        budgets.spend("agency", f"t{neighbour}", BURST_SECONDS)
    seconds, used = 1_000.0, 0.0
    while seconds < 1_100.0:
        if not budgets.is_spent("agency", "acme"):
            budgets.spend("agency", "acme", 0.01)
            used += 0.01
        seconds += 0.01
    assert used > 0.8 * 100 * SHARE
