"""What the operator tells about a resource: the ``status`` of each kind. Files have none; the reader ignores it."""

from typing import Annotated, Literal

import msgspec

from usher_gateway.resources import types

MAX_CONDITIONS = 16
"""Most conditions of an object, those of other controllers included."""


MAX_GENERATION = 2**53 - 1
"""Largest generation: limits in a schema are floating-point numbers, and exact up to here."""


class Condition(types.Model, frozen=True, kw_only=True):
    """One condition, as everywhere in Kubernetes (metav1.Condition)."""

    type: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
            description="What the condition is about, such as `Ready`.",
        ),
    ]
    status: Annotated[
        Literal["True", "False", "Unknown"], msgspec.Meta(description="Whether it holds; Unknown: not told yet.")
    ]
    observed_generation: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=MAX_GENERATION,
                description="The `metadata.generation` that this was found of; lower than the present one: outdated.",
            ),
        ]
        | None
    ) = None
    last_transition_time: Annotated[
        str,
        msgspec.Meta(
            max_length=40, description="When `status` last changed.", extra_json_schema={"format": "date-time"}
        ),
    ]
    reason: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=1024,
            pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            description="Why, in one word for programs.",
        ),
    ]
    message: Annotated[str, msgspec.Meta(max_length=32_768, description="Why, and what to do, for people.")]


_Conditions = Annotated[
    list[Condition],
    msgspec.Meta(
        max_length=MAX_CONDITIONS,
        description="What holds of the object and what does not; `Ready` sums it up.",
        extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]

_ObservedGeneration = Annotated[
    int,
    msgspec.Meta(ge=0, le=MAX_GENERATION, description="The `metadata.generation` that the whole status was found of."),
]


class Status(types.Model, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    observed_generation: _ObservedGeneration | None = None
    conditions: _Conditions | None = None


class ListenerClassStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    install_key_fingerprint: (
        Annotated[
            str,
            msgspec.Meta(
                max_length=128, description="Fingerprint of the install key that the tokens in URLs are derived from."
            ),
        ]
        | None
    ) = None


class TenantStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""


class ServedAddress(types.Model, frozen=True, kw_only=True):
    """One URL that the listener answers at."""

    name: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=types.MAX_NAME_LENGTH, description="Name of the declared address, or `class`."
        ),
    ]
    hostname: Annotated[str, msgspec.Meta(max_length=253, description="Host name of the URL.")] | None = None
    url: Annotated[
        str,
        msgspec.Meta(
            max_length=2048,
            description="The URL, its secret part shortened; the whole one is in the Secret `<listener>-url`.",
        ),
    ]


class ListenerStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    addresses: (
        Annotated[
            list[ServedAddress],
            msgspec.Meta(
                max_length=types.MAX_ADDRESSES,
                description="The URLs that the listener answers at, shortened, with the present token.",
                extra_json_schema=types.LIST_MAP,
            ),
        ]
        | None
    ) = None


class DestinationStatus(Status, frozen=True, kw_only=True):
    """What the operator found; written by it alone."""

    host: (
        Annotated[str, msgspec.Meta(max_length=260, description="Host (and port) of the URL, for `kubectl get`.")]
        | None
    ) = None


STATUSES: dict[str, type[Status]] = {
    "ListenerClass": ListenerClassStatus,
    "Tenant": TenantStatus,
    "Listener": ListenerStatus,
    "Destination": DestinationStatus,
}
"""Kind -> the type of its status."""
