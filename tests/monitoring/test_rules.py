"""The rule files: what promtool says about them, what each alert tells its reader, and its runbook."""

import re
from pathlib import Path
from typing import Any

import pytest

from support import promtool

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
ALERTS = promtool.rules("alert")
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def minutes(duration: str) -> int:
    """The minutes of a duration such as `5m` or `1h`."""
    return int(duration[:-1]) * {"m": 1, "h": 60}[duration[-1]]


def test_promtool_finds_nothing_to_complain_about() -> None:
    said = promtool.check(*promtool.rule_files())
    assert said.count("SUCCESS") == len(promtool.rule_files())
    assert "ended with" not in said


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS.keys())
def test_alert_has_what_its_reader_needs(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert minutes(rule["for"]) >= (5 if rule["labels"]["severity"] == "warning" else 1)
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert len(rule["annotations"]["summary"]) <= 100
    assert "Purple" in rule["annotations"]["description"], "say what Purple does next"


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {rule["alert"] for rule in ALERTS.values()}


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_runbook_has_the_four_sections(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    diagnosis = text.split("## Diagnosis\n")[1].split("## ")[0]
    assert re.search(r"^(usher|kubectl|systemctl|curl|df) ", diagnosis, re.MULTILINE), "give a command"
