"""A tenant's troubles in words, made from a ``GET /api/tenants`` row. Pure."""

from usher_gateway.words import listings

_QUOTA_NEAR = 0.9  # From this share of its quota on, a tenant is in trouble; the alert QuotaNear has the same

# Listener fault -> how its tenant's troubles name it: docs/reasons.md, Troubles.
LISTENER_TROUBLES = {
    "Refusing": "refuses all",
    "AuthenticationUnresolved": "lacks a Secret",
    "CompanyMismatch": "other company",
    "Quarantining": "quarantines",
    "ExpressionTooSlow": "slow expression",
    "TimesUntrusted": "untrusted times",
    "UnexpectedSource": "other source",
    "RetiredAddressUsed": "retired URL used",
    "Silent": "silent",
}

URGENT_FIRST = (
    *("Refusing", "AuthenticationUnresolved", "CompanyMismatch", "destinations", "dead", "held", "Quarantining"),
    *("ExpressionTooSlow", "TimesUntrusted", "quota", "UnexpectedSource", "RetiredAddressUsed", "Silent"),
)
NO_TROUBLE = len(URGENT_FIRST)


def trouble_kinds(row: listings.Row) -> list[str]:
    """Return the trouble kinds that need a person, the most urgent first."""
    kinds = set(row["faults"])
    others = {"destinations": row["failingDestinations"], "held": row["held"], "dead": row["dead"]}
    kinds.update(kind for kind, counted in others.items() if counted)
    if (row["quotaUsed"] or 0.0) > _QUOTA_NEAR:
        kinds.add("quota")
    return [kind for kind in URGENT_FIRST if kind in kinds]


def tenant_troubles(row: listings.Row) -> dict[str, str]:
    """Return what needs a person, the most urgent first: the trouble kind and its words."""
    return {kind: _words(kind, row) for kind in trouble_kinds(row)}


def _words(kind: str, row: listings.Row) -> str:
    match kind:
        case "destinations":
            names = [name.rpartition("/")[2] for name in row["failingDestinations"]]
            return f"{' and '.join(names)} {'fails' if len(names) == 1 else 'fail'}"
        case "held":
            return f"{sum(row['held'].values())} held ({' and '.join(sorted(row['held']))})"
        case "dead":
            return f"{row['dead']} dead"
        case "quota":
            return f"quota {row['quotaUsed']:.0%}"
    return _fault_words(kind, row["faults"][kind], row)


def _fault_words(fault: str, count: int, row: listings.Row) -> str:
    """Return the words for a fault that ``count`` listeners have."""
    times = f"({count})" if count > 1 else None
    refused = f"{row['today']['refused']} today" if fault == "Refusing" else None
    return " ".join(filter(None, (LISTENER_TROUBLES[fault], row["causes"].get(fault), times, refused)))


def is_tenant_failing(row: listings.Row) -> bool:
    """Return whether somebody has to look at a tenant."""
    return bool(trouble_kinds(row))


def urgency(row: listings.Row) -> int:
    """Return how a tenant's most urgent trouble ranks: 0 is the most urgent, ``NO_TROUBLE`` says that it has none."""
    return next((URGENT_FIRST.index(kind) for kind in trouble_kinds(row)), NO_TROUBLE)
