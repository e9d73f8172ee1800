import pytest

from usher_gateway.pages.limits import AttemptLimit, network_of


@pytest.mark.parametrize("peers", [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1%eth0")])
def test_addresses_of_one_peer_share_its_limit(peers: tuple[str, str]) -> None:
    limit = AttemptLimit(of_key=2, of_all=9, now=lambda: 0.0)
    assert [limit.count_attempt(network_of(peer)) for peer in (*peers, *peers)] == [0, 0, 60, 60]
    assert limit.count_attempt(network_of("2001:db8:0:1::1")) == 0


def test_all_keys_share_a_limit_in_which_refused_attempts_do_not_count() -> None:
    limit = AttemptLimit(of_key=1, of_all=2, now=lambda: 0.0)
    assert [limit.count_attempt(key) for key in ("a", "a", "a", "b", "c")] == [0, 60, 60, 0, 60]


def test_limit_begins_again_after_a_minute() -> None:
    times = iter([0.0, 58.5, 60.0])
    limit = AttemptLimit(of_key=1, of_all=2, now=lambda: next(times))
    assert [limit.count_attempt("a") for _ in range(3)] == [0, 2, 0]
