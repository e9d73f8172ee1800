"""A Tenant as documents hold it."""

import zoneinfo

from usher_gateway import documents, resources
from usher_gateway.resources import defaults, tenant


def compile_tenant(one: resources.Tenant) -> documents.Tenant:
    """The tenant with every default filled in; a time zone that is not known becomes UTC."""
    spec = one.spec
    quota = spec.quota
    retention = spec.retention or tenant.Retention()
    zone = defaults.pick(spec.time_zone, "Tenant.spec.timeZone")
    return documents.Tenant(
        name=one.metadata.name,
        company_id=defaults.pick(spec.company_id, "Tenant.spec.companyID"),
        company_check=defaults.pick(spec.company_check, "Tenant.spec.companyCheck"),
        display_name=defaults.pick(spec.display_name, "Tenant.spec.displayName"),
        time_zone=zone if is_time_zone(zone) else "UTC",
        state=defaults.pick(spec.state, "Tenant.spec.state"),
        visits_per_month=defaults.pick(quota and quota.visits_per_month, "Tenant.spec.quota.visitsPerMonth"),
        when_exceeded=defaults.pick(quota and quota.when_exceeded, "Tenant.spec.quota.whenExceeded"),
        body_days=defaults.pick(retention.body_days, "Tenant.spec.retention.bodyDays"),
        meter_months=defaults.pick(retention.meter_months, "Tenant.spec.retention.meterMonths"),
    )


def is_time_zone(name: str) -> bool:
    """Whether an IANA time zone of this name is known here."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
