"""`usher check` and a real API server accept and refuse the same documents, and read the same values."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest

from definitions import definition
from support import api, dry_run, manifests, mutants
from usher_gateway import resources
from usher_gateway.resources.manifests import load_manifests

AT_ONCE = 8  # Number of concurrent requests


def collection(document: manifests.Document, namespace: str) -> api.Resource:
    return api.Resource(document.kind, "", "" if document.kind == "ListenerClass" else namespace)


def moved(text: str, namespace: str) -> str:
    for name in ("agency", "elsewhere"):
        text = text.replace(f"namespace: {name}", f"namespace: {namespace}")
    return text


def is_part(field: str, other: str) -> bool:
    """Return whether a field equals or contains the other one."""
    return other == field or other.startswith((f"{field}.", f"{field}["))


ASKED = [document for document in manifests.documents("bad/schema") if document.server != "not asked"]


@pytest.mark.parametrize("document", ASKED, ids=str)
async def test_server_refuses_the_same_fields_as_files(
    judge: dry_run.Server, namespace: str, document: manifests.Document
) -> None:
    answer = await judge.create(collection(document, namespace), moved(document.text, namespace))
    wrong = [problem.field for problem in document.expected]
    if not wrong or document.server == "accepts":
        assert answer.is_accepted, answer.message
        return
    assert not answer.is_accepted
    assert [name for name in answer.fields if not any(is_part(name, field) for field in wrong)] == []
    if not answer.fields:  # the text could not be read: a field that stands twice, or that there is not
        assert answer.status == 400
        unknown = [problem.field for problem in document.expected if problem.message == "unknown field"]
        assert [field for field in unknown if field not in answer.message] == []


@pytest.mark.parametrize("document", manifests.documents("bad/compile"), ids=str)
async def test_document_with_a_condition_error_has_a_valid_form(
    judge: dry_run.Server, namespace: str, document: manifests.Document
) -> None:
    answer = await judge.create(collection(document, namespace), moved(document.text, namespace))
    assert answer.is_accepted == (document.server != "refuses"), answer.message


@pytest.mark.parametrize("path", manifests.files("good"), ids=lambda path: path.stem)
async def test_server_reads_the_same_values_from_a_good_manifest(
    judge: dry_run.Server, namespace: str, path: Path
) -> None:
    """The server adds no default, drops nothing, and has the same values as files."""
    text = moved(manifests.text(path), namespace)
    loaded = load_manifests(text.encode(), path.name)
    assert not [problem for problem in loaded.problems if problem.severity == "error"]
    for loaded_object in loaded.objects:
        manifest = written_fields(loaded_object.resource, "", loaded_object.lines)
        manifest["metadata"].pop("namespace", None)
        place = api.Resource(
            loaded_object.resource.kind_name, "", namespace if loaded_object.resource.namespaced else ""
        )
        answer = await judge.create(place, json.dumps(manifest, ensure_ascii=False))
        assert answer.is_accepted, answer.message
        assert answer.body.get("spec") == manifest.get("spec")


def written_fields(value: Any, path: str, lines: dict[str, int]) -> Any:
    """Return a resource as JSON values, with the fields that its file has. ``lines``: of the fields in the file."""
    if isinstance(value, list):
        return [written_fields(item, f"{path}[{index}]", lines) for index, item in enumerate(value)]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = [(field, f"{path}.{field.encode_name}".lstrip(".")) for field in msgspec.structs.fields(value)]
    return {
        field.encode_name: written_fields(getattr(value, field.name), place, lines)
        for field, place in fields
        if place in lines
    }


def samples() -> list[tuple[resources.Resource, list[mutants.Mutant]]]:
    """Return valid custom resources with every field and branch, and their mutants."""
    loaded = [load_manifests(path.read_bytes(), path.name) for path in manifests.files("good")]
    pairs: list[tuple[resources.Resource, list[mutants.Mutant]]] = []
    known_shapes: set[str] = set()
    for loaded_object in (loaded_object for each in loaded for loaded_object in each.objects):
        resource = loaded_object.resource
        if not isinstance(resource, resources.Secret):
            good = {"spec": {}} | written_fields(resource, "", loaded_object.lines) | {"metadata": {"name": "a"}}
            pairs.append(
                (resource, list(mutants.mutants(good, definition.object_schema(type(resource)), known_shapes)))
            )
    return pairs


@pytest.mark.parametrize(
    ("resource", "changes"),
    samples(),
    ids=lambda parameter: parameter.kind_name if isinstance(parameter, resources.Resource) else "",
)
async def test_files_and_server_agree_on_every_change_of_a_good_resource(
    judge: dry_run.Server, namespace: str, resource: resources.Resource, changes: list[mutants.Mutant]
) -> None:
    place = api.Resource(resource.kind_name, "", namespace if resource.namespaced else "")
    limit = asyncio.Semaphore(AT_ONCE)

    async def differs(what: str, changed: dict[str, Any]) -> str:
        text = json.dumps(changed, ensure_ascii=False).encode()
        async with limit:
            answer = await judge.create(place, text)
        told = [f"{problem.path} {problem.message}" for problem in load_manifests(text, "f").problems]
        if answer.is_accepted == (not told):
            return ""
        return f"{what}: the server says {answer.message or 'yes'}, files say {told or 'yes'}"

    assert changes
    differences = await asyncio.gather(*(differs(what, changed) for what, changed in changes))
    assert [difference for difference in differences if difference] == []


@pytest.mark.parametrize("path", manifests.files("updates"), ids=lambda path: path.stem)
async def test_immutable_field_cannot_be_changed(
    judge: dry_run.Server, server: api.Api, namespace: str, path: Path
) -> None:
    applied = set()
    try:
        for document in manifests.of(path):
            place = api.Resource(document.kind, document.name, collection(document, namespace).namespace)
            applied.add(place)
            answer = await judge.apply(place, document.text, keep=True)
            assert answer.fields == [problem.field for problem in document.expected], (str(document), answer.message)
            assert answer.is_accepted == (not document.expected), (str(document), answer.message)
            assert all(problem.message in answer.message for problem in document.expected), (
                str(document),
                answer.message,
            )
    finally:
        for place in applied:
            await server.delete(place)


async def test_too_large_class_is_refused_by_files_and_server(judge: dry_run.Server, server: api.Api) -> None:
    """Each field is within its limit, but etcd rejects the whole object."""
    name = f"corpus-{secrets.token_hex(4)}"
    for count, is_accepted in ((80, True), (256, False)):
        text = json.dumps(large_class(name, count))
        assert (not load_manifests(text.encode(), "f").problems) == is_accepted
        try:
            answer = await judge.create(api.Resource("ListenerClass"), text, keep=True)
        finally:
            await server.delete(api.Resource("ListenerClass", name))
        assert answer.is_accepted == is_accepted, answer.message


def large_class(name: str, count: int) -> dict[str, Any]:
    """Build a class with a number of hostnames, each with the largest selector."""
    requirement = {"key": f"{'a.' * 126}a/{'k' * 63}", "operator": "In", "values": ["v" * 63] * 16}
    namespaces = {"from": "Selector", "selector": {"matchExpressions": [requirement] * 8}}
    allowed = [{"hostname": f"h{index}.example", "namespaces": namespaces} for index in range(count)]
    spec = {"controllerName": "corpus.example/none", "hostname": "large.example", "allowedHostnames": allowed}
    return {"apiVersion": "usher.dev/v1alpha1", "kind": "ListenerClass", "metadata": {"name": name}, "spec": spec}
