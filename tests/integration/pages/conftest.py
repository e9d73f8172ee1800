"""A browser at the pages."""

from collections.abc import AsyncIterator

import pytest

from support import admin_port, browsing


@pytest.fixture
async def browser(served: admin_port.Served) -> AsyncIterator[browsing.Browser]:
    """A browser that entered the pages with the operate token."""
    async with browsing.opened(served) as browser:
        yield browser
