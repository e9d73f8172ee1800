"""Options with which several commands name the store."""

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[
    str | None,
    typer.Option(
        envvar="USHER_STORE",
        help="PostgreSQL database, postgresql://USER@HOST/DATABASE, instead of an SQLite file in --data.",
        show_default=False,
    ),
]
StorePasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="USHER_STORE_PASSWORD_FILE",
        help="File with the password of --store; without it, PGPASSWORD or ~/.pgpass.",
    ),
]
