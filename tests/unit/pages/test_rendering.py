"""How texts get into pages."""

import pytest

from usher_gateway.pages import rendering


def test_backticks_become_code_and_everything_is_escaped() -> None:
    assert rendering.prose("Set `a<b>` & <i>") == "Set <code>a&lt;b&gt;</code> &amp; &lt;i&gt;"
    assert rendering.prose("one ` alone") == "one ` alone"
    assert rendering.prose("a\x1b[2J") == "a\N{REPLACEMENT CHARACTER}[2J"


@pytest.mark.parametrize(
    ("key", "path"),
    [("agency/acme", "/ui/tenants/agency/acme"), ("agency/a/../b?c#d", "/ui/tenants/agency/a%2F..%2Fb%3Fc%23d")],
)
def test_name_cannot_leave_its_part_of_a_path(key: str, path: str) -> None:
    assert rendering.path_to("tenants", key) == path
