"""What a new reading of files does to the configuration in force. Pure.

Removal is taken for meant only where it can be told: an object that became invalid keeps its last good version; a
file that cannot be parsed stops every removal; a path that is absent or empty removes nothing; and a reading that
would remove more than max(5, 10 %) of the listeners removes none until that is confirmed.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from usher_gateway import documents, resources
from usher_gateway.config import locate
from usher_gateway.resources import compiler, conditions, load, removal_limit, types

_CLASS = resources.ListenerClass.kind_name


class Configuration(msgspec.Struct, frozen=True):
    """What is in force after a reading."""

    objects: locate.Objects
    snapshot: documents.Snapshot
    problems: tuple[conditions.Problem, ...] = ()
    """Everything found, errors first in each file."""
    namespaces: dict[str, dict[str, str]] = {}
    halted: removal_limit.HaltedRemovals | None = None
    complete: bool = True
    """Whether every object of the files could be told."""

    @property
    def rejected(self) -> tuple[conditions.Problem, ...]:
        """The problems that keep something from being applied as written."""
        return tuple(found for found in self.problems if found.severity == "error")


EMPTY = Configuration({}, documents.Snapshot({}, {}))
"""Before the first reading."""


def apply(
    before: Configuration,
    manifests: load.Manifests,
    gaps: tuple[str, ...],
    options: compiler.CompileContext,
    rank: Callable[[str], tuple[int, str]],
) -> Configuration:
    """The configuration after a reading."""
    objects = _merge(before.objects, manifests, gaps, rank)
    sure = manifests.complete and not gaps
    namespaces = manifests.namespaces if sure else {**before.namespaces, **manifests.namespaces}
    given = compiler.collect((loaded.resource for loaded in objects.values()), namespaces)
    compiled = compiler.compile_resources(
        given,
        msgspec.structs.replace(
            options,
            previous=before.snapshot,
            allow_implicit_class=options.allow_implicit_class
            and (bool(before.objects) or _is_sure_of_classes(manifests)),
        ),
    )
    snapshot, halted = _brake(before.snapshot, compiled.snapshot, given.classes.values())
    located = locate.locate(compiled.findings, objects, manifests)
    return Configuration(
        objects=objects,
        snapshot=_same_where_equal(before.snapshot, snapshot),
        problems=tuple(dict.fromkeys([*manifests.problems, *located, *_tell(halted, objects)])),
        namespaces=namespaces,
        halted=halted,
        complete=manifests.complete,
    )


def _merge(
    before: locate.Objects, manifests: load.Manifests, gaps: tuple[str, ...], rank: Callable[[str], tuple[int, str]]
) -> locate.Objects:
    """The new objects, and the old ones whose absence says nothing; in file order, on which hostnames depend."""
    now = {load.identity_of(loaded.resource): loaded for loaded in manifests.objects}
    for identity, old in before.items():
        kept = identity in manifests.invalid or not manifests.complete or _within(old.file, gaps)
        if identity not in now and kept:
            now[identity] = old
    if not any(kind == _CLASS for kind, _ in now):
        # the implicit class would take every listener to another hostname
        now |= {identity: old for identity, old in before.items() if identity[0] == _CLASS}
    return dict(sorted(now.items(), key=lambda item: (rank(item[1].file), item[1].line)))


def _is_sure_of_classes(manifests: load.Manifests) -> bool:
    """Whether a ListenerClass that is not there is none, and not one with a mistake or in a file with one."""
    return locate.unread(manifests) is None and not any(kind == _CLASS for kind, _ in manifests.invalid)


def _within(file: str, gaps: tuple[str, ...]) -> bool:
    return any(file == gap or file.startswith(gap.rstrip("/") + "/") for gap in gaps)


def _brake(
    before: documents.Snapshot, now: documents.Snapshot, classes: Iterable[resources.ListenerClass]
) -> tuple[documents.Snapshot, removal_limit.HaltedRemovals | None]:
    lost = sorted(before.listeners.keys() - now.listeners.keys())
    confirmed = {one.metadata.annotations.get(types.CONFIRM_REMOVALS, "") for one in classes}
    halted = removal_limit.halted_removals(lost, in_force=len(before.listeners), confirmed=confirmed)
    if halted is None:
        return now, None
    taken = {(one.host, one.path, one.query) for document in now.listeners.values() for one in document.addresses}
    kept = {}
    for key in lost:
        old = before.listeners[key]
        free = tuple(one for one in old.addresses if (one.host, one.path, one.query) not in taken)
        if free:
            kept[key] = msgspec.structs.replace(old, addresses=free)
    snapshot = documents.Snapshot({**now.listeners, **kept}, {**before.destinations, **now.destinations})
    return snapshot, halted


def _same_where_equal(before: documents.Snapshot, now: documents.Snapshot) -> documents.Snapshot:
    """Documents that did not change stay the same objects, so that what was built from them can be kept."""
    return documents.Snapshot(
        {key: _older(before.listeners.get(key), document) for key, document in now.listeners.items()},
        {key: _older(before.destinations.get(key), document) for key, document in now.destinations.items()},
    )


_Document = TypeVar("_Document", documents.Listener, documents.Destination)


def _older(old: _Document | None, new: _Document) -> _Document:
    return old if old is not None and old == new else new


def _tell(halted: removal_limit.HaltedRemovals | None, objects: locate.Objects) -> list[conditions.Problem]:
    if halted is None:
        return []
    loaded = next((one for one in objects.values() if isinstance(one.resource, resources.ListenerClass)), None)
    message = f"RemovalsHalted: {len(halted.names)} listeners would go at once; none is removed"
    hint = f'if this is meant, annotate a ListenerClass with {types.CONFIRM_REMOVALS}: "{halted.digest}", or restart'
    file, line = (loaded.file, loaded.line) if loaded else ("", 0)
    return [conditions.Problem(file, line, "", message, hint)]
