"""docs/api.md and docs/usage-and-books.md agree with the code."""

import re
from pathlib import Path

from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.admin import api, routes, usage
from usher_gateway.store.base import UsageRow
from usher_gateway.words import listings

DOCS = Path(__file__).parents[3] / "docs"
API = (DOCS / "api.md").read_text("utf-8")
BOOKS = (DOCS / "usage-and-books.md").read_text("utf-8")


def test_api_page_lists_every_route_with_its_scope() -> None:
    listed = set(re.findall(r"^\| `(GET|POST) (\S+)` \| `?(anybody|\w+:\w+)`? \|", API, re.MULTILINE))
    assert listed == {(route.method, route.path, route.scope or "anybody") for route in routes.ROUTES}


def test_api_page_names_every_scope() -> None:
    assert {scope for scope in tokens.Scope if f"| `{scope}` |" not in API} == set()


def test_scopes_without_a_request_for_limited_tokens_are_known() -> None:
    limitable = {route.scope for route in routes.ROUTES if route.is_confined}
    assert set(tokens.Scope) - limitable == tokens.UNLIMITED_SCOPES


def test_api_page_names_every_filter() -> None:
    names = {*api.Selection.__struct_encode_fields__, *(flag.name for flag in listings.FILTERS)} - {"all"}
    assert {name for name in names if f"`{name}`" not in API} == set()


def test_books_page_names_every_usage_column() -> None:
    (row,) = usage.usage_rows([UsageRow(model.ListenerName("n", "t", "l"), 0, {})], {}, "day")
    assert {name for name in row if f"`{name}`" not in BOOKS} == set()


def test_api_page_names_every_problem_code() -> None:
    sources = Path(routes.__file__).parent.glob("*.py")
    raised = {
        code for file in sources for code in re.findall(r'ProblemError\(\s*\d+, "(\w+)"', file.read_text("utf-8"))
    }
    assert raised
    assert {code for code in raised if f"`{code}`" not in API} == set()
