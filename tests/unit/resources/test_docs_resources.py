"""docs/resources.md and docs/expressions.md match the code."""

from support import source
from usher_gateway.expressions import programs, syntax
from usher_gateway.resources import conditions


def test_resources_page_lists_every_reason() -> None:
    reasons = ", ".join(f"`{reason}`" for reason in conditions.Reason)
    source.check_section(source.DOCS / "resources.md", "reasons", reasons)


def test_expressions_page_names_every_function_field_and_bound() -> None:
    text = (source.DOCS / "expressions.md").read_text("utf-8")
    for name in syntax.FUNCTIONS | syntax.MACROS | syntax.DELIVERY_FIELDS:
        assert f"`{name}`" in text, name
    bounds = (
        syntax.MAX_DEPTH,
        syntax.MAX_OPERATORS,
        syntax.MAX_PATTERN_LENGTH,
        programs.MAX_ITEMS,
    )
    for bound in (*syntax.MAX_LENGTH.values(), *bounds):
        assert str(bound) in text
