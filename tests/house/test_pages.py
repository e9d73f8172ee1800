"""The pages name only files, links, types, commands, flags, targets and metrics that exist."""

import ast
import fnmatch
import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import helm, programs
from support import source
from support.command_line import COMMANDS, options

PAGES = source.pages()
ARCHITECTURE = source.ROOT / "ARCHITECTURE.md"
SPELLED = re.compile(r"`([^`\n]+)`")


@functools.cache
def code_names() -> frozenset[str]:
    """The name of every class, function, constant and field of the code, and every string that is a name."""
    names: set[str] = set()
    for file in source.python_files(source.GATEWAY, source.OPERATOR):
        for node in ast.walk(source.tree(file)):
            if isinstance(node, ast.ClassDef | source.Function):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                names.add(node.value)
    return frozenset(names)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, built as GitHub and Forgejo build them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def resolves(page: Path, target: str) -> bool:
    """Return whether a link of a page leads to a file, and to one of its headings if it names one."""
    if "://" in target:
        return True
    name, _, anchor = target.partition("#")
    linked = (page.parent / name).resolve() if name else page
    return linked.exists() and (not anchor or anchor in anchors(linked))


def test_links_of_the_pages_resolve() -> None:
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))]
    assert [(source.shown(page), target) for page, target in links if not resolves(page, target)] == []


def is_usher_command(words: list[str]) -> bool:
    """Return whether `usher` has this command and all of its flags."""
    name = next((command for command in COMMANDS if words[: len(command.split())] == command.split()), None)
    if name is None:
        return words[0] in {command.split()[0] for command in COMMANDS}
    flags = {flag for option in options(COMMANDS[name]) for flag in (*option.opts, *option.secondary_opts)}
    return {word.partition("=")[0] for word in words if word.startswith("--")} <= flags | {"--help"}


def test_commands_and_flags_that_a_page_names_exist() -> None:
    spelled = [(page, words) for page in PAGES for words in commands_in(page.read_text("utf-8"), "usher")]
    assert [(source.shown(page), words) for page, words in spelled if not is_usher_command(words)] == []


def commands_in(text: str, program: str) -> Iterator[list[str]]:
    """The words after a program's name wherever a page spells a command: in backticks or in a block of code."""
    blocks = re.findall(r"^```(?:sh|bash|console|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [inner for line in lines for inner in re.findall(r"\$\(([^)]*)\)", line)]
    for spelled in [*lines, *SPELLED.findall(prose)]:
        line = re.sub(r"\$\([^)]*\)", "…", spelled)
        command = re.match(rf"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?{program} ([^#|;&]+)", line.strip())
        if command and not command[1].startswith(("-", "<")):
            yield command[1].split()


# Without names of commands in a sentence.
RUNBOOK_COMMANDS = [
    (page.stem, words)
    for page in sorted((source.DOCS / "runbooks").glob("*.md"))
    for words in commands_in(page.read_text("utf-8"), "usher")
    if len(words) > 1 and "show" not in words[-1:]
]


@pytest.mark.parametrize(("page", "words"), RUNBOOK_COMMANDS)
def test_usher_command_of_a_runbook_can_be_parsed(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is copied in an outage has to work as it stands."""
    monkeypatch.chdir(tmp_path)
    Path("visit.json").touch()
    Path("manifests").mkdir()
    words = shlex.split(" ".join(words))
    name = max((command for command in COMMANDS if words[: len(command.split())] == command.split()), key=len)
    COMMANDS[name].make_context(name, words[len(name.split()) :])


# Words of kubectl after which another word of the command's name comes.
GROUPS = {("create",), ("create", "secret"), ("rollout",), ("auth",), ("top",), ("config",), ("annotate",)}


@functools.cache
def help_of(program: str, *name: str) -> str:
    """The help of a command and the flags that all commands have."""
    path = programs.kubectl() if program == "kubectl" else helm.find()
    shown = [
        subprocess.run([path, *words], capture_output=True, text=True, check=False, timeout=30).stdout
        for words in ((*name, "--help"), ("options",))
    ]
    return "\n".join(shown)


@pytest.mark.parametrize("program", ["kubectl", "helm"])
def test_kubectl_and_helm_have_the_flags_that_the_pages_use(program: str) -> None:
    spelled = [(page, words) for page in PAGES for words in commands_in(page.read_text("utf-8"), program)]
    assert len(spelled) > 10
    missing = []
    for page, words in spelled:
        own_words = words[: words.index("--")] if "--" in words else words
        name = [word for word in own_words[:3] if re.fullmatch("[a-z-]+", word)]
        size = next(size for size in (1, 2, 3) if tuple(name[:size]) not in GROUPS)
        shown = help_of(program, *name[:size])
        flags = [word.partition("=")[0] for word in own_words if word.startswith("-")]
        missing += [(source.shown(page), words, flag) for flag in flags if not re.search(rf"\s{flag}[=, ]", shown)]
    assert missing == []


def test_labels_and_namespaces_of_the_runbooks_are_those_of_the_chart() -> None:
    text = "\n".join(page.read_text("utf-8") for page in (source.DOCS / "runbooks").glob("*.md"))
    assert set(re.findall(r"app\.kubernetes\.io/component=(\w+)", text)) == {"gateway", "operator"}
    assert set(re.findall(r"kubectl.* -n (\S+)", text)) == {"usher-system", "usher-system-config", "agency"}


def test_no_page_writes_a_secret_where_git_would_add_it() -> None:
    """The commands run in the repository's folder. A target without `~` or `/` at its begin must be ignored."""
    ignored = [line.strip("/") for line in (source.ROOT / ".gitignore").read_text("utf-8").splitlines()]
    written = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"kubectl .*\bsecret\b.* > (\S+?)\)?$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert len(written) >= 3
    assert [
        (source.shown(page), target)
        for page, target in written
        if not target.startswith(("~/", "/"))
        and not any(fnmatch.fnmatch(part, pattern) for part in target.split("/") for pattern in ignored)
    ] == []


def test_make_targets_that_a_page_names_exist() -> None:
    makefile = (source.ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    spelled = [(page, words) for page in PAGES for words in commands_in(page.read_text("utf-8"), "make")]
    named = [(page, next((word for word in words if "=" not in word), "")) for page, words in spelled]
    assert [(source.shown(page), target) for page, target in named if target not in targets] == []


def test_architecture_page_is_short_and_names_no_line_numbers() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    assert len(text.splitlines()) < 150
    assert not re.search(r"\.(py|sql):\d+|#L\d+|\blines? \d+", text)


def test_files_and_types_that_architecture_and_contributing_name_exist() -> None:
    """Decision pages are records of their time, so they may name code that is gone."""
    pages = [ARCHITECTURE, source.ROOT / "CONTRIBUTING.md"]
    assert [(source.shown(page), name) for page in pages for name in missing_names(page.read_text("utf-8"))] == []


def missing_names(text: str) -> list[str]:
    """Files, types and functions that a page names in backticks and that do not exist."""
    roots = (source.ROOT, source.GATEWAY, source.OPERATOR)
    named = SPELLED.findall(text)
    paths = [name for name in named if re.fullmatch(r"[\w./-]+(/|\.(py|sql|md|yaml|toml|txt))", name)]
    missing = [name for name in paths if not any((root / name).exists() for root in roots)]
    types = [name for name in named if re.fullmatch(r"(\w+\.)*[A-Z][a-z]+([A-Z][a-z]*)+(\.\w+)?(\(\))?", name)]
    calls = [name for name in named if re.fullmatch(r"[\w.]+\(\)", name)]
    return missing + [name for name in [*types, *calls] if name.removesuffix("()").split(".")[-1] not in code_names()]


def test_every_decision_has_the_four_sections() -> None:
    pages = sorted((source.DOCS / "decisions").glob("*.md"))
    assert pages
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04d}-")
        heads = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
        assert heads == ["Context", "Decision", "Alternatives", "Consequences"], page.name


def test_index_marks_exactly_the_decisions_that_were_replaced() -> None:
    index = (source.DOCS / "README.md").read_text("utf-8")
    marked = re.findall(r"\(decisions/(\S+)\), replaced by ", index)
    pages = sorted((source.DOCS / "decisions").glob("*.md"))
    assert marked == [
        page.name for page in pages if re.search(r"^Status: replaced", page.read_text("utf-8"), re.MULTILINE)
    ]


def test_docs_index_lists_every_page() -> None:
    index = "".join((source.DOCS / name).read_text("utf-8") for name in ("README.md", "alerts.md"))
    for page in source.DOCS.rglob("*.md"):
        name = page.relative_to(source.DOCS).as_posix()
        assert name == "README.md" or f"({name})" in index, name


def test_metrics_that_a_page_names_are_listed() -> None:
    """An alert on a metric that does not exist never fires."""
    lists = [(source.DOCS / name).read_text("utf-8") for name in ("metrics.md", "operator.md")]
    listed = set(re.findall(r"^\| `(usher_\w+)` \|", "\n".join(lists), re.MULTILINE))
    packages = {"usher_", "usher_gateway", "usher_operator"}
    named = [
        (page, re.sub(r"_(bucket|sum|count)$", "", name))
        for page in PAGES
        for name in set(re.findall(r"(?<![\w/:-])usher_[a-z_]+(?![\w/.:])", page.read_text("utf-8"))) - packages
    ]
    assert [(source.shown(page), name) for page, name in named if name not in listed] == []
