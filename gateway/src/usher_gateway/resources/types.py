"""The types that make up resources, the rules between fields, and object metadata.

Limits and rules are declared once, as data. ``yaml_reader.py`` checks files against them, and ``tools/definitions``
makes the custom resource definitions from them. ``kubectl explain`` prints ``Meta.description``. ``extra_json_schema``
has the keys of a structural schema (``x-kubernetes-…``).
"""

import ipaddress
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import msgspec

API_VERSION = "usher.dev/v1alpha1"  # Group and version of the custom resources
MAX_NAME_LENGTH = 52  # Longest name of a custom resource, because the names of its children must fit into 63 characters
MAX_ROUTES = 32  # Most routes of a listener
MAX_ADDRESSES = 16  # Most addresses of a listener

# Longest expression, in characters. It is checked before the parser sees the expression.
MAX_FILTER_LENGTH, MAX_TRANSFORM_LENGTH = 1024, 4096

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_HOST_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

NAME_PATTERN = f"^{_LABEL}$"  # Form of a custom resource's name


def text(description: str, longest: int, pattern: str | None = None, *, shortest: int = 1) -> msgspec.Meta:
    """Return a text's limits, in characters. The whole text matches the pattern."""
    return msgspec.Meta(min_length=shortest or None, max_length=longest, pattern=pattern, description=description)


def number(description: str, lowest: int, highest: int) -> msgspec.Meta:
    """Return a number's limits."""
    return msgspec.Meta(ge=lowest, le=highest, description=description)


def entries(
    description: str, longest: int, extra_schema: dict[str, object] | None = None, *, shortest: int | None = None
) -> msgspec.Meta:
    """Return a list's or mapping's limits, in entries."""
    return msgspec.Meta(
        min_length=shortest, max_length=longest, description=description, extra_json_schema=extra_schema
    )


ResourceName = Annotated[
    str, text("Lower-case letters and digits, with `-` in between.", MAX_NAME_LENGTH, NAME_PATTERN)
]
ItemName = Annotated[
    str,
    text(
        "Name of this item, unique in its list: lower-case letters and digits, with `-` in between.",
        MAX_NAME_LENGTH,
        f"^{_LABEL}$",
    ),
]
ObjectName = Annotated[
    str,
    text(
        "Name of a Kubernetes object: lower-case letters and digits, with `-` or `.` in between.",
        253,
        f"^{_LABEL}(\\.{_LABEL})*$",
    ),
]
NamespaceName = Annotated[
    str, text("Name of a namespace: lower-case letters and digits, with `-` in between.", 63, f"^{_LABEL}$")
]
SecretKey = Annotated[
    str, text("Key in the Secret's data: letters, digits, `-`, `_` and `.`.", 253, r"^[-._a-zA-Z0-9]+$")
]
Hostname = Annotated[
    str,
    text(
        "A host name in lower case, without a port and without a wildcard.", 253, f"^{_HOST_LABEL}(\\.{_HOST_LABEL})*$"
    ),
]
HostnamePattern = Annotated[
    str,
    text(
        "A host name, or `*.` and a host name; `*` matches one or more labels.",
        253,
        f"^(\\*\\.)?{_HOST_LABEL}(\\.{_HOST_LABEL})*$",
    ),
]
UrlPath = Annotated[
    str,
    text(
        "Path of the URL, compared as sent, without decoding percent-encoding.",
        1024,
        r"^/[-A-Za-z0-9._~!$&'()*+,;=:@%/]*$",
    ),
]
QueryName = Annotated[str, text("Name of a query parameter.", 128, r"^[^&=#\x00-\x20\x7f]+$")]
QueryValue = Annotated[str, text("Value of a query parameter, decoded.", 512, r"^[^&#\x00-\x20\x7f]*$", shortest=0)]
Cidr = Annotated[
    str, text("An IP address, or a range such as `203.0.113.0/24`.", 49, r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$", shortest=3)
]
JsonPointer = Annotated[
    str, text("JSON pointer (RFC 6901) into the body, such as `/user/id`.", 256, r"^(/([^~/]|~[01])*)+$", shortest=0)
]
TimeZone = Annotated[
    str, text("IANA time zone, such as `Europe/London`.", 64, r"^[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*$")
]
HeaderName = Annotated[str, text("Name of an HTTP header.", 128, r"^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")]
HeaderValue = Annotated[str, text("Value of an HTTP header, printable ASCII.", 4096, r"^[\x20-\x7e]*$", shortest=0)]
# Headers that HTTP itself sets, as a pattern. Source: RFC 9110 and 9112.
HTTP_HEADERS = (
    "host|content-length|content-type|content-encoding|transfer-encoding|connection|upgrade|te|trailer|keep-alive"
    "|expect"
)
Filter = Annotated[str, text("CEL over `visit` and `body`.", MAX_FILTER_LENGTH)]
Transform = Annotated[str, text("CEL over `visit` and `body`.", MAX_TRANSFORM_LENGTH)]
TokenUrl = Annotated[
    str,
    text(
        "URL of the token endpoint, without user information and fragment.",
        2048,
        r"^https?://([-A-Za-z0-9.]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!$-;=?-Z_a-z~\[\]]*)?$",
        shortest=9,
    ),
]
UrlVariableName = Annotated[str, text("Name of a variable: letters, digits and `_`.", 32, r"^[A-Za-z][A-Za-z0-9_]*$")]
AnswerFilter = Annotated[str, text("CEL over `answer`.", MAX_FILTER_LENGTH)]
DestinationUrl = Annotated[
    str,
    text(
        "URL to send to: http or https, with a host, without user information and fragment. `{name}` in "
        "path or query stands for a variable of `urlVariables` (RFC 6570, level 1).",
        2048,
        r"^https?://([-A-Za-z0-9.]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!$-;=?-Z_a-z~\[\]{}]*)?$",
        shortest=8,
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
    text(
        "Key of a label, such as `usher.dev/watch`.",
        317,
        f"^({_LABEL}(\\.{_LABEL})*/)?[A-Za-z0-9]([-_.A-Za-z0-9]{{0,61}}[A-Za-z0-9])?$",
    ),
]
AnnotationKey = Annotated[
    str,
    text(
        "Key of an annotation, such as `usher.dev/confirm-removals`.",
        317,
        r"^([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, text("Value of a label.", 63, r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$", shortest=0)]
Labels = Annotated[dict[LabelKey, LabelValue], entries("Labels that the namespace must have, all of them.", 8)]

VisitorKey = Annotated[Literal["User", "Venue", "Device"], msgspec.Meta(description="One of the ids in a body.")]

# Extra schema of a list whose items are identified by `name`.
LIST_MAP = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}

LIST_SET = {"x-kubernetes-list-type": "set"}  # Extra schema of a list without duplicates

# Extra schema of a list that has one owner and is always replaced as a whole.
LIST_ATOMIC = {"x-kubernetes-list-type": "atomic"}


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True, omit_defaults=True):
    """Base class for all structs in a resource: camelCase in YAML, frozen, and unknown fields are errors.

    A default of `0` means no limit, and `""` means not set. Encoding leaves defaults out, because a manifest may not
    have these two. The API server's schema has no defaults, because GitOps tools would report list items' defaults as
    drift.
    """


class Union(msgspec.Struct, frozen=True):
    """Rule: ``discriminator``'s value selects the one field in ``members`` that must be set."""

    discriminator: str
    members: dict[str, str]  # Value of the discriminator -> its field. Values without a field are left out.


class Exactly(msgspec.Struct, frozen=True):
    """Rule: exactly one of these fields must be set."""

    fields: tuple[str, ...]


class Requires(msgspec.Struct, frozen=True):
    """Rule: if ``field`` has ``value``, the field ``needs`` must be set."""

    field: str
    value: str
    needs: str


class Combination(msgspec.Struct, frozen=True):
    """Rule: if ``field`` (a dotted path) has ``value``, ``other`` must have a value in ``allowed``."""

    field: str
    value: str
    other: str
    allowed: tuple[str, ...]


class Forbidden(msgspec.Struct, frozen=True):
    """Rule: the text in ``field`` must not match ``pattern`` (RE2, whole text, ignoring case)."""

    field: str
    pattern: str


class Immutable(msgspec.Struct, frozen=True):
    """Rule: ``field`` (a dotted path) must not change once it is set. ``late``: it may be set after creation."""

    field: str
    late: bool = False


# A resource's expression: field path, source, and its field (`programs.Where`).
DeclaredExpression = tuple[str, str, Literal["when", "transform", "variable", "answer"]]

# A rule between one struct's fields, in its class attribute `rules`.
Rule = Union | Exactly | Requires | Combination | Forbidden | Immutable


class TenantRef(Model, frozen=True, kw_only=True):
    """A Tenant in the same namespace."""

    name: ResourceName


class DestinationRef(Model, frozen=True, kw_only=True):
    """A Destination in the same namespace."""

    name: ResourceName


class SecretRef(Model, frozen=True, kw_only=True):
    """A Secret in the same namespace, labelled `usher.dev/watch: "true"`."""

    name: ObjectName


class TLSSecretRef(SecretRef, frozen=True, kw_only=True):
    """A Secret of type `kubernetes.io/tls` in the same namespace, labelled `usher.dev/watch: "true"`."""


class SecretKeyRef(Model, frozen=True, kw_only=True):
    """One key of a Secret in the same namespace, labelled `usher.dev/watch: "true"`."""

    name: ObjectName
    key: SecretKey


# Secret keys for basic authentication. Source: Kubernetes, type `kubernetes.io/basic-auth`.
BASIC_KEYS = ("username", "password")
TLS_KEYS = ("tls.crt", "tls.key")  # Source: Kubernetes, TLS Secrets


def secret_keys(value: object) -> Iterator[tuple[str, str]]:
    """Yield the Secret names to which any part of a value refers, with the keys that it uses."""
    match value:
        case SecretRef():
            for key in TLS_KEYS if isinstance(value, TLSSecretRef) else BASIC_KEYS:
                yield value.name, key
        case SecretKeyRef():
            yield value.name, value.key
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from secret_keys(getattr(value, name))
        case list():
            for item in value:
                yield from secret_keys(item)


DEFAULT_NAMESPACE = "default"  # Namespace of an object without `metadata.namespace`, as with kubectl
WATCH_LABEL = "usher.dev/watch"  # In a cluster Usher reads a Secret only if this label is `"true"`

# Label with the namespace's name, which every namespace has. Source: Kubernetes, well-known labels.
NAMESPACE_LABEL = "kubernetes.io/metadata.name"

# Annotation on a ListenerClass that confirms one particular large removal.
CONFIRM_REMOVALS = "usher.dev/confirm-removals"


class Metadata(Model, frozen=True, kw_only=True):
    """Name, namespace, labels, annotations and uid. Other API server metadata is ignored."""

    name: ObjectName
    namespace: NamespaceName = DEFAULT_NAMESPACE
    labels: dict[LabelKey, LabelValue] = {}
    annotations: dict[AnnotationKey, str] = {}
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0
    uid: str = ""


class NamedMetadata(Metadata, frozen=True, kw_only=True):
    """A custom resource's metadata: shorter names, so that children's names fit."""

    name: ResourceName


class ResourceBase(Model, frozen=True, kw_only=True):
    """Base class for every object that Usher reads."""

    kind_name: ClassVar[str]
    namespaced: ClassVar[bool]

    api_version: str
    kind: str
    metadata: Metadata

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone for a cluster-scoped object."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.namespaced else self.metadata.name

    @property
    def identity(self) -> tuple[str, str]:
        """(kind, key)."""
        return self.kind_name, self.key

    @property
    def expressions(self) -> "list[DeclaredExpression]":
        """The object's expressions."""
        return []


class BrokenRule(msgspec.Struct, frozen=True):
    """A broken rule: the field that it is about, the field whose line to report, and the message."""

    field: str
    at: str
    message: str


def check_rules(rules: Iterable[Rule], value: Mapping[str, object]) -> Iterator[BrokenRule]:
    """Yield every rule that a plain value breaks. A field counts as set even if its value is invalid."""
    for rule in rules:
        match rule:
            case Union():
                yield from _union(rule, value)
            case Exactly():
                yield from _exactly(rule, value)
            case Requires():
                if value.get(rule.field) == rule.value and rule.needs not in value:
                    message = f"must have `{rule.needs}` if `{rule.field}` is {rule.value}"
                    yield BrokenRule(rule.needs, rule.field, message)
            case Combination():
                yield from _combination(rule, value)
            case Forbidden():
                text = value.get(rule.field)
                if isinstance(text, str) and re.fullmatch(rule.pattern, text, re.IGNORECASE):
                    yield BrokenRule(rule.field, rule.field, f"may not be `{text}`, because HTTP or Usher sets it")
            case Immutable():
                pass  # only the API server knows the previous object_rules


def _union(rule: Union, value: Mapping[str, object]) -> Iterator[BrokenRule]:
    chosen = value.get(rule.discriminator)
    if not isinstance(chosen, str):
        return
    needed = rule.members.get(chosen)
    if needed is not None and needed not in value:
        yield BrokenRule(needed, rule.discriminator, f"must have `{needed}` if `{rule.discriminator}` is {chosen}")
    for member in rule.members.values():
        if member != needed and member in value:
            yield BrokenRule(member, member, f"must not be set if `{rule.discriminator}` is {chosen}")


def _exactly(rule: Exactly, value: Mapping[str, object]) -> Iterator[BrokenRule]:
    there = [field for field in rule.fields if field in value]
    names = " and ".join(f"`{field}`" for field in rule.fields)
    if len(there) != 1:
        yield BrokenRule(there[-1] if there else "", there[-1] if there else "", f"must have exactly one of {names}")


def _combination(rule: Combination, value: Mapping[str, object]) -> Iterator[BrokenRule]:
    other = _dig(value, rule.other)
    if _dig(value, rule.field) == rule.value and other is not None and other not in rule.allowed:
        allowed = " or ".join(rule.allowed)
        message = f"must be {allowed} if `{rule.field}` is {rule.value}"
        yield BrokenRule(rule.other, rule.other.partition(".")[0], message)


def _dig(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_time_zone(name: str) -> bool:
    """Return True if this system knows an IANA time zone with this name."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def network_of(text: str) -> str | None:
    """Return an address range in its normal form; None if it is not one."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None
