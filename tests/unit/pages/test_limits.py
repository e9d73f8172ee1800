from usher_gateway.pages.limits import ViewLimit


def test_all_links_share_a_limit_in_which_refused_views_do_not_count() -> None:
    limit = ViewLimit(of_link=1, of_all=2, now=lambda: 0.0)
    assert [limit.count_view(key) for key in ("a", "a", "a", "b", "c")] == [0, 60, 60, 0, 60]


def test_limit_begins_again_after_a_minute() -> None:
    times = iter([0.0, 58.5, 60.0])
    limit = ViewLimit(of_link=1, of_all=2, now=lambda: next(times))
    assert [limit.count_view("a") for _ in range(3)] == [0, 2, 0]
