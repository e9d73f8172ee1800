"""docs/settings.md lists every flag of `usher run`, every flag has a variable, every command an example.

UPDATE_DOCS=1 rewrites the table of flags.
"""

import ast
import re
from typing import Any

import typer.main

from support import source
from support.command_line import COMMANDS, options
from usher_gateway import settings as all_settings
from usher_operator import cli

PAGE = source.DOCS / "settings.md"
# Settings without a flag, because they depend on one another. The page lists them in a second table.
BY_CODE_ONLY = {"limits", "lane_bytes", "max_attempts", "drain_seconds"}


def variable(option: Any) -> str:
    return option.envvar if isinstance(option.envvar, str) else next(iter(option.envvar or []), "")


def row(option: Any) -> str:
    name = f"{option.name.upper()}…" if option.param_type_name == "argument" else option.opts[0]
    default = option.default
    shown = "required" if option.required else "" if default in (None, [], ()) else f"`{default}`"
    return f"| `{name}` | `{variable(option)}` | {shown} | {option.help} |"


def table() -> str:
    lines = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(row(option) for option in options(COMMANDS["run"]))])


def test_settings_page_lists_every_flag_of_usher_run() -> None:
    source.check_section(PAGE, "flags", table())


def test_every_setting_has_a_flag_or_is_listed_as_fixed() -> None:
    flags = {option.name.replace("_mib", "_bytes").replace("_percent", "_ratio") for option in options(COMMANDS["run"])}
    fields = set(all_settings.Settings.__struct_fields__)
    fixed = fields - flags
    assert fixed <= BY_CODE_ONLY
    text = PAGE.read_text("utf-8")
    assert {name for name in fixed if f"| `{name}` |" not in text} == set()
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert {name for name in listed if name not in fields} == set()


def test_every_variable_that_a_page_names_is_read_by_code() -> None:
    variables_read = {
        node.value
        for file in source.python_files(source.GATEWAY, source.OPERATOR, source.ROOT / "tests" / "support")
        for node in ast.walk(source.tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("USHER_")
    }
    run = typer.main.get_command(cli.build()).commands["run"]  # type: ignore[attr-defined]
    variables_read |= {f"USHER_OPERATOR_{option.name.upper()}" for option in run.params}
    for page in source.pages():
        named = set(re.findall(r"\bUSHER_[A-Z_]+\b", page.read_text("utf-8")))
        assert named <= variables_read, source.shown(page)


VARIABLES_OF_SHORT_COMMANDS = {"USHER_ADMIN", "USHER_DATA", "USHER_LIMIT", "USHER_OUTPUT"}


def test_flags_have_variables_except_those_that_select_rows_or_confirm() -> None:
    for name, command in COMMANDS.items():
        assert {variable(option) for option in options(command) if option.name == "yes"} <= {""}, name
        variables = {variable(option) for option in options(command) if option.name != "yes"}
        if name.startswith("tokens ") or ("USHER_ADMIN" in variables and name not in {"run", "url"}):
            assert variables - {""} <= VARIABLES_OF_SHORT_COMMANDS, name
        else:
            derived = command.context_settings.get("auto_envvar_prefix", "")
            assert all((each or derived).startswith("USHER_") for each in variables), name


def test_every_flag_and_command_has_a_help_text_and_every_command_an_example() -> None:
    every = [(name, option) for name, command in COMMANDS.items() for option in options(command)]
    assert [(name, option.name) for name, option in every if not option.help] == []
    assert [name for name, command in COMMANDS.items() if not command.help] == []
    texts = {name: f"{command.help} {command.epilog}" for name, command in COMMANDS.items()}
    assert [name for name, text in texts.items() if f"usher {name}" not in text] == []
