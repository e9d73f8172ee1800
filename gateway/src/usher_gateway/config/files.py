"""Configuration from files: reads manifests, compiles them, and follows every edit within a second.

``apply_reading`` is pure: it decides what a new reading (``file_reading``) does to the configuration in force.
``FileSource`` watches the paths and yields a snapshot per change.

An object that is missing from a reading counts as removed only if that is certain:

- An object that became invalid keeps its last good version.
- A file that cannot be parsed stops every removal.
- A path that is absent, empty or unreadable removes nothing.
- A reading that would remove more from a namespace than the removal limit removes nothing from it; see ``removals.py``.
"""

import asyncio
import contextlib
import pathlib
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
import structlog
import watchfiles

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.config import DocumentStatus, SourceStatus, removals
from usher_gateway.config.file_reading import STANDARD_INPUT, FilePlace, FileReader, FileReading, is_folder, is_within
from usher_gateway.resources import compiler
from usher_gateway.resources.conditions import Problem
from usher_gateway.resources.manifests import (
    Manifests,
    ObjectsByIdentity,
    locate,
)

POLL_SECONDS = 5.0  # Interval of readings without any notice, because some file systems send none
SETTLE_SECONDS = 0.1  # Two readings this far apart must be equal, so that a file is not read while it is being written

# How long the gateway must have seen a file as it is if it got shorter in place, or ends within a line: somebody may be
# writing it, and the beginning of a manifest is often a valid one.
_UNFINISHED_SECONDS = 2.0

# A file with an older time is not waited for. A shared folder's times come from another machine's clock.
_OLD_SECONDS = 3600.0

# After this many readings the last one is applied without removals, because some file may change all the time.
_SETTLE_TRIES = 100

_MAX_LOGGED_PROBLEMS = 50
_MAX_LOGGED_REMOVALS = 10

_TIME_CHECK = model.HOUR  # Interval at which the files are compiled again if time may change the result

_CLASS = resources.ListenerClass.kind_name

_log = structlog.get_logger(__name__)


class FileConfiguration(msgspec.Struct, frozen=True):
    """The configuration in force after a reading."""

    objects: ObjectsByIdentity
    snapshot: documents.Snapshot
    problems: tuple[Problem, ...] = ()
    namespaces: dict[str, dict[str, str]] = {}
    removal_history: removals.RemovalHistory = removals.RemovalHistory()
    complete: bool = True  # False if some object of the files could not be identified

    @property
    def rejected(self) -> tuple[Problem, ...]:
        """The problems because of which something is not in force as written."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def statuses(self, key: bytes) -> dict[config_secret.Identity, DocumentStatus]:
        """Return each document's status, also if it has only a problem. ``key``: ``Keys.document``."""
        statuses: dict[config_secret.Identity, DocumentStatus] = {}
        for name, listener in self.snapshot.listeners.items():
            statuses["Listener", name] = DocumentStatus(documents.content_hash(listener, key))
        for name, destination in self.snapshot.destinations.items():
            statuses["Destination", name] = DocumentStatus(documents.content_hash(destination, key))
        for problem in self.rejected:
            kind, _, name = problem.resource.partition(" ")
            for known_kind in config_secret.KINDS:
                if kind == known_kind:
                    status = statuses.get((known_kind, name), DocumentStatus(None))
                    statuses[known_kind, name] = msgspec.structs.replace(status, rejected=problem.message)
        return statuses


NO_CONFIGURATION = FileConfiguration({}, documents.Snapshot({}, {}))  # The configuration before the first reading


def apply_reading(
    in_force: FileConfiguration,
    manifests: Manifests,
    gaps: tuple[str, ...],
    context: compiler.CompileContext,
    rank: Callable[[str], tuple[int, str]],
    *,
    removal_limit: int | None = None,
    now: float = 0.0,
) -> FileConfiguration:
    """Return the configuration after a reading.

    This sets the context's ``previous`` and ``allow_implicit_class``. ``gaps`` and ``rank`` are as in FileReading and
    FileReader. ``removal_limit`` None means the ListenerClasses' limit, or the usual one. ``now``: the reading's time
    in monotonic seconds.
    """
    objects = _merge_objects(in_force.objects, manifests, gaps, rank)
    is_certain = manifests.complete and not gaps
    namespaces = manifests.namespaces if is_certain else {**in_force.namespaces, **manifests.namespaces}
    declared = compiler.collect((loaded.resource for loaded in objects.values()), namespaces)
    may_lack_class = bool(in_force.objects) or _is_certain_of_classes(manifests)
    context = msgspec.structs.replace(
        context,
        previous=in_force.snapshot,
        allow_implicit_class=context.allow_implicit_class and may_lack_class,
    )
    compiled = compiler.compile_resources(declared, context)
    classes = tuple(declared.classes.values())
    history = removals.limit_removals(
        in_force.removal_history,
        in_force.snapshot,
        compiled.snapshot,
        classes=classes,
        limit=removal_limit,
        seconds=now,
        time=context.now,
    )
    snapshot = removals.with_kept_documents(in_force.snapshot, compiled.snapshot, history)
    located = locate(compiled.findings, objects, manifests)
    return FileConfiguration(
        objects=objects,
        snapshot=documents.Snapshot(
            _with_equal_objects(in_force.snapshot.listeners, snapshot.listeners),
            _with_equal_objects(in_force.snapshot.destinations, snapshot.destinations),
        ),
        problems=tuple(dict.fromkeys([*manifests.problems, *located, *removals.halt_problems(history, objects)])),
        namespaces=namespaces,
        removal_history=history,
        complete=manifests.complete,
    )


def _merge_objects(
    in_force: ObjectsByIdentity, manifests: Manifests, gaps: tuple[str, ...], rank: Callable[[str], tuple[int, str]]
) -> ObjectsByIdentity:
    """Return the new objects, and the old ones that cannot be taken for removed.

    They are in file order, because a hostname's owner depends on it.
    """
    objects = {loaded.resource.identity: loaded for loaded in manifests.objects}
    for identity, old in in_force.items():
        is_kept = (
            identity in manifests.invalid or not manifests.complete or any(is_within(old.file, gap) for gap in gaps)
        )
        if identity not in objects and is_kept:
            objects[identity] = old
    if not any(kind == _CLASS for kind, _ in objects):
        # Keep the last class, because the implicit class would move every listener to another hostname.
        objects |= {identity: old for identity, old in in_force.items() if identity[0] == _CLASS}
    return dict(sorted(objects.items(), key=lambda item: (rank(item[1].file), item[1].line)))


def _is_certain_of_classes(manifests: Manifests) -> bool:
    """Return True if no mistake can hide a ListenerClass."""
    return manifests.first_unidentified is None and not any(kind == _CLASS for kind, _ in manifests.invalid)


_Document = TypeVar("_Document", documents.ListenerDocument, documents.DestinationDocument)


def _with_equal_objects(in_force: Mapping[str, _Document], compiled: Mapping[str, _Document]) -> dict[str, _Document]:
    """Return documents, and the previous object for each unchanged document.

    The listener registry keeps what it built from a document as long as the document is the same object.
    """
    return {key: in_force[key] if in_force.get(key) == document else document for key, document in compiled.items()}


class FileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options for the file source."""

    keys: model.Keys
    trusted_proxies: tuple[str, ...] = ()
    removal_limit: int | None = None  # The removal limit; None means that of the ListenerClasses, or the usual one
    poll_seconds: float = POLL_SECONDS
    settle_seconds: float = SETTLE_SECONDS

    def compile_context(self, now: int, arrivals: Mapping[str, int]) -> compiler.CompileContext:
        """The compiler's options for resources from files; the parameters are its fields."""
        return compiler.CompileContext(
            keys=self.keys,
            now=now,
            arrivals=arrivals,
            trusted_proxies=self.trusted_proxies,
            require_watch_label=False,
            allow_implicit_class=True,
        )


def load_once(paths: Sequence[pathlib.Path], keys: model.Keys) -> FileConfiguration:
    """Return the configuration that the files make now, for ``usher check`` and ``usher url``. Blocking."""
    reader = FileReader(paths, sys.stdin.buffer.read() if STANDARD_INPUT in paths else b"")
    reading = reader.read()
    context = FileOptions(keys=keys).compile_context(time.time_ns() // 1000, {})
    return apply_reading(NO_CONFIGURATION, reading.manifests, reading.gaps, context, reader.rank)


class FileSource:
    """Follows files and folders. ``configuration`` is in force; ``snapshots`` yields every change to it."""

    def __init__(
        self,
        paths: Sequence[pathlib.Path],
        options: FileOptions,
        *,
        now: Callable[[], int] = lambda: 0,
        arrivals: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Prepare a source. Without ``now``, the clock in microseconds, no address is retired.

        ``arrivals`` returns retired address (``Address.id``) -> its last arrival in microseconds.
        """
        self._paths = tuple(paths)
        self._options = options
        self._now, self._arrivals = now, arrivals
        self._applied_at = 0  # When the configuration was compiled last, by `now`
        self._reader = FileReader(paths)
        self._digest = b""
        self._places: dict[str, FilePlace] = {}  # Those of the reading that was applied last
        self._unfinished: dict[tuple[str, FilePlace], float] = {}  # When each was first seen, in monotonic seconds
        self._notified = asyncio.Event()
        self.configuration = NO_CONFIGURATION
        self._reported = NO_CONFIGURATION  # The configuration that `_statuses` are about
        self._blocking: tuple[Problem, ...] = ()
        """The errors because of which no first configuration can come into force."""
        self._statuses: dict[config_secret.Identity, DocumentStatus] = {}
        self._touched: dict[config_secret.Identity, DocumentStatus | None] = {}

    def status(self) -> SourceStatus:
        """See Source."""
        configuration = self.configuration
        return SourceStatus(
            origin="files",
            rejected=configuration.rejected or self._blocking,
            waits_for=self._waits_for() if configuration is NO_CONFIGURATION else "",
            removals_halted=",".join(halt.digest for halt in configuration.removal_history.halted) or None,
            everything_read=configuration.complete,
        )

    def _waits_for(self) -> str:
        if not self._blocking:
            return "the files are being read"
        first = self._blocking[0]
        return f"the files have mistakes, the first in {first.file_and_line}; `usher check` lists all of them"

    def take_touched(self) -> dict[config_secret.Identity, DocumentStatus | None]:
        """See Source."""
        touched = self._touched
        self._touched = {}
        return touched

    async def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """See Source. It ends only when it is closed."""
        stop = asyncio.Event()
        watchers = [asyncio.create_task(self._watch(group, stop), name="watch files") for group in self._groups()]
        try:
            while True:
                self._notified.clear()  # before reading, so that a change during the reading causes another one
                if await self._read_settled():
                    yield self.configuration.snapshot
                await self._update_statuses()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.poll_seconds):
                        await self._notified.wait()
        finally:
            stop.set()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _update_statuses(self) -> None:
        """Note which documents have another status since the last reading that changed anything."""
        if self.configuration is self._reported:
            return
        self._reported, previous = self.configuration, self._statuses
        self._statuses = await asyncio.to_thread(self._reported.statuses, self._options.keys.document)
        changed = {identity: status for identity, status in self._statuses.items() if previous.get(identity) != status}
        self._touched |= changed | dict.fromkeys(previous.keys() - self._statuses.keys())

    async def _read_settled(self) -> bool:
        """Read until two readings are equal, then apply. Return whether the snapshot changed."""
        reading = await asyncio.to_thread(self._reader.read)
        if reading.digest == self._digest:
            return await self._apply(reading) if self._depends_on_time() else False
        for _ in range(_SETTLE_TRIES):
            await asyncio.sleep(self._options.settle_seconds)
            again = await asyncio.to_thread(self._reader.read)
            if again.digest == reading.digest and not self._is_being_written(again):
                return await self._apply(again)
            reading = again
        manifests = msgspec.structs.replace(reading.manifests, complete=False)
        has_changed = await self._apply(msgspec.structs.replace(reading, manifests=manifests))
        self._digest = b""  # so that the same reading is applied completely once it has settled
        return has_changed

    def _is_being_written(self, reading: FileReading) -> bool:
        """Return whether a file that changed a moment ago got shorter in place, or ends within a line."""
        now, wall = time.monotonic(), time.time()
        unfinished: dict[tuple[str, FilePlace], float] = {}
        for name, place in reading.places.items():
            age = max(0.0, wall - place.changed_at)
            if age < _OLD_SECONDS and self._is_unfinished(place, self._places.get(name)):
                # At the start a file counts as seen for as long as its time says, so that no visit waits without need.
                first_seen = now if self._places else now - age
                unfinished[name, place] = self._unfinished.get((name, place), first_seen)
        self._unfinished = unfinished
        return any(now - since < _UNFINISHED_SECONDS for since in unfinished.values())

    def _is_unfinished(self, place: FilePlace, applied: FilePlace | None) -> bool:
        is_shorter = applied is not None and applied.number == place.number and place.size < applied.size
        return place != applied and (is_shorter or not place.ends_line)

    def _depends_on_time(self) -> bool:
        """Return whether the files must be compiled again: retired addresses and certificates end without an edit."""
        snapshot = self.configuration.snapshot
        return self._now() >= self._applied_at + _TIME_CHECK and (
            any(listener.retired_addresses for listener in snapshot.listeners.values())
            or any(destination.tls is not None for destination in snapshot.destinations.values())
        )

    async def _apply(self, reading: FileReading) -> bool:
        is_first = self.configuration is NO_CONFIGURATION
        in_force = self.configuration
        self._applied_at = self._now()
        context = self._options.compile_context(self._applied_at, self._arrivals())
        self._digest, self._places = reading.digest, reading.places
        try:
            configuration = await asyncio.to_thread(
                apply_reading,
                in_force,
                reading.manifests,
                reading.gaps,
                context,
                self._reader.rank,
                removal_limit=self._options.removal_limit,
                now=time.monotonic(),
            )
        except Exception as error:
            if is_first:
                raise
            # Keep the last good configuration in force. Log no traceback, because it may quote a Secret.
            _log.error("configuration_not_applied", error=type(error).__name__)
            return False
        if is_first and not configuration.snapshot.listeners and configuration.rejected:
            # The mistake hides what would run, so the gateway keeps answering 503, never 404.
            self._blocking = tuple(sorted(configuration.rejected, key=lambda problem: bool(problem.because)))
            _log_problems(configuration.problems)
            _log.error(
                "configuration_postponed", hint="no listener can run before this is corrected: arrivals get a 503"
            )
            return False
        self.configuration = configuration
        self._blocking = ()
        changes = _changes(in_force.snapshot, configuration.snapshot)
        _log.info("configuration_applied", rejected=len(configuration.rejected), **changes)
        _log_problems(tuple(problem for problem in configuration.problems if problem not in in_force.problems))
        return is_first or configuration.snapshot != in_force.snapshot

    def _groups(self) -> list[tuple[tuple[pathlib.Path, ...], bool]]:
        """Return the folders to watch and whether to watch below them.

        For a single file the folder is watched, because editors rename a new file over the old one.
        """
        folders = tuple(path for path in self._paths if is_folder(path))
        parents = tuple(dict.fromkeys(path.parent for path in self._paths if not is_folder(path)))
        return [group for group in ((folders, True), (parents, False)) if group[0]]

    async def _watch(self, group: tuple[tuple[pathlib.Path, ...], bool], stop: asyncio.Event) -> None:
        paths, recursive = group
        while not stop.is_set():
            existing = [path for path in paths if is_folder(path)]
            try:
                if existing:
                    async for _ in watchfiles.awatch(
                        *existing,
                        watch_filter=None,
                        debounce=200,
                        step=20,
                        stop_event=stop,
                        recursive=recursive,
                        ignore_permission_denied=True,
                    ):
                        self._notified.set()
            except (OSError, RuntimeError) as error:
                _log.warning("file_watch_failed", error=type(error).__name__)
            await asyncio.sleep(self._options.poll_seconds)


def _log_problems(problems: Sequence[Problem]) -> None:
    """Log each problem that a user has to correct, the worst first, up to a limit."""
    causes = sorted(
        [problem for problem in problems if not problem.because],
        key=lambda problem: ("error", "warning", "notice").index(problem.severity),
    )
    for problem in causes[:_MAX_LOGGED_PROBLEMS]:
        fields = msgspec.structs.asdict(problem)
        severity, _ = fields.pop("severity"), fields.pop("because")
        if severity == "notice":
            _log.info("configuration_notice_found", **fields)
        else:
            write = _log.error if severity == "error" else _log.warning
            write("configuration_problem_found", **fields)
    if len(causes) > _MAX_LOGGED_PROBLEMS:
        left_out = causes[_MAX_LOGGED_PROBLEMS:]
        write = _log.error if left_out[0].severity == "error" else _log.warning
        write("more_configuration_problems_found", count=len(left_out), hint="`usher check` lists all of them")
    if len(causes) < len(problems):
        waiting = len({problem.resource for problem in problems if problem.because})
        hint = "they refer to something that has a mistake, which is logged above"
        _log.warning("configuration_partly_applied", objects=waiting, hint=hint)


def _changes(previous: documents.Snapshot, current: documents.Snapshot) -> dict[str, object]:
    """Return what changed, for the log; it names the first removed objects, because a typo in a name removes one."""
    removed = [
        *(f"Listener {key}" for key in sorted(previous.listeners.keys() - current.listeners.keys())),
        *(f"Destination {key}" for key in sorted(previous.destinations.keys() - current.destinations.keys())),
    ]
    changed = (
        *documents.changed(previous.listeners, current.listeners),
        *documents.changed(previous.destinations, current.destinations),
    )
    return {
        "listeners": len(current.listeners),
        "destinations": len(current.destinations),
        "changed": len(changed),
        "removed": len(removed),
        **({"removed_objects": removed[:_MAX_LOGGED_REMOVALS]} if removed else {}),
    }
