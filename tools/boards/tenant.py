"""The board Tenant: one company."""

from grafana_foundation_sdk.builders import dashboard

from boards.panels import Panel, board, graph, listing, number

_HERE = 'job=~"$job",tenant_namespace=~"$tenant_namespace",tenant=~"$tenant"'
# Several gateways on one store each report the whole, so their values must not be added up.
_TENANT = "tenant_namespace, tenant"
# For each destination. Series of what waits exist only where something waits.
_ZERO = f"0 * max by (destination) (usher_destination_circuit_open{{{_HERE}}})"
# By destination: in the store, which all gateways report, and in the lanes of each gateway.
_WAITING = (
    f"((max by (destination) (usher_backlog_deliveries{{{_HERE}}}) or {_ZERO})"
    f" + (sum by (destination) (usher_lane_deliveries{{{_HERE}}}) or {_ZERO}))"
)


def build() -> dashboard.Dashboard:
    """Return the board."""
    return board(
        "Usher / Tenant",
        "usher-tenant",
        "One company: its visits, its webhooks, and the systems that receive from it. For a bill use `usher usage`.",
        [
            ("tenant_namespace", 'label_values(usher_tenant_listeners{job=~"$job"}, tenant_namespace)'),
            (
                "tenant",
                'label_values(usher_tenant_listeners{job=~"$job",tenant_namespace=~"$tenant_namespace"}, tenant)',
            ),
        ],
        [*_figures(), *_graphs(), *_tables()],
        single=True,
    )


def _figures() -> list[Panel]:
    return [
        number(
            "Visits of 24 hours",
            "New authentications, which bills count.",
            f'sum(increase(usher_arrivals_total{{{_HERE},counted_as="visit"}}[24h]))',
            unit="locale",
            width=4,
        ),
        number(
            "Since last visit",
            "Time since something was accepted, from the ledger.",
            f"time() - max(usher_tenant_last_arrival_timestamp_seconds{{{_HERE}}} > 0)",
            unit="s",
            runbook="ListenerSilent",
            width=4,
        ),
        number(
            "Listeners",
            "Webhooks in force.",
            f"sum(max by ({_TENANT}) (usher_tenant_listeners{{{_HERE}}}))",
            width=4,
        ),
        number(
            "Silent listeners",
            "Webhooks from which nothing came for longer than silence.afterSeconds.",
            f"sum(min by ({_TENANT}) (usher_tenant_silent_listeners{{{_HERE}}}))",
            runbook="ListenerSilent",
            bad_above=1,
            width=4,
        ),
        number(
            "Refusing all arrivals",
            "Webhooks of which the last three arrivals or more were all refused. A webhook that accepts some does not"
            " count.",
            f"sum(max by ({_TENANT}) (usher_tenant_refusing_listeners{{{_HERE}}}))",
            runbook="HookAtRisk",
            bad_above=1,
            width=4,
        ),
        number(
            "Refused in 24 hours",
            "Arrivals that were not accepted. Purple sends each again after 3 hours.",
            f'sum(increase(usher_arrivals_total{{{_HERE},counted_as="refused"}}[24h]))',
            unit="locale",
            runbook="HookAtRisk",
            width=4,
        ),
        number(
            "Destinations down",
            "Systems of this company that do not answer: Usher sends one trial a minute and keeps their visits.",
            f"sum(max by ({_TENANT}, destination) (usher_destination_circuit_open{{{_HERE}}})) or vector(0)",
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
            "Held deliveries",
            "Deliveries that wait for a person or a date.",
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
            "Use of the quota",
            "Visits of this month as a share of the quota. Empty without a quota.",
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
            "Visits an hour",
            "New authentications of the hour before. `usher usage` has the exact books, by slot.",
            (f'sum by (tenant) (increase(usher_arrivals_total{{{_HERE},counted_as="visit"}}[1h]))', "{{tenant}}"),
            unit="locale",
        ),
        graph(
            "Arrivals by what they were counted as",
            "Every request at its addresses, a minute. Refused ones come again after 3 hours.",
            (f"60 * sum by (counted_as) (rate(usher_arrivals_total{{{_HERE}}}[$__rate_interval]))", "{{counted_as}}"),
            unit="cpm",
            stacked=True,
            runbook="HookAtRisk",
        ),
        graph(
            "Results of attempts",
            "What became of deliveries, a minute: delivered, to be retried, dead or cancelled.",
            (f"60 * sum by (outcome) (rate(usher_deliveries_total{{{_HERE}}}[$__rate_interval]))", "{{outcome}}"),
            unit="cpm",
            stacked=True,
            runbook="DeliveryFailing",
        ),
        graph(
            "Refused arrivals by reason",
            "Arrivals that were not accepted, a minute, by the reason. Purple sends each again after 3 hours.",
            (f"60 * sum by (reason) (rate(usher_tenant_refused_total{{{_HERE}}}[$__rate_interval]))", "{{reason}}"),
            unit="cpm",
            runbook="HookAtRisk",
        ),
        graph(
            "Verdicts without a delivery",
            "Visits that a route skipped, a minute, by reason. They can be replayed.",
            (f"60 * sum by (reason) (rate(usher_skipped_total{{{_HERE}}}[$__rate_interval]))", "{{reason}}"),
            unit="cpm",
        ),
        graph(
            "Held deliveries by reason",
            "What waits for a person or a date. Usher delivers it when the cause has ended.",
            (f"sum by (reason) (max by ({_TENANT}, reason) (usher_held_deliveries{{{_HERE}}}))", "{{reason}}"),
            unit="locale",
            runbook="DeliveriesHeld",
        ),
        graph(
            "Waiting deliveries by destination",
            "Deliveries that wait for a slot, for a retry or for a destination that is down.",
            (_WAITING, "{{destination}}"),
            unit="locale",
            runbook="BacklogOld",
        ),
        graph(
            "Delay of first attempts",
            "How long the next delivery to each destination has waited for its first attempt; 0: none waits.",
            (f"max by (destination) (usher_delivery_lag_seconds{{{_HERE}}}) or {_ZERO}", "{{destination}}"),
            unit="s",
            runbook="DeliveryLagHigh",
        ),
        graph(
            "Attempts that fail, by destination",
            "The share of the attempts of 30 minutes that failed.",
            (
                f"sum by (destination) (destination:usher_deliveries_failed:ratio_rate30m{{{_HERE}}})",
                "{{destination}}",
            ),
            unit="percentunit",
            runbook="DeliveryFailing",
        ),
    ]


def _tables() -> list[Panel]:
    return [
        listing(
            "All destinations of this company",
            "Systems that its routes name, or that deliveries wait for: whether each is down, and what waits for it.",
            (f"max by (destination) (usher_destination_circuit_open{{{_HERE}}})", "down"),
            (_WAITING, "waiting"),
            (f"max by (destination) (usher_oldest_open_delivery_age_seconds{{{_HERE}}})", "oldest"),
            (f"sum by (destination) (destination:usher_deliveries_failed:ratio_rate30m{{{_HERE}}})", "failed, 30 min"),
            unit="locale",
            units={"down": "bool_yes_no", "oldest": "s", "failed, 30 min": "percentunit"},
            runbook="DestinationDown",
        ),
        listing(
            "Last arrival by listener",
            "Only if the gateway has at most 2,000 listeners; `usher listeners --tenant NAME` shows the others.",
            (
                f"time() - max by (listener) (usher_listener_last_arrival_timestamp_seconds{{{_HERE}}} > 0)",
                "since the last arrival",
            ),
            unit="s",
            runbook="ListenerSilent",
            empty="No arrival yet, or over 2,000 listeners: see `usher listeners`",
        ),
        listing(
            "Arrivals of 24 hours",
            "Each arrival is counted as exactly one word. `usher usage` has the exact books.",
            (f"sum by (counted_as) (increase(usher_arrivals_total{{{_HERE}}}[24h]))", "arrivals"),
            unit="locale",
        ),
        listing(
            "Settings to look at",
            "Arrivals at old URLs, from other companies, or from unexpected addresses, that were accepted in 24 hours.",
            (f"sum by (tenant) (increase(usher_retired_address_arrivals_total{{{_HERE}}}[24h]))", "old URL"),
            (f"sum by (tenant) (increase(usher_company_mismatches_total{{{_HERE}}}[24h]))", "other company"),
            (f"sum by (tenant) (increase(usher_unexpected_sources_total{{{_HERE}}}[24h]))", "odd source"),
            unit="locale",
        ),
    ]
