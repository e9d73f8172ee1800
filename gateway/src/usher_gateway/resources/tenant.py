"""Tenant: one Purple company that the agency looks after."""

import zoneinfo
from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway import documents
from usher_gateway.resources import types


class Quota(types.Model, frozen=True, kw_only=True):
    """How many visits a month the tenant has bought."""

    visits_per_month: Annotated[
        int, msgspec.Meta(ge=1, le=2_000_000_000, description="Visits per month, in the tenant's time zone.")
    ]
    when_exceeded: (
        Annotated[
            Literal["Forward", "Hold"],
            msgspec.Meta(description="What happens to further visits: forwarded, or kept and held."),
        ]
        | None
    ) = None


class Retention(types.Model, frozen=True, kw_only=True):
    """How long things are kept."""

    body_days: Annotated[int, msgspec.Meta(ge=1, le=400, description="Days that bodies are kept.")] | None = None
    meter_months: Annotated[int, msgspec.Meta(ge=1, le=120, description="Months that meters are kept.")] | None = None


class TenantSpec(types.Model, frozen=True, kw_only=True):
    """What the agency says of a company."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Immutable("companyID", late=True),)

    company_id: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=64,
                pattern=r"^[-_.A-Za-z0-9]+$",
                description="The company's id at Purple; may be set once.",
            ),
        ]
        | None
    ) = msgspec.field(default=None, name="companyID")
    company_check: (
        Annotated[
            Literal["Off", "Warn", "Quarantine"],
            msgspec.Meta(description="What happens to a body of another company: nothing, a condition, or quarantine."),
        ]
        | None
    ) = None
    display_name: (
        Annotated[
            str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="Name for people.")
        ]
        | None
    ) = None
    time_zone: (
        Annotated[
            types.TimeZone,
            msgspec.Meta(description="IANA time zone, such as `Europe/London`, of days, months and quotas."),
        ]
        | None
    ) = None
    state: (
        Annotated[
            Literal["Active", "Suspended"],
            msgspec.Meta(description="Suspended: visits are accepted and their deliveries held."),
        ]
        | None
    ) = None
    quota: Quota | None = None
    retention: Retention | None = None


class Tenant(types.ResourceBase, frozen=True, kw_only=True):
    """One Purple company that the agency looks after."""

    kind_name: ClassVar[str] = "Tenant"
    namespaced: ClassVar[bool] = True

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["Tenant"]
    metadata: types.NamedMetadata
    spec: TenantSpec = TenantSpec()


def compile_tenant(one: Tenant) -> documents.Tenant:
    """The tenant with every default filled in; a time zone that is not known becomes UTC."""
    spec = one.spec
    quota = spec.quota
    retention = spec.retention or Retention()
    zone = types.value_or_default(spec.time_zone, "Tenant.spec.timeZone")
    return documents.Tenant(
        name=one.metadata.name,
        company_id=types.value_or_default(spec.company_id, "Tenant.spec.companyID"),
        company_check=types.value_or_default(spec.company_check, "Tenant.spec.companyCheck"),
        display_name=types.value_or_default(spec.display_name, "Tenant.spec.displayName"),
        time_zone=zone if is_time_zone(zone) else "UTC",
        state=types.value_or_default(spec.state, "Tenant.spec.state"),
        visits_per_month=types.value_or_default(quota and quota.visits_per_month, "Tenant.spec.quota.visitsPerMonth"),
        when_exceeded=types.value_or_default(quota and quota.when_exceeded, "Tenant.spec.quota.whenExceeded"),
        body_days=types.value_or_default(retention.body_days, "Tenant.spec.retention.bodyDays"),
        meter_months=types.value_or_default(retention.meter_months, "Tenant.spec.retention.meterMonths"),
    )


def is_time_zone(name: str) -> bool:
    """Whether an IANA time zone of this name is known here."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
