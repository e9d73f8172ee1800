import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from usher_gateway import model
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import Period, UsageRow

LOBBY = model.ListenerName("agency", "acme", "lobby")


def row(period: int = 0, **counts: int) -> UsageRow:
    return UsageRow(LOBBY, period, {Counter[name]: count for name, count in counts.items()})


def check(*rows: UsageRow, open_before: int = 0, open_after: int = 0) -> list[books.Violation]:
    return books.check(rows, {LOBBY: open_before}, {LOBBY: open_after})


def test_balanced_books_have_no_violations() -> None:
    first = row(0, visits=3, routed=3, created=2, skipped_filter=1, delivered=1)
    second = row(900, visits=1, routed=1, created=1, redriven=1, released=1, replayed=2, died=1, cancelled=2)
    assert check(first, second, open_before=4, open_after=7) == []


def test_missing_verdict_is_reported_in_its_slot() -> None:
    (violation,) = check(row(0), row(900, routed=2, created=1), open_after=1)
    assert (violation.equation, violation.period, violation.left, violation.right) == ("Routes", 900, 2, 1)


def test_missing_delivery_is_reported() -> None:
    (violation,) = check(row(routed=1, created=1), open_after=0)
    assert (violation.equation, violation.period, violation.left, violation.right) == ("Deliveries", None, 1, 0)


def test_delivery_counted_before_its_creation_by_another_clock_is_no_violation() -> None:
    assert check(row(0, delivered=1), row(900, released=1)) == []


def test_outcome_without_a_delivery_is_reported_once() -> None:
    (violation,) = check(row(0, delivered=2), row(900, released=1))
    assert (violation.equation, violation.period, violation.left, violation.right) == ("Deliveries", None, -1, 0)


def test_listener_without_rows_is_compared_too() -> None:
    assert len(check(open_before=1, open_after=2)) == 1
    assert check(open_before=2, open_after=2) == []


def test_arrivals_are_the_sum_of_their_kinds() -> None:
    counts = row(visits=1, repeats=2, redeliveries=4, probes=8, quarantined=16, refused=32, late=64).counts
    assert books.arrivals(counts) == 63


def test_every_skip_reason_has_a_counter() -> None:
    assert set(books.SKIPPED) == set(model.SkipReason)
    assert len(set(books.SKIPPED.values())) == len(model.SkipReason)


@given(st.integers(0, 4_000_000_000 // 900))
def test_first_second_is_a_fixed_point_at_or_before_the_slot(number: int) -> None:
    slot = number * 900
    periods: tuple[Period, ...] = ("slot", "day", "month")
    starts = [books.first_second(slot, period) for period in periods]
    assert starts == sorted(starts, reverse=True)
    assert all(books.first_second(start, period) == start for start, period in zip(starts, periods, strict=True))


moves = st.lists(st.sampled_from(["created", "released", "replayed", "redriven", "delivered", "died", "cancelled"]))


@given(moves, st.data())
def test_random_history_balances_only_with_all_its_counts(moves: list[str], data: Any) -> None:
    open_now, rows = 0, []
    for number, move in enumerate(moves):
        sign = books.OPEN_SIGNS[Counter[move]]
        if open_now + sign < 0:
            continue
        open_now += sign
        rows.append(row(number * 900, **{move: 1, "routed": int(move == "created")}))
    assert check(*rows, open_after=open_now) == []
    if rows:
        lost = data.draw(st.integers(0, len(rows) - 1))
        left = [counted_row for number, counted_row in enumerate(rows) if number != lost]
        assert check(*itertools.chain(left), open_after=open_now) != []
