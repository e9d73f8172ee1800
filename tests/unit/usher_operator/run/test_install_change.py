"""Another configuration namespace or controllerName: documents move along, and what is lost is named."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog

from support import plan_samples, planning
from support.planning import Cluster
from usher_gateway.kube.client import ApiError, ListPage
from usher_operator.run import install_change
from usher_operator.run.leader import SavedInstall
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key

PREVIOUS = SavedInstall("usher.dev/usher", "usher-config")


class Server:
    """The Secrets of the previous configuration namespace; accepts those of the present one."""

    def __init__(self, secrets: list[dict[str, Any]], refusal: int = 0) -> None:
        self.secrets, self.refusal = secrets, refusal
        self.written: list[str] = []

    async def pages(self, path: str, _type: object, *, selector: str) -> AsyncGenerator[ListPage[dict[str, Any]], None]:
        assert (path, selector) == ("/api/v1/namespaces/usher-config/secrets", kinds.SECRET.selector)
        if self.refusal:
            raise ApiError(self.refusal, "Refused", f"list {path}")
        yield ListPage(self.secrets, "1")

    async def apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.written.append(path)
        assert "uid" not in body["metadata"]
        return {**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "2"}}


def moved(cluster: Cluster, namespace: str = "new-config") -> tuple[Cache, list[dict[str, Any]]]:
    """The cluster as an operator with another configuration namespace reads it, and its former config Secrets."""
    cache = Cache(OperatorSettings(configuration_namespace=namespace))
    cache.keys = planning.KEYS
    cache.set_secret_access("", "Permitted")
    secrets = []
    for ref, raw in cluster.objects.items():
        kind = cluster.cache.kind_of(ref)
        if kind is kinds.SECRET:
            secrets.append(raw)
        else:
            cache.put(kind, raw)
    return cache, secrets


async def change(server: Server, cache: Cache, previous: SavedInstall = PREVIOUS) -> tuple[bool, list[str]]:
    """Apply a change; returns whether it is complete, and what the log names."""
    with structlog.testing.capture_logs() as logs:
        is_complete = await install_change.apply_change(server, cache, previous)  # type: ignore[arg-type]
    return is_complete, [str(line.get("document", line["event"])) for line in logs]


async def test_documents_of_the_previous_namespace_are_taken_over(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    cluster.settle()
    document = cluster.cache.published(Key("Listener", "default", "lobby"))
    assert document is not None
    cache, secrets = moved(cluster)
    server = Server(secrets)
    assert await change(server, cache) == (True, ["documents_copied"])
    assert len(server.written) == 2
    taken = cache.published(Key("Listener", "default", "lobby"))
    assert taken is not None
    assert taken.document == document.document, "with its retired address"


async def test_document_that_is_present_is_not_copied(cluster: Cluster) -> None:
    cache, secrets = moved(cluster, "usher-config")
    for raw in secrets:
        cache.put(kinds.SECRET, raw)
    server = Server(secrets)
    assert await change(server, cache) == (True, [])
    assert server.written == []


@pytest.mark.parametrize("refusal", [403, 404, 0])
async def test_each_document_that_is_nowhere_is_named(cluster: Cluster, refusal: int) -> None:
    cluster.add(plan_samples.listener("never", namespace="default", tenant="absent"))
    cluster.settle()
    cache, _ = moved(cluster)
    is_complete, named = await change(Server([], refusal), cache)
    assert is_complete is not bool(refusal)
    assert named[1:] == ["default/crm", "default/lobby"]


async def test_lost_documents_are_named_without_a_change(cluster: Cluster) -> None:
    cache, _ = moved(cluster, "usher-config")
    assert await change(Server([]), cache) == (True, ["default/crm", "default/lobby"])


async def test_operator_that_serves_no_class_says_so_and_loses_no_document(cluster: Cluster) -> None:
    other = cluster.restarted(controller_name="example.com/other")
    is_complete, named = await change(Server([]), other.cache, SavedInstall("usher.dev/usher", "usher-config"))
    assert (is_complete, named) == (True, ["controller_name_changed", "no_class_served"])
    other.settle()
    assert other.condition("ListenerClass", "public", "Ready").reason == "NotServed"
    back = other.restarted()
    back.settle()
    assert back.condition("ListenerClass", "public", "Ready").status == "True"
    again = back.restarted(controller_name="example.com/other")
    assert again.plan(Key("ListenerClass", "", "public")).status is None, "another operator may serve it"
