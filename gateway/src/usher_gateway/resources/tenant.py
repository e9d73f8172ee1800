"""Tenant: one Purple company that the agency looks after."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, types


class Quota(types.Model, frozen=True, kw_only=True):
    """How many visits per month the tenant has bought."""

    visits_per_month: Annotated[int, types.number("Visits per month, in the tenant's time zone.", 1, 2_000_000_000)]
    when_exceeded: Annotated[
        Literal["Forward", "Hold"],
        msgspec.Meta(description="Whether further visits are forwarded or held. Visits are counted every 30 s."),
    ] = "Forward"


class Retention(types.Model, frozen=True, kw_only=True):
    """How long Usher keeps data."""

    body_days: Annotated[int, types.number("Days for which bodies are kept.", 1, 400)] = 30
    meter_months: Annotated[int, types.number("Months for which meters are kept.", 1, 120)] = 25


class TenantSpec(types.Model, frozen=True, kw_only=True):
    """A company's settings."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Immutable("companyID", late=True),)

    company_id: Annotated[
        str, types.text("The company's id at Purple. It may be set once.", 64, r"^[-_.A-Za-z0-9]+$")
    ] = msgspec.field(default="", name="companyID")
    company_check: Annotated[
        Literal["Off", "Warn", "Quarantine"],
        msgspec.Meta(
            description="What Usher does with a body of another company. Off: nothing. Warn: set a "
            "condition. Quarantine: quarantine it."
        ),
    ] = "Warn"
    display_name: Annotated[str, types.text("Name for people.", 128, r"^[^\x00-\x1f\x7f-\x9f]*$", shortest=0)] = ""
    time_zone: Annotated[
        types.TimeZone, msgspec.Meta(description="IANA time zone of days, months and quotas, such as `Europe/London`.")
    ] = "UTC"
    state: Annotated[
        Literal["Active", "Suspended"],
        msgspec.Meta(description="Suspended: the gateway accepts visits and holds their deliveries."),
    ] = "Active"
    quota: Quota = Quota(visits_per_month=0)
    retention: Retention = Retention()


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
    if types.is_time_zone(zone):
        return []
    message = f"`{zone}` is not an IANA time zone; write one such as Europe/London (UTC is used until then)"
    return [conditions.finding(tenant, "spec.timeZone", conditions.Reason.UnsupportedValue, message)]


def tenant_document(tenant: Tenant) -> documents.TenantDocument:
    """Return the part of a listener's document about its tenant, every default filled in.

    An unknown time zone becomes UTC.
    """
    spec = tenant.spec
    return documents.TenantDocument(
        name=tenant.metadata.name,
        company_id=spec.company_id,
        company_check=spec.company_check,
        display_name=spec.display_name,
        time_zone=spec.time_zone if types.is_time_zone(spec.time_zone) else "UTC",
        state=spec.state,
        visits_per_month=spec.quota.visits_per_month,
        when_exceeded=spec.quota.when_exceeded,
        body_days=spec.retention.body_days,
        meter_months=spec.retention.meter_months,
    )
