"""docs/alerts.md lists the alerts of the rule files. UPDATE_DOCS=1 rewrites its tables."""

import os
import re
from typing import Any

import yaml

from support import promtool, source

PAGE = source.DOCS / "alerts.md"


def table(rules: list[dict[str, Any]]) -> str:
    lines = ["| alert | severity | fires after | expression |", "| --- | --- | --- | --- |"]
    for rule in rules:
        runbook = rule["annotations"]["runbook_url"].removeprefix("docs/")
        expression = " ".join(rule["expr"].split()).replace("|", "\\|")
        lines.append(
            f"| [{rule['alert']}]({runbook}) | {rule['labels']['severity']} | {rule['for']} | `{expression}` |"
        )
    return "\n".join(lines)


def test_alerts_page_lists_every_alert() -> None:
    text = updated = PAGE.read_text("utf-8")
    for file in promtool.rule_files():
        groups = yaml.safe_load(file.read_text("utf-8"))["groups"]
        alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
        if alerts:
            pattern = re.compile(rf"(<!-- {file.stem} -->\n).*?(<!-- end -->)", re.DOTALL)
            assert pattern.search(text), file.stem
            shown = table(alerts)
            updated = pattern.sub(lambda section, shown=shown: section[1] + shown + "\n" + section[2], updated)  # type: ignore[misc]
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(updated, "utf-8")
    assert PAGE.read_text("utf-8") == updated, "run UPDATE_DOCS=1 pytest tests/house/test_alerts_page.py"
