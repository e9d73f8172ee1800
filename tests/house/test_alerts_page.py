"""docs/alerts.md lists the alerts of the rule files. UPDATE_DOCS=1 rewrites its tables."""

from typing import Any

import yaml

from support import promtool, source


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
    for file in promtool.rule_files():
        groups = yaml.safe_load(file.read_text("utf-8"))["groups"]
        alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
        if alerts:
            source.check_section(source.DOCS / "alerts.md", file.stem, table(alerts))
