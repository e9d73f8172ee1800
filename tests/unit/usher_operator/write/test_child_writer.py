"""The child writer sends only differences, and queues the keys that an answer concerns."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from support import cache_samples, planning
from support.operator_parts import OperatorParts
from usher_gateway import config_secret
from usher_gateway.resources.removal_limit import HaltedRemovals, Removal
from usher_operator.plan import children
from usher_operator.settings import OperatorSettings
from usher_operator.state import child_labels, kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import AppliedDocument, DesiredChild, GatewayReport, Key, ObjectRef, Plan, hostname_key
from usher_operator.write import child_writer
from usher_operator.write.removals import RemovalGuard

KEY = hostname_key("www.example.com")
REF = kinds.ref_of(kinds.INGRESS, "usher-system", "usher-www")
READY = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}


def ingress(version: str = "1", **rest: Any) -> dict[str, Any]:
    about = {
        "name": REF.name,
        "namespace": REF.namespace,
        "uid": "u",
        "resourceVersion": version,
        "labels": child_labels.labels("usher.dev/usher"),
        "annotations": child_labels.annotations(KEY),
    }
    return {"apiVersion": REF.api_version, "kind": REF.kind, "metadata": about, "spec": {}, **rest}


class Server:
    """Stores objects by name. ``answer``: the answer to a write; ``meanwhile``: called while a write runs."""

    def __init__(
        self,
        answer: dict[str, Any] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        stored: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self._answer, self._meanwhile, self.stored = answer, meanwhile, stored or {}
        self.written: dict[str, dict[str, Any]] = {}

    async def get(self, path: str, *, missing_ok: bool) -> dict[str, Any] | None:
        assert missing_ok
        return self.stored.get(path.rpartition("/")[2])

    async def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self._meanwhile()
        about = {**manifest["metadata"], "uid": "u", "resourceVersion": "9"}
        answer = self._answer or {**manifest, "metadata": about}
        name = path.rpartition("/")[2]
        self.stored[name] = self.written[name] = answer
        return answer

    async def delete(self, path: str, _uid: str) -> None:
        del self.stored[path.rpartition("/")[2]]


def wanted(raw: dict[str, Any], ref: ObjectRef = REF, key: Key = KEY, desired: str = "new") -> Plan:
    """A plan with one child."""
    return Plan(key, (DesiredChild(ref, raw, desired),))


@pytest.mark.parametrize("stored", [None, {}, READY])
@pytest.mark.parametrize("answered", [{}, READY])
async def test_child_status_in_an_answer_queues_the_key(
    stored: dict[str, Any] | None, answered: dict[str, Any]
) -> None:
    parts = OperatorParts(Server(ingress("2", status=answered)))
    if stored is not None:
        parts.cache.put(kinds.INGRESS, ingress(status=stored))
    await parts.children.apply(wanted(ingress()))
    assert (KEY in parts.queued()) is (answered != (stored or {}))


async def test_answer_does_not_replace_a_later_state_that_the_watch_reported() -> None:
    later = ingress("3", status=READY)
    parts = OperatorParts(Server(ingress("2"), lambda: parts.cache.put(kinds.INGRESS, later)))
    await parts.children.apply(wanted(ingress()))
    assert parts.cache.version_of(kinds.INGRESS, REF.namespace, REF.name) == ("u", "3")
    assert parts.cache.child_index.by_ref[REF].state.status == READY


async def test_answer_does_not_bring_back_a_child_that_was_deleted_meanwhile() -> None:
    cache = Cache(OperatorSettings())

    def create_and_delete() -> None:
        cache.put(kinds.INGRESS, ingress("2"))
        cache.remove(kinds.INGRESS, REF.namespace, REF.name)

    await OperatorParts(Server(ingress("2"), create_and_delete), cache).children.apply(wanted(ingress()))
    assert cache.child_index.of(KEY) == ()
    recreated = {**ingress("4"), "metadata": {**ingress("4")["metadata"], "uid": "new"}}
    await OperatorParts(Server(recreated), cache).children.apply(wanted(ingress()))
    assert [child.uid for child in cache.child_index.of(KEY)] == ["new"]


async def test_document_is_logged_as_new_even_if_its_watch_was_faster() -> None:
    raw = cache_samples.config()
    ref = kinds.ref_of(kinds.SECRET, raw["metadata"]["namespace"], raw["metadata"]["name"])
    parts = OperatorParts(Server(raw, lambda: parts.cache.put(kinds.SECRET, raw)))
    manifest = {"apiVersion": "v1", "kind": "Secret", **raw}
    with structlog.testing.capture_logs() as logs:
        await parts.children.apply(wanted(manifest, ref, cache_samples.LOBBY))
    assert [line["change"] for line in logs if line["event"] == "document_published"] == ["new"]


@pytest.mark.parametrize("stored", [[], [cache_samples.config()]])
async def test_plan_without_children_counts_if_a_document_is_there(stored: list[dict[str, Any]]) -> None:
    applied: list[Key] = []
    parts = OperatorParts(Server(), with_keys(), applied.append)
    for raw in stored:
        parts.cache.put(kinds.SECRET, raw)
    await parts.children.apply(Plan(cache_samples.LOBBY, None))
    assert len(applied) == len(stored)


@pytest.mark.parametrize("is_in_cache", [True, False])
async def test_object_of_another_hostname_is_never_written(is_in_cache: bool) -> None:
    theirs = ingress()
    theirs["metadata"]["annotations"] = child_labels.annotations(hostname_key("other.example.com"))
    theirs["metadata"]["managedFields"] = [{"manager": kinds.FIELD_MANAGER}]
    server = Server(stored={REF.name: theirs})
    parts = OperatorParts(server)
    if is_in_cache:
        parts.cache.put(kinds.INGRESS, theirs)
    failures = await parts.children.apply(wanted(ingress()))
    assert [failure.reason for failure in failures] == [child_writer.NAME_TAKEN]
    assert server.written == {}


class FoughtServer(Server):
    """Another program changes an object as soon as it is written."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
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
    cache = Cache(OperatorSettings())
    server = FoughtServer(cache)
    parts = OperatorParts(server, cache)
    raw, edited = ingress(spec={"rules": [{}]}), ingress(spec={"rules": [{}, {}]})
    for manifest, desired in ((raw, "wanted"), (edited, "edited")):
        manifest["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION] = desired
    plan, times = wanted(raw, desired="wanted"), []
    for second in range(32):
        parts.now = float(second)
        for _ in range(100):
            count = server.writes
            assert await parts.children.apply(plan) == []
            if server.writes > count:
                times.append(second)
                server.change()
    assert times == [0, 0, 1, 3, 7, 15, 31]
    assert parts.children.conflict_of(plan) == "Ingress `usher-www` is changed by the field manager `gardener`"
    await parts.children.apply(wanted(edited, desired="edited"))
    assert server.writes == len(times) + 1, "an edit does not wait"


async def give_up(raw: dict[str, Any]) -> tuple[dict[str, Any] | None, OperatorParts]:
    """Remove the Certificate of a hostname that is not wanted any more; returns what is left of it."""
    name = raw["metadata"]["name"]
    server = Server(stored={name: raw})
    parts = OperatorParts(server)
    parts.cache.put(kinds.CERTIFICATE, raw)
    await parts.remover.remove(Plan(KEY, ()))
    return server.stored.get(name), parts


async def test_plan_is_made_again_once_an_unwanted_child_is_deleted() -> None:
    certificate, parts = await give_up(cache_samples.certificate(KEY.name, counts_for=""))
    assert certificate is None, "one that does not count is deleted at once"
    assert parts.queue.take() == KEY


async def test_plan_is_made_again_once_a_tombstone_is_written() -> None:
    parts = OperatorParts(Server(), published())
    parts.cache.put(kinds.SECRET, cache_samples.config(listener="bar"))  # the last listener of an install would stay
    await parts.remover.remove(NOTHING_WANTED)
    parts.guard.decide_due()
    assert parts.queue.take() == cache_samples.LOBBY
    parts.queue.done(cache_samples.LOBBY)
    await parts.remover.remove(NOTHING_WANTED)
    assert parts.queue.take() == cache_samples.LOBBY


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
    server = await remove_tombstone(removed_at)
    assert (NAME in server.stored) is stays


SERVES = GatewayReport(name="one", reachable=False, applied={cache_samples.LOBBY: AppliedDocument("1")})
SILENT = GatewayReport(name="one", reachable=False)


@pytest.mark.parametrize(
    ("reports", "stays"),
    [
        ({"gateways": (SERVES,)}, True),
        ({"gateways": (), "unready": (SERVES,)}, True),
        ({"gateways": (SILENT,), "unheard": ("one",)}, True),
        (None, True),
        ({"gateways": (SILENT,)}, False),
    ],
)
async def test_hostname_is_not_free_while_a_gateway_may_serve_its_former_owner(
    reports: dict[str, Any] | None, stays: bool
) -> None:
    held = config_secret.TenantHostnames("acme", ("shop.example.org",))
    server = await remove_tombstone("2026-11-25T11:50:00Z", held, reports)
    assert (NAME in server.stored) is stays


async def remove_tombstone(
    removed_at: str, held: config_secret.TenantHostnames | None = None, reports: dict[str, Any] | None = None
) -> Server:
    """Let the remover see, on 2026-11-25 at 12:00, a tombstone that nobody wants; ``reports``: what gateways run."""
    cache = with_keys(confirmed_clock=lambda: NOON)
    if reports is not None:
        cache.set_gateways(**reports)
    owner = config_secret.Owner("agency", "lobby", "1", config_secret.install_label("usher.dev/usher"))
    envelope = config_secret.tombstone_of("Listener", owner, 1, removed_at, planning.KEYS.document, held=held)
    manifest = children.build_config_secret(envelope, cache.settings).manifest
    cache.put(kinds.SECRET, {**manifest, "metadata": {**manifest["metadata"], "uid": "u", "resourceVersion": "1"}})
    server = Server(stored={NAME: manifest})
    await OperatorParts(server, cache).remover.remove(NOTHING_WANTED)
    return server


async def test_certificate_that_counts_is_marked_as_unused_and_stays() -> None:
    raw = cache_samples.certificate(KEY.name)
    certificate, parts = await give_up(raw)
    assert certificate is not None
    assert certificate["spec"] == raw["spec"]
    assert certificate["metadata"]["annotations"][child_labels.UNUSED_SINCE_ANNOTATION].endswith("Z")
    (child,) = parts.cache.child_index.of(KEY)
    assert (child.counts_for, child.unused_since != "") == ("agency", True)
    desired_hash = raw["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION]
    assert child.state.desired != desired_hash, "it is written again once its hostname returns"


@pytest.mark.parametrize(("days", "stays"), [(6.9, True), (7.1, False)])
async def test_unused_certificate_is_deleted_after_seven_days(days: float, stays: bool) -> None:
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    raw = cache_samples.certificate(KEY.name, since=since.isoformat())
    certificate, parts = await give_up(raw)
    assert certificate == (raw if stays else None)
    assert bool(parts.cache.child_index.of(KEY)) is stays


NAME = config_secret.secret_name("Listener", "agency/lobby")
NOON = round(datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC).timestamp()) * 1_000_000
NOTHING_WANTED = Plan(cache_samples.LOBBY, ())


def with_keys(**options: Any) -> Cache:
    cache = Cache(OperatorSettings(), **options)
    cache.keys = planning.KEYS
    return cache


def published(**meta: Any) -> Cache:
    """A cache with the document of a listener."""
    cache = with_keys()
    cache.put(kinds.SECRET, cache_samples.config(**meta))
    return cache


async def remove_stale(server: Server, cache: Cache, plan: Plan) -> RemovalGuard:
    """A gateway reports that it runs the document of a Listener without a Secret; the guard allows the removal."""
    cache.put(kinds.SECRET, cache_samples.config(listener="bar"))  # the last listener of an install would stay
    cache.set_gateways((GatewayReport(name="one", stale={cache_samples.LOBBY: "uid-lobby"}),))
    parts = OperatorParts(server, cache)
    await parts.remover.remove(plan)
    assert server.written == {}, "the removal limit decides first"
    parts.guard.decide_due()
    await parts.remover.remove(plan)
    return parts.guard


def test_listener_that_returns_with_other_addresses_withdraws_its_removal() -> None:
    parts = OperatorParts(Server(), published())
    parts.guard.request(Removal("Listener", "agency", "lobby"))
    assert parts.guard.is_waiting(cache_samples.LOBBY)
    moved = Removal("Address", "agency", "lobby", ("id",))
    parts.remover.withdraw(Plan(cache_samples.LOBBY, None, retiring=moved))
    assert not parts.guard.is_waiting(cache_samples.LOBBY)


async def test_request_to_remove_a_document_names_its_version() -> None:
    parts = OperatorParts(Server(), published(resourceVersion="7"))
    await parts.remover.remove(NOTHING_WANTED)
    parts.guard.decide_due()
    removal = Removal("Listener", "agency", "lobby", uid="uid-lobby", version="7")
    assert parts.cache.halted == (HaltedRemovals.of([removal]),)


async def test_document_that_only_a_gateway_has_gets_a_tombstone() -> None:
    server = Server()
    guard = await remove_stale(server, with_keys(), NOTHING_WANTED)
    tombstone = config_secret.decode_data(server.written[NAME]["data"], planning.KEYS.document)
    assert tombstone.tombstone
    assert tombstone.owner == config_secret.Owner("agency", "lobby", "uid-lobby", "usher.dev_usher")
    assert not guard.request(Removal("Listener", "agency", "lobby", uid="uid-lobby")), "a later one is decided again"


async def test_document_that_only_a_gateway_has_gets_a_tombstone_over_that_of_a_former_object() -> None:
    cache, server = with_keys(confirmed_clock=lambda: NOON), Server()
    cache.put(kinds.SECRET, cache_samples.tombstone("shop.example.org", "former"))
    await remove_stale(server, cache, NOTHING_WANTED)
    assert config_secret.decode_data(server.written[NAME]["data"], planning.KEYS.document).owner.uid == "uid-lobby"
    cache.put(kinds.SECRET, cache_samples.tombstone("shop.example.org"))
    unused = Server()
    await remove_stale(unused, cache, NOTHING_WANTED)
    assert unused.written == {}, "the gateway will read the one that is there"


async def test_wrong_report_of_a_gateway_removes_no_live_document() -> None:
    server, not_seen_yet = Server(), Server(stored={NAME: {}})
    await remove_stale(server, with_keys(), wanted(cache_samples.config(), key=cache_samples.LOBBY))
    await remove_stale(server, published(), Plan(cache_samples.LOBBY, None))
    await remove_stale(not_seen_yet, with_keys(), NOTHING_WANTED)
    assert (server.written, not_seen_yet.written) == ({}, {})


@pytest.mark.parametrize(("characters", "seconds"), [(1_000, 0.0), (65_536, 0.0), (65_536 + 262_144, 1.0)])
async def test_worker_pauses_after_a_large_document(characters: int, seconds: float) -> None:
    document = cache_samples.config()
    ref = kinds.ref_of(kinds.SECRET, document["metadata"]["namespace"], document["metadata"]["name"])
    large = {**document, "data": {config_secret.DATA_KEY: "x" * characters}}
    writes = OperatorParts(Server(document)).children
    await writes.write(cache_samples.LOBBY, ref, large)
    assert writes.take_pause(cache_samples.LOBBY) == seconds
    assert writes.take_pause(cache_samples.LOBBY) == 0.0


def test_listener_whose_vanished_document_stays_withdraws_its_removal() -> None:
    parts = OperatorParts(Server(), with_keys())
    parts.cache.set_gateways((GatewayReport(name="one", stale={cache_samples.LOBBY: "uid-lobby"}),))
    parts.guard.request(Removal("Listener", "agency", "lobby"))
    parts.remover.withdraw(Plan(cache_samples.LOBBY, None, keeps_vanished=True))
    assert not parts.guard.is_waiting(cache_samples.LOBBY)
