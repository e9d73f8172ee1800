import hypothesis
import pytest
from hypothesis import strategies

from usher_gateway import documents


@hypothesis.given(
    strategies.lists(strategies.from_regex(r"[-A-Za-z0-9._~%]{1,40}", fullmatch=True), min_size=1, max_size=4),
    strategies.lists(
        strategies.tuples(
            strategies.from_regex(r"[a-z]{1,5}", fullmatch=True), strategies.from_regex(r"[0-9]{6,9}", fullmatch=True)
        )
    ),
)
def test_short_url_has_no_long_part_and_no_query_value(parts: list[str], query: list[tuple[str, str]]) -> None:
    address = documents.Address("h.example", "/" + "/".join(parts), tuple(query))
    shown = documents.shorten_url(address.url)
    assert all(len(part) <= 12 for part in shown.partition("?")[0].removeprefix("https://").split("/"))
    assert all(value not in shown.partition("?")[2] for _, value in query)


@pytest.mark.parametrize(
    ("url", "short"),
    [
        ("https://hooks.example.com/v1/abcdefghijklmnopqrstuvwxyz", "https://hooks.example.com/v1/abcd…"),
        ("https://user:secret@hooks.example.com/short", "https://hooks.example.com/short"),
        ("https://hooks.example.com/a@b", "https://hooks.example.com/a@b"),
        ("https://hooks.example.com/purple.php?k=secret&l=", "https://hooks.example.com/purple.php?k=…&l=…"),
        ("https://hooks.example.com/purple.php?secret", "https://hooks.example.com/purple.php?…"),
        ("https://hooks.example.com/x#secret", "https://hooks.example.com/x"),
        ("hooks.example.com/abcdefghijklmnop", "hooks.example.com/abcd…"),
        ("?", "?"),
    ],
)
def test_short_url_hides_what_may_be_a_credential(url: str, short: str) -> None:
    assert documents.shorten_url(url) == short


def test_short_url_fits_into_the_status() -> None:
    query = tuple((f"{number:02}" + "n" * 120, "v") for number in range(16))
    assert len(documents.shorten_url(documents.Address("h.example", "/" + "a/" * 500, query).url)) == 2048
