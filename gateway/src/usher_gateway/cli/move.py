"""``usher export`` and ``usher import``: move all data from one store to another, of any engine."""

import asyncio
import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from usher_gateway.cli import admin_client, store_options, tables

if TYPE_CHECKING:
    from usher_gateway.store import export_file, moving

_EXPORT_EPILOG = "Example:  usher export visits.usher --data ./data"
_IMPORT_EPILOG = "Example:  usher import visits.usher --store postgresql://usher@db.example.com/usher"

_PROGRESS_SECONDS = 1.0

_Data = Annotated[
    pathlib.Path, typer.Option(envvar="USHER_DATA", help="Folder of install.key and the SQLite store, as in usher run.")
]


def register(app: typer.Typer) -> None:
    """Add both commands."""

    @app.command("export", epilog=_EXPORT_EPILOG)
    def export_command(
        file: Annotated[
            pathlib.Path | None, typer.Argument(envvar="USHER_EXPORT_FILE", help="File to create.", show_default=False)
        ] = None,
        data: _Data = admin_client.DATA,
        store: store_options.Store = None,
        store_password_file: store_options.StorePasswordFile = None,
        undo: Annotated[
            bool,
            typer.Option(
                "--undo", envvar="USHER_UNDO", help="Write no file, and let gateways serve the exported store again."
            ),
        ] = False,
        yes: Annotated[
            bool, typer.Option("--yes", help="With --undo: confirm that no gateway ran on the imported data.")
        ] = False,
    ) -> None:
        """Write all data of a store to a file, for usher import. Stop the gateways first.

        The file contains personal data, and only its owner may read it. From then on gateways refuse the store, so
        that nothing is delivered twice. --undo takes that back; --yes confirms that no gateway ran on imported data.
        """
        if (file is None) != undo:
            admin_client.fail("give either a file or --undo", "", admin_client.USAGE)
        if yes and not undo:
            admin_client.fail("--yes belongs to --undo", "", admin_client.USAGE)
        with _errors_as_messages():
            if file is None:
                asyncio.run(_undo(data, store, store_password_file, yes=yes))
            else:
                _export(file, data, store, store_password_file)

    @app.command("import", epilog=_IMPORT_EPILOG)
    def import_command(
        file: Annotated[pathlib.Path, typer.Argument(envvar="USHER_EXPORT_FILE", help="File of usher export.")],
        data: _Data = admin_client.DATA,
        store: store_options.Store = None,
        store_password_file: store_options.StorePasswordFile = None,
    ) -> None:
        """Load a file of usher export into an empty store, then compare both.

        If the command is interrupted, run it again: it goes on where it was. Gateways refuse the store until the
        import is complete and everything in the file is in the store.
        """
        with _errors_as_messages():
            comparison = _import(file, data, store, store_password_file)
            if comparison is None:
                typer.echo("This file was imported into this store before, and they were equal then.")
                return
            _print_comparison(comparison)
        if not comparison.is_complete:
            admin_client.fail(
                "the store differs from the file, and gateways will refuse it", "Import into an empty store again.", 1
            )
        typer.echo(f"The store equals the file. Start the gateway on it, and delete {file}: it contains personal data.")


@contextlib.contextmanager
def _errors_as_messages() -> Iterator[None]:
    from usher_gateway import model

    try:
        yield
    except model.UsherError as error:
        is_usage = isinstance(error, model.ConfigurationError)
        admin_client.fail(str(error), error.hint, admin_client.USAGE if is_usage else 1)


def _key_fingerprint(data: pathlib.Path) -> str:
    from usher_gateway import model
    from usher_gateway.config import install_key

    return model.key_fingerprint(install_key.load_install_key(data, os.environ, may_create=False))


@contextlib.asynccontextmanager
async def _opened(
    data: pathlib.Path, store: str | None, password_file: pathlib.Path | None, *, may_create: bool
) -> "AsyncIterator[moving.MovableStore]":
    """Open the store that the flags name."""
    from usher_gateway.settings import check_store_address, read_store_password

    if store is not None:
        check_store_address(store)
    fingerprint = _key_fingerprint(data)
    opened: Any
    if store is None:
        from usher_gateway.store.sqlite.moving import SqliteMove

        opened = SqliteMove(data, fingerprint, may_create=may_create)
    else:
        from usher_gateway.store.postgresql.moving import PostgresMove
        from usher_gateway.store.postgresql.opening import PostgresSettings

        password = read_store_password(password_file)
        opened = PostgresMove(PostgresSettings(store, fingerprint, password), may_create=may_create)
        await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def _undo(data: pathlib.Path, store: str | None, password_file: pathlib.Path | None, *, yes: bool) -> None:
    async with _opened(data, store, password_file, may_create=False) as opened:
        exported_at = await opened.exported_at()
        if exported_at is None:
            typer.echo("The store was not exported.")
            return
        if not yes:
            admin_client.fail(
                f"the data of this store were exported at {exported_at}: if they were imported and a gateway ran on the"
                " new store, both stores would send the same deliveries",
                "Give --yes if no gateway ran on it. Otherwise export the new store, and import its data.",
                admin_client.USAGE,
            )
        await opened.undo_export()
    typer.echo("Gateways may serve the store again.")


def _export(file: pathlib.Path, data: pathlib.Path, store: str | None, password_file: pathlib.Path | None) -> None:
    from usher_gateway.store import moving

    draft = file.with_name(f"{file.name}.partial")
    with _file_errors(file), _create(draft) as output:
        try:
            if file.exists():
                admin_client.fail(f"{file} exists", "Name a new file.", admin_client.USAGE)
            tally = asyncio.run(_dump(output, data, store, password_file))
            output.flush()
            os.fsync(output.fileno())
            draft.rename(file)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)
        size = file.stat().st_size
    tables.print_table(["KIND", "ROWS"], [[kind, str(tally.counts.get(kind, 0))] for kind in moving.COLUMNS], 1)
    typer.echo(f"{file}: {size} bytes. Gateways refuse the exported store from now on.")


async def _dump(
    output: BinaryIO, data: pathlib.Path, store: str | None, password_file: pathlib.Path | None
) -> "moving.Tally":
    from usher_gateway.store import moving

    async with _opened(data, store, password_file, may_create=False) as opened:
        progress = _ProgressPrinter("exported")
        now = time.time_ns() // 1_000
        return await moving.export_store(
            opened, output, key_fingerprint=_key_fingerprint(data), now=now, progress=progress
        )


def _create(draft: pathlib.Path) -> BinaryIO:
    """Create the draft and lock it, in the place of one that an interrupted export left."""
    with contextlib.suppress(FileNotFoundError), draft.open("r+b") as left:
        _lock(left, draft)
        draft.unlink()
    output = os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
    _lock(output, draft)
    return output


def _lock(output: BinaryIO, draft: pathlib.Path) -> None:
    """Lock an open file. Only the owner of the lock may delete or rename the draft."""
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_draft = os.path.samestat(os.fstat(output.fileno()), draft.stat())
    except (BlockingIOError, FileNotFoundError):
        is_draft = False
    if not is_draft:
        output.close()
        admin_client.fail(f"another export writes {draft}", "Wait until it ends, or name another file.", 1)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the new name of a file durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _import(
    file: pathlib.Path, data: pathlib.Path, store: str | None, password_file: pathlib.Path | None
) -> "moving.Comparison | None":
    from usher_gateway.store.export_file import ExportReader

    with _file_errors(file), file.open("rb") as source:
        reader = ExportReader(source, str(file), key_fingerprint=_key_fingerprint(data))
        return asyncio.run(_load(reader, data, store, password_file))


async def _load(
    reader: "export_file.ExportReader", data: pathlib.Path, store: str | None, password_file: pathlib.Path | None
) -> "moving.Comparison | None":
    from usher_gateway.store import moving

    async with _opened(data, store, password_file, may_create=True) as opened:
        progress = _ProgressPrinter("imported")
        return await moving.import_file(opened, reader, progress=progress)


@contextlib.contextmanager
def _file_errors(file: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{file}: {error.strerror or type(error).__name__}"
        admin_client.fail(reason, "Check the path, its rights and its free space.", 1)


class _ProgressPrinter:
    """Prints progress to standard error, at most once a second."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, kind: str, rows: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            typer.echo(f"{self._verb} {rows} rows of kind {kind}", err=True)


def _print_comparison(comparison: "moving.Comparison") -> None:
    from usher_gateway.store import moving

    file, store = comparison.file, comparison.store
    rows = [
        [kind, _result(comparison.is_equal(kind)), str(file.counts.get(kind, 0)), str(store.counts.get(kind, 0))]
        for kind in moving.COLUMNS
    ]
    different = comparison.different_books
    rows.append(["books of listeners", _result(not different), str(len(file.books)), str(len(store.books))])
    tables.print_table(["KIND", "RESULT", "FILE", "STORE"], rows, 2)
    for name in different:
        typer.echo(f"different books: {name}")


def _result(is_equal: bool) -> str:
    return "equal" if is_equal else "DIFFERENT"
