"""Connections to PostgreSQL: one bounded pool, time limits, and the sessions and transactions that jobs get."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, TypeAlias

import asyncpg

from usher_gateway import model
from usher_gateway.store import transaction
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.session import Row, Statement

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any] | asyncpg.Connection[Any]"

CONNECT_SECONDS = 4.0  # Time limit for connecting, and for waiting for a free connection

# Time limit for a statement if the server does not answer at all; the server's own limits are shorter.
_COMMAND_SECONDS = 7.0

_SETTINGS = {
    "application_name": "usher",
    "timezone": "UTC",
    "statement_timeout": "6s",  # an arrival has 8 s
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "5s",  # frees the locks of a gateway that hangs in a transaction
    "synchronous_commit": "on",
    "jit": "off",
}


class NotDurableError(Exception):
    """The server's settings let it lose what it confirms; the message names one."""


_NO_TLS = "rejected SSL upgrade"  # Part of asyncpg's error for a server without TLS; the error has no separate class

# Errors from the database or on the way to it.
UNAVAILABLE = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    NotDurableError,
)


# Local: a commit survives if the server crashes. Replicated: also if the server is lost.
Durability: TypeAlias = Literal["Local", "Replicated"]


_SERVER_SETTINGS = """
    select current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit,
        current_setting('synchronous_standby_names') as synchronous_standby_names
"""


async def require_durable(connection: Connection, durability: Durability) -> None:
    """Check that commits on a connection are as durable as they must be.

    Raises:
        NotDurableError: they are not.
    """
    settings = await connection.fetchrow(_SERVER_SETTINGS)
    assert settings is not None
    problem = durability_problem(dict(settings), durability)
    if problem is not None:
        raise NotDurableError(problem)


def durability_problem(settings: Mapping[str, str], durability: Durability) -> str | None:
    """Return which server setting breaks a promise; None if there is none (pure)."""
    for name in ("fsync", "synchronous_commit"):
        if settings[name] == "off":
            return f"{name} is off"
    if durability == "Replicated":
        if not settings["synchronous_standby_names"].strip():
            return "synchronous_standby_names is empty"
        if settings["synchronous_commit"] not in {"on", "remote_apply"}:
            return f"synchronous_commit is {settings['synchronous_commit']}"
    return None


# A gateway's connections. Two commit (``writer.LINES``), the others read and do upkeep.
POOL_SIZE = 6


async def open_pool(
    dsn: str,
    password: str | None,
    size: int,
    durability: Durability | None = None,
) -> "asyncpg.Pool[Any]":
    """Connect to a database. Every connection is checked for ``durability`` before its first use, if it is given.

    Raises:
        StoreUnavailableError: the server cannot be reached now.
        ConfigurationError: the address is invalid, or the server refuses the user.
    """

    async def check(connection: Connection) -> None:
        if durability is not None:
            await require_durable(connection, durability)

    try:
        return await asyncpg.create_pool(
            dsn,
            password=password,
            min_size=min(size, 2),
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=_COMMAND_SECONDS,
            target_session_attrs="read-write",  # of several hosts, the primary
            server_settings=_SETTINGS,
            max_inactive_connection_lifetime=300.0,
            reset=_keep,
            init=check,
        )
    except asyncpg.InvalidCatalogNameError as error:
        raise model.ConfigurationError(
            f"the database of --store does not exist: {describe(error)}",
            "Create it, or correct its name in --store.",
        ) from None
    except asyncpg.ClientConfigurationError as error:
        raise model.ConfigurationError(
            f"the address of --store cannot be used: {describe(error)}",
            "Check its form, and its sslmode: verify-full and verify-ca need sslrootcert, the file of an authority.",
        ) from None
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise model.ConfigurationError(
            f"PostgreSQL refuses the connection: {describe(error)}",
            "Check user, password and database of --store.",
        ) from None
    except NotDurableError as error:
        raise model.StoreUnavailableError(
            f"PostgreSQL could lose what it confirms: {error}",
            "Change the setting of the server, or --store-durability.",
        ) from None
    except UNAVAILABLE as error:
        if _is_refused_by_tls(error):
            raise model.ConfigurationError(
                f"the server of --store fails the check of its certificate: {_tls_reason(error)}",
                "Check the host of --store and its sslrootcert, or PGSSLROOTCERT, and that the server has TLS.",
            ) from None
        raise model.StoreUnavailableError(
            f"PostgreSQL cannot be reached: {describe(error)}",
            "Check the host of --store and the file of its sslrootcert, and that the server runs.",
        ) from None


def _is_refused_by_tls(error: Exception) -> bool:
    """Return whether the server has no TLS or a certificate that does not fit, which a later try would not change."""
    return isinstance(error, ssl.SSLCertVerificationError) or _NO_TLS in str(error)


def _tls_reason(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else "it has no TLS"


async def _keep(_: Connection) -> None:
    """Reset nothing when a connection returns to the pool: all settings and locks end with their transaction."""


def describe(error: BaseException) -> str:
    """Return an error's class and SQLSTATE, because a database error's text can quote data."""
    if isinstance(error, NotDurableError):
        return f"PostgreSQL could lose what it confirms: {error}"
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({state})" if state else type(error).__name__


@contextlib.asynccontextmanager
async def acquired(pool: "asyncpg.Pool[Any]", problem: str = "the store failed") -> AsyncIterator[Connection]:
    """Yield a connection from the pool.

    Raises:
        StoreUnavailableError: all connections are in use, or a statement failed or timed out. Its text begins with
            ``problem``.
    """
    try:
        async with pool.acquire(timeout=CONNECT_SECONDS) as connection:
            yield connection
    except UNAVAILABLE as error:
        raise model.StoreUnavailableError(f"{problem}: {describe(error)}") from error


@contextlib.asynccontextmanager
async def snapshot(pool: "asyncpg.Pool[Any]") -> AsyncIterator[Connection]:
    """Give a connection in a read-only transaction over one snapshot. Raises what ``acquired`` does."""
    async with (
        acquired(pool, "the store cannot be read") as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield connection


class PostgresSession:
    """The statements in one transaction, or over one snapshot (``store.session.Session``)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return a statement's rows."""
        rows: list[Row] = await self._connection.fetch(_text(statement), *values)
        return rows

    async def execute(self, statement: str | Statement, *values: object) -> int:
        """Run a statement; return how many rows it changed."""
        status = await self._connection.execute(_text(statement), *values)
        return int(status.rpartition(" ")[2])  # such as "UPDATE 3"


def _text(statement: str | Statement) -> str:
    return statement.postgresql if isinstance(statement, Statement) else statement


COMMIT_STEP = 4  # A line's commit numbers are this far apart: their remainder is the line's number


OWNERSHIP_LOST = "another gateway took over this one's deliveries, or the database went back to before this run began"


class OwnershipLostError(model.StoreUnavailableError):
    """This incarnation may not commit any more: another gateway ended it, or a restored database does not know it."""


class Transaction(transaction.Transaction):
    """One open transaction on PostgreSQL."""

    def __init__(
        self,
        *,
        connection: Connection,
        incarnation: int,
        number: int | None = None,
        ids: model.IdFactory,
        names: NameNumbers,
        now: int,
    ) -> None:
        super().__init__(PostgresSession(connection), ids=ids, names=names, owner=incarnation)
        self.connection = connection
        self.number = number  # The number of its commit; None if it does without a row in `commits`
        self.has_commit_row = False
        """True once the commit's row is inserted; after that, nothing may be counted any more."""
        self.now = now
