"""docs/settings.md lists every flag of `usher run` as `--help` knows it. UPDATE_DOCS=1 writes the table anew.

And every flag of every command has an environment variable and every command an example.
"""

import ast
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from house import source
from usher_gateway import settings as all_settings
from usher_gateway.cli import app

PAGE = source.DOCS / "settings.md"
BY_CODE_ONLY = {"limits", "lane_bytes", "max_attempts", "drain_seconds"}
"""Settings without a flag: bounds that have to fit one another. The page lists them in a table of their own."""

ROOT_COMMAND: Any = typer.main.get_command(app.build())


def commands(group: Any = ROOT_COMMAND, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def options(command: Any) -> list[Any]:
    return [option for option in command.params if option.name != "help"]


def is_argument(option: Any) -> bool:
    return bool(option.param_type_name == "argument")


def variable(option: Any) -> str:
    return option.envvar if isinstance(option.envvar, str) else next(iter(option.envvar or []), "")


def row(option: Any) -> str:
    name = f"{option.name.upper()}…" if is_argument(option) else option.opts[0]
    default = option.default
    shown = "required" if option.required else "" if default in (None, [], ()) else f"`{default}`"
    return f"| `{name}` | `{variable(option)}` | {shown} | {option.help} |"


def table() -> str:
    lines = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(row(option) for option in options(COMMANDS["run"]))])


def test_the_page_lists_every_flag_of_usher_run() -> None:
    text = PAGE.read_text("utf-8")
    pattern = re.compile(r"(<!-- flags -->\n).*?(\n<!-- end -->)", re.DOTALL)
    assert pattern.search(text)
    wanted = pattern.sub(lambda found: found.group(1) + table() + found.group(2), text)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(wanted, "utf-8")
    assert PAGE.read_text("utf-8") == wanted, "run UPDATE_DOCS=1 pytest tests/house/test_settings_page.py"


def test_every_setting_has_a_flag_or_stands_among_the_fixed_bounds() -> None:
    flags = {option.name.replace("_mib", "_bytes").replace("_percent", "_ratio") for option in options(COMMANDS["run"])}
    fields = set(all_settings.Settings.__struct_fields__)
    fixed = fields - flags
    assert fixed <= BY_CODE_ONLY
    text = PAGE.read_text("utf-8")
    assert {name for name in fixed if f"| `{name}` |" not in text} == set()
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert {name for name in listed if name not in fields} == set()


def test_every_variable_that_the_pages_name_is_read_somewhere() -> None:
    known = {
        node.value
        for file in source.python_files(source.GATEWAY, source.OPERATOR, source.ROOT / "tests" / "support")
        for node in ast.walk(source.tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("USHER_")
    }
    for page in source.pages():
        named = set(re.findall(r"\bUSHER_[A-Z_]+\b", page.read_text("utf-8")))
        assert named <= known, source.shown(page)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_variable_and_a_help(name: str) -> None:
    flags = [option for option in options(COMMANDS[name]) if not is_argument(option)]
    bare = [option.name for option in flags if not variable(option).startswith("USHER_")]
    assert bare == []
    assert [option.name for option in options(COMMANDS[name]) if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert f"usher {name}" in f"{command.help} {command.epilog}"
