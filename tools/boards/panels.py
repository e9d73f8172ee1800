"""The kinds of panels that the boards use. Every panel has a title, a unit and a description in plain words.

A query selects by the variables of its board: ``$job``, and those that the board adds. Runbooks are linked by their
path in the repository; the chart puts the address of the documentation in front (``monitoring.documentation``).
"""

from collections.abc import Mapping
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24  # Columns of a board
_POINTS = 200  # The most points of a graph: with a point for each pixel, 2,000 tenants take seconds
Panel = Builder[models.Panel]  # Any panel

_AnyPanel = TypeVar("_AnyPanel", stat.Panel, timeseries.Panel, table.Panel)

Query = tuple[str, str]  # An expression, and the legend of its series


def number(
    title: str,
    text: str,
    expr: str,
    *,
    unit: str = "none",
    runbook: str | None = None,
    bad_above: float | None = None,
    bad_below: float | None = None,
    words: dict[int, str] | None = None,
    width: int = 3,
) -> stat.Panel:
    """One figure, red if it is above or below a limit. ``words`` are shown instead of values."""
    panel = stat.Panel().title(title).description(_text(text, runbook)).unit(unit).datasource(SOURCE)
    panel = panel.span(width).height(4).links(_links(runbook)).thresholds(_thresholds(bad_above, bad_below))
    if words is not None:
        texts = {str(value): models.ValueMappingResult(text=word) for value, word in words.items()}
        panel = panel.mappings([models.ValueMap(texts)])
    panel = _whole_if_counted(panel, unit)
    return panel.with_target(_query(expr, title, 0).instant()).graph_mode(common_models.BigValueGraphMode.NONE)


def graph(
    title: str, text: str, *queries: Query, unit: str, runbook: str | None = None, width: int = 8, stacked: bool = False
) -> timeseries.Panel:
    """Series over time."""
    panel = timeseries.Panel().title(title).description(_text(text, runbook)).unit(unit).datasource(SOURCE)
    panel = panel.span(width).height(8).links(_links(runbook)).min(0).max_data_points(_POINTS)
    panel = _whole_if_counted(panel, unit)
    for index, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_query(expr, legend, index).range())
    if stacked:
        stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL)
        panel = panel.stacking(stacking).fill_opacity(30)
    return panel


def listing(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "none",
    units: Mapping[str, str] | None = None,
    runbook: str | None = None,
    width: int = 12,
    height: int = 8,
    empty: str | None = None,
    smallest_first: bool = False,
) -> table.Panel:
    """A table with one row for each set of labels, and one column of values for each query.

    Rows with the largest values in the first column come first, then those in the second, and so on.

    Args:
        title: names the number of rows if a query has a limit (``topk``).
        text: explains the panel.
        queries: one for each column of values.
        unit: of all columns of values.
        units: of single columns that have another one, by their legend.
        runbook: name of a runbook.
        width: in columns of the board.
        height: in rows of the board.
        empty: text of a table without rows.
        smallest_first: the order of the rows is reversed.
    """
    panel = table.Panel().title(title).description(_text(text, runbook)).unit(unit).datasource(SOURCE)
    panel = _whole_if_counted(panel.span(width).height(height), unit)
    panel = panel.sort_by(
        [common.TableSortByFieldState().display_name(legend).desc(not smallest_first) for _, legend in queries]
    )
    for legend, of_column in (units or {}).items():
        decimals = [] if of_column == "locale" else [models.DynamicConfigValue("decimals", 1)]
        panel = panel.override_by_name(legend, [models.DynamicConfigValue("unit", of_column), *decimals])
    if empty is not None:
        panel = panel.no_value(empty)
    for index, (expr, legend) in enumerate(queries):
        panel = panel.with_target(_query(expr, legend, index).instant().format(PromQueryFormat.TABLE))
    names = {f"Value #{_letter(index)}": legend for index, (_, legend) in enumerate(queries)}
    names |= {"Value": queries[0][1]} if len(queries) == 1 else {}
    return panel.with_transformation(models.DataTransformerConfig("merge", options={})).with_transformation(
        models.DataTransformerConfig("organize", options={"excludeByName": {"Time": True}, "renameByName": names})
    )


def quantile(share: str, buckets: str, *labels: str) -> str:
    """The expression of a quantile of a histogram, for each value of some labels."""
    return f"histogram_quantile({share}, sum by ({', '.join([*labels, 'le'])}) (rate({buckets}[$__rate_interval])))"


def board(
    title: str, uid: str, text: str, variables: list[tuple[str, str]], panels: list[Panel], *, single: bool = False
) -> dashboard.Dashboard:
    """Return a board with the panels from left to right and from top to bottom.

    Args:
        title: shown in Grafana.
        uid: never changes, because links name it.
        text: what the board is for.
        variables: name and the query of each variable besides ``datasource`` and ``job``.
        panels: a row is full with 24 columns.
        single: each of the variables has one value, not several or all.
    """
    built = dashboard.Dashboard(title).uid(uid).description(text).tags(["usher"]).readonly().refresh("1m")
    built = built.time("now-6h", "now").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)
    built = built.link(dashboard.DashboardLink("Usher").type(models.DashboardLinkType.DASHBOARDS).tags(["usher"]))
    built = built.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    built = built.with_variable(_choice("job", "label_values(usher_build_info, job)"))
    for name, query in variables:
        built = built.with_variable(_variable(name, query) if single else _choice(name, query))
    for panel in panels:
        built = built.with_panel(panel)
    return built


def _whole_if_counted(panel: _AnyPanel, unit: str) -> _AnyPanel:
    """Show counts without fractions: ``increase()`` returns some, because it extrapolates."""
    return panel.decimals(0) if unit == "locale" else panel


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(name.replace("_", " ")).datasource(SOURCE).query(query)
    return variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    """A variable with several values, or all."""
    everything = models.VariableOption(text="All", value="$__all")
    return _variable(name, query).include_all(True).multi(True).all_value(".+").current(everything)


def _query(expr: str, legend: str, index: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(_letter(index)).datasource(SOURCE)


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _text(text: str, runbook: str | None) -> str:
    return f"{text} What to do: docs/runbooks/{runbook}.md" if runbook else text


def _links(runbook: str | None) -> list[Builder[models.DashboardLink]]:
    if runbook is None:
        return []
    link = dashboard.DashboardLink(f"Runbook {runbook}").type(models.DashboardLinkType.LINK)
    return [link.url(f"docs/runbooks/{runbook}.md").target_blank(True)]


def _thresholds(bad_above: float | None, bad_below: float | None) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(None, "green")]
    if bad_above is not None:
        steps.append(models.Threshold(bad_above, "red"))
    if bad_below is not None:
        steps = [models.Threshold(None, "red"), models.Threshold(bad_below, "green")]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
