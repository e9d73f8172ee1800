"""What a field means where it is left out: one table. compile() fills it in; docs/resources.md shows it.

Nothing is defaulted by the schema inside list items: GitOps tools would see drift.
"""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "ListenerClass.spec.namespaces.from": "All",
    "ListenerClass.spec.allowedHostnames[].namespaces.from": "All",
    "ListenerClass.spec.clientAddress.from": "Connection",
    "ListenerClass.spec.maximums.maxBodyBytes": 256 * 1024,
    "ListenerClass.spec.maximums.requestsPerSecond": 0,
    "Tenant.spec.companyID": "",
    "Tenant.spec.companyCheck": "Warn",
    "Tenant.spec.displayName": "",
    "Tenant.spec.timeZone": "UTC",
    "Tenant.spec.state": "Active",
    "Tenant.spec.quota.visitsPerMonth": 0,
    "Tenant.spec.quota.whenExceeded": "Forward",
    "Tenant.spec.retention.bodyDays": 30,
    "Tenant.spec.retention.meterMonths": 25,
    "Listener.spec.listenerClassName": "public",
    "Listener.spec.token.generation": 0,
    "Listener.spec.token.alsoAccept[].action": "Accept",
    "Listener.spec.token.alsoAccept[].untilTime": "",
    "Listener.spec.state": "Active",
    "Listener.spec.authentication.type": "None",
    "Listener.spec.allowedSources.policy": "Report",
    "Listener.spec.fields.occurredAtZone": "",
    "Listener.spec.dedupe.per": ["User", "Venue"],
    "Listener.spec.dedupe.windowSeconds": 3600,
    "Listener.spec.dedupe.redeliverySeconds": 12_600,
    "Listener.spec.late.afterSeconds": 300,
    "Listener.spec.silence.afterSeconds": 86_400,
    "Listener.spec.routes[].state": "Active",
    "Listener.spec.routes[].when": "",
    "Listener.spec.routes[].repeats": "Skip",
    "Listener.spec.routes[].deliverWithinSeconds": 0,
    "Listener.spec.routes[].transform": "",
    "Destination.spec.state": "Active",
    "Destination.spec.http.method": "POST",
    "Destination.spec.http.authentication.type": "None",
    "Destination.spec.http.timeoutSeconds": 10,
    "Destination.spec.format": "Verbatim",
    "Destination.spec.concurrency": 8,
    "Destination.spec.rateLimit.requestsPerSecond": 0,
    "Destination.spec.retry.maxAgeSeconds": 604_800,
}
"""Field path -> default. ``0`` and ``""`` mean: no limit, not set."""


def pick(given: Any, path: str) -> Any:
    """What is given, or else the default of a field."""
    return DEFAULTS[path] if given is None else given
