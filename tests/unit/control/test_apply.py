"""What is written of children, and what the server's answer to that tells."""

from collections.abc import Callable
from typing import Any

import pytest

from unit.control import test_cache
from usher_operator import children, events, kinds, removals, writer
from usher_operator.cache import Cache, hostname_key, ref_of
from usher_operator.metrics import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import DesiredChild, Key, Plan
from usher_operator.workqueue import Workqueue

KEY = hostname_key("www.example.com")
REF = ref_of(kinds.INGRESS, "usher-system", "usher-www")
READY = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}


def ingress(version: str = "1", **rest: Any) -> dict[str, Any]:
    about = {
        "name": REF.name,
        "namespace": REF.namespace,
        "uid": "u",
        "resourceVersion": version,
        "labels": children.labels("usher.dev/usher"),
        "annotations": children.annotations(KEY),
    }
    return {"apiVersion": REF.api_version, "kind": REF.kind, "metadata": about, "spec": {}, **rest}


class Server:
    """Answers a write with the object as it is by then."""

    def __init__(self, answer: dict[str, Any], meanwhile: Callable[[], object] = lambda: None) -> None:
        self._answer, self._meanwhile = answer, meanwhile

    async def get(self, _path: str, *, missing_ok: bool) -> None:
        assert missing_ok

    async def apply(self, _path: str, _manifest: dict[str, Any]) -> dict[str, Any]:
        self._meanwhile()
        return self._answer


@pytest.mark.parametrize("known", [None, {}, READY])
@pytest.mark.parametrize("answered", [{}, READY])
async def test_a_status_that_an_answer_tells_of_is_planned(
    known: dict[str, Any] | None, answered: dict[str, Any]
) -> None:
    cache = Cache(OperatorSettings())
    if known is not None:
        cache.put(kinds.INGRESS, ingress(status=known))
    queue: Workqueue[Key] = Workqueue(lambda: 0.0, lambda: 0.5)
    server: Any = Server(ingress("2", status=answered))
    told = (OperatorMetrics(), events.EventLogger(lambda: 0.0))
    children = writer.ChildWriter(server, cache, queue, removals.PendingRemovals(0.0, 0.0), told)
    await children.apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert (KEY in set(iter(queue.take, None))) is (answered != (known or {}))


async def test_a_document_is_told_of_as_new_also_where_its_watch_was_faster() -> None:
    cache = Cache(OperatorSettings())
    raw = test_cache.config()
    ref = ref_of(kinds.SECRET, raw["metadata"]["namespace"], raw["metadata"]["name"])
    told: list[bool] = []
    chronicle_: Any = events.EventLogger(lambda: 0.0)
    chronicle_.published = lambda _key, *, is_new: told.append(is_new)
    queue: Workqueue[Key] = Workqueue(lambda: 0.0, lambda: 0.5)
    server: Any = Server(raw, lambda: cache.put(kinds.SECRET, raw))
    written = writer.ChildWriter(
        server, cache, queue, removals.PendingRemovals(0.0, 0.0), (OperatorMetrics(), chronicle_)
    )
    manifest = {"apiVersion": "v1", "kind": "Secret", **raw}
    await written.apply(Plan(test_cache.LOBBY, (DesiredChild(ref, manifest, "new"),)))
    assert told == [True]
