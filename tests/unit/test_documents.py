import pytest

from usher_gateway import documents


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
