"""docs/operator.md lists every flag and every metric of the operator. UPDATE_DOCS=1 rewrites the table of flags."""

import re
from typing import Any

import prometheus_client
import typer.main
import yaml

from support import source
from usher_operator import cli
from usher_operator.plan import children
from usher_operator.run.health import OperatorMetrics

PAGE = source.DOCS / "operator.md"
RUN: Any = typer.main.get_command(cli.build()).commands["run"]  # type: ignore[attr-defined]


def table() -> str:
    lines = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for option in RUN.params:
        variable = f"{RUN.context_settings['auto_envvar_prefix']}_{option.name.upper()}"
        default = "" if option.default in {None, ""} else f"`{option.default}`"
        flags = " / ".join(f"`{flag}`" for flag in (option.opts[0], *option.secondary_opts))
        lines.append(f"| {flags} | `{variable}` | {default} | {option.help} |")
    return "\n".join(lines)


def annotations() -> str:
    lines = ["| `spec.controller` | annotations |", "| --- | --- |"]
    for controller, annotations_of_controller in children.INGRESS_ANNOTATIONS.items():
        values = ", ".join(f"`{name}: {value}`" for name, value in annotations_of_controller.items())
        lines.append(f"| `{controller}` | {values} |")
    return "\n".join(lines)


def test_operator_page_lists_the_annotations_of_each_ingress_controller() -> None:
    source.check_section(PAGE, "ingress annotations", annotations())


def test_ingress_class_of_the_install_page_names_a_controller_that_gets_annotations() -> None:
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (source.DOCS / "install.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (ingress_class,) = [yaml.safe_load(block) for block in blocks if "kind: IngressClass" in block]
    assert ingress_class["spec"]["controller"] in children.INGRESS_ANNOTATIONS


def test_operator_page_lists_every_flag() -> None:
    source.check_section(PAGE, "flags", table())


def test_operator_page_lists_every_metric_with_type_and_labels() -> None:
    metrics = OperatorMetrics()
    shown = prometheus_client.generate_latest(metrics.registry).decode()
    types = dict(re.findall(r"^# TYPE (usher_\w+) (\w+)", shown, re.MULTILINE))
    rows = [row for row in source.table_rows(PAGE.read_text("utf-8")) if row[0].startswith("`usher_operator_")]
    page = {row[0].strip("`"): (row[1], tuple(re.findall(r"\w+", row[2]))) for row in rows}
    assert {name: kind for name, (kind, _) in page.items()} == types
    labels_by_metric = {
        f"{metric._name}{'_total' if metric._type == 'counter' else ''}": metric._labelnames
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    assert {name: labels for name, (_, labels) in page.items() if name in labels_by_metric} == labels_by_metric
