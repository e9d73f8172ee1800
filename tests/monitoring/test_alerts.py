"""Each alert fires when it should, and not when it should not: with counters that reset, absent series and restarts.

promtool evaluates the rule files on series that are written here, in steps of a minute. `ALERTS` is the series that
Prometheus itself records of firing alerts, so that `for` is tested too.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boards import agency
from support import promtool

TENANT = {"tenant_namespace": "agency", "tenant": "acme"}


class Case(msgspec.Struct, frozen=True):
    """When an alert fires and when not: series -> `START+STEP` of its value each minute."""

    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = {}
    """Labels of the alert besides its name and severity."""
    fires_when_absent: bool = False
    is_time: bool = False
    """The values are times, which do not begin again after a restart."""


def series(metric: str, **labels: str) -> str:
    """A series of the instance `a`."""
    shown = [f'{name}="{value}"' for name, value in {"instance": "a", **labels}.items()]
    return f"{metric}{{{','.join(shown)}}}"


def of_gateway(metric: str, fires: str, quiet: str) -> Case:
    """The case of an alert on one series of a gateway, whose instance it names."""
    return Case(fires={series(metric): fires}, quiet={series(metric): quiet}, labels={"instance": "a"})


def of_tenant(metric: str, fires: str, quiet: str, **labels: str) -> Case:
    """The case of an alert on one series of a tenant, without the instance."""
    tenant_series = series(metric, **TENANT, **labels)
    return Case(fires={tenant_series: fires}, quiet={tenant_series: quiet}, labels={**TENANT, **labels})


def of_operator(metric: str, fires: str, quiet: str, *, is_time: bool = False, **labels: str) -> Case:
    """The case of an alert on one series of the operator, without the instance."""
    operator_series = series(f"usher_operator_{metric}", **labels)
    return Case(fires={operator_series: fires}, quiet={operator_series: quiet}, labels=labels, is_time=is_time)


def arrivals(counted_as: str) -> str:
    return series("usher_arrivals_total", **TENANT, counted_as=counted_as)


def deliveries(outcome: str) -> str:
    return series("usher_deliveries_total", **TENANT, destination="crm", outcome=outcome)


def refused(reason: str) -> str:
    return series("usher_refused_total", reason=reason)


def answers(within_5s: str) -> dict[str, str]:
    """100 answers a minute, of which some took at most 5 s."""
    name = "usher_answer_duration_seconds"
    return {
        series(f"{name}_bucket", le="5.0"): within_5s,
        series(f"{name}_bucket", le="+Inf"): "0+100",
        series(f"{name}_count"): "0+100",
    }


def circuit_open(tenant: str) -> str:
    return series("usher_destination_circuit_open", **{**TENANT, "tenant": tenant}, destination="crm")


def reconciles(result: str) -> str:
    return series("usher_operator_reconcile_total", kind="Listener", result=result)


DAY, GIB = 86_400, 1 << 30

CASES = {
    "GatewayDown/critical": Case(
        fires={'up{job="usher",instance="a"}': "0+0", 'usher_build_info{job="usher"}': "1+0"},
        quiet={'up{job="usher",instance="a"}': "1+0", 'usher_build_info{job="usher",instance="a"}': "1+0"},
        labels={"job": "usher", "instance": "a"},
        fires_when_absent=True,
    ),
    "StoreUnavailable/critical": of_gateway("usher_store_available", "0+0", "1+0"),
    "StoreDiskLow/warning": of_gateway("usher_store_free_bytes", f"{GIB}+0", f"{3 * GIB}+0"),
    "GatewayErrorBudgetBurn/critical": Case(
        fires={refused("StoreUnavailable"): "0+2", arrivals("visit"): "0+98", arrivals("refused"): "0+2"},
        quiet={
            refused("StoreUnavailable"): "0+1",
            arrivals("visit"): "0+98",
            arrivals("refused"): "0+1",
            refused("NotFound"): "0+500",
        },
        labels={"instance": "a"},
    ),
    "GatewayErrorBudgetBurn/warning": Case(
        fires={refused("StoreUnavailable"): "0+2", arrivals("visit"): "0+998", arrivals("refused"): "0+2"},
        quiet={
            refused("StoreUnavailable"): "0+0",
            arrivals("visit"): "0+998",
            arrivals("refused"): "0+500",
            refused("NotFound"): "0+500",
        },
        labels={"instance": "a"},
    ),
    "AnswersNearTimeout/critical": Case(fires=answers("0+97"), quiet=answers("0+100"), labels={"instance": "a"}),
    "ConfigRejected/warning": of_gateway("usher_config_rejected", "1+0", "0+0"),
    "ConfigVanished/warning": of_gateway("usher_config_vanished", "1+0", "0+0"),
    "ConfigStale/warning": of_gateway("usher_config_last_heard_timestamp_seconds", "60+0", "0+0"),
    "GatewayOverloaded/warning": of_gateway("usher_event_loop_lag_seconds", "0.2+0", "0.01+0"),
    "ClockJumped/warning": of_gateway("usher_clock_jump_seconds", "7200+0", "0+0"),
    "LogLinesLost/warning": of_gateway("usher_log_lines_lost_total", "0+1", "7+0"),
    "ListenerSilent/warning": of_tenant("usher_tenant_silent_listeners", "2+0", "0+0"),
    "HookAtRisk/critical": of_tenant("usher_tenant_refusing_listeners", "1+0", "0+0"),
    "QuarantineGrowing/warning": Case(
        fires={arrivals("quarantined"): "0+1", arrivals("visit"): "0+9"},
        quiet={arrivals("quarantined"): "0+1", arrivals("visit"): "0+99"},
        labels=TENANT,
    ),
    "CompanyMismatch/warning": of_tenant("usher_company_mismatches_total", "0+1", "7+0"),
    "QuotaNear/warning": of_tenant("usher_quota_used_ratio", "0.95+0", "0.8+0"),
    "DeliveriesHeld/warning": of_tenant("usher_held_deliveries", "5+0", "0+0", reason="TransformError"),
    "DestinationDown/warning": Case(
        fires={circuit_open(tenant): "1+0" for tenant in ("acme", "inn")},
        quiet={circuit_open(tenant): "0+0" for tenant in ("acme", "inn")},
        labels={"destination": "crm", "tenant_namespace": "agency"},
    ),
    "DeliveryFailing/warning": Case(
        fires={deliveries("retried"): "0+6", deliveries("dead"): "0+0", deliveries("delivered"): "0+4"},
        quiet={deliveries("retried"): "0+4", deliveries("dead"): "0+0", deliveries("delivered"): "0+6"},
        labels={**TENANT, "destination": "crm"},
    ),
    "DeadLettersGrowing/warning": Case(
        fires={deliveries("dead"): "0+1", deliveries("delivered"): "0+9"},
        quiet={deliveries("dead"): "0+1", deliveries("delivered"): "0+49"},
        labels={**TENANT, "destination": "crm"},
    ),
    "BacklogOld/warning": of_tenant("usher_oldest_open_delivery_age_seconds", "7200+60", "600+0", destination="crm"),
    "DeliveryLagHigh/warning": of_tenant("usher_delivery_lag_seconds", "90+0", "0.1+0", destination="crm"),
    "CertificateExpiring/warning": Case(
        fires={series("usher_certificate_expiry_timestamp_seconds", file="tls.crt"): f"{5 * DAY}+0"},
        quiet={series("usher_certificate_expiry_timestamp_seconds", file="tls.crt"): f"{60 * DAY}+0"},
        labels={"file": "tls.crt"},
    ),
    "OperatorDown/warning": Case(
        fires={'up{job="usher",app_kubernetes_io_component="operator"}': "0+0"},
        quiet={'usher_operator_build_info{job="usher",instance="a"}': "1+0"},
        labels={"job": "usher"},
        fires_when_absent=True,
    ),
    "NoLeader/warning": Case(
        fires={series("usher_operator_leader", instance=name): "0+0" for name in "ab"},
        quiet={
            series("usher_operator_leader", instance="a"): "0+0",
            series("usher_operator_leader", instance="b"): "1+0",
        },
    ),
    "MultipleLeaders/warning": Case(
        fires={series("usher_operator_leader", instance=name): "1+0" for name in "ab"},
        quiet={
            series("usher_operator_leader", instance="a"): "0+0",
            series("usher_operator_leader", instance="b"): "1+0",
        },
    ),
    "ReconcileErrors/warning": Case(
        fires={reconciles("error"): "0+2", reconciles("success"): "0+8"},
        quiet={reconciles("error"): "5+0", reconciles("success"): "0+8"},
        labels={"kind": "Listener"},
    ),
    "WorkqueueStuck/warning": of_operator("workqueue_oldest_age_seconds", "130+60", "0.1+0"),
    "WatchStale/warning": of_operator(
        "list_last_success_timestamp_seconds", "0+0", "0+60", kind="Listener", is_time=True
    ),
    "ResyncDivergence/warning": of_operator("resync_divergence_total", "0+1", "3+0", kind="Listener"),
    "RemovalsHalted/warning": of_operator("removals_halted", "30+0", "0+0"),
    "HostnameUnreachable/critical": of_operator("hostname_unreachable", "1+0", "0+0", hostname="hooks.example.com"),
    "ListenersNotReady/warning": of_tenant("usher_operator_listeners_not_ready", "1+0", "0+0"),
}

BEFORE, GAP, AFTER = 100, 3, 100  # Minutes before, during and after a restart


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
    expected_samples = [{"labels": f"ALERTS{{{','.join(shown)}}}", "value": 1}] if labels is not None else []
    query = f'ALERTS{{alertname="{name}",alertstate="firing",severity="{severity}"}}'
    return {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": expected_samples} for minute in sorted(at)
        ],
    }


# Minutes around a restart.
RESTARTED = (BEFORE - 1, BEFORE + 1, BEFORE + GAP + 1, BEFORE + GAP + 10, BEFORE + GAP + AFTER - 1)


def test_each_alert_has_a_case() -> None:
    assert CASES.keys() == promtool.rules("alert").keys()


def firing(alert: str, case: Case) -> list[dict[str, Any]]:
    """The alert waits for its time, fires, and fires again after a restart."""
    restarted = with_restart(case.fires)
    waits = expect(alert, restarted, None, 0)
    return [waits, expect(alert, restarted, case.labels, BEFORE - 1, BEFORE + GAP + AFTER - 1)]


def quiet(alert: str, case: Case) -> list[dict[str, Any]]:
    """The alert does not fire without a cause, also not while counters reset and around a restart."""
    if case.is_time:
        steady = [{"series": name, "values": f"{value}x{BEFORE + GAP + AFTER}"} for name, value in case.quiet.items()]
        return [expect(alert, steady, None, *RESTARTED)]
    histories = [with_reset(case.quiet)] + ([] if case.fires_when_absent else [with_restart(case.quiet)])
    return [expect(alert, history, None, *RESTARTED) for history in histories]


def absent(alert: str, case: Case) -> dict[str, Any]:
    """Without any series only the alerts about an absent program fire, with `job`, because routes of alerts use it."""
    others = [{"series": 'up{job="other",instance="b"}', "values": "1+0x40"}]
    return expect(alert, others, {"job": "usher"} if case.fires_when_absent else None, 30)


@pytest.mark.parametrize("alert", CASES)
def test_alert_fires_for_its_cause_only(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    assert promtool.test(tmp_path, alert, [*firing(alert, case), *quiet(alert, case), absent(alert, case)]) == ""


def test_listener_that_one_of_several_gateways_hears_is_not_silent(tmp_path: Path) -> None:
    """Each gateway knows only the arrivals that reached it."""
    metric = "usher_tenant_silent_listeners"
    heard = [
        {"series": f'{metric}{{instance="{instance}",tenant="acme"}}', "values": f"{count}x60"}
        for instance, count in (("a", "1+0"), ("b", "0+0"))
    ]
    silent = [{**gateway_series, "values": "1+0x60"} for gateway_series in heard]
    alert = "ListenerSilent/warning"
    cases = [expect(alert, heard, None, 30), expect(alert, silent, {"tenant": "acme"}, 30)]
    assert promtool.test(tmp_path, alert, cases) == ""


@pytest.mark.parametrize("alert", sorted({cause.alert for cause in agency.need_attention()} - {"DeadLettersGrowing"}))
def test_board_lists_the_tenants_that_a_firing_alert_concerns(alert: str, tmp_path: Path) -> None:
    """The board Agency reads the same series; dead deliveries are listed until they are redriven, so not here."""
    (name,) = [name for name in CASES if name.startswith(f"{alert}/")]
    causes = " or ".join(cause.expr for cause in agency.need_attention() if cause.alert == alert)
    expr = re.sub(r"\$\w+", ".*", f"count({causes}) or vector(0)")

    def counted(series: dict[str, str], tenants: int) -> dict[str, Any]:
        query = {"expr": expr, "eval_time": f"{BEFORE - 1}m", "exp_samples": [{"labels": "{}", "value": tenants}]}
        return {"interval": "1m", "input_series": with_reset(series), "promql_expr_test": [query]}

    firing_series = CASES[name].fires
    tenants = {re.findall(r',tenant="(\w+)"', series)[0] for series in firing_series}
    cases = [counted(firing_series, len(tenants)), counted(CASES[name].quiet, 0)]
    assert promtool.test(tmp_path, name, cases) == ""


@pytest.mark.parametrize("alert", ["BacklogOld/warning", "DeliveryLagHigh/warning"])
def test_one_dead_system_does_not_hide_another(alert: str, tmp_path: Path) -> None:
    """Two destinations fail a day apart, and each gets its alert."""
    (of_crm, first_values) = next(iter(CASES[alert].fires.items()))
    of_mailer = of_crm.replace('destination="crm"', 'destination="mailer"')
    (quiet_values,) = CASES[alert].quiet.values()
    history = [
        {"series": of_crm, "values": f"{first_values}x1560"},
        {"series": of_mailer, "values": f"{quiet_values}x1440 {first_values}x120"},
    ]
    labels = {**TENANT, "destination": "crm"}
    first = expect(alert, history, labels, 1440)
    both = expect(alert, history, labels, 1500)
    (test,) = both["promql_expr_test"]
    (sample,) = test["exp_samples"]
    test["exp_samples"].append({**sample, "labels": sample["labels"].replace('"crm"', '"mailer"')})
    assert promtool.test(tmp_path, alert, [first, both]) == ""


def test_single_rejected_visit_is_no_growth_of_dead_letters(tmp_path: Path) -> None:
    """Not at a destination that got nothing else in that hour either."""
    history = [
        {"series": deliveries("dead"), "values": "0x30 1x90"},
        {"series": deliveries("delivered"), "values": "0x120"},
    ]
    alert = "DeadLettersGrowing/warning"
    assert promtool.test(tmp_path, alert, [expect(alert, history, None, 29, 31, 40, 60, 80)]) == ""


def test_busy_destination_does_not_hide_that_another_rejects_everything(tmp_path: Path) -> None:
    history = [
        {"series": deliveries("dead").replace('"crm"', '"mailer"'), "values": "0+1x120"},
        {"series": deliveries("delivered").replace('"crm"', '"mailer"'), "values": "0x120"},
        {"series": deliveries("dead"), "values": "0x120"},
        {"series": deliveries("delivered"), "values": "0+500x120"},
    ]
    for alert in ("DeadLettersGrowing/warning", "DeliveryFailing/warning"):
        cases = [expect(alert, history, {**TENANT, "destination": "mailer"}, 60)]
        assert promtool.test(tmp_path, alert, cases) == ""


def test_webhook_that_refuses_a_tenth_is_at_risk(tmp_path: Path) -> None:
    alert = "HookAtRisk/critical"
    fires = [
        {"series": arrivals("refused"), "values": "0+2x60"},
        {"series": arrivals("visit"), "values": "0+9x60"},
    ]
    quiet = [{**fires[0], "values": "0+1x60"}, fires[1]]
    few = [{"series": arrivals("refused"), "values": "0x30 5x30"}, {"series": arrivals("visit"), "values": "0x60"}]
    cases = [expect(alert, fires, TENANT, 50), expect(alert, quiet, None, 50), expect(alert, few, None, 45, 50)]
    assert promtool.test(tmp_path, alert, cases) == ""


def test_alert_about_refusals_names_the_most_frequent_reason(tmp_path: Path) -> None:
    rule = promtool.rules("alert")["HookAtRisk/critical"]
    refusals = {"Unauthenticated": "0+3x60", "RateLimited": "0+1x60", "TooLarge": "900x60"}
    history = [
        {"series": series("usher_tenant_refused_total", **TENANT, reason=reason), "values": values}
        for reason, values in refusals.items()
    ]
    history += [
        {**of_reason, "series": of_reason["series"].replace("acme", "inn"), "values": "0+9x60"}
        for of_reason in history[1:2]
    ]
    history.append({"series": series("usher_tenant_refusing_listeners", **TENANT), "values": "1x60"})
    description = (
        "Usher refuses arrivals of this tenant, or all of a listener, most of them as Unauthenticated. Purple sends"
        " them again after 3 hours, and disables the webhook if this goes on for long; then it sends nothing until a"
        ' user presses "Save and Validate".'
    )
    alert = {
        "exp_labels": {**TENANT, "severity": "critical"},
        "exp_annotations": {
            "summary": "Purple may disable a webhook of agency/acme",
            "description": description,
            "runbook_url": rule["annotations"]["runbook_url"],
        },
    }
    fires = {"eval_time": "50m", "alertname": "HookAtRisk", "exp_alerts": [alert]}
    case = {"interval": "1m", "input_series": history, "alert_rule_test": [fires]}
    assert promtool.test(tmp_path, "HookAtRisk/critical", [case]) == ""
