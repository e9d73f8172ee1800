"""Each alert fires when it should, and not when it should not: with counters that reset, absent series and restarts.

promtool evaluates the rule files on series that are written here, in steps of a minute. `ALERTS` is the series that
Prometheus itself records of firing alerts, so that `for` is tested too.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import promtool

TENANT = 'instance="a",tenant_namespace="agency",tenant="acme"'
TENANT_LABELS = {"tenant_namespace": "agency", "tenant": "acme"}


class Case(msgspec.Struct, frozen=True):
    """When an alert fires and when not: series -> `START+STEP` of its value each minute."""

    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = {}
    """Labels of the alert besides its name and severity."""
    fires_when_absent: bool = False


CASES = {
    "GatewayDown/critical": Case(
        fires={'up{job="usher",instance="a"}': "0+0", 'usher_build_info{job="usher"}': "1+0"},
        quiet={'up{job="usher",instance="a"}': "1+0", 'usher_build_info{job="usher",instance="a"}': "1+0"},
        labels={"job": "usher", "instance": "a"},
        fires_when_absent=True,
    ),
    "ListenerSilent/warning": Case(
        fires={f"usher_tenant_silent_listeners{{{TENANT}}}": "2+0"},
        quiet={f"usher_tenant_silent_listeners{{{TENANT}}}": "0+0"},
        labels=TENANT_LABELS,
    ),
}

BEFORE, GAP, AFTER = 240, 3, 240
"""Minutes before, during and after a restart."""


def steadily(series: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": f"{value}x{BEFORE + GAP + AFTER}"} for name, value in series.items()]


def with_restart(series: dict[str, str]) -> list[dict[str, str]]:
    """The process is away for three minutes, and its counters begin at their first values again."""
    return [{"series": name, "values": f"{value}x{BEFORE} _x{GAP} {value}x{AFTER}"} for name, value in series.items()]


def with_reset(series: dict[str, str]) -> list[dict[str, str]]:
    """Counters begin at their first values again without a gap: a restart between two scrapes."""
    return [{"series": name, "values": f"{value}x{BEFORE} {value}x{AFTER}"} for name, value in series.items()]


def expect(alert: str, series: list[dict[str, str]], labels: dict[str, str] | None, *at: int) -> dict[str, Any]:
    """A test in promtool's format: at these minutes the alert fires with these labels, or does not fire (None)."""
    name, _, severity = alert.partition("/")
    firing = {"__name__": "ALERTS", "alertname": name, "alertstate": "firing", "severity": severity}
    shown = [f'{key}="{value}"' for key, value in sorted((firing | (labels or {})).items()) if key != "__name__"]
    wanted = [{"labels": f"ALERTS{{{','.join(shown)}}}", "value": 1}] if labels is not None else []
    query = f'ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}"}}'
    return {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": wanted} for minute in sorted(at)
        ],
    }


RESTARTED = (BEFORE - 1, BEFORE + 1, BEFORE + GAP + 1, BEFORE + GAP + 10, BEFORE + GAP + AFTER - 1)
"""Minutes around a restart."""


def test_each_alert_has_a_case() -> None:
    assert CASES.keys() == promtool.rules("alert").keys()


@pytest.mark.parametrize("alert", CASES)
def test_alert_fires(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    assert promtool.test(tmp_path, [expect(alert, steadily(case.fires), case.labels, 200, 400)]) == ""


@pytest.mark.parametrize("alert", CASES)
def test_alert_waits_for_its_time(alert: str, tmp_path: Path) -> None:
    assert promtool.test(tmp_path, [expect(alert, steadily(CASES[alert].fires), None, 0)]) == ""


@pytest.mark.parametrize("alert", CASES)
def test_alert_fires_again_after_a_restart(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    series = with_restart(case.fires)
    assert promtool.test(tmp_path, [expect(alert, series, case.labels, BEFORE - 1, BEFORE + GAP + AFTER - 1)]) == ""


@pytest.mark.parametrize("alert", CASES)
def test_alert_does_not_fire_without_cause(alert: str, tmp_path: Path) -> None:
    """Also not while counters reset, and not around a restart of three minutes."""
    quiet = CASES[alert].quiet
    cases = [expect(alert, made, None, *RESTARTED) for made in (steadily(quiet), with_reset(quiet))]
    if not CASES[alert].fires_when_absent:
        cases.append(expect(alert, with_restart(quiet), None, *RESTARTED))
    assert promtool.test(tmp_path, cases) == ""


@pytest.mark.parametrize("alert", [name for name, case in CASES.items() if not case.fires_when_absent])
def test_alert_does_not_fire_on_absent_series(alert: str, tmp_path: Path) -> None:
    others = [{"series": 'up{job="other",instance="b"}', "values": "1+0x100"}]
    assert promtool.test(tmp_path, [expect(alert, others, None, 10, 90)]) == ""


@pytest.mark.parametrize("alert", [name for name, case in CASES.items() if case.fires_when_absent])
def test_alert_fires_on_absent_series_with_the_label_job(alert: str, tmp_path: Path) -> None:
    """Prometheus lost its target; routes of alerts by `job` still match."""
    others = [{"series": 'up{job="other",instance="b"}', "values": "1+0x100"}]
    assert promtool.test(tmp_path, [expect(alert, others, {"job": "usher"}, 90)]) == ""
