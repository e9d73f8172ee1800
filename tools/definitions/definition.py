"""Makes the custom resource definition of each kind."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from definitions import cel, schema
from usher_gateway import resources
from usher_gateway.resources import conditions, types

GROUP, _, VERSION = types.API_VERSION.partition("/")

# The type of a custom resource.
Kind = type[resources.ListenerClass | resources.Tenant | resources.Listener | resources.Destination]

_READY = '.status.conditions[?(@.type=="Ready")]'


class Names(msgspec.Struct, frozen=True):
    """The names of a kind, and the columns of `kubectl get`."""

    plural: str
    short: str
    columns: tuple[tuple[str, str], ...]
    """(header, JSON path) of each column; `Age` is added."""
    wide: tuple[tuple[str, str], ...] = ()
    """The columns of `--output=wide`; the message of Ready is added."""
    selectable: tuple[str, ...] = ()
    """Fields for `--field-selector`."""


# Kind -> names, for every custom resource.
NAMES: dict[Kind, Names] = {
    resources.ListenerClass: Names(
        "listenerclasses",
        "ulc",
        (
            ("Controller", ".spec.controllerName"),
            ("Host", ".spec.hostname"),
            ("Ready", f"{_READY}.status"),
            ("Reason", f"{_READY}.reason"),
            ("Reachable", '.status.conditions[?(@.type=="Reachable")].status'),
        ),
        (("Exposure", ".spec.exposure.type"), ("Tls", ".spec.tls.mode")),
        (".spec.controllerName",),
    ),
    resources.Tenant: Names(
        "tenants",
        "ut",
        (("Ready", f"{_READY}.status"), ("Reason", f"{_READY}.reason")),
        (("State", ".spec.state"), ("Company", ".spec.companyID")),
    ),
    resources.Listener: Names(
        "listeners",
        "ul",
        (
            ("Tenant", ".spec.tenantRef.name"),
            ("Host", ".status.addresses[0].hostname"),
            ("Ready", f"{_READY}.status"),
            ("Reason", f"{_READY}.reason"),
            ("Receiving", '.status.conditions[?(@.type=="Receiving")].reason'),
        ),
        (("Url", ".status.addresses[0].url"),),
        (".spec.tenantRef.name", ".spec.listenerClassName"),
    ),
    resources.Destination: Names(
        "destinations",
        "ud",
        (
            ("Type", ".spec.type"),
            ("Host", ".status.host"),
            ("Ready", f"{_READY}.status"),
            ("Reason", f"{_READY}.reason"),
            ("Healthy", '.status.conditions[?(@.type=="Healthy")].reason'),
        ),
        (("Tenant", ".spec.tenantRef.name"),),
        (".spec.tenantRef.name",),
    ),
}

_OF_EVERY_OBJECT: dict[str, schema.Schema] = {
    "apiVersion": {"description": f"Group and version: `{types.API_VERSION}`.", "type": "string"},
    "kind": {"description": "What the object is.", "type": "string"},
    "metadata": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": types.MAX_NAME_LENGTH, "pattern": types.NAME_PATTERN},
        },
    },
}


def definition(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    names = NAMES[kind]
    name = kind.kind_name
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": names.plural,
                "singular": name.lower(),
                "shortNames": [names.short],
                "categories": ["usher"],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [_version(kind, names)],
        },
    }


def _version(kind: Kind, names: Names) -> dict[str, Any]:
    columns: list[dict[str, Any]] = [{"name": head, "type": "string", "jsonPath": path} for head, path in names.columns]
    wide = [
        {"name": head, "type": "string", "priority": 1, "jsonPath": path}
        for head, path in (*names.wide, ("Message", f"{_READY}.message"))
    ]
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            *columns,
            *wide,
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
    }
    if names.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in names.selectable]
    version["schema"] = {"openAPIV3Schema": object_schema(kind)}
    return version


def object_schema(kind: Kind) -> schema.Schema:
    """Return the schema of the whole objects of a kind."""
    name = kind.kind_name
    field = next(field for field in msgspec.structs.fields(kind) if field.name == "spec")
    spec = schema.schema_of(inspect.type_info(field.type), f"{name}.spec")
    told = schema.schema_of(inspect.type_info(conditions.STATUSES[name]), f"{name}.status")
    required = ["spec"] if field.required else []
    whole: schema.Schema = {"description": schema.docstring(kind), "type": "object"}
    if required:
        whole["required"] = required
    whole["properties"] = {**_OF_EVERY_OBJECT, "spec": spec, "status": told}
    transitions = list(_transitions(name, field.type, frozenset([*required, *schema.always_there(spec, "spec.")])))
    return whole | ({"x-kubernetes-validations": transitions} if transitions else {})


def _transitions(name: str, spec: type[types.Model], required: frozenset[str]) -> Iterator[cel.Validation]:
    for rule in getattr(spec, "rules", ()):
        if isinstance(rule, types.Immutable):
            default = schema.default_of(f"{name}.spec.{rule.field}").strip("`")
            yield cel.transition(rule, "spec", default, required)


def definitions() -> dict[str, dict[str, Any]]:
    """Return file name -> definition."""
    return {f"{GROUP}_{names.plural}.yaml": definition(kind) for kind, names in NAMES.items()}
