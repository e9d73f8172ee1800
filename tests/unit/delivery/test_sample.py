"""The sample visit is the one of the documentation, and a visit by the default fields."""

import re
from pathlib import Path

import msgspec

from usher_gateway import documents
from usher_gateway.delivery import sample

PAGE = (Path(__file__).parents[3] / "docs" / "purple.md").read_text("utf-8")


def test_page_shows_the_sample() -> None:
    shown = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert shown[1].encode() == sample.VISIT


def test_sample_has_every_default_field_at_its_first_path() -> None:
    body = msgspec.json.decode(sample.VISIT)
    for name, (first, *_) in documents.DEFAULT_FIELDS.items():
        value = body
        for part in first.strip("/").split("/"):
            assert part in value, name
            value = value[part]
