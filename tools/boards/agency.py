"""The board Agency: all tenants at a glance."""

from grafana_foundation_sdk.builders import dashboard

from boards.panels import Panel, board, graph, listing, number

_HERE = 'job=~"$job",tenant_namespace=~"$tenant_namespace"'
_TENANT = "tenant_namespace, tenant"
_LEGEND = "{{tenant_namespace}}/{{tenant}}"


def build() -> dashboard.Dashboard:
    """Return the board."""
    return board(
        "Usher / Agency",
        "usher-agency",
        "All companies: visits, silent webhooks, failing systems, and what waits for a person.",
        [("tenant_namespace", 'label_values(usher_tenant_listeners{job=~"$job"}, tenant_namespace)')],
        [*_figures(), *_graphs(), *_tables()],
    )


def _figures() -> list[Panel]:
    return [
        number(
            "Tenants",
            "Companies with at least one listener in force.",
            f"count(max by ({_TENANT}) (usher_tenant_listeners{{{_HERE}}}))",
        ),
        number(
            "Visits of an hour",
            "New authentications, which bills count; from metrics, so not for a bill.",
            f'sum(increase(usher_arrivals_total{{{_HERE},counted_as="visit"}}[1h]))',
            unit="locale",
        ),
        number(
            "Silent listeners",
            "Webhooks from which nothing came for longer than silence.afterSeconds. Purple may have disabled them.",
            f"sum(min by ({_TENANT}) (usher_tenant_silent_listeners{{{_HERE}}}))",
            runbook="ListenerSilent",
            bad_above=1,
        ),
        number(
            "Refusing all arrivals",
            "Webhooks of which the last three arrivals or more were all refused. Purple disables them if this goes on."
            " A webhook that accepts some arrivals does not count; the graph of arrivals shows its refusals.",
            f"sum(max by ({_TENANT}) (usher_tenant_refusing_listeners{{{_HERE}}}))",
            runbook="HookAtRisk",
            bad_above=1,
        ),
        number(
            "Destinations down",
            "Systems that do not answer: Usher sends one trial a minute and keeps their visits.",
            f"sum(max by (tenant_namespace, destination) (usher_destination_circuit_open{{{_HERE}}}))",
            runbook="DestinationDown",
            bad_above=1,
        ),
        number(
            "Held deliveries",
            "Deliveries that wait for a person or a date, for every reason, also on purpose.",
            f"sum(max by ({_TENANT}, reason) (usher_held_deliveries{{{_HERE}}})) or vector(0)",
            unit="locale",
            runbook="DeliveriesHeld",
            bad_above=1,
        ),
        number(
            "Dead deliveries",
            "Deliveries that failed for good and can be redriven.",
            f"sum(max by ({_TENANT}) (usher_dead_deliveries{{{_HERE}}}))",
            unit="locale",
            runbook="DeadLettersGrowing",
            bad_above=1,
        ),
        number(
            "Highest quota use",
            "The tenant that is closest to its quota of this month. Empty if no tenant has a quota.",
            f"max(usher_quota_used_ratio{{{_HERE}}})",
            unit="percentunit",
            runbook="QuotaNear",
            bad_above=0.9,
        ),
    ]


def _graphs() -> list[Panel]:
    return [
        graph(
            "Visits by tenant",
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
            "Share of attempts that fail, by destination",
            "The ten destinations of tenants with the largest share of failed attempts in 30 minutes.",
            (
                f"topk(10, destination:usher_deliveries_failed:ratio_rate30m{{{_HERE}}})",
                f"{_LEGEND} to {{{{destination}}}}",
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
            "Use of quotas",
            "Visits of this month as a share of the quota: the ten tenants closest to it.",
            (f"topk(10, max by ({_TENANT}) (usher_quota_used_ratio{{{_HERE}}}))", _LEGEND),
            unit="percentunit",
            runbook="QuotaNear",
        ),
    ]


def _tables() -> list[Panel]:
    return [
        listing(
            "Tenants that need attention",
            "Tenants with listeners that are silent or refuse all arrivals, or with held or dead deliveries.",
            (f"topk(20, max by ({_TENANT}) (usher_tenant_silent_listeners{{{_HERE}}}) > 0)", "silent listeners"),
            (f"topk(20, max by ({_TENANT}) (usher_tenant_refusing_listeners{{{_HERE}}}) > 0)", "refusing all arrivals"),
            (f"topk(20, sum by ({_TENANT}) (usher_held_deliveries{{{_HERE}}}) > 0)", "held deliveries"),
            (f"topk(20, sum by ({_TENANT}) (usher_dead_deliveries{{{_HERE}}}) > 0)", "dead deliveries"),
            unit="locale",
        ),
        listing(
            "Which destinations are down",
            "Destinations whose circuit is open.",
            (
                f"topk(20, max by (tenant_namespace, destination) (usher_destination_circuit_open{{{_HERE}}}) == 1)",
                "circuit open",
            ),
            unit="bool_yes_no",
            runbook="DestinationDown",
            width=6,
        ),
        listing(
            "Longest without a visit",
            "Tenants by the time since their last accepted arrival.",
            (
                f"topk(20, time() - max by ({_TENANT}) (usher_tenant_last_arrival_timestamp_seconds{{{_HERE}}} > 0))",
                "since the last arrival",
            ),
            unit="s",
            runbook="ListenerSilent",
            width=6,
        ),
    ]
