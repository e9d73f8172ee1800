"""Check rules and run unit tests of rules with promtool."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from prometheus import debian

RULES = Path(__file__).parents[2] / "charts" / "usher" / "files" / "rules"
_LIMIT_SECONDS = 60


def rule_files() -> list[Path]:
    return sorted(RULES.glob("*.yaml"))


@functools.cache
def _groups() -> list[dict[str, Any]]:
    return [group for file in rule_files() for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return the rules of a kind, ``alert`` or ``record``, by name; rules of one name differ in ``severity``."""
    rules_of_kind = [rule for group in _groups() for rule in group["rules"] if kind in rule]
    return {
        "/".join([rule[kind], rule.get("labels", {}).get("severity", "")]).rstrip("/"): rule for rule in rules_of_kind
    }


def check(*files: Path) -> str:
    """Return what promtool says about rule files; it ends with the number of problems if there are any."""
    return _run("check", "rules", "--lint=all", "--lint-fatal", *map(str, files))


def test(folder: Path, alert: str, cases: list[dict[str, Any]]) -> str:
    """Return the failures of unit tests in promtool's own format, or an empty text.

    Only the alert and the recording rules that it reads are loaded, because promtool evaluates every rule at each step.
    """
    name = alert.partition("/")[0]
    needed = _with_recorded({name})
    groups = [
        {**group, "rules": [rule for rule in group["rules"] if needed & {rule.get("alert"), rule.get("record")}]}
        for group in _groups()
    ]
    rules_file, cases_file = folder / "rules.yaml", folder / "cases.yaml"
    rules_file.write_text(yaml.safe_dump({"groups": groups}), "utf-8")
    named = {"rule_files": [str(rules_file)], "evaluation_interval": "1m", "tests": cases}
    cases_file.write_text(yaml.safe_dump(named), "utf-8")
    said = _run("test", "rules", str(cases_file))
    return "" if said.rstrip().endswith("SUCCESS") else said


def _with_recorded(names: set[str]) -> set[str]:
    """Return names of rules, with the recording rules that they read, directly or through others."""
    every_rule = [rule for group in _groups() for rule in group["rules"]]
    expressions = [rule["expr"] for rule in every_rule if names & {rule.get("alert"), rule.get("record")}]
    read = {name for name in rules("record") if any(name in expression for expression in expressions)}
    return names if read <= names else _with_recorded(names | read)


def _run(*arguments: str) -> str:
    program = debian.programs() / "promtool"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS)
    return done.stdout + done.stderr + (f"\nended with {done.returncode}" if done.returncode else "")
