"""The board Operator: whether edits reach the gateways."""

from grafana_foundation_sdk.builders import dashboard

from boards.panels import Panel, board, graph, listing, number, quantile

_HERE = 'job=~"$job",instance=~"$instance"'
_EXPIRY = f"usher_operator_certificate_expiry_timestamp_seconds{{{_HERE}}}"


def build() -> dashboard.Dashboard:
    """Return the board."""
    return board(
        "Usher / Operator",
        "usher-operator",
        "The operator: its queue, its reconciles, its requests, and certificates. Gateways serve without it.",
        [("instance", 'label_values(usher_operator_build_info{job=~"$job"}, instance)')],
        [*_figures(), *_graphs(), *_tables()],
    )


def _figures() -> list[Panel]:
    return [
        number(
            "Working replicas",
            "One replica works, the others are on standby.",
            f"sum(usher_operator_leader{{{_HERE}}})",
            runbook="NoLeader",
            bad_below=1,
        ),
        number(
            "Keys waiting",
            "Resources that wait for a worker.",
            f"max(usher_operator_workqueue_depth{{{_HERE}}})",
            runbook="WorkqueueStuck",
            bad_above=1000,
            width=2,
        ),
        number(
            "Longest wait",
            "Age of the first waiting key.",
            f"max(usher_operator_workqueue_oldest_age_seconds{{{_HERE}}})",
            unit="s",
            runbook="WorkqueueStuck",
            bad_above=120,
            width=2,
        ),
        number(
            "Unreachable hostnames",
            "Hostnames that do not lead to a gateway.",
            f"sum(usher_operator_hostname_unreachable{{{_HERE}}}) or vector(0)",
            runbook="HostnameUnreachable",
            bad_above=1,
        ),
        number(
            "Listeners not Ready",
            "Listeners whose last good version serves on, or that are not served yet.",
            f"sum(usher_operator_listeners_not_ready{{{_HERE}}})",
            runbook="ListenersNotReady",
            bad_above=1,
        ),
        number(
            "Halted removals",
            "Removals over the limit, which need a confirmation.",
            f"max(usher_operator_removals_halted{{{_HERE}}})",
            runbook="RemovalsHalted",
            bad_above=1,
        ),
        number(
            "Gateways reachable",
            "Gateways that the operator polls and that answer.",
            f'max(usher_operator_gateways{{{_HERE},state="reachable"}})',
            runbook="GatewayDown",
            bad_below=1,
        ),
        number(
            "Oldest list",
            "Time since the kind that was listed longest ago. There is a list every minute.",
            f"max(time() - usher_operator_list_last_success_timestamp_seconds{{{_HERE}}})",
            unit="s",
            runbook="WatchStale",
            bad_above=300,
            width=2,
        ),
        number(
            "Next expiry",
            "Time until the first certificate expires. Empty without Certificates of the operator.",
            f"min({_EXPIRY}) - time()",
            unit="s",
            runbook="CertificateExpiring",
            bad_below=14 * 86400,
        ),
    ]


def _graphs() -> list[Panel]:
    return [
        graph(
            "Reconciles",
            "Keys reconciled a second, by result.",
            (f"sum by (result) (rate(usher_operator_reconcile_total{{{_HERE}}}[$__rate_interval]))", "{{result}}"),
            unit="ops",
            runbook="ReconcileErrors",
        ),
        graph(
            "Time to reconcile, by kind",
            "99 % of the reconciles are below the line.",
            (
                quantile("0.99", f"usher_operator_reconcile_duration_seconds_bucket{{{_HERE}}}", "kind"),
                "{{kind}}",
            ),
            unit="s",
        ),
        graph(
            "Time in the queue",
            "99 % of the keys waited less than this for a worker.",
            (
                quantile("0.99", f"usher_operator_workqueue_wait_seconds_bucket{{{_HERE}}}"),
                "99 %",
            ),
            unit="s",
            runbook="WorkqueueStuck",
        ),
        graph(
            "Requests to the API server",
            "A second, by verb and status. Code 0: no answer.",
            (
                f"sum by (verb, code) (rate(usher_operator_api_requests_total{{{_HERE}}}[$__rate_interval]))",
                "{{verb}} {{code}}",
            ),
            unit="reqps",
        ),
        graph(
            "Status writes",
            "A second, by result. noop: nothing was different, so nothing was written.",
            (f"sum by (result) (rate(usher_operator_status_updates_total{{{_HERE}}}[$__rate_interval]))", "{{result}}"),
            unit="ops",
        ),
        graph(
            "Retries and corrections",
            "A minute: keys retried after a failure, and deletions that only a list found (should stay 0).",
            (f"60 * sum(rate(usher_operator_workqueue_retries_total{{{_HERE}}}[$__rate_interval]))", "retries"),
            (
                f"60 * sum(rate(usher_operator_resync_divergence_total{{{_HERE}}}[$__rate_interval])) or vector(0)",
                "missed deletions",
            ),
            unit="cpm",
            runbook="ResyncDivergence",
        ),
        graph(
            "Time since each kind was listed",
            "There is a list every minute. More than 5 minutes: changes may be missed.",
            (f"max by (kind) (time() - usher_operator_list_last_success_timestamp_seconds{{{_HERE}}})", "{{kind}}"),
            unit="s",
            runbook="WatchStale",
        ),
        graph(
            "Documents",
            "Documents that gateways run, and tombstones of removed ones.",
            (f"max by (kind, state) (usher_operator_config_documents{{{_HERE}}})", "{{kind}} {{state}}"),
            unit="locale",
        ),
        graph(
            "Memory",
            "Resident memory of each replica.",
            (f"sum by (instance) (process_resident_memory_bytes{{{_HERE}}})", "{{instance}}"),
            unit="bytes",
        ),
    ]


def _tables() -> list[Panel]:
    return [
        listing(
            "Resources",
            "By kind and by their condition Ready.",
            (f"max by (kind, ready) (usher_operator_objects{{{_HERE}}})", "resources"),
            unit="locale",
            runbook="ListenersNotReady",
            width=8,
        ),
        listing(
            "Tenants with Listeners that are not Ready",
            "The reason is in `kubectl get usher --all-namespaces`.",
            (f"max by (tenant_namespace, tenant) (usher_operator_listeners_not_ready{{{_HERE}}}) > 0", "not Ready"),
            unit="locale",
            runbook="ListenersNotReady",
            width=8,
        ),
        listing(
            "The 20 certificates that expire first",
            "Time until each expires.",
            (
                f"bottomk(20, min by (hostname) ({_EXPIRY}) - time())",
                "expires in",
            ),
            unit="s",
            runbook="CertificateExpiring",
            width=8,
            smallest_first=True,
        ),
    ]
