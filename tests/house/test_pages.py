"""What the pages say is there: files, links, types, commands, flags, targets."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import source
from house.test_settings_page import COMMANDS, options

PAGES = source.pages()
ARCHITECTURE = source.ROOT / "ARCHITECTURE.md"
SPELLED = re.compile(r"`([^`\n]+)`")


@functools.cache
def code_names() -> frozenset[str]:
    """Every class, function, constant, field and word of the code."""
    found: set[str] = set()
    for file in source.python_files(source.GATEWAY, source.OPERATOR):
        for node in ast.walk(source.tree(file)):
            if isinstance(node, ast.ClassDef | source.Function):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(target.id for target in targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)
    return frozenset(found)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=source.shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=source.shown)
def test_commands_and_flags_exist(page: Path) -> None:
    for words in spoken_commands(page.read_text("utf-8"), "usher"):
        name = next((known for known in COMMANDS if words[: len(known.split())] == known.split()), None)
        assert name is not None or words[0] in {known.split()[0] for known in COMMANDS}, words
        if name is not None:
            known = {flag for option in options(COMMANDS[name]) for flag in (*option.opts, *option.secondary_opts)}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, words


@pytest.mark.parametrize("page", PAGES, ids=source.shown)
def test_make_targets_exist(page: Path) -> None:
    makefile = (source.ROOT / "Makefile").read_text("utf-8")
    for words in spoken_commands(page.read_text("utf-8"), "make"):
        targets = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
        assert targets, words
        assert re.search(rf"^{targets[0]}:", makefile, re.MULTILINE), words


def spoken_commands(text: str, program: str) -> Iterator[list[str]]:
    """The words after a program's name, wherever a page spells a command: in backticks or in a block of code."""
    blocks = re.findall(r"^```(?:sh|bash|console|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [inner for line in lines for inner in re.findall(r"\$\(([^)]*)\)", line)]
    for spelled in [*lines, *SPELLED.findall(prose)]:
        line = re.sub(r"\$\([^)]*\)", "…", spelled)
        command = re.match(rf"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?{program} ([^#|;&]+)", line.strip())
        if command and not command[1].startswith(("-", "<")):
            yield command[1].split()


def test_commands_are_found_where_pages_spell_them() -> None:
    block = (
        "```sh\n$ usher check a # b\nX=1 .venv/bin/usher simulate \\\n  $(usher url f)\n```\n```python\nusher no\n```\n"
    )
    text = f"Say `usher run x --data d`.\n{block}"
    assert list(spoken_commands(text, "usher")) == [
        ["check", "a"],
        ["simulate", "…"],
        ["url", "f"],
        ["run", "x", "--data", "d"],
    ]


def test_the_architecture_fits_on_three_screens_and_names_no_lines() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    assert len(text.splitlines()) < 150
    assert not re.search(r"\.(py|sql):\d+|#L\d+|\blines? \d+", text)


@pytest.mark.parametrize("page", [ARCHITECTURE, *sorted((source.DOCS / "decisions").glob("*.md"))], ids=source.shown)
def test_files_and_types_that_are_named_exist(page: Path) -> None:
    roots = (source.ROOT, source.GATEWAY, source.OPERATOR)
    named = SPELLED.findall(page.read_text("utf-8"))
    paths = [name for name in named if re.fullmatch(r"[\w./-]+(/|\.(py|sql|md|yaml|toml|txt))", name)]
    assert [name for name in paths if not any((root / name).exists() for root in roots)] == []
    types = [name for name in named if re.fullmatch(r"(\w+\.)*[A-Z][a-z]+([A-Z][a-z]*)+(\.\w+)?(\(\))?", name)]
    calls = [name for name in named if re.fullmatch(r"[\w.]+\(\)", name)]
    parts = {part for name in [*types, *calls] for part in name.removesuffix("()").split(".")[-1:]}
    words = {member for member in parts if member not in code_names()}
    assert words == set()


def test_every_decision_says_what_was_refused_and_what_follows() -> None:
    found = sorted((source.DOCS / "decisions").glob("*.md"))
    assert found
    for number, page in enumerate(found, 1):
        assert page.name.startswith(f"{number:04d}-")
        heads = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
        assert heads == ["Context", "Decision", "Refused", "Consequences"], page.name


def test_the_index_lists_every_page_of_the_docs() -> None:
    index = (source.DOCS / "README.md").read_text("utf-8")
    for page in source.DOCS.rglob("*.md"):
        name = page.relative_to(source.DOCS).as_posix()
        assert name == "README.md" or f"({name})" in index, name


@pytest.mark.parametrize("page", PAGES, ids=source.shown)
def test_metrics_that_a_page_names_are_listed(page: Path) -> None:
    """An alert on a metric that does not exist never fires."""
    lists = [(source.DOCS / name).read_text("utf-8") for name in ("metrics.md", "operator.md")]
    listed = set(re.findall(r"^\| `(usher_\w+)` \|", "\n".join(lists), re.MULTILINE))
    named = set(re.findall(r"(?<![\w/-])usher_[a-z_]+(?![\w/.])", page.read_text("utf-8"))) - {
        "usher_",
        "usher_gateway",
        "usher_operator",
    }
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= listed
