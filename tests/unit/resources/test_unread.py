import re

import pytest
from msgspec import inspect

from usher_gateway import resources
from usher_gateway.resources import types, unread
from usher_gateway.resources.manifests import load_manifests


def _names(kind: inspect.Type, path: str) -> set[str]:
    """The paths of the names in every reference of a type."""
    if isinstance(kind, inspect.Metadata):
        return _names(kind.type, path)
    if isinstance(kind, inspect.UnionType):
        return {name for member in kind.types for name in _names(member, path)}
    if isinstance(kind, inspect.ListType):
        return _names(kind.item_type, f"{path}[]")
    if not isinstance(kind, inspect.StructType):
        return set()
    if re.search(r"Refs?(\[\])?$", path):
        return {f"{path}.name"}
    return {
        name
        for field in kind.fields
        for name in _names(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
    }


@pytest.mark.parametrize("kind", [resources.Listener, resources.Destination])
def test_every_reference_of_a_type_is_known(kind: type[types.ResourceBase]) -> None:
    listed = {path for path, _ in unread._REFERENCES[kind.kind_name]} - {"spec.listenerClassName"}
    assert listed == _names(inspect.type_info(kind), "")


@pytest.mark.parametrize(
    "spec",
    [
        "spec: &s {tenantRef: *s}",
        "spec: {routes: &r [*r, {when: [a], destinationRef: {name: 7}}, a, null], tenantRef: [x]}",
        "spec: {routes: {when: a}, tenantRef: {name: [a]}}",
        "spec: []",
        "spec: {? [a] : b, tenantRef: {name: x}, unknown: 1}",
    ],
)
def test_odd_nodes_are_no_references(spec: str) -> None:
    text = f"apiVersion: usher.dev/v1alpha1\nkind: Listener\nmetadata: {{name: a}}\n{spec}\n"
    (unread_object,) = load_manifests(text.encode(), "a.yaml").unread
    assert [name for _, _, name in unread_object.references] == (["x"] if "unknown" in spec else [])
    assert unread_object.expressions == ()
