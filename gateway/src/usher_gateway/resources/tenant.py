"""Tenant: one Purple company that the agency looks after."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, types


class Quota(types.Model, frozen=True, kw_only=True):
    """The number of visits per month that the tenant has bought."""

    visits_per_month: Annotated[
        int, msgspec.Meta(ge=1, le=2_000_000_000, description="Visits per month, in the tenant's time zone.")
    ]
    when_exceeded: (
        Annotated[
            Literal["Forward", "Hold"],
            msgspec.Meta(description="Whether further visits are forwarded or held."),
        ]
        | None
    ) = None


class Retention(types.Model, frozen=True, kw_only=True):
    """How long Usher keeps data."""

    body_days: Annotated[int, msgspec.Meta(ge=1, le=400, description="Days for which bodies are kept.")] | None = None
    meter_months: Annotated[int, msgspec.Meta(ge=1, le=120, description="Months for which meters are kept.")] | None = (
        None
    )


class TenantSpec(types.Model, frozen=True, kw_only=True):
    """The settings of a company."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Immutable("companyID", late=True),)

    company_id: (
        Annotated[
            str,
            msgspec.Meta(
                min_length=1,
                max_length=64,
                pattern=r"^[-_.A-Za-z0-9]+$",
                description="The company's id at Purple. It may be set once.",
            ),
        ]
        | None
    ) = msgspec.field(default=None, name="companyID")
    company_check: (
        Annotated[
            Literal["Off", "Warn", "Quarantine"],
            msgspec.Meta(
                description="What Usher does with a body of another company. Off: nothing. Warn: set a "
                "condition. Quarantine: quarantine it."
            ),
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
            msgspec.Meta(description="IANA time zone of days, months and quotas, such as `Europe/London`."),
        ]
        | None
    ) = None
    state: (
        Annotated[
            Literal["Active", "Suspended"],
            msgspec.Meta(description="Suspended: the gateway accepts visits and holds their deliveries."),
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


def check_tenant(tenant: Tenant) -> list[conditions.Finding]:
    """Return what the schema cannot check in one tenant."""
    zone = tenant.spec.time_zone
    if zone is None or types.is_time_zone(zone):
        return []
    message = f"`{zone}` is not an IANA time zone; write one such as Europe/London (UTC is used until then)"
    return [conditions.finding(tenant, "spec.timeZone", conditions.Reason.UnsupportedValue, message)]


def tenant_document(tenant: Tenant) -> documents.TenantDocument:
    """Return the part of a listener's document about its tenant, every default filled in.

    An unknown time zone becomes UTC.
    """
    spec = tenant.spec
    quota = spec.quota
    retention = spec.retention or Retention()
    pick = types.value_or_default
    zone = pick(spec.time_zone, "Tenant.spec.timeZone")
    return documents.TenantDocument(
        name=tenant.metadata.name,
        company_id=pick(spec.company_id, "Tenant.spec.companyID"),
        company_check=pick(spec.company_check, "Tenant.spec.companyCheck"),
        display_name=pick(spec.display_name, "Tenant.spec.displayName"),
        time_zone=zone if types.is_time_zone(zone) else "UTC",
        state=pick(spec.state, "Tenant.spec.state"),
        visits_per_month=pick(quota and quota.visits_per_month, "Tenant.spec.quota.visitsPerMonth"),
        when_exceeded=pick(quota and quota.when_exceeded, "Tenant.spec.quota.whenExceeded"),
        body_days=pick(retention.body_days, "Tenant.spec.retention.bodyDays"),
        meter_months=pick(retention.meter_months, "Tenant.spec.retention.meterMonths"),
    )
