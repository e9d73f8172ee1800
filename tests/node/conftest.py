"""The fixtures of `make test-node`: one image, built once."""

from collections.abc import Iterator

import pytest

from support import images


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[images.Image]:
    """The image of this checkout."""
    builder = images.Builder(tmp_path_factory.mktemp("buildah"))
    try:
        yield builder.build()
    finally:
        builder.remove()
