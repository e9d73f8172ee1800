import hypothesis.stateful
from hypothesis import strategies as st

from usher_gateway.delivery import circuit

MINUTE = 60 * 1_000_000


def opened(now: int = 0) -> circuit.Circuit:
    state = circuit.CLOSED
    for _ in range(circuit.OPENS_AFTER):
        state = circuit.failed(state, now)
    return state


def test_circuit_opens_after_five_consecutive_failures() -> None:
    state = circuit.CLOSED
    for _ in range(circuit.OPENS_AFTER - 1):
        state = circuit.failed(state, 0)
    assert state.state is circuit.CircuitState.Closed
    assert circuit.failed(state, 0).state is circuit.CircuitState.Open


def test_success_between_failures_keeps_circuit_closed() -> None:
    state = circuit.CLOSED
    for _ in range(20):
        state = circuit.succeeded(circuit.failed(circuit.failed(state, 0), 0), 8)
    assert state == circuit.CLOSED


def test_open_circuit_allows_one_trial_a_minute() -> None:
    state, now, trials = opened(), 0, 0
    while now < 60 * MINUTE:
        if circuit.may_start(state, 0, now):
            trials += 1
            assert not circuit.may_start(state, 1, now), "one at a time"
            state = circuit.failed(state, now)
        now += 1_000_000
    assert 58 <= trials <= 60


def test_concurrency_doubles_after_a_successful_trial() -> None:
    state, limits = circuit.succeeded(opened(), 8), []
    while state.state is circuit.CircuitState.Recovering:
        limits.append(state.limit)
        for _ in range(state.limit):
            state = circuit.succeeded(state, 8)
    assert limits == [1, 2, 4]
    assert state == circuit.CLOSED


def test_failure_while_recovering_restarts_slow_start() -> None:
    state = circuit.succeeded(opened(), 64)
    for _ in range(1 + 2 + 1):
        state = circuit.succeeded(state, 64)
    assert state.limit == 4
    assert circuit.failed(state, 0).limit == 1


class CircuitMachine(hypothesis.stateful.RuleBasedStateMachine):
    """In any order of results, an open circuit allows one attempt a minute and can close again."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.state = circuit.CLOSED
        self.in_flight = 0
        self.starts_while_open: list[int] = []

    @hypothesis.stateful.rule(seconds=st.integers(0, 90))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * 1_000_000

    @hypothesis.stateful.rule()
    def an_attempt_starts_if_it_may(self) -> None:
        if self.in_flight < 8 and circuit.may_start(self.state, self.in_flight, self.now):
            self.in_flight += 1
            if self.state.state is circuit.CircuitState.Open:
                self.starts_while_open.append(self.now)

    @hypothesis.stateful.precondition(lambda self: self.in_flight > 0)
    @hypothesis.stateful.rule(good=st.booleans())
    def an_attempt_ends(self, good: bool) -> None:
        self.in_flight -= 1
        self.state = circuit.succeeded(self.state, 8) if good else circuit.failed(self.state, self.now)
        if good:
            self.starts_while_open.clear()
            assert self.state.state is not circuit.CircuitState.Open

    @hypothesis.stateful.invariant()
    def trials_are_a_minute_apart(self) -> None:
        pairs = zip(self.starts_while_open, self.starts_while_open[1:], strict=False)
        assert all(later - earlier >= MINUTE for earlier, later in pairs)

    @hypothesis.stateful.invariant()
    def it_can_always_come_to_start_something(self) -> None:
        assert circuit.may_start(self.state, 0, self.now + 61 * 1_000_000)

    @hypothesis.stateful.invariant()
    def limits_make_sense(self) -> None:
        assert self.state.limit >= 1
        assert (self.state.state is circuit.CircuitState.Open) == (self.state.failures >= circuit.OPENS_AFTER)


TestCircuit = CircuitMachine.TestCase
