"""docs/api.md and docs/usage-and-books.md say what the code does, and nothing else."""

import re
from pathlib import Path

from usher_gateway import model
from usher_gateway.admin import questions, server, usage
from usher_gateway.store.base import UsageRow

DOCS = Path(__file__).parents[3] / "docs"
API = (DOCS / "api.md").read_text("utf-8")
BOOKS = (DOCS / "usage-and-books.md").read_text("utf-8")


def test_the_page_lists_every_request_with_its_role() -> None:
    listed = set(re.findall(r"^\| `(GET|POST) (\S+)` \| (anybody|observe|operate) \|", API, re.MULTILINE))
    assert listed == {(method, path, role.name.lower()) for method, path, role, _ in server.ROUTES}


def test_the_page_names_every_filter() -> None:
    names = {name for name in questions.Selection.__struct_encode_fields__ if name != "all"}
    assert {name for name in names if f"`{name}`" not in API} == set()


def test_the_page_names_every_column_of_usage() -> None:
    (row,) = usage.rows_of([UsageRow(model.ListenerName("n", "t", "l"), 0, {})], {}, "day")
    assert {name for name in row if f"`{name}`" not in BOOKS} == set()


def test_every_problem_code_that_the_code_raises_is_on_the_page() -> None:
    sources = Path(server.__file__).parent.glob("*.py")
    raised = {
        code for file in sources for code in re.findall(r'ProblemError\(\s*\d+, "(\w+)"', file.read_text("utf-8"))
    }
    assert raised
    assert {code for code in raised if f"`{code}`" not in API} == set()
