"""A visit: what the gateway understood of a body."""

import msgspec


class Visit(msgspec.Struct, frozen=True):
    """The normalised fields of a body: always present, text is ``""`` where absent (design §3, Expressions).

    Ids are text whether they came as numbers or strings (purple.md: ``127`` and ``"127"`` are the same id).
    """

    userId: str = ""  # noqa: N815 - these are the names that expressions see
    venueId: str = ""  # noqa: N815
    companyId: str = ""  # noqa: N815
    firstName: str = ""  # noqa: N815
    lastName: str = ""  # noqa: N815
    email: str = ""
    mobile: str = ""
    gender: str = ""
    dateOfBirth: str = ""  # noqa: N815
    source: str = ""
    mac: str = ""
    venueName: str = ""  # noqa: N815
    visitCount: int | None = None  # noqa: N815
    occurredAt: int | None = None  # noqa: N815
    """Microseconds; None where the body has no time that can be trusted."""
