"""The words that resources are made of: text, numbers and references with their limits, and rules between fields.

Declared once, as data: load.py checks files against them, and tools/definitions makes the definitions of the custom
resources from them. ``Meta.description`` is what ``kubectl explain`` shows. Keys of ``extra_json_schema`` are those of
a structural schema (``x-kubernetes-…``).
"""

from typing import Annotated, Literal

import msgspec

API_VERSION = "usher.dev/v1alpha1"
"""Group and version of the custom resources."""

MAX_NAME_LENGTH = 52
"""Longest name of a custom resource, so that the names of its children stay within 63 characters."""

MAX_ROUTES = 32
"""Most routes of a listener (design §5)."""

MAX_ADDRESSES = 16
"""Most addresses of a listener."""

MAX_EXPRESSION_LENGTH = 1024
"""Longest expression, in characters; checked before the parser sees it."""

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_HOST_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

NAME_PATTERN = f"^{_LABEL}$"
"""Form of a custom resource's name."""

ResourceName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN, description="Lower-case letters, digits, `-`."
    ),
]
ItemName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        pattern=f"^{_LABEL}$",
        description="Name of this item, unique in its list.",
    ),
]
ObjectName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=253, pattern=f"^{_LABEL}(\\.{_LABEL})*$", description="Name of a Kubernetes object."
    ),
]
NamespaceName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=63, pattern=f"^{_LABEL}$", description="Name of a namespace.")
]
SecretKey = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key in the Secret's data."),
]
Hostname = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=253,
        pattern=f"^{_HOST_LABEL}(\\.{_HOST_LABEL})*$",
        description="A host name in lower case, without port; never a wildcard.",
    ),
]
HostnamePattern = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=253,
        pattern=f"^(\\*\\.)?{_HOST_LABEL}(\\.{_HOST_LABEL})*$",
        description="A host name, or `*.` and a host name: one or more labels before it.",
    ),
]
UrlPath = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=1024,
        pattern=r"^/[-A-Za-z0-9._~!$&'()*+,;=:@%/]*$",
        description="Path of the URL, compared as sent (percent-encoding untouched).",
    ),
]
QueryName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=128, pattern=r"^[^&=#\x00-\x20\x7f]+$", description="Name of a query parameter."
    ),
]
QueryValue = Annotated[
    str,
    msgspec.Meta(max_length=512, pattern=r"^[^&#\x00-\x20\x7f]*$", description="Value of a query parameter, decoded."),
]
Cidr = Annotated[
    str,
    msgspec.Meta(
        min_length=3,
        max_length=49,
        pattern=r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
        description="An address, or an address range such as `203.0.113.0/24`.",
    ),
]
JsonPointer = Annotated[
    str,
    msgspec.Meta(
        max_length=256,
        pattern=r"^(/([^~/]|~[01])*)+$",
        description="JSON pointer (RFC 6901) into the body, such as `/user/id`.",
    ),
]
TimeZone = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*$",
        description="IANA time zone, such as `Europe/London`.",
    ),
]
HeaderName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=128, pattern=r"^[-!#$%&'*+.^_`|~0-9A-Za-z]+$", description="Name of an HTTP header."
    ),
]
HeaderValue = Annotated[
    str,
    msgspec.Meta(max_length=4096, pattern=r"^[\x20-\x7e]*$", description="Value of an HTTP header, printable ASCII."),
]
Expression = Annotated[
    str, msgspec.Meta(min_length=1, max_length=MAX_EXPRESSION_LENGTH, description="CEL over `visit` and `body`.")
]
DestinationUrl = Annotated[
    str,
    msgspec.Meta(
        min_length=8,
        max_length=2048,
        pattern=r"^https?://([-A-Za-z0-9.]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!$-;=?-Z_a-z~\[\]]*)?$",
        description="Where to send: http or https, a host, no user information, no fragment.",
    ),
]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        max_length=40,
        pattern=r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
        r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
        description="RFC 3339 time, such as `2027-01-31T12:00:00Z`.",
        extra_json_schema={"format": "date-time"},
    ),
]
LabelKey = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=317,
        pattern=f"^({_LABEL}(\\.{_LABEL})*/)?[A-Za-z0-9]([-_.A-Za-z0-9]{{0,61}}[A-Za-z0-9])?$",
        description="Key of a label, such as `usher.dev/watch`.",
    ),
]
AnnotationKey = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=317,
        pattern=r"^([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$",
        description="Key of an annotation, such as `usher.dev/confirm-removals`.",
    ),
]
LabelValue = Annotated[
    str,
    msgspec.Meta(
        max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$", description="Value of a label."
    ),
]
Labels = Annotated[dict[LabelKey, LabelValue], msgspec.Meta(max_length=8, description="Labels that must all be there.")]

VisitorKey = Annotated[Literal["User", "Venue", "Device"], msgspec.Meta(description="One of the ids in a body.")]

LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Extra schema of a list whose items are told apart by ``name``."""

LIST_SET = {"x-kubernetes-list-type": "set"}
"""Extra schema of a list whose items are all different."""

LIST_ATOMIC = {"x-kubernetes-list-type": "atomic"}
"""Extra schema of a list that has one owner and is replaced as a whole."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Base of everything in a resource: camelCase in YAML, nothing unknown, never changed."""


class Union(msgspec.Struct, frozen=True):
    """Rule: ``discriminator`` says which one of ``members`` must be there; the others must not."""

    discriminator: str
    members: dict[str, str]
    """Value of the discriminator -> the field that goes with it; values without a field are left out."""


class Exactly(msgspec.Struct, frozen=True):
    """Rule: exactly one of these fields is there."""

    fields: tuple[str, ...]


class Requires(msgspec.Struct, frozen=True):
    """Rule: where ``field`` has ``value``, ``needs`` must be there."""

    field: str
    value: str
    needs: str


class Combination(msgspec.Struct, frozen=True):
    """Rule: where ``field`` (a dotted path) has ``value``, ``other`` must have one of ``allowed``."""

    field: str
    value: str
    other: str
    allowed: tuple[str, ...]


class Forbidden(msgspec.Struct, frozen=True):
    """Rule: the text in ``field`` must not match ``pattern`` (RE2, whole text, any case)."""

    field: str
    pattern: str


class Immutable(msgspec.Struct, frozen=True):
    """Rule: once set, ``field`` (a dotted path) never changes; ``late``: it may be set later than the object."""

    field: str
    late: bool = False


Rule = Union | Exactly | Requires | Combination | Forbidden | Immutable
"""A rule between fields of one struct: class attribute ``rules``."""


class TenantRef(Model, frozen=True, kw_only=True):
    """A Tenant in the same namespace."""

    name: ResourceName


class DestinationRef(Model, frozen=True, kw_only=True):
    """A Destination in the same namespace."""

    name: ResourceName


class SecretRef(Model, frozen=True, kw_only=True):
    """A Secret in the same namespace, labelled `usher.dev/watch: "true"`."""

    name: ObjectName


class SecretKeyRef(Model, frozen=True, kw_only=True):
    """One key of a Secret in the same namespace, labelled `usher.dev/watch: "true"`."""

    name: ObjectName
    key: SecretKey
