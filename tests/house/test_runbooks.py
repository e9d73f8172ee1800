"""`usher` and `kubectl` accept the commands of the runbooks, so that they work in an outage."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support import source
from support.command_line import COMMANDS

RUNBOOKS = sorted((source.DOCS / "runbooks").glob("*.md"))
KUBECTL = Path(sys.executable).parent / "kubectl"


def spelled(program: str) -> list[tuple[str, list[str]]]:
    """The commands of a program in blocks and in backticks, each with the name of its runbook."""
    commands = []
    for page in RUNBOOKS:
        text = page.read_text("utf-8")
        blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
        for line in [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]:
            words = shlex.split(line, comments=True)
            if words[:1] == [program]:
                commands.append((page.stem, words[1:]))
    return commands


USHER = [(page, words) for page, words in spelled("usher") if len(words) > 1 and "show" not in words[-1:]]
"""Without names of commands in a sentence."""


@pytest.mark.parametrize(("page", "words"), USHER, ids=[f"{page}: {' '.join(words)}" for page, words in USHER])
def test_usher_command_of_a_runbook_can_be_parsed(
    page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("visit.json").touch()
    Path("manifests").mkdir()
    name = max((command for command in COMMANDS if words[: len(command.split())] == command.split()), key=len)
    COMMANDS[name].make_context(name, words[len(name.split()) :])


def test_kubectl_commands_of_the_runbooks_have_known_verbs_and_flags() -> None:
    commands = spelled("kubectl")
    assert len(commands) > 25
    wrong = []
    for page, words in commands:
        verb, flags = verb_and_flags(words)
        wrong += [(page, verb, flag) for flag in flags if flag not in known_flags(verb) | known_flags("options")]
    assert wrong == []


def verb_and_flags(words: list[str]) -> tuple[str, list[str]]:
    """Return the subcommand, which is neither a flag nor the value of `-n`, and the flags."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    plain = [word for previous, word in zip(["", *words], words, strict=False) if word[0] != "-" and previous != "-n"]
    return " ".join(plain[: 2 if plain[0] in {"auth", "top"} else 1]), flags


@functools.cache
def known_flags(verb: str) -> frozenset[str]:
    """Return the flags that the help of a subcommand lists; `options`: the flags that every one has."""
    command = [str(KUBECTL), *verb.split(), *(["--help"] * (verb != "options"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    flags = re.findall(r"^ +(?:(-\w), )?(--[\w-]+)=", done.stdout, re.MULTILINE)
    assert flags, f"kubectl has no subcommand {verb}"
    return frozenset(flag for pair in flags for flag in pair if flag)


def test_labels_and_namespaces_of_the_runbooks_are_those_of_the_chart() -> None:
    text = "\n".join(" ".join(words) for _, words in spelled("kubectl"))
    assert set(re.findall(r"app\.kubernetes\.io/component=(\w+)", text)) == {"gateway", "operator"}
    assert set(re.findall(r"-n (\S+)", text)) == {"usher-system", "usher-system-config", "agency"}
