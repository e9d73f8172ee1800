"""Complete lists, and the check that compares the cache with the API server and finds what the watches missed."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest

from usher_gateway.kube.client import ApiError, ListPage
from usher_operator.run.health import Health, OperatorMetrics
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.watch import resync


def tenant(name: str, *, version: str = "5", uid: str = "uid") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "agency", "uid": f"{uid}-{name}", "resourceVersion": version}
    return {"apiVersion": "usher.dev/v1alpha1", "kind": "Tenant", "metadata": metadata, "spec": {}}


class Server:
    """Stands in for the client: lists the prepared objects."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.error: ApiError | None = None
        self.version = "100"
        self.on_list: Callable[[], object] = lambda: None  # Called while a list runs
        self.full_lists: list[str] = []

    async def pages(
        self, path: str, item_type: Any, *, selector: str, is_metadata_only: bool = False
    ) -> AsyncGenerator[ListPage[Any], None]:
        assert selector in {kind.selector for kind in kinds.ALL}
        if not is_metadata_only:
            self.full_lists.append(path)
        if self.error is not None:
            raise self.error
        self.on_list()
        yield ListPage(msgspec.convert(self.objects.get(path, []), list[item_type]), self.version)


class Checked:
    """A cache, the API server, and the check between them."""

    def __init__(self) -> None:
        self.server = Server()
        self.gate = PauseGate()
        self.restarted = asyncio.Event()  # Set when kopf's watches are to start again
        self.cache = Cache(OperatorSettings(), expect_event=lambda _: None)
        self.resync = resync.Resync(
            client=self.server,  # type: ignore[arg-type]
            cache=self.cache,
            queue=Workqueue(
                clock=lambda: 0.0, random=lambda: 0.5, observe_wait=lambda _: None, count_retry=lambda: None
            ),
            gate=self.gate,
            health=Health(OperatorSettings(), gate=PauseGate(), clock=lambda: 0.0),
            metrics=OperatorMetrics(),
            read_kinds=dict.fromkeys(kinds.ALL, ""),
            after_all=lambda: None,
            after_restore=self.restarted.set,
            on_missed_changes=lambda: None,
        )

    async def is_read_again(self, kind: kinds.WatchedKind = kinds.TENANT) -> bool:
        """Return whether the check of a kind requests a complete reading."""
        await self.resync.check(kind)
        return kind in self.resync.requested


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Checked:
    monkeypatch.setattr(resync, "_GRACE_SECONDS", 0.0)
    populated = Checked()
    populated.cache.put(kinds.TENANT, tenant("acme"))
    populated.server.objects[kinds.TENANT.collection()] = [tenant("acme")]
    return populated


async def test_equal_versions_request_no_reading(checked: Checked) -> None:
    assert not await checked.is_read_again()


async def test_deleted_object_requests_a_reading(checked: Checked) -> None:
    checked.server.objects[kinds.TENANT.collection()] = []
    assert await checked.is_read_again()


@pytest.mark.parametrize(
    "listed", [tenant("acme", version="6"), tenant("acme", version="6", uid="other"), tenant("new", version="6")]
)
async def test_missed_change_requests_a_reading(checked: Checked, listed: dict[str, Any]) -> None:
    checked.server.objects[kinds.TENANT.collection()] = [tenant("acme"), listed][-1:]
    checked.cache.put(kinds.TENANT, tenant("acme"))
    assert await checked.is_read_again()


async def test_events_during_the_list_request_no_reading(checked: Checked) -> None:
    def receive_events() -> None:
        checked.cache.put(kinds.TENANT, tenant("acme", version="101"))
        checked.cache.put(kinds.TENANT, tenant("new", version="102"))

    checked.server.on_list = receive_events
    assert not await checked.is_read_again()


async def test_later_versions_than_the_restored_ones_request_a_reading(checked: Checked) -> None:
    checked.cache.put(kinds.TENANT, tenant("acme", version="101"))
    assert await checked.is_read_again()


async def test_list_replaces_later_versions_and_removes_what_it_lacks(checked: Checked) -> None:
    checked.cache.put(kinds.TENANT, tenant("acme", version="101"))
    checked.cache.put(kinds.TENANT, tenant("new", version="102"))
    await checked.resync.read(kinds.TENANT)
    assert checked.cache.versions(kinds.TENANT).keys() == {("agency", "acme")}
    assert checked.cache.version_of(kinds.TENANT, "agency", "acme") == ("uid-acme", "5")


async def test_reading_lets_other_tasks_run_between_the_objects_of_a_page(checked: Checked) -> None:
    checked.server.objects[kinds.TENANT.collection()] = [tenant(f"t{number}") for number in range(2_000)]
    sizes: set[int] = set()

    async def note_sizes() -> None:
        while True:
            sizes.add(len(checked.cache.records))
            await asyncio.sleep(0)

    other = asyncio.create_task(note_sizes())
    await checked.resync.read(kinds.TENANT, is_start=True)
    other.cancel()
    assert len(sizes) > 5


async def test_list_keeps_what_changed_while_it_ran(checked: Checked) -> None:
    def receive_events() -> None:
        checked.cache.put(kinds.TENANT, tenant("acme", version="101"))
        checked.cache.put(kinds.TENANT, tenant("new", version="102"))

    checked.server.on_list = receive_events
    await checked.resync.read(kinds.TENANT)
    assert checked.cache.versions(kinds.TENANT).keys() == {("agency", "acme"), ("agency", "new")}
    assert checked.cache.version_of(kinds.TENANT, "agency", "acme") == ("uid-acme", "101")


async def test_list_brings_back_no_object_that_was_deleted_while_it_ran(checked: Checked) -> None:
    checked.server.on_list = lambda: checked.cache.remove(kinds.TENANT, "agency", "acme")
    await checked.resync.read(kinds.TENANT)
    assert checked.cache.versions(kinds.TENANT) == {}


async def test_list_keeps_an_object_that_was_created_again_while_it_ran(checked: Checked) -> None:
    def receive_events() -> None:
        checked.cache.remove(kinds.TENANT, "agency", "acme")
        checked.cache.put(kinds.TENANT, tenant("acme", version="101", uid="other"))

    checked.server.on_list = receive_events
    await checked.resync.read(kinds.TENANT)
    assert checked.cache.version_of(kinds.TENANT, "agency", "acme") == ("other-acme", "101")


async def test_older_list_than_before_makes_everything_read_again(checked: Checked) -> None:
    await checked.resync.check(kinds.TENANT)
    checked.server.version = "90"
    await checked.resync.check(kinds.TENANT)
    assert any("versions went backwards" in reason for reason in checked.gate.reasons.values())
    running = asyncio.create_task(checked.resync.run(600.0))
    async with asyncio.timeout(10):
        await checked.restarted.wait()
    running.cancel()
    assert set(checked.server.full_lists) == {kind.collection() for kind in kinds.ALL}
    assert not checked.gate.reasons


async def test_version_that_a_watch_showed_during_a_list_is_no_restore(checked: Checked) -> None:
    checked.server.on_list = lambda: checked.resync.saw_version(kinds.TENANT, "101")
    await checked.resync.check(kinds.TENANT)
    checked.server.version = "101"
    await checked.resync.check(kinds.TENANT)
    assert not checked.gate.reasons


async def test_child_of_another_install_requests_no_reading(checked: Checked) -> None:
    labels = {"usher.dev/managed": "true", "usher.dev/install": "another"}
    foreign = {"metadata": {"name": "edge", "namespace": "web", "uid": "u", "resourceVersion": "7", "labels": labels}}
    checked.server.objects[kinds.INGRESS.collection()] = [foreign]
    await checked.resync.read(kinds.INGRESS)
    assert not await checked.is_read_again(kinds.INGRESS)


async def test_event_that_arrives_meanwhile_requests_no_reading(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive_event(_: float) -> None:
        checked.cache.put(kinds.TENANT, tenant("acme", version="6"))

    checked.server.objects[kinds.TENANT.collection()] = [tenant("acme", version="6")]
    monkeypatch.setattr("asyncio.sleep", receive_event)
    assert not await checked.is_read_again()


async def test_failed_list_requests_no_reading(checked: Checked) -> None:
    checked.server.error = ApiError(403, "Forbidden", "list")
    assert not await checked.is_read_again()


@pytest.mark.parametrize("kind", [kinds.NAMESPACE, kinds.ISSUER, kinds.INGRESS_CLASS, kinds.CLUSTER_ISSUER])
async def test_every_kind_is_compared_by_version(checked: Checked, kind: kinds.WatchedKind) -> None:
    original, edited = tenant("one"), tenant("one", version="6")
    if not kind.namespaced:
        del original["metadata"]["namespace"], edited["metadata"]["namespace"]
    checked.cache.set_served(kind, served=True)
    checked.cache.put(kind, original)
    checked.server.objects[kind.collection()] = [original]
    assert not await checked.is_read_again(kind)
    checked.server.objects[kind.collection()] = [edited]
    assert await checked.is_read_again(kind)


async def test_kind_that_was_absent_for_a_moment_is_read_again(checked: Checked) -> None:
    checked.server.error = ApiError(404, "NotFound", "list")
    await checked.resync.read(kinds.CERTIFICATE)
    assert checked.resync.is_absent(kinds.CERTIFICATE)
    checked.server.error = None
    assert await checked.is_read_again(kinds.CERTIFICATE)
    await checked.resync.read(kinds.CERTIFICATE)
    assert not checked.resync.is_absent(kinds.CERTIFICATE)


async def test_check_lists_metadata_only(checked: Checked) -> None:
    await checked.is_read_again()
    assert checked.server.full_lists == []
