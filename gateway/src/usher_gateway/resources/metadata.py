"""What every object carries about itself."""

from typing import Annotated

import msgspec

from usher_gateway.resources import types

DEFAULT_NAMESPACE = "default"
"""Where an object without ``metadata.namespace`` lives, as with kubectl."""

WATCH_LABEL = "usher.dev/watch"
"""A Secret is read in a cluster only if this label is ``"true"``."""

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""The label of every namespace that holds its name. Source: Kubernetes, well-known labels."""

CONFIRM_REMOVALS = "usher.dev/confirm-removals"
"""Annotation on a ListenerClass that lets one particular large removal through."""


class Metadata(types.Model, frozen=True, kw_only=True):
    """Name, namespace, labels and annotations; what else an API server keeps there is ignored."""

    name: types.ObjectName
    namespace: types.NamespaceName = DEFAULT_NAMESPACE
    labels: dict[types.LabelKey, types.LabelValue] = msgspec.field(default_factory=dict)
    annotations: dict[types.AnnotationKey, str] = msgspec.field(default_factory=dict)
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0


class NamedMetadata(Metadata, frozen=True, kw_only=True):
    """Metadata of a custom resource: names leave room for the names of children."""

    name: types.ResourceName
