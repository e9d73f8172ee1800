"""The text of the listings `usher tenants`, `destinations` and `listeners`, without a gateway."""

import pytest

from usher_gateway.cli import overview


@pytest.mark.parametrize(
    ("failing", "silent", "said"),
    [
        (False, False, "No tenants."),
        (True, False, "No tenant is failing."),
        (False, True, "No tenant is silent."),
        (True, True, "No tenant is failing and silent."),
    ],
)
def test_empty_listing_repeats_what_was_asked(failing: bool, silent: bool, said: str) -> None:
    assert overview.nothing("tenant", failing=failing, silent=silent) == said
