"""The child writer sends only differences, and queues the keys that an answer concerns."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from support import cache_samples, planning
from usher_gateway import config_secret
from usher_gateway.resources.removal_limit import HaltedRemovals, Removal
from usher_operator import children, kinds, writer
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.removals import RemovalGuard
from usher_operator.settings import OperatorSettings, OperatorTiming
from usher_operator.view import DesiredChild, GatewayReport, Key, ObjectRef, Plan, hostname_key
from usher_operator.workqueue import Workqueue

KEY = hostname_key("www.example.com")
REF = kinds.ref_of(kinds.INGRESS, "usher-system", "usher-www")
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
    """Answers a write with the present object."""

    def __init__(self, answer: dict[str, Any], meanwhile: Callable[[], object] = lambda: None) -> None:
        self._answer, self._meanwhile = answer, meanwhile

    async def get(self, _path: str, *, missing_ok: bool) -> None:
        assert missing_ok

    async def apply(self, _path: str, _manifest: dict[str, Any]) -> dict[str, Any]:
        self._meanwhile()
        return self._answer


def new_queue() -> Workqueue[Key]:
    return Workqueue(clock=lambda: 0.0, random=lambda: 0.5)


def child_writer(
    server: Any,
    cache: Cache,
    queue: Workqueue[Key] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    on_applied: Callable[[Key], None] = lambda _: None,
) -> writer.ChildWriter:
    return writer.ChildWriter(
        api=server,
        cache=cache,
        queue=queue if queue is not None else new_queue(),
        metrics=OperatorMetrics(),
        clock=clock,
        on_applied=on_applied,
    )


@pytest.mark.parametrize("stored", [None, {}, READY])
@pytest.mark.parametrize("answered", [{}, READY])
async def test_child_status_in_an_answer_queues_the_key(
    stored: dict[str, Any] | None, answered: dict[str, Any]
) -> None:
    cache = Cache(OperatorSettings())
    if stored is not None:
        cache.put(kinds.INGRESS, ingress(status=stored))
    queue = new_queue()
    server: Any = Server(ingress("2", status=answered))
    await child_writer(server, cache, queue).apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert (KEY in set(iter(queue.take, None))) is (answered != (stored or {}))


async def test_answer_does_not_replace_a_later_state_that_the_watch_reported() -> None:
    cache = Cache(OperatorSettings())
    server: Any = Server(ingress("2"), lambda: cache.put(kinds.INGRESS, ingress("3", status=READY)))
    await child_writer(server, cache).apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert cache.version_of(kinds.INGRESS, REF.namespace, REF.name) == ("u", "3")
    assert cache.child_index.by_ref[REF].state.status == READY


async def test_answer_does_not_bring_back_a_child_that_was_deleted_meanwhile() -> None:
    cache = Cache(OperatorSettings())

    def create_and_delete() -> None:
        cache.put(kinds.INGRESS, ingress("2"))
        cache.remove(kinds.INGRESS, REF.namespace, REF.name)

    writes = child_writer(Server(ingress("2"), create_and_delete), cache)
    await writes.apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert cache.child_index.of(KEY) == ()
    await child_writer(Server({**ingress("4"), "metadata": {**ingress("4")["metadata"], "uid": "new"}}), cache).apply(
        Plan(KEY, (DesiredChild(REF, ingress(), "new"),))
    )
    assert [child.uid for child in cache.child_index.of(KEY)] == ["new"]


async def test_document_is_logged_as_new_even_if_its_watch_was_faster() -> None:
    cache = Cache(OperatorSettings())
    raw = cache_samples.config()
    ref = kinds.ref_of(kinds.SECRET, raw["metadata"]["namespace"], raw["metadata"]["name"])
    server: Any = Server(raw, lambda: cache.put(kinds.SECRET, raw))
    manifest = {"apiVersion": "v1", "kind": "Secret", **raw}
    with structlog.testing.capture_logs() as logs:
        await child_writer(server, cache).apply(Plan(cache_samples.LOBBY, (DesiredChild(ref, manifest, "new"),)))
    assert [line["change"] for line in logs if line["event"] == "document_published"] == ["new"]


@pytest.mark.parametrize("stored", [[], [cache_samples.config()]])
async def test_plan_without_children_counts_if_a_document_is_there(stored: list[dict[str, Any]]) -> None:
    cache, applied = Cache(OperatorSettings()), list[Key]()
    cache.keys = planning.KEYS
    for raw in stored:
        cache.put(kinds.SECRET, raw)
    writes = child_writer(Server({}), cache, on_applied=applied.append)
    await writes.apply(Plan(cache_samples.LOBBY, None))
    assert len(applied) == len(stored)


class ReadingServer:
    """Stores one object that the cache may not have yet, and accepts no write."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw

    async def get(self, _path: str, *, missing_ok: bool) -> dict[str, Any]:
        assert missing_ok
        return self._raw

    async def apply(self, path: str, _manifest: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"wrote {path}")


@pytest.mark.parametrize("is_in_cache", [True, False])
async def test_object_of_another_hostname_is_never_written(is_in_cache: bool) -> None:
    theirs = ingress()
    theirs["metadata"]["annotations"] = children.annotations(hostname_key("other.example.com"))
    theirs["metadata"]["managedFields"] = [{"manager": kinds.FIELD_MANAGER}]
    cache = Cache(OperatorSettings())
    if is_in_cache:
        cache.put(kinds.INGRESS, theirs)
    writes = child_writer(ReadingServer(theirs), cache)
    failures = await writes.apply(Plan(KEY, (DesiredChild(REF, ingress(), "new"),)))
    assert [failure.reason for failure in failures] == [writer.NAME_TAKEN]


class FoughtServer:
    """Another program changes an object as soon as it is written."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.version, self.writes = cache, 0, 0

    async def get(self, _path: str, *, missing_ok: bool) -> dict[str, Any]:
        assert missing_ok
        entries = [
            {"manager": "usher-operator-usher.dev_usher", "time": "2026-11-25T12:00:02Z"},
            {"manager": "gardener", "time": "2026-11-25T12:00:01Z"},
            {"manager": "kubectl", "time": "2026-11-25T11:00:00Z"},
        ]
        return {"metadata": {"managedFields": entries}}

    async def apply(self, _path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.writes += 1
        return self._stored(manifest["spec"])

    def change(self) -> None:
        self.cache.put(kinds.INGRESS, self._stored({"rules": []}))

    def _stored(self, spec: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        return ingress(str(self.version), spec=spec)


async def test_child_that_is_changed_again_and_again_is_written_less_often() -> None:
    cache, queue = Cache(OperatorSettings()), new_queue()
    server, now = FoughtServer(cache), 0.0
    writes = child_writer(server, cache, queue, clock=lambda: now)
    child = DesiredChild(REF, ingress(spec={"rules": [{}]}), "wanted")
    child.manifest["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION] = "wanted"
    plan, times = Plan(KEY, (child,)), []
    for second in range(32):
        now = float(second)
        for _ in range(100):
            count = server.writes
            assert await writes.apply(plan) == []
            if server.writes > count:
                times.append(second)
                server.change()
    assert times == [0, 0, 1, 3, 7, 15, 31]
    assert writes.conflict_of(plan) == "Ingress `usher-www` is changed by the field manager `gardener`"
    edited = ingress(spec={"rules": [{}, {}]})
    edited["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION] = "edited"
    await writes.apply(Plan(KEY, (DesiredChild(REF, edited, "edited"),)))
    assert server.writes == len(times) + 1, "an edit does not wait"


class CertificateServer:
    """Stores one Certificate."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw: dict[str, Any] | None = raw

    async def get(self, _path: str, *, missing_ok: bool) -> dict[str, Any] | None:
        assert missing_ok
        return self.raw

    async def apply(self, _path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.raw = {**manifest, "metadata": {**manifest["metadata"], "uid": "u", "resourceVersion": "9"}}
        return self.raw

    async def delete(self, _path: str, _uid: str) -> None:
        self.raw = None


async def give_up(raw: dict[str, Any]) -> tuple[dict[str, Any] | None, Cache]:
    """Remove the Certificate of a hostname that is not wanted any more; returns what is left of it."""
    cache, server = Cache(OperatorSettings()), CertificateServer(raw)
    cache.put(kinds.CERTIFICATE, raw)
    queue = new_queue()
    await child_remover(server, cache, queue, removal_guard(cache, queue)).remove(Plan(KEY, ()))
    return server.raw, cache


async def test_plan_is_made_again_once_an_unwanted_child_is_deleted() -> None:
    cache, raw = Cache(OperatorSettings()), cache_samples.certificate(KEY.name, counts_for="")
    cache.put(kinds.CERTIFICATE, raw)
    queue = new_queue()
    guard = removal_guard(cache, queue)
    await child_remover(CertificateServer(raw), cache, queue, guard).remove(Plan(KEY, ()))
    assert queue.take() == KEY


async def test_plan_is_made_again_once_a_tombstone_is_written() -> None:
    cache, queue = published(), new_queue()
    cache.put(kinds.SECRET, cache_samples.config(listener="bar"))  # the last listener of an install would stay
    guard = removal_guard(cache, queue)
    remover = child_remover(SecretServer(), cache, queue, guard)
    await remover.remove(NOTHING_WANTED)
    guard.decide_due()
    assert queue.take() == cache_samples.LOBBY
    queue.done(cache_samples.LOBBY)
    await remover.remove(NOTHING_WANTED)
    assert queue.take() == cache_samples.LOBBY


@pytest.mark.parametrize(
    ("removed_at", "stays"),
    [
        ("2026-11-25T11:50:01Z", True),
        ("2026-11-25T11:50:00Z", False),
        ("2026-11-26T00:00:00Z", True),
        ("nonsense", False),
    ],
)
async def test_tombstone_is_deleted_ten_minutes_after_its_time(removed_at: str, stays: bool) -> None:
    present = round(datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC).timestamp()) * 1_000_000
    cache, queue = Cache(OperatorSettings(), confirmed_clock=lambda: present), new_queue()
    cache.keys = planning.KEYS
    owner = config_secret.Owner("agency", "lobby", "1", config_secret.install_label("usher.dev/usher"))
    envelope = config_secret.tombstone_of("Listener", owner, 1, removed_at, planning.KEYS.document)
    ref = ObjectRef("v1", "Secret", "usher-config", config_secret.secret_name("Listener", "agency/lobby"))
    manifest = children.build_config_secret(envelope, cache.settings, ref.name).manifest
    cache.put(kinds.SECRET, {**manifest, "metadata": {**manifest["metadata"], "uid": "u", "resourceVersion": "1"}})
    server = CertificateServer(manifest)
    await child_remover(server, cache, queue, removal_guard(cache, queue)).remove(NOTHING_WANTED)
    assert (server.raw is not None) is stays


async def test_certificate_that_counts_is_marked_as_unused_and_stays() -> None:
    raw = cache_samples.certificate(KEY.name)
    certificate, cache = await give_up(raw)
    assert certificate is not None
    assert certificate["spec"] == raw["spec"]
    assert certificate["metadata"]["annotations"][children.UNUSED_SINCE_ANNOTATION].endswith("Z")
    (child,) = cache.child_index.of(KEY)
    assert (child.counts_for, child.unused_since != "") == ("agency", True)
    desired_hash = raw["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION]
    assert child.state.desired != desired_hash, "it is written again once its hostname returns"


@pytest.mark.parametrize(("days", "stays"), [(6.9, True), (7.1, False)])
async def test_unused_certificate_is_deleted_after_seven_days(days: float, stays: bool) -> None:
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    raw = cache_samples.certificate(KEY.name, since=since.isoformat())
    certificate, cache = await give_up(raw)
    assert certificate == (raw if stays else None)
    assert bool(cache.child_index.of(KEY)) is stays


async def test_certificate_that_does_not_count_is_deleted_at_once() -> None:
    certificate, _ = await give_up(cache_samples.certificate(KEY.name, counts_for=""))
    assert certificate is None


class SecretServer:
    """Stores config Secrets."""

    def __init__(self, *present: str) -> None:
        self.written: dict[str, config_secret.Envelope] = {}
        self._present = present

    async def get(self, path: str, *, missing_ok: bool) -> dict[str, Any] | None:
        assert missing_ok
        return {} if path.rpartition("/")[2] in self._present else None

    async def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.written[path.rpartition("/")[2]] = config_secret.decode_data(manifest["data"], planning.KEYS.document)
        about = {**manifest["metadata"], "uid": "new", "resourceVersion": "9"}
        return {**manifest, "metadata": about}


NAME = config_secret.secret_name("Listener", "agency/lobby")
NOTHING_WANTED = Plan(cache_samples.LOBBY, ())


def removal_guard(cache: Cache, queue: Workqueue[Key]) -> RemovalGuard:
    """A guard that decides about a request at once."""
    return RemovalGuard(
        cache=cache,
        queue=queue,
        metrics=OperatorMetrics(),
        may_decide=lambda: True,
        warn=lambda *_: None,
        timing=OperatorTiming(removal_settle_seconds=0.0),
        clock=lambda: 0.0,
    )


def child_remover(server: Any, cache: Cache, queue: Workqueue[Key], guard: RemovalGuard) -> writer.ChildRemover:
    return writer.ChildRemover(
        api=server,
        cache=cache,
        queue=queue,
        writer=child_writer(server, cache, queue),
        removal_guard=guard,
        tombstone_seconds=600,
    )


def published(**meta: Any) -> Cache:
    """A cache with the document of a listener."""
    cache = Cache(OperatorSettings())
    cache.keys = planning.KEYS
    cache.put(kinds.SECRET, cache_samples.config(**meta))
    return cache


async def remove_stale(server: Any, cache: Cache, plan: Plan) -> RemovalGuard:
    """A gateway reports that it runs the document of a Listener without a Secret; the guard allows the removal."""
    cache.keys = planning.KEYS
    cache.put(kinds.SECRET, cache_samples.config(listener="bar"))  # the last listener of an install would stay
    cache.set_gateways((GatewayReport(name="one", stale={cache_samples.LOBBY: "uid-lobby"}),))
    queue: Workqueue[Key] = Workqueue(clock=lambda: 0.0, random=lambda: 0.5)
    guard = removal_guard(cache, queue)
    remover = child_remover(server, cache, queue, guard)
    await remover.remove(plan)
    assert server.written == {}, "the removal limit decides first"
    guard.decide_due()
    await remover.remove(plan)
    return guard


def test_listener_that_returns_with_other_addresses_withdraws_its_removal() -> None:
    cache, queue = published(), new_queue()
    guard = removal_guard(cache, queue)
    guard.request(Removal("Listener", "agency", "lobby"))
    assert guard.is_waiting(cache_samples.LOBBY)
    moved = Removal("Address", "agency", "lobby", ("id",))
    child_remover(SecretServer(), cache, queue, guard).withdraw(Plan(cache_samples.LOBBY, None, retiring=moved))
    assert not guard.is_waiting(cache_samples.LOBBY)


async def test_request_to_remove_a_document_names_its_version() -> None:
    cache, queue = published(resourceVersion="7"), new_queue()
    guard = removal_guard(cache, queue)
    await child_remover(SecretServer(), cache, queue, guard).remove(NOTHING_WANTED)
    guard.decide_due()
    assert cache.halted == (HaltedRemovals.of([Removal("Listener", "agency", "lobby", uid="uid-lobby", version="7")]),)


async def test_document_that_only_a_gateway_has_gets_a_tombstone() -> None:
    server = SecretServer()
    guard = await remove_stale(server, Cache(OperatorSettings()), NOTHING_WANTED)
    (tombstone,) = server.written.values()
    assert tombstone.tombstone
    assert tombstone.owner == config_secret.Owner("agency", "lobby", "uid-lobby", "usher.dev_usher")
    assert not guard.request(Removal("Listener", "agency", "lobby", uid="uid-lobby")), "a later one is decided again"


async def test_wrong_report_of_a_gateway_removes_no_live_document() -> None:
    server = SecretServer()
    live_plan = Plan(cache_samples.LOBBY, (DesiredChild(REF, cache_samples.config(), "new"),))
    await remove_stale(server, Cache(OperatorSettings()), live_plan)
    await remove_stale(server, published(), Plan(cache_samples.LOBBY, None))
    not_seen_yet = SecretServer(NAME)
    await remove_stale(not_seen_yet, Cache(OperatorSettings()), NOTHING_WANTED)
    assert (server.written, not_seen_yet.written) == ({}, {})


@pytest.mark.parametrize(("characters", "seconds"), [(1_000, 0.0), (65_536, 0.0), (65_536 + 262_144, 1.0)])
async def test_worker_pauses_after_a_large_document(characters: int, seconds: float) -> None:
    cache = Cache(OperatorSettings())
    document = cache_samples.config()
    ref = kinds.ref_of(kinds.SECRET, document["metadata"]["namespace"], document["metadata"]["name"])
    large = {**document, "data": {config_secret.DATA_KEY: "x" * characters}}
    writes = child_writer(Server(document), cache)
    await writes.write(cache_samples.LOBBY, ref, large)
    assert writes.take_pause(cache_samples.LOBBY) == seconds
    assert writes.take_pause(cache_samples.LOBBY) == 0.0
