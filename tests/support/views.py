"""A View in memory, filled from YAML, and the effect of applying plans to it."""

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.resources import hostnames, types
from usher_gateway.resources.listener import fixed_addresses
from usher_gateway.resources.removal_limit import HaltedRemovals
from usher_operator import children, plan
from usher_operator.plan import compiling
from usher_operator.view import (
    ADDRESSES_FIELD,
    AppliedDocument,
    CachedResource,
    ChildState,
    ClusterFeatures,
    DesiredChild,
    GatewayReport,
    Install,
    Key,
    Kind,
    ListenerReadiness,
    ObjectRef,
    Plan,
    PublishedDocument,
    SecretAccess,
    SecretState,
    StatusCondition,
    UnreadableResource,
    View,
    WriteFailure,
)

INSTALL_KEY = bytes(range(32))
KEYS = model.derive_keys(INSTALL_KEY)
NOW = 1_800_000_000 * model.MICROSECONDS
VERSION = "1"
"""``resourceVersion`` of every config Secret."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class MemoryView(View):
    """Everything in dicts, filled by hand; what is looked for is searched for."""

    def __init__(self) -> None:
        self._now = NOW
        self._install = Install()
        self._keys: model.Keys | None = KEYS
        self._features = ClusterFeatures()
        self._gateways: tuple[GatewayReport, ...] | None = None
        self._halted: tuple[HaltedRemovals, ...] = ()
        self.seen: dict[Key, CachedResource[Any]] = {}
        self.broken: dict[Key, UnreadableResource] = {}
        self.secrets: dict[str, resources.Secret] = {}
        self.states: dict[str, SecretState] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.access: dict[str, SecretAccess] = {}
        self.in_place: dict[Key, dict[ObjectRef, dict[str, Any]]] = {}
        self.behind: dict[Key, int] = {}
        self.failures: dict[Key, WriteFailure] = {}
        self.waiting: set[Key] = set()
        """Listeners whose edits may not take addresses out of service yet."""

    now = property(lambda self: self._now)
    time = property(lambda self: self._now)
    install = property(lambda self: self._install)
    keys = property(lambda self: self._keys)
    features = property(lambda self: self._features)
    gateways = property(lambda self: self._gateways)
    halted = property(lambda self: self._halted)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            assert hasattr(self, f"_{name}"), name
            setattr(self, f"_{name}", value)

    def may_retire(self, key: Key, addresses: frozenset[str]) -> bool:
        return not addresses or key not in self.waiting

    def tenants_of(self, namespace: str, company_id: str, limit: int) -> Sequence[str]:
        tenants = [cached.resource for key, cached in sorted(self.seen.items()) if key.kind == "Tenant"]
        matching = [tenant.metadata for tenant in tenants if tenant.spec.company_id == company_id]
        return [metadata.name for metadata in matching if metadata.namespace == namespace][:limit]

    @property
    def classes(self) -> Mapping[str, CachedResource[resources.ListenerClass]]:
        return {key.name: cached for key, cached in self.seen.items() if key.kind == "ListenerClass"}

    def _find(self, kind: Kind, path: str) -> Any:
        namespace, _, name = path.partition("/")
        return self.seen.get(Key(kind, namespace, name))

    def tenant(self, path: str) -> CachedResource[resources.Tenant] | None:
        return self._find("Tenant", path)  # type: ignore[no-any-return]

    def listener(self, path: str) -> CachedResource[resources.Listener] | None:
        return self._find("Listener", path)  # type: ignore[no-any-return]

    def destination(self, path: str) -> CachedResource[resources.Destination] | None:
        return self._find("Destination", path)  # type: ignore[no-any-return]

    def unreadable(self, key: Key) -> UnreadableResource | None:
        return self.broken.get(key)

    def _all(self, kind: str) -> list[CachedResource[Any]]:
        return [cached for key, cached in self.seen.items() if key.kind == kind]

    def _in(self, key: Key) -> list[CachedResource[Any]]:
        """The resources of a kind in a namespace, except the Listeners of other installs."""
        neighbours = [cached for cached in self._all(key.kind) if cached.resource.metadata.namespace == key.namespace]
        return [
            cached for cached in neighbours if key.kind != "Listener" or not compiling.is_foreign(self, cached.resource)
        ]

    def rank(self, key: Key) -> int:
        if key.kind == "Hostname":
            return self._rank_of_hostname(key)

        def place(cached: CachedResource[Any]) -> tuple[object, ...]:
            name = cached.resource.metadata.name
            return self.published(Key(key.kind, key.namespace, name)) is None, cached.created, name

        mine = place(self.seen[key])
        return sum(place(neighbour) < mine for neighbour in self._in(key))

    def _rank_of_hostname(self, key: Key) -> int:
        places: dict[str, tuple[object, ...]] = {}
        in_force = {
            host
            for document in self._documents()
            if document.namespace == key.namespace
            for host in document.own_hostnames
        }
        for listener in self._in(Key("Listener", key.namespace, "")):
            for address in listener.resource.spec.addresses or ():
                host = address.hostname
                place = 0 if host in in_force else 2, listener.created, host
                places[host] = min(place, places.get(host, place))
        for host in in_force - places.keys():
            places[host] = 1, "", host
        return sum(place < places[key.name] for place in places.values())

    def listeners_of(self, tenant_path: str, limit: int) -> Mapping[ListenerReadiness, Sequence[str]]:
        namespace, _, name = tenant_path.partition("/")
        names_by_state: dict[ListenerReadiness, list[str]] = {}
        for listener in self._all("Listener"):
            if listener.resource.metadata.namespace == namespace and listener.resource.spec.tenant_ref.name == name:
                names_by_state.setdefault(ListenerReadiness.of(listener), []).append(listener.resource.metadata.name)
        return {state: sorted(names)[:limit] for state, names in names_by_state.items()}

    def classes_using(self, key: Key) -> Collection[str]:
        def refers(listener: resources.Listener) -> bool:
            names = {"Tenant": {listener.spec.tenant_ref.name}}
            names["Destination"] = {route.destination_ref.name for route in listener.spec.routes or ()}
            return listener.metadata.namespace == key.namespace and key.name in names[key.kind]

        return {listener.resource.class_name for listener in self._all("Listener") if refers(listener.resource)}

    def claimants(self, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        claimants = [
            listener
            for listener in self._all("Listener")
            if any(address.hostname == hostname for address in listener.resource.spec.addresses or ())
        ]
        return iter(sorted(claimants, key=compiling.age))

    def claimants_in(self, namespace: str, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        return (listener for listener in self.claimants(hostname) if listener.resource.metadata.namespace == namespace)

    def namers(
        self, owner: tuple[str, str], address: documents.Address
    ) -> Iterator[CachedResource[resources.Listener]]:
        key = hostnames.address_key(address)
        return (
            listener
            for listener in self._in(Key("Listener", owner[0], ""))
            if key in map(hostnames.address_key, fixed_addresses(listener.resource))
        )

    def _documents(self) -> Iterable[documents.ListenerDocument]:
        for key in self.in_place:
            published = self.published(key)
            if published is not None and isinstance(published.document, documents.ListenerDocument):
                yield published.document

    def listeners_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        return [
            document
            for document in self._documents()
            if any(address.host == hostname for address in document.addresses)
        ]

    def absent_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        return [document for document in self.listeners_at(hostname) if self.listener(document.key) is None]

    def has_listeners_at(self, hostname: str) -> bool:
        return bool(self.listeners_at(hostname))

    def has_lost_listeners_at(self, hostname: str) -> bool:
        shown = (entry for listener in self._all("Listener") for entry in listener.fields.get(ADDRESSES_FIELD) or ())
        return not self.holders(hostname) and any(entry["hostname"] == hostname for entry in shown)

    def oldest_at(self, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        def is_left(document: documents.ListenerDocument) -> bool:
            at_host = [address for address in document.live_addresses if address.host == hostname]
            return all(address.is_class_address for address in at_host)

        candidates = [(is_left(document), self.listener(document.key)) for document in self.listeners_at(hostname)]
        present = [(left, listener) for left, listener in candidates if listener is not None]
        return (listener for _, listener in sorted(present, key=lambda pair: (pair[0], compiling.age(pair[1]))))

    @property
    def shared_hostnames(self) -> Collection[str]:
        return {
            address.host for document in self._documents() for address in document.addresses if address.is_class_address
        }

    def holders(self, hostname: str, *, besides: Key | None = None) -> Collection[tuple[str, str]]:
        path = besides.path if besides is not None else None
        holding = (document for document in self._documents() if hostname in document.own_hostnames)
        return {(document.namespace, document.tenant.name) for document in holding if document.key != path}

    def shown_holders(self, hostname: str) -> Collection[tuple[str, str]]:
        return {
            listener.resource.owner
            for listener in self._all("Listener")
            if hostname in {address.hostname for address in listener.resource.spec.addresses or ()}
            and hostname in {entry["hostname"] for entry in listener.fields.get(ADDRESSES_FIELD) or ()}
        }

    def published(self, key: Key) -> PublishedDocument | None:
        for manifest in self.in_place.get(key, {}).values():
            if config_secret.CONFIG_LABEL in manifest["metadata"]["labels"]:
                envelope = config_secret.decode_data(manifest["data"], KEYS.document)
                assert envelope.document is not None
                return PublishedDocument(envelope.document, envelope.hash, VERSION)
        return None

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        return self.namespaces.get(namespace, {})

    def secret_access(self, namespace: str) -> SecretAccess:
        return self.access.get(namespace, "Permitted")

    def secret(self, path: str) -> resources.Secret | None:
        secret = self.secrets.get(path)
        return secret if secret is not None and secret.metadata.labels.get(types.WATCH_LABEL) == "true" else None

    def secret_state(self, path: str) -> SecretState | None:
        if path in self.states:
            return self.states[path]
        if path not in self.secrets:
            return "NotFound"
        return "Found" if self.secret(path) else "NotLabelled"

    def children(self, key: Key) -> Collection[ChildState]:
        return [
            ChildState(
                ref,
                1,
                manifest["metadata"]["annotations"][config_secret.DESIRED_ANNOTATION],
                manifest.get("status") or {},
            )
            for ref, manifest in self.in_place.get(key, {}).items()
        ]

    def write_failure(self, key: Key) -> WriteFailure | None:
        return self.failures.get(key)

    def behind_since(self, key: Key) -> int | None:
        return self.behind.get(key)

    # How it comes to be.

    def copy(self) -> "MemoryView":
        """Return a copy that changes independently."""
        other = MemoryView()
        other.__dict__.update(self.__dict__)
        for name in ("seen", "broken", "secrets", "states", "namespaces", "access", "behind", "failures"):
            setattr(other, name, dict(getattr(self, name)))
        other.waiting = set(self.waiting)
        other.in_place = {key: dict(children) for key, children in self.in_place.items()}
        return other

    def add(self, text: str) -> None:
        """Put objects of a YAML text in, in its order; an object that is there already is replaced."""
        for raw in yaml.load_all(text, _LOADER):
            self.put(raw)

    def put(self, raw: dict[str, Any]) -> None:
        meta = dict(raw["metadata"])
        if raw["kind"] == "Namespace":
            self.namespaces[meta["name"]] = meta.get("labels", {})
            return
        namespace = meta.get("namespace", "" if raw["kind"] == "ListenerClass" else "default")
        uid = meta.pop("uid", f"uid-of-{raw['kind'].lower()}-{meta['name']}")
        created = meta.pop("creationTimestamp", "2026-01-01T00:00:00Z")
        meta.setdefault("generation", 1)
        status = dict(raw.get("status") or {})
        conditions = tuple(
            StatusCondition(
                condition["type"],
                condition["status"],
                condition["reason"],
                condition.get("message", ""),
                condition["observedGeneration"],
            )
            for condition in status.pop("conditions", ())
        )
        if raw["kind"] == "Secret":
            slim = {name: value for name, value in raw.items() if name != "status"}
            self.secrets[f"{namespace}/{meta['name']}"] = msgspec.convert(slim, resources.Secret)
            return
        kind = resources.KINDS[raw["apiVersion"], raw["kind"]]
        slim = {**{name: value for name, value in raw.items() if name != "status"}, "metadata": meta}
        resource = msgspec.convert(slim, kind)
        key = Key(raw["kind"], namespace, meta["name"])
        self.seen[key] = CachedResource(
            resource=resource, uid=uid, created=str(created), conditions=conditions, fields=status
        )

    def edit(self, kind: Kind, path: str, **spec: Any) -> None:
        """Change fields of a spec: the generation goes up."""
        namespace, _, name = path.rpartition("/")
        key = Key(kind, namespace, name)
        cached = self.seen[key]
        resource = cached.resource
        meta = msgspec.structs.replace(resource.metadata, generation=resource.metadata.generation + 1)
        merged = {**msgspec.to_builtins(resource.spec), **spec}
        merged = {name: value for name, value in merged.items() if value is not None}
        new = msgspec.convert(merged, type(resource.spec))
        self.seen[key] = msgspec.structs.replace(
            cached, resource=msgspec.structs.replace(resource, metadata=meta, spec=new)
        )

    def every_key(self) -> list[Key]:
        """Every key that may have a plan: destinations and listeners first, for hostnames need what they publish."""
        hosts = {listener_class.resource.spec.hostname for listener_class in self.classes.values()}
        hosts |= {address.host for document in self._documents() for address in document.addresses}
        hosts |= {key.name for key in self.in_place if key.kind == "Hostname"}
        own = [*self.seen, *self.broken, *(key for key in self.in_place if key.kind != "Hostname")]
        return [*dict.fromkeys(own), *(Key("Hostname", "", host) for host in sorted(hosts))]

    def apply(self, new_plan: Plan) -> bool:
        """Make a plan so, as the machine does (but removal is at once); whether anything changed."""
        previous_state = self.in_place.get(new_plan.key, {}), self.seen.get(new_plan.key)
        if new_plan.children is not None:
            old = self.in_place.get(new_plan.key, {})
            self.in_place[new_plan.key] = {
                child.ref: child.manifest | ({"status": old[child.ref]["status"]} if _has_status(old, child) else {})
                for child in new_plan.children
            } | {ref: manifest for ref, manifest in old.items() if ref in new_plan.staying}
        cached = self.seen.get(new_plan.key)
        if new_plan.status is not None and cached is not None:
            self.seen[new_plan.key] = msgspec.structs.replace(
                cached, conditions=tuple(new_plan.status.conditions.values()), fields=new_plan.status.fields
            )
        if new_plan.is_behind:
            self.behind.setdefault(new_plan.key, self.now)
        else:
            self.behind.pop(new_plan.key, None)
        return previous_state != (self.in_place.get(new_plan.key, {}), self.seen.get(new_plan.key))

    def settle(self) -> int:
        """Plan everything, and apply it, until nothing changes; how many rounds that took."""
        for rounds in range(1, 10):
            changed = [self.apply(plan.plan(self, key)) for key in self.every_key()]
            if not any(changed):
                return rounds
        raise AssertionError("plans do not come to rest")

    def gateways_run_it(self, *names: str, **about: Any) -> None:
        """Gateways that run everything that is published."""
        self.set(gateways=tuple(self.gateway(name, **about) for name in names or ("gateway-0",)))

    def gateway(self, name: str, **about: Any) -> GatewayReport:
        applied = {}
        for key in self.in_place:
            published = self.published(key)
            if published is not None:
                applied[key] = AppliedDocument(published.hash)
        return GatewayReport(name=name, **{"applied": applied, **about})

    def controllers_say(self, kind: str, status: dict[str, Any]) -> None:
        """A status on every child of a kind."""
        for manifests in self.in_place.values():
            for ref, manifest in manifests.items():
                if ref.kind == kind:
                    manifests[ref] = {**manifest, "status": status}

    def condition(self, kind: Kind, path: str, condition_type: str) -> StatusCondition:
        """A condition as a plan made now tells it."""
        namespace, _, name = path.rpartition("/")
        status = plan.plan(self, Key(kind, namespace, name)).status
        assert status is not None
        condition = status.condition(condition_type)
        assert condition is not None, f"{path} has no {condition_type}"
        return condition


def _has_status(old: dict[ObjectRef, dict[str, Any]], child: DesiredChild) -> bool:
    return "status" in old.get(child.ref, {})


def shown(planned: Plan) -> dict[str, Any]:
    """A plan as people read it: what is in Secrets decoded, what a hash says left out."""
    readable: dict[str, Any] = {"key": f"{planned.key.kind} {planned.key.path}"}
    if planned.children is None:
        readable["children"] = "left as they are"
    elif planned.children:
        readable["children"] = [_readable(child) for child in planned.children]
    if planned.status is not None:
        readable["status"] = {
            "observedGeneration": planned.status.observed_generation,
            **planned.status.fields,
            "conditions": [_line(condition) for condition in planned.status.conditions.values()],
        }
    for name in ("is_behind", "again_at", "unknown_secrets", "unread_namespace"):
        value = getattr(planned, name)
        if value:
            readable[name] = msgspec.to_builtins(value)
    return readable


def _line(condition: StatusCondition) -> str:
    head = f"{condition.type}={condition.status} {condition.reason} ({condition.observed_generation})"
    return f"{head}: {condition.message}" if condition.message else head


def _readable(child: DesiredChild) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(json.dumps(child.manifest))
    assert children.owner_of(manifest["metadata"]["annotations"]) is not None
    assert manifest["metadata"]["annotations"].pop(config_secret.DESIRED_ANNOTATION) == child.desired
    if "data" in manifest:
        manifest["data"] = {name: _decoded(value) for name, value in manifest["data"].items()}
    return manifest


def _decoded(value: str) -> Any:
    text = base64.b64decode(value).decode()
    if not text.startswith("{"):
        return text
    envelope = json.loads(text)
    kind = documents.ListenerDocument if envelope["kind"] == "Listener" else documents.DestinationDocument
    return {**envelope, "document": _without_defaults(msgspec.convert(envelope["document"], kind))}


def _without_defaults(value: Any) -> Any:
    """A document as plain values, less what is as it is by default."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        plain = {}
        for field in fields:
            default = field.default_factory() if callable(field.default_factory) else field.default
            if getattr(value, field.name) != default:
                plain[field.name] = _without_defaults(getattr(value, field.name))
        return plain
    if isinstance(value, tuple):
        return [_without_defaults(element) for element in value]
    return msgspec.to_builtins(value)
