"""The board Agency: all tenants at a glance."""

from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard

from boards.panels import Panel, board, graph, listing, number

_HERE = 'job=~"$job",tenant_namespace=~"$tenant_namespace"'
_TENANT = "tenant_namespace, tenant"
_OF_DESTINATION = f"{_TENANT}, destination"
_DESTINATION = "tenant_namespace, destination"
_CIRCUIT = f"usher_destination_circuit_open{{{_HERE}}}"
_OLDEST = f"max by ({_DESTINATION}) (usher_oldest_open_delivery_age_seconds{{{_HERE}}})"
# For each destination. Series of what waits exist only where something waits.
_ZERO = f"0 * max by ({_DESTINATION}) ({_CIRCUIT})"
# By destination: in the store, which all gateways report, and in the lanes of each gateway.
_WAITING = (
    f"((sum by ({_DESTINATION}) (max by ({_OF_DESTINATION}) (usher_backlog_deliveries{{{_HERE}}})) or {_ZERO})"
    f" + (sum by ({_DESTINATION}) (usher_lane_deliveries{{{_HERE}}}) or {_ZERO}))"
)
_LEGEND = "{{tenant_namespace}}/{{tenant}}"


class Cause(NamedTuple):
    """Why a tenant needs attention."""

    alert: str
    """Its alert, which fires if the cause lasts."""
    column: str
    expr: str
    """By tenant; only tenants with the cause."""
    unit: str = "locale"


def build() -> dashboard.Dashboard:
    """Return the board."""
    return board(
        "Usher / Agency",
        "usher-agency",
        "All companies: visits, silent webhooks, failing systems, and what waits for a person.",
        [("tenant_namespace", 'label_values(usher_tenant_listeners{job=~"$job"}, tenant_namespace)')],
        [*_figures(), *_graphs(), *_tables()],
    )


def need_attention() -> list[Cause]:
    """Return every cause that a tenant can need attention for, the most urgent first: one for each alert or more."""
    on_purpose = "TenantSuspended|ListenerSuspended|DestinationPaused|TokenHeld"
    held = f'usher_held_deliveries{{{_HERE},reason!~"{on_purpose}"}}'
    refused, quarantined, failed = (
        f"{name}:increase30m{{{_HERE}}} > 5 and {name}:ratio_rate30m{{{_HERE}}} > {share}"
        for name, share in (
            ("tenant:usher_refused", 0.1),
            ("tenant:usher_quarantined", 0.05),
            ("destination:usher_deliveries_failed", 0.5),
        )
    )
    return [
        Cause("HookAtRisk", "refuse all", _most("usher_tenant_refusing_listeners") + " > 0"),
        Cause("HookAtRisk", "refused, 30 min", f"sum by ({_TENANT}) ({refused})"),
        Cause("ListenerSilent", "silent", f"min by ({_TENANT}) (usher_tenant_silent_listeners{{{_HERE}}}) > 0"),
        Cause(
            "DestinationDown", "destinations down", f"sum by ({_TENANT}) (max by ({_OF_DESTINATION}) ({_CIRCUIT})) > 0"
        ),
        Cause("DeliveryFailing", "failed, 30 min", f"sum by ({_TENANT}) ({failed})"),
        Cause("BacklogOld", "oldest waiting", _most("usher_oldest_open_delivery_age_seconds") + " > 3600", "s"),
        Cause("DeliveryLagHigh", "first attempt delay", _most("usher_delivery_lag_seconds") + " > 60", "s"),
        Cause("DeadLettersGrowing", "dead", _most("usher_dead_deliveries") + " > 0"),
        Cause("DeliveriesHeld", "held", f"sum by ({_TENANT}) (max by ({_TENANT}, reason) ({held})) > 0"),
        Cause("QuarantineGrowing", "quarantined, 30 min", f"sum by ({_TENANT}) ({quarantined})"),
        Cause(
            "CompanyMismatch",
            "other company, 30 min",
            f"sum by ({_TENANT}) (tenant:usher_company_mismatches:increase30m{{{_HERE}}} > 0)",
        ),
        Cause("QuotaNear", "quota", _most("usher_quota_used_ratio") + " > 0.9", "percentunit"),
        Cause("ListenersNotReady", "not Ready", _most("usher_operator_listeners_not_ready") + " > 0"),
    ]


def _most(metric: str) -> str:
    """Return the highest value by tenant, because several gateways report the same."""
    return f"max by ({_TENANT}) ({metric}{{{_HERE}}})"


def _figures() -> list[Panel]:
    return [
        number(
            "Tenants",
            "Companies with at least one listener in force.",
            f"count(max by ({_TENANT}) (usher_tenant_listeners{{{_HERE}}}))",
            width=4,
        ),
        number(
            "Visits of an hour",
            "New authentications, which bills count; from metrics, so not for a bill.",
            f'sum(increase(usher_arrivals_total{{{_HERE},counted_as="visit"}}[1h]))',
            unit="locale",
            width=4,
        ),
        number(
            "Tenants that need attention",
            "Companies in the table below, which has every cause.",
            f"count({' or '.join(cause.expr for cause in need_attention())}) or vector(0)",
            bad_above=1,
            width=4,
        ),
        number(
            "Silent listeners",
            "Webhooks from which nothing came for longer than silence.afterSeconds. Purple may have disabled them.",
            f"sum(min by ({_TENANT}) (usher_tenant_silent_listeners{{{_HERE}}}))",
            runbook="ListenerSilent",
            bad_above=1,
            width=4,
        ),
        number(
            "Refusing all arrivals",
            "Webhooks of which the last three arrivals or more were all refused. Purple disables them if this goes on."
            " A webhook that accepts some arrivals does not count; the graph of arrivals shows its refusals.",
            f"sum(max by ({_TENANT}) (usher_tenant_refusing_listeners{{{_HERE}}}))",
            runbook="HookAtRisk",
            bad_above=1,
            width=4,
        ),
        number(
            "Destinations down",
            "Systems that do not answer: Usher sends one trial a minute and keeps their visits.",
            f"sum(max by ({_DESTINATION}) ({_CIRCUIT})) or vector(0)",
            runbook="DestinationDown",
            bad_above=1,
            width=4,
        ),
        number(
            "Waiting deliveries",
            "Deliveries that wait for a slot, for a retry or for a destination that is down.",
            f"sum({_WAITING}) or vector(0)",
            unit="locale",
            runbook="BacklogOld",
            width=4,
        ),
        number(
            "Oldest that waits",
            "Age of the oldest delivery that waits; 0: none waits.",
            f"max(usher_oldest_open_delivery_age_seconds{{{_HERE}}}) or vector(0)",
            unit="s",
            runbook="BacklogOld",
            bad_above=3600,
            width=4,
        ),
        number(
            "Delay of first attempts",
            "How long the delivery that waits longest has waited for its first attempt; 0: none waits.",
            f"max(usher_delivery_lag_seconds{{{_HERE}}}) or vector(0)",
            unit="s",
            runbook="DeliveryLagHigh",
            bad_above=60,
            width=4,
        ),
        number(
            "Held deliveries",
            "Deliveries that wait for a person or a date, for every reason, also on purpose.",
            f"sum(max by ({_TENANT}, reason) (usher_held_deliveries{{{_HERE}}})) or vector(0)",
            unit="locale",
            runbook="DeliveriesHeld",
            bad_above=1,
            width=4,
        ),
        number(
            "Dead deliveries",
            "Deliveries that failed for good and can be redriven.",
            f"sum(max by ({_TENANT}) (usher_dead_deliveries{{{_HERE}}}))",
            unit="locale",
            runbook="DeadLettersGrowing",
            bad_above=1,
            width=4,
        ),
        number(
            "Highest quota use",
            "The tenant that is closest to its quota of this month. Empty if no tenant has a quota.",
            f"max(usher_quota_used_ratio{{{_HERE}}})",
            unit="percentunit",
            runbook="QuotaNear",
            bad_above=0.9,
            width=4,
        ),
    ]


def _graphs() -> list[Panel]:
    return [
        graph(
            "Visits of the 10 busiest tenants",
            "The ten tenants with the most visits a minute.",
            (f"topk(10, 60 * tenant:usher_visits:rate5m{{{_HERE}}})", _LEGEND),
            unit="cpm",
        ),
        graph(
            "Arrivals by what they were counted as",
            "Every request at a known address, a minute. Refused ones come again after 3 hours.",
            (f"60 * sum by (counted_as) (namespace:usher_arrivals:rate5m{{{_HERE}}})", "{{counted_as}}"),
            unit="cpm",
            stacked=True,
            runbook="HookAtRisk",
        ),
        graph(
            "Results of attempts",
            "What became of deliveries, a minute: delivered, to be retried, dead or cancelled.",
            (f"60 * sum by (outcome) (namespace:usher_deliveries:rate5m{{{_HERE}}})", "{{outcome}}"),
            unit="cpm",
            stacked=True,
            runbook="DeliveryFailing",
        ),
        graph(
            "Attempts that fail: the 10 worst destinations",
            "The ten destinations of tenants with the largest share of failed attempts in 30 minutes.",
            (
                f"topk(10, destination:usher_deliveries_failed:ratio_rate30m{{{_HERE}}} > 0)",
                "{{tenant}}: {{destination}}",
            ),
            unit="percentunit",
            runbook="DeliveryFailing",
        ),
        graph(
            "Held deliveries by reason",
            "What waits for a person or a date. Usher delivers it when the cause has ended.",
            (f"sum by (reason) (usher_held_deliveries{{{_HERE}}})", "{{reason}}"),
            unit="locale",
            runbook="DeliveriesHeld",
        ),
        graph(
            "Use of the 10 fullest quotas",
            "Visits of this month as a share of the quota: the ten tenants closest to it.",
            (f"topk(10, max by ({_TENANT}) (usher_quota_used_ratio{{{_HERE}}}))", _LEGEND),
            unit="percentunit",
            runbook="QuotaNear",
        ),
    ]


def _tables() -> list[Panel]:
    return [
        listing(
            "All tenants that need attention",
            "Each company with a cause, however many there are. An alert follows if the cause lasts. Columns: listeners"
            " that refuse all arrivals, refusals, silent listeners, destinations that are down, attempts that fail, age"
            " of what waits (over 1 h), delay of first attempts (over 60 s), dead and held deliveries, arrivals set"
            " aside, visits of another company, quota used (over 90 %), listeners that are not Ready. An empty cell: no"
            " such cause.",
            *((cause.expr, cause.column) for cause in need_attention()),
            unit="locale",
            units={cause.column: cause.unit for cause in need_attention() if cause.unit != "locale"},
            width=24,
            height=12,
        ),
        listing(
            "All destinations that are down",
            "Systems that do not answer, how many tenants use each, and what waits for it.",
            (f"count by ({_DESTINATION}) (max by ({_OF_DESTINATION}) ({_CIRCUIT}) == 1)", "tenants"),
            (f"{_WAITING} and on ({_DESTINATION}) {_CIRCUIT} == 1", "waiting"),
            (
                f"{_OLDEST} and on ({_DESTINATION}) {_CIRCUIT} == 1",
                "oldest",
            ),
            unit="locale",
            units={"oldest": "s"},
            runbook="DestinationDown",
        ),
        listing(
            "The 20 tenants longest without an arrival",
            "By the time since their last accepted arrival. A tenant that never had one is not in it.",
            (
                f"topk(20, time() - max by ({_TENANT}) (usher_tenant_last_arrival_timestamp_seconds{{{_HERE}}} > 0))",
                "since the last arrival",
            ),
            unit="s",
            runbook="ListenerSilent",
        ),
    ]
