"""The runbook of HookAtRisk names commands, a metric and log lines that show why a webhook is refused, and for whom."""

import json
import re
from pathlib import Path

import structlog
import yaml

from support import gateway as gateways
from support import promtool, source
from usher_gateway import model
from usher_gateway.insight import health

PAGE = (source.DOCS / "runbooks" / "HookAtRisk.md").read_text("utf-8")
COMMANDS = re.findall(r"^usher (.+)$", PAGE, re.MULTILINE)
MANIFESTS = gateways.MANIFESTS.replace(
    "routes: []", "authentication: {type: Basic, basic: {secretRef: {name: absent}}}\n  routes: []"
)


async def test_commands_of_the_runbook_name_reason_and_company(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, MANIFESTS) as gateway:
        await gateway.wait_configured()
        with structlog.testing.capture_logs() as lines:
            for _ in range(health.REFUSING_FROM):
                assert (await gateway.post(b'{"user": {"id": 1}}')).status == 503
        assert await gateway.meters() == {"refused": health.REFUSING_FROM}  # written, not only counted in memory
        answers = {
            words: json.loads((await gateway.command(*words.split(), USHER_OUTPUT="json")).out)["rows"]
            for words in COMMANDS
        }
        (pattern,) = re.findall(r"/metrics \| grep '(.+)'$", PAGE, re.MULTILINE)
        metric = [line for line in gateway.exposition().splitlines() if re.search(pattern, line)]
    (listener,) = answers["listeners --tenant agency/acme --failing"]
    assert (listener["refusedReason"], listener["missing"] is None) == ("AuthenticationUnresolved", False)
    assert [row["refused"] for row in answers["usage --tenant agency/acme"]] == [health.REFUSING_FROM]
    assert [re.sub(r".*(reason=.*)", r"\1", line) for line in metric] == ['reason="AuthenticationUnresolved"} 3.0']
    refusals = [line for line in lines if line["event"] == "arrivals_refused"]
    assert [(line["reasons"], line["missing"]) for line in refusals] == [
        ({"AuthenticationUnresolved": 1}, listener["missing"])
    ]


def test_runbook_says_when_the_alert_fires_and_names_reasons_of_refusals() -> None:
    groups = [group for file in promtool.rule_files() for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    (rule,) = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "HookAtRisk"]
    assert "usher_tenant_refusing_listeners) > 0" in rule["expr"]
    assert "ratio_rate30m > 0.1 and tenant:usher_refused:increase30m > 5" in rule["expr"]
    assert health.REFUSING_FROM == 3
    assert "The last three arrivals or more of a listener were all refused, or" in PAGE
    assert "of half an hour over 10 %, and more than 5." in PAGE
    named = re.findall(r"^- `(\w+)`: ", PAGE, re.MULTILINE)
    assert named
    assert set(named) <= set(model.RefusedReason)
