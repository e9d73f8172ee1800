"""docs/resources.md and docs/expressions.md match the code. UPDATE_DOCS=1 rewrites the tables."""

import os
import pathlib
import re

from usher_gateway import expressions
from usher_gateway.resources import conditions

DOCS = pathlib.Path(__file__).parents[3] / "docs"


def reasons() -> str:
    return ", ".join(f"`{reason}`" for reason in conditions.Reason)


def section(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    assert pattern.search(text), name
    return pattern.sub(lambda match: match.group(1) + content + match.group(2), text)


def test_resources_page_lists_every_reason() -> None:
    page = DOCS / "resources.md"
    updated = section(page.read_text("utf-8"), "reasons", reasons())
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(updated, "utf-8")
    assert page.read_text("utf-8") == updated, "run UPDATE_DOCS=1 pytest tests/unit/test_docs_resources.py"


def test_expressions_page_names_every_function_field_and_bound() -> None:
    text = (DOCS / "expressions.md").read_text("utf-8")
    for name in expressions.FUNCTIONS | expressions.MACROS | expressions.VISIT_FIELDS:
        assert f"`{name}`" in text, name
    for bound in (expressions.MAX_LENGTH, expressions.MAX_DEPTH, expressions.MAX_PATTERN_LENGTH, expressions.MAX_ITEMS):
        assert str(bound) in text
