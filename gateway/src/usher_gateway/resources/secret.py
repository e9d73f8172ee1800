"""Secret (core v1): where resources take credentials from."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import metadata, types

_Values = Annotated[dict[types.SecretKey, str], msgspec.Meta(max_length=256)]


class Secret(types.Model, frozen=True, kw_only=True):
    """A core v1 Secret, as far as Usher reads it."""

    kind_name: ClassVar[str] = "Secret"
    namespaced: ClassVar[bool] = True

    api_version: Literal["v1"]
    kind: Literal["Secret"]
    metadata: metadata.Metadata
    type: str = "Opaque"
    data: _Values = msgspec.field(default_factory=dict)
    """Values in base64."""
    string_data: _Values = msgspec.field(default_factory=dict)
    """Plain values; they win over ``data``, as at an API server."""
    immutable: bool = False
