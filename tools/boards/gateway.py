"""The board Gateway: whether the gateway answers in time, and what limits it."""

from grafana_foundation_sdk.builders import dashboard

from boards.panels import Panel, board, graph, number, quantile

_HERE = 'job=~"$job",instance=~"$instance"'
_RATE = f"{{{_HERE}}}[$__rate_interval]"


def build() -> dashboard.Dashboard:
    """Return the board."""
    return board(
        "Usher / Gateway",
        "usher-gateway",
        "One gateway: its answers against Purple's 10 s, its store, its lanes, memory and CPU.",
        [("instance", 'label_values(usher_build_info{job=~"$job"}, instance)')],
        [*_figures(), *_answers(), *_store(), *_lanes(), *_process()],
    )


def _quantile(share: str, metric: str) -> str:
    return quantile(share, f"{metric}_bucket{{{_HERE}}}")


def _figures() -> list[Panel]:
    return [
        number(
            "Store",
            "Available while commits succeed. While it is away every arrival gets 503.",
            f"min(usher_store_available{{{_HERE}}})",
            runbook="StoreUnavailable",
            bad_below=1,
            words={0: "away", 1: "available"},
        ),
        number(
            "Answers over 5 s",
            "Share of the answers of 5 minutes that took more than 5 s. Purple gives up at 10 s.",
            f"max(instance:usher_answers_over_5s:ratio_rate5m{{{_HERE}}}) or vector(0)",
            unit="percentunit",
            runbook="AnswersNearTimeout",
            bad_above=0.01,
        ),
        number(
            "Own refusals",
            "Share of the arrivals of an hour that the gateway refused for reasons of its own.",
            f"max(instance:usher_refused:ratio_rate1h{{{_HERE}}}) or vector(0)",
            unit="percentunit",
            runbook="GatewayErrorBudgetBurn",
            bad_above=0.001,
        ),
        number(
            "Event loop",
            "How late the event loop is. Above 0.1 s the process is short of CPU.",
            f"max(usher_event_loop_lag_seconds{{{_HERE}}})",
            unit="s",
            runbook="GatewayOverloaded",
            bad_above=0.1,
        ),
        number(
            "Free disk",
            "Free space of the store's file system. Below 1 GiB arrivals get 503.",
            f"min(usher_store_free_bytes{{{_HERE}}})",
            unit="bytes",
            runbook="StoreDiskLow",
            bad_below=2 * 1024**3,
        ),
        number(
            "Oldest delivery",
            "Age of the oldest delivery that waits for any destination; 0: none waits.",
            f"max(usher_oldest_open_delivery_age_seconds{{{_HERE}}}) or vector(0)",
            unit="s",
            runbook="BacklogOld",
            bad_above=3600,
        ),
        number(
            "Rejected documents",
            "Problems that keep an edit from applying. The last good version is in force.",
            f"max(usher_config_rejected{{{_HERE}}})",
            runbook="ConfigRejected",
            bad_above=1,
        ),
        number(
            "Clock jump",
            "By how much the clock jumped ahead, while retention waits.",
            f"max(usher_clock_jump_seconds{{{_HERE}}})",
            unit="s",
            runbook="ClockJumped",
            bad_above=1,
        ),
    ]


def _answers() -> list[Panel]:
    return [
        graph(
            "Time to answer",
            "Purple gives up at 10 s, Usher answers 503 after 7.5 s. Half and 99 % of the answers are below the lines.",
            (_quantile("0.5", "usher_answer_duration_seconds"), "50 %"),
            (_quantile("0.99", "usher_answer_duration_seconds"), "99 %"),
            unit="s",
            runbook="AnswersNearTimeout",
        ),
        graph(
            "Requests",
            "Answers a second, by gateway.",
            (
                f"sum by (instance) (rate(usher_answer_duration_seconds_count{{{_HERE}}}[$__rate_interval]))",
                "{{instance}}",
            ),
            unit="reqps",
        ),
        graph(
            "Refused by reason",
            "Requests of which nothing was kept, a minute. NotFound is mostly scanners.",
            (f"60 * sum by (reason) (rate(usher_refused_total{{{_HERE}}}[$__rate_interval])) > 0", "{{reason}}"),
            unit="cpm",
            runbook="GatewayErrorBudgetBurn",
        ),
        graph(
            "Quarantined by reason",
            "Arrivals that are not valid visits, a minute. They were answered with 200 and can be released.",
            (f"60 * sum by (reason) (rate(usher_quarantined_total{{{_HERE}}}[$__rate_interval])) > 0", "{{reason}}"),
            unit="cpm",
            runbook="QuarantineGrowing",
        ),
        graph(
            "Connections and arrivals in work",
            "Open connections at the public port, and arrivals that wait for their commit.",
            (f"sum(usher_connections{{{_HERE}}})", "connections"),
            (f"sum(usher_inflight{{{_HERE}}})", "arrivals"),
            unit="locale",
        ),
        graph(
            "Lost on the way",
            "A minute: answers that reached nobody (Purple sends those again), connections closed for newer ones,"
            " log lines lost.",
            (f"60 * sum(rate(usher_unacknowledged_total{{{_HERE}}}[$__rate_interval]))", "unacknowledged"),
            (f"60 * sum(rate(usher_connections_displaced_total{{{_HERE}}}[$__rate_interval]))", "displaced"),
            (f"60 * sum(rate(usher_log_lines_lost_total{{{_HERE}}}[$__rate_interval]))", "log lines"),
            unit="cpm",
            runbook="LogLinesLost",
        ),
    ]


def _store() -> list[Panel]:
    return [
        graph(
            "Time to commit",
            "Half and 99 % of the commits are below the lines. A slow disk makes answers late.",
            (_quantile("0.5", "usher_commit_duration_seconds"), "50 %"),
            (_quantile("0.99", "usher_commit_duration_seconds"), "99 %"),
            unit="s",
        ),
        graph(
            "Arrivals per commit",
            "Mean size of a batch. It grows with the load, which keeps commits few.",
            (
                f"sum(rate(usher_accept_batch_size_sum{_RATE})) / sum(rate(usher_accept_batch_size_count{_RATE}))",
                "arrivals",
            ),
            unit="none",
        ),
        graph(
            "Documents in force",
            "Listeners and destinations that the gateway runs, and documents that vanished without a removal.",
            (f"max by (kind) (usher_config_documents{{{_HERE}}})", "{{kind}}"),
            (f"max(usher_config_vanished{{{_HERE}}})", "vanished"),
            unit="locale",
            runbook="ConfigVanished",
        ),
    ]


def _lanes() -> list[Panel]:
    return [
        graph(
            "Open deliveries",
            "All that are pending, by the gateway that knows of most, and those that wait in lanes for a slot.",
            (f"max(usher_open_deliveries{{{_HERE}}})", "open"),
            (f"sum(usher_lane_deliveries{{{_HERE}}}) or vector(0)", "in lanes"),
            (f"sum(usher_unsettled{{{_HERE}}})", "result not stored yet"),
            unit="locale",
            runbook="BacklogOld",
        ),
        graph(
            "Time of attempts",
            "Half and 99 % of the attempts are below the lines.",
            (_quantile("0.5", "usher_attempt_duration_seconds"), "50 %"),
            (_quantile("0.99", "usher_attempt_duration_seconds"), "99 %"),
            unit="s",
        ),
        graph(
            "Failed attempts by error",
            "A minute, by error code.",
            (f"60 * sum by (error) (rate(usher_attempt_errors_total{{{_HERE}}}[$__rate_interval])) > 0", "{{error}}"),
            unit="cpm",
            runbook="DeliveryFailing",
        ),
        graph(
            "Attempts and open circuits",
            "Running attempts, and destinations that get one trial a minute.",
            (f"sum(usher_attempts_in_flight{{{_HERE}}})", "attempts"),
            (f"max(usher_circuits_open{{{_HERE}}})", "circuits open"),
            unit="locale",
            runbook="DestinationDown",
        ),
        graph(
            "Failed expressions",
            "Evaluations of `when` and `transform` that failed, a minute, by code. Their deliveries are held.",
            (f"60 * sum by (error) (rate(usher_expression_errors_total{{{_HERE}}}[$__rate_interval]))", "{{error}}"),
            unit="cpm",
            runbook="DeliveriesHeld",
        ),
        graph(
            "Delay of first attempts",
            "How long the delivery that waits longest has waited for its first attempt; 0: none waits.",
            (f"max(usher_delivery_lag_seconds{{{_HERE}}}) or vector(0)", "longest"),
            unit="s",
            runbook="DeliveryLagHigh",
        ),
    ]


def _process() -> list[Panel]:
    return [
        graph(
            "Memory",
            "Resident memory of the process, and bodies in lanes.",
            (f"sum by (instance) (process_resident_memory_bytes{{{_HERE}}})", "{{instance}}"),
            (f"sum(usher_lane_bytes{{{_HERE}}})", "bodies in lanes"),
            unit="bytes",
        ),
        graph(
            "CPU",
            "Cores that the process uses. One core is the limit of its event loop.",
            (f"sum by (instance) (rate(process_cpu_seconds_total{{{_HERE}}}[$__rate_interval]))", "{{instance}}"),
            unit="none",
            runbook="GatewayOverloaded",
        ),
        graph(
            "Age of the configuration",
            "Time since a configuration was applied.",
            (
                f"time() - max by (instance) (usher_config_last_applied_timestamp_seconds{{{_HERE}}} > 0)",
                "{{instance}}",
            ),
            unit="s",
            runbook="ConfigStale",
        ),
    ]
