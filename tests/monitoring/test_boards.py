"""The boards: written by `make dashboards`, and the rules of Grafana's dashboard-linter, which is a Go program only."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from boards import agency, output
from support import promtool, source

ROOT = Path(__file__).parents[2]
BOARDS = {name: json.loads(text) for name, text in output.files().items()}
PANELS = [(board["uid"], panel) for board in BOARDS.values() for panel in board["panels"]]
EXPRESSIONS = [(f"{uid}: {panel['title']}", target["expr"]) for uid, panel in PANELS for target in panel["targets"]] + [
    (name, " ".join(rule["expr"].split()))
    for kind in ("alert", "record")
    for name, rule in promtool.rules(kind).items()
]
# Metric -> type. Other tests compare these tables with the code.
LISTED = {
    row[0].strip("`"): row[1]
    for page in ("metrics.md", "operator.md")
    for row in source.table_rows((source.DOCS / page).read_text("utf-8"))
    if row[0].startswith("`usher_")
}
OF_PROMETHEUS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
UNITS = {"none", "locale", "percentunit", "s", "bytes", "cpm", "reqps", "ops", "bool_yes_no"}


def parsed(expr: str) -> promql_parser.Expr:
    return promql_parser.parse(re.sub(r"\$__rate_interval", "5m", expr))


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Every selector of an expression."""
    visited: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            visited.append(node)
        return True

    promql_parser.walk(parsed(expr), visit)
    return visited


def test_files_are_written_by_make_dashboards() -> None:
    for name, text in output.files().items():
        assert (ROOT / name).read_text("utf-8") == text, "run `make dashboards`"
    assert {f"{output.FOLDER}/{file.name}" for file in (ROOT / output.FOLDER).iterdir()} == output.files().keys()


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_board_can_be_loaded_anywhere(board: dict[str, Any]) -> None:
    assert re.fullmatch("usher-[a-z]+", board["uid"])
    assert board.get("id") is None
    assert board["tags"] == ["usher"]
    assert board["editable"] is False
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables)[:2] == ["datasource", "job"]
    assert variables["datasource"]["type"] == "datasource"
    for name, variable in variables.items():
        if name != "datasource":
            assert variable["datasource"]["uid"] == "${datasource}"
            is_single = board["uid"] == "usher-tenant" and name != "job"
            assert variable.get("multi", False) is not is_single, "all tenants are on the board Agency"
            assert variable.get("allValue") == (None if is_single else ".+")
    assert len(json.dumps(board)) < 1 << 20, "a ConfigMap holds 1 MiB"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS.keys())
def test_panels_fill_rows_without_overlap(board: dict[str, Any]) -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_panel_explains_itself(uid: str, panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"].split()) >= 3
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["legendFormat"]
    for runbook in re.findall(r"docs/runbooks/(\w+)\.md", json.dumps(panel)):
        assert (source.DOCS / "runbooks" / f"{runbook}.md").exists(), uid


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_counts_are_shown_as_whole_numbers(uid: str, panel: dict[str, Any]) -> None:
    """``increase()`` extrapolates, so that two visits may be 2.07."""
    defaults = panel["fieldConfig"]["defaults"]
    counts = [target for target in panel["targets"] if "increase(" in target["expr"]]
    if panel["type"] == "timeseries" and defaults["unit"] == "none":
        counts += [target for target in panel["targets"] if "rate(" not in target["expr"]]
    assert defaults["unit"] == "locale" or not counts, uid
    assert defaults.get("decimals") == (0 if defaults["unit"] == "locale" else None)


def test_titles_of_a_board_differ() -> None:
    titles = [(uid, panel["title"]) for uid, panel in PANELS]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("expr", [expr for _, expr in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS])
def test_query_names_metrics_that_exist(expr: str) -> None:
    recorded = promtool.rules("record").keys()
    for selector in selectors(expr):
        name = str(selector.name)
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in recorded or name in LISTED or name in OF_PROMETHEUS or LISTED.get(base) == "histogram", name


@pytest.mark.parametrize("expr", [expr for _, expr in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS])
def test_counters_are_queried_by_their_rate(expr: str) -> None:
    """The value of a counter means nothing: it begins at 0 with each process."""

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.Call):
            names = {str(selector.name) for arg in node.args for selector in selectors(str(arg))}
            ranged.update(names if node.func.name in {"rate", "increase"} else set())
        return True

    ranged: set[str] = set()
    promql_parser.walk(parsed(expr), visit)
    counters = {str(selector.name) for selector in selectors(expr) if LISTED.get(str(selector.name)) == "counter"}
    assert counters <= ranged


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_panel_selects_by_the_variables_of_its_board(uid: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for selector in selectors(target["expr"]):
            matched = {str(matcher.name): matcher.value for matcher in selector.matchers.matchers}
            assert matched["job"] == "$job"
        ranges = re.findall(r"\[(\S+?)\]", target["expr"])
        assert set(ranges) <= {"$__rate_interval", "1h", "24h"}, "a rate follows the resolution of the board"


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_title_says_when_a_panel_shows_a_part_only(uid: str, panel: dict[str, Any]) -> None:
    """Otherwise a reader takes what is cut for what is not there."""
    limits = {limit for target in panel["targets"] for limit in re.findall(r"k\((\d+),", target["expr"])}
    assert limits == set(re.findall(r"\b\d+\b", panel["title"])) & limits, uid
    if "attention" in panel["title"] or "down" in panel["title"]:
        assert not limits, "the list of what is wrong is whole"


def test_table_of_tenants_that_need_attention_has_every_alert_of_a_tenant() -> None:
    def names_a_tenant(rule: dict[str, Any]) -> bool:
        summary = rule["annotations"]["summary"]
        return "$labels.tenant }}" in summary or "$labels.destination }}" in summary

    about_tenants = {rule["alert"] for rule in promtool.rules("alert").values() if names_a_tenant(rule)}
    causes = agency.need_attention()
    assert {cause.alert for cause in causes} == about_tenants
    on_purpose = re.findall(r'reason!~"(.+?)"', promtool.rules("alert")["DeliveriesHeld/warning"]["expr"])
    assert re.findall(r'reason!~"(.+?)"', str([cause.expr for cause in causes])) == on_purpose
    limits = {cause.alert: re.findall(r"> ([\d.]+)", cause.expr) for cause in causes}
    for alert in about_tenants - {"DestinationDown", "HookAtRisk", "DeadLettersGrowing"}:
        (rule,) = [rule for rule in promtool.rules("alert").values() if rule["alert"] == alert]
        assert sorted(limits[alert]) == sorted(re.findall(r"> ([\d.]+)", rule["expr"])), alert


def test_every_recorded_series_is_used() -> None:
    used = {str(selector.name) for _, expr in EXPRESSIONS for selector in selectors(expr)}
    assert promtool.rules("record").keys() - used == set()


def test_every_metric_of_a_tenant_is_on_the_board_tenant() -> None:
    shown = {
        str(selector.name)
        for uid, panel in PANELS
        if uid == "usher-tenant"
        for target in panel["targets"]
        for selector in selectors(target["expr"])
    }
    rows = list(source.table_rows((source.DOCS / "metrics.md").read_text("utf-8")))
    of_tenant = {row[0].strip("`") for row in rows if len(row) > 2 and row[2].startswith("`tenant_namespace, tenant")}
    summed_up = {"usher_listener_consecutive_refusals", "usher_listener_bodies_displaced_total"}
    assert of_tenant - shown == summed_up, "usher_tenant_refusing_listeners and usher_arrivals_total have these"
