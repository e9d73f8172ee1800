"""Configuration from files: a stream of snapshots, live within a second of an edit."""

import asyncio
import contextlib
import pathlib
import sys
from collections.abc import AsyncGenerator, Sequence

import msgspec
import structlog
import watchfiles

from usher_gateway import config_secret, documents, model
from usher_gateway.config import apply, read_files, source
from usher_gateway.resources import compiler, conditions

POLL_SECONDS = 5.0
"""How often files are read although nothing was reported: a safety net for file systems without notice."""

SETTLE_SECONDS = 0.1
"""Two readings so far apart must be equal: a file that is being written is not half of one."""

_SETTLE_TRIES = 100
"""Then what is read is taken, since some file may change all the time; but nothing is removed on its account."""

_LOGGED_PROBLEMS = 50

_log = structlog.get_logger(__name__)


class FileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How files become documents."""

    keys: model.Keys
    trusted_proxies: tuple[str, ...] = ()
    poll_seconds: float = POLL_SECONDS
    settle_seconds: float = SETTLE_SECONDS

    def compile_options(self) -> compiler.CompileContext:
        """What compile() is told when resources come from files."""
        return compiler.CompileContext(
            keys=self.keys,
            trusted_proxies=self.trusted_proxies,
            require_watch_label=False,
            allow_implicit_class=True,
        )


def load_once(paths: Sequence[pathlib.Path], keys: model.Keys) -> apply.Configuration:
    """What the files hold now, for ``usher check`` and ``usher url``. Blocking."""
    reader = read_files.Reader(paths, sys.stdin.buffer.read() if read_files.STANDARD_INPUT in paths else b"")
    reading = reader.read()
    options = FileOptions(keys=keys).compile_options()
    return apply.apply(apply.EMPTY, reading.manifests, reading.gaps, options, reader.rank)


class FileSource:
    """Follows files and folders. ``configuration`` is what is in force; ``snapshots`` tells of every change."""

    def __init__(self, paths: Sequence[pathlib.Path], options: FileOptions) -> None:
        self._paths = tuple(paths)
        self._options = options
        self._reader = read_files.Reader(paths)
        self._digest = b""
        self._touched = asyncio.Event()
        self.configuration = apply.EMPTY
        self._running = apply.EMPTY
        self._unfit: tuple[conditions.Problem, ...] = ()
        """What keeps a first configuration from coming into force."""
        self._hashes: dict[config_secret.Identity, tuple[config_secret.Document, str]] = {}
        self._states: dict[config_secret.Identity, source.DocumentStatus] = {}
        self._touched_states: dict[config_secret.Identity, source.DocumentStatus | None] = {}

    def status(self) -> source.SourceStatus:
        """See source.Source."""
        found = self.configuration
        return source.SourceStatus(
            origin="files",
            rejected=found.rejected or self._unfit,
            waits_for=self._waits_for() if found is apply.EMPTY else "",
            removals_halted=found.halted.digest if found.halted else None,
            everything_read=found.complete,
        )

    def _waits_for(self) -> str:
        if not self._unfit:
            return "the files are being read"
        first = self._unfit[0]
        return f"the files have mistakes, the first in {first.file}:{first.line}; `usher check` tells all"

    def take_touched(self) -> dict[config_secret.Identity, source.DocumentStatus | None]:
        """See source.Source."""
        touched, self._touched_states = self._touched_states, {}
        return touched

    async def snapshots(self) -> AsyncGenerator[documents.Snapshot, None]:
        """See source.Source. Ends only by being closed."""
        stop = asyncio.Event()
        watchers = [asyncio.create_task(self._watch(group, stop), name="watch files") for group in self._groups()]
        try:
            while True:
                self._touched.clear()
                if await self._read_settled():
                    yield self.configuration.snapshot
                self._note_running()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.poll_seconds):
                        await self._touched.wait()
        finally:
            stop.set()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    def _note_running(self) -> None:
        """Tell apart how documents stand since the last reading that changed anything."""
        if self.configuration is self._running:
            return
        self._running = self.configuration
        before, self._states = self._states, self._states_now()
        changed = {identity: state for identity, state in self._states.items() if before.get(identity) != state}
        self._touched_states |= changed | dict.fromkeys(before.keys() - self._states.keys())

    def _states_now(self) -> dict[config_secret.Identity, source.DocumentStatus]:
        snapshot, key = self._running.snapshot, self._options.keys.document
        in_force: dict[config_secret.Identity, config_secret.Document] = {
            **{("Listener", name): one for name, one in snapshot.listeners.items()},
            **{("Destination", name): one for name, one in snapshot.destinations.items()},
        }
        known = self._hashes
        self._hashes = {
            identity: known[identity]
            if identity in known and known[identity][0] is one
            else (one, documents.content_hash(one, key))
            for identity, one in in_force.items()
        }
        states = {identity: source.DocumentStatus(digest) for identity, (_, digest) in self._hashes.items()}
        for found in self._running.rejected:
            kind, _, name = found.resource.partition(" ")
            for known_kind in config_secret.KINDS:
                if kind == known_kind:
                    state = states.get((known_kind, name), source.DocumentStatus(None))
                    states[known_kind, name] = msgspec.structs.replace(state, rejected=found.message)
        return states

    async def _read_settled(self) -> bool:
        """Read until two readings are equal, then apply; whether the snapshot is another one."""
        reading = await asyncio.to_thread(self._reader.read)
        if reading.digest == self._digest:
            return False
        for _ in range(_SETTLE_TRIES):
            await asyncio.sleep(self._options.settle_seconds)
            again = await asyncio.to_thread(self._reader.read)
            if again.digest == reading.digest:
                return await self._apply(reading)
            reading = again
        manifests = msgspec.structs.replace(reading.manifests, complete=False)
        has_changed = await self._apply(msgspec.structs.replace(reading, manifests=manifests))
        self._digest = b""  # so that the same, once it has settled, is applied as a whole
        return has_changed

    async def _apply(self, reading: read_files.Reading) -> bool:
        first = self.configuration is apply.EMPTY
        before = self.configuration
        options = self._options.compile_options()
        self._digest = reading.digest
        try:
            configuration = await asyncio.to_thread(
                apply.apply, before, reading.manifests, reading.gaps, options, self._reader.rank
            )
        except Exception as error:
            if first:
                raise
            # whatever an edit brings to light, the last good configuration stays in force; no traceback, for it may
            # quote a Secret
            _log.error("configuration_not_applied", error=type(error).__name__)
            return False
        if first and not configuration.snapshot.listeners and configuration.rejected:
            self._unfit = tuple(sorted(configuration.rejected, key=lambda found: bool(found.because)))
            self._tell_problems(configuration.problems)
            _log.error(
                "configuration_waits", hint="no listener can run before this is mended: arrivals are answered 503"
            )
            return False  # what would run is hidden by a mistake: the gateway goes on answering 503, never 404
        self.configuration, self._unfit = configuration, ()
        self._tell(before, configuration)
        return first or self.configuration.snapshot != before.snapshot

    def _tell(self, before: apply.Configuration, now: apply.Configuration) -> None:
        changes = _changes(before.snapshot, now.snapshot)
        _log.info("configuration_applied", rejected=len(now.rejected), **changes)
        self._tell_problems(tuple(found for found in now.problems if found not in before.problems))

    @staticmethod
    def _tell_problems(problems: Sequence[conditions.Problem]) -> None:
        """Each that has to be mended; of what only follows from one, how much it is."""
        causes = [found for found in problems if not found.because]
        for found in causes[:_LOGGED_PROBLEMS]:
            fields = msgspec.structs.asdict(found)
            severity, _ = fields.pop("severity"), fields.pop("because")
            write = {"error": _log.error, "warning": _log.warning}.get(severity, _log.info)
            write("configuration_problem", **fields)
        if len(causes) > _LOGGED_PROBLEMS:
            _log.error("more_configuration_problems", count=len(causes) - _LOGGED_PROBLEMS)
        if len(causes) < len(problems):
            waiting = len({found.resource for found in problems if found.because})
            _log.warning(
                "configuration_incomplete", objects=waiting, hint="what they refer to has a mistake told above"
            )

    def _groups(self) -> list[tuple[tuple[pathlib.Path, ...], bool]]:
        """What to watch: folders with all that is in them; of single files the folder alone, for renames over them."""
        folders = tuple(path for path in self._paths if read_files.is_folder(path))
        parents = tuple(dict.fromkeys(path.parent for path in self._paths if not read_files.is_folder(path)))
        return [group for group in ((folders, True), (parents, False)) if group[0]]

    async def _watch(self, group: tuple[tuple[pathlib.Path, ...], bool], stop: asyncio.Event) -> None:
        paths, recursive = group
        while not stop.is_set():
            there = [path for path in paths if read_files.is_folder(path)]
            try:
                if there:
                    async for _ in watchfiles.awatch(
                        *there,
                        watch_filter=None,
                        debounce=200,
                        step=20,
                        stop_event=stop,
                        recursive=recursive,
                        ignore_permission_denied=True,
                    ):
                        self._touched.set()
            except (OSError, RuntimeError) as error:
                _log.warning("files_only_polled", error=type(error).__name__)
            await asyncio.sleep(self._options.poll_seconds)


def _changes(before: documents.Snapshot, now: documents.Snapshot) -> dict[str, int]:
    listeners = sum(before.listeners.get(key) is not one for key, one in now.listeners.items())
    destinations = sum(before.destinations.get(key) is not one for key, one in now.destinations.items())
    return {
        "listeners": len(now.listeners),
        "destinations": len(now.destinations),
        "changed": listeners + destinations,
        "removed": len(before.listeners.keys() - now.listeners.keys())
        + len(before.destinations.keys() - now.destinations.keys()),
    }
