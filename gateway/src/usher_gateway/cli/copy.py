"""``usher copy``: copies all data of a store to another one, of any engine."""

import asyncio
import contextlib
import os
import pathlib
import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from usher_gateway.cli import admin_client, tables
from usher_gateway.words import listings

if TYPE_CHECKING:
    from usher_gateway.store import copy

_EPILOG = """\
Example:  usher copy --from ./data --to postgresql://usher@db.example.com/usher

Back:  usher copy --from postgresql://usher@db.example.com/usher --to ./new --data ./data

Serve the old store again, if no gateway ran on the new one:  usher copy --undo --from ./data --yes
"""

_PROGRESS_SECONDS = 1.0


class _Place(msgspec.Struct, frozen=True):
    """A store that a flag names."""

    flag: str
    address: str
    """A folder, or a database address."""
    password_file: pathlib.Path | None

    @property
    def folder(self) -> pathlib.Path | None:
        """An SQLite store's folder; None for a database."""
        return None if "://" in self.address else pathlib.Path(self.address)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("copy", epilog=_EPILOG)
    def copy_command(
        *,
        source: Annotated[
            str,
            typer.Option(
                "--from",
                envvar="USHER_FROM",
                help="Store to copy: a --data folder, or postgresql://USER@HOST/DATABASE.",
            ),
        ],
        target: Annotated[
            str | None,
            typer.Option(
                "--to", envvar="USHER_TO", help="New folder, or empty database, that gets the data.", show_default=False
            ),
        ] = None,
        data: Annotated[
            pathlib.Path | None,
            typer.Option(
                envvar="USHER_DATA",
                help="Folder of install.key. Without it, the folder that --from or --to names, or ./data.",
                show_default=False,
            ),
        ] = None,
        from_password_file: Annotated[
            pathlib.Path | None,
            typer.Option(
                envvar="USHER_FROM_PASSWORD_FILE",
                help="File with the password of --from; without it, PGPASSWORD or ~/.pgpass.",
            ),
        ] = None,
        to_password_file: Annotated[
            pathlib.Path | None,
            typer.Option(
                envvar="USHER_TO_PASSWORD_FILE",
                help="File with the password of --to; without it, PGPASSWORD or ~/.pgpass.",
            ),
        ] = None,
        undo: Annotated[
            bool,
            typer.Option(
                "--undo", envvar="USHER_UNDO", help="Copy nothing, and let gateways serve the store of --from again."
            ),
        ] = False,
        yes: Annotated[
            bool, typer.Option("--yes", help="With --undo: confirm that no gateway ran on the copy.")
        ] = False,
    ) -> None:
        """Copy all data of a store to an empty one, then compare both. Stop the gateways first.

        Gateways refuse the store of --from afterwards, so that nothing is delivered twice, and the store of --to until
        it has all data. If the command is interrupted, run --undo, empty the store of --to, and copy again. --undo
        lets gateways serve the store of --from again. Exit code 0: both stores are equal; 1: they differ, or one is in
        use; 2: wrong usage.
        """
        if (target is None) != undo:
            admin_client.fail("give either --to or --undo", "", admin_client.USAGE)
        if yes and not undo:
            admin_client.fail("--yes belongs to --undo", "", admin_client.USAGE)
        places = [_Place("--from", source, from_password_file)]
        if target is not None:
            places.append(_Place("--to", target, to_password_file))
        _run(places, data, yes=yes)


def _run(places: list[_Place], data: pathlib.Path | None, *, yes: bool) -> None:
    from usher_gateway import logs

    logs.configure(as_json=None, level="warning")
    with admin_client.ending_with_message():
        if len(places) == 1:
            asyncio.run(_undo(places[0], _key_fingerprint(places, data), yes=yes))
            return
        comparison = asyncio.run(_copy(places, _key_fingerprint(places, data)))
    _print_comparison(comparison)
    if not comparison.is_complete:
        admin_client.fail(
            "the stores differ, and gateways will refuse that of --to",
            "Copy to another empty store.",
            admin_client.WRONG,
        )
    typer.echo("Both stores are equal. Start the gateway on that of --to; gateways refuse that of --from now.")


def _key_fingerprint(places: list[_Place], data: pathlib.Path | None) -> str:
    """Return the install key's fingerprint, which both stores need."""
    from usher_gateway import model
    from usher_gateway.config import install_key

    folders = [place.folder for place in places if place.folder is not None]
    with_key = [folder for folder in folders if (folder / install_key.FILE_NAME).exists()]
    folder = data or (with_key or [admin_client.DATA])[0]
    return model.key_fingerprint(install_key.load_install_key(folder, os.environ, may_create=False))


@contextlib.asynccontextmanager
async def _opened(place: _Place, fingerprint: str, *, may_create: bool) -> "AsyncIterator[copy.CopyableStore]":
    from usher_gateway import model

    try:
        store = await _open(place, fingerprint, may_create=may_create)
    except model.UsherError as error:  # it names a flag of `usher run`
        text, hint = [re.sub("--store|--data", place.flag, part) for part in (str(error), error.hint)]
        raise type(error)(text, hint) from error
    try:
        yield store
    finally:
        await store.close()


async def _open(place: _Place, fingerprint: str, *, may_create: bool) -> Any:
    from usher_gateway.settings import check_store_address, read_store_password

    if place.folder is not None:
        from usher_gateway.store.sqlite.copy import SqliteCopy

        return SqliteCopy(place.folder, fingerprint, may_create=may_create)
    from usher_gateway.store.postgresql.copy import PostgresCopy
    from usher_gateway.store.postgresql.opening import PostgresSettings

    check_store_address(place.address)
    password = read_store_password(place.password_file)
    store = PostgresCopy(PostgresSettings(place.address, fingerprint, password), may_create=may_create)
    await store.open()
    return store


async def _copy(places: list[_Place], fingerprint: str) -> "copy.Comparison":
    from usher_gateway.store import copy

    async with (
        _opened(places[0], fingerprint, may_create=False) as source,
        _opened(places[1], fingerprint, may_create=True) as target,
    ):
        return await copy.copy(source, target, now=time.time_ns() // 1_000, progress=_ProgressPrinter())


async def _undo(place: _Place, fingerprint: str, *, yes: bool) -> None:
    async with _opened(place, fingerprint, may_create=False) as store:
        copied_at = await store.copied_at()
        if copied_at is None:
            typer.echo("The store was not copied.")
            return
        if not yes:
            admin_client.fail(
                f"the data of this store were copied at {copied_at}: if a gateway ran on the copy, both stores would"
                " send the same deliveries",
                "Give --yes if no gateway ran on it. Otherwise copy that store to an empty one.",
                admin_client.USAGE,
            )
        await store.undo()
    typer.echo("Gateways may serve the store again.")


class _ProgressPrinter:
    """Prints progress to standard error, at most once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, verb: str, table: str, rows: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SECONDS
            typer.echo(f"{verb} {listings.counted(rows, 'row')} of {table}", err=True)


def _print_comparison(comparison: "copy.Comparison") -> None:
    from usher_gateway.store import copy

    source, target = comparison.source, comparison.target
    rows = [
        [
            table,
            "equal" if comparison.is_equal(table) else "DIFFERENT",
            str(source.counts.get(table, 0)),
            str(target.counts.get(table, 0)),
        ]
        for table in copy.COLUMNS
    ]
    tables.print_table(["TABLE", "RESULT", "FROM", "TO"], rows)
