"""Connections to PostgreSQL: one bounded pool, and time limits for statements and locks."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import msgspec

from usher_gateway import model

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any] | asyncpg.Connection[Any]"
Record: TypeAlias = "asyncpg.Record"

CONNECT_SECONDS = 4.0
"""Time limit for connecting, and for waiting for a free connection."""

_COMMAND_SECONDS = 7.0
"""Time limit of a statement if the server does not answer at all; the server's own limits are shorter."""

_SETTINGS = {
    "application_name": "usher",
    "timezone": "UTC",
    "statement_timeout": "6s",  # an arrival has 8 s
    "lock_timeout": "4s",
    "idle_in_transaction_session_timeout": "5s",  # frees the locks of a gateway that hangs in a transaction
    "synchronous_commit": "on",
    "jit": "off",
}

_NO_TLS = "rejected SSL upgrade"
"""Part of asyncpg's error for a server without TLS; the error has no class of its own."""

UNAVAILABLE = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Errors of the database or of the way to it."""


class PoolBounds(msgspec.Struct, frozen=True):
    """The size of the pool. One connection commits, the others read and do upkeep."""

    least: int = 2
    most: int = 6


async def open_pool(dsn: str, password: str | None, bounds: PoolBounds) -> "asyncpg.Pool[Any]":
    """Connect to a database.

    Raises:
        StoreUnavailableError: the server cannot be reached now.
        ConfigurationError: the address is invalid, or the server refuses the user.
    """
    try:
        return await asyncpg.create_pool(
            dsn,
            password=password,
            min_size=bounds.least,
            max_size=bounds.most,
            timeout=CONNECT_SECONDS,
            command_timeout=_COMMAND_SECONDS,
            target_session_attrs="read-write",  # of several hosts, the primary
            server_settings=_SETTINGS,
            max_inactive_connection_lifetime=300.0,
            reset=_keep,
        )
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.ClientConfigurationError,
    ) as error:
        raise model.ConfigurationError(
            f"PostgreSQL refuses the connection: {describe(error)}",
            "Check user, password and database of --store.",
        ) from None
    except UNAVAILABLE as error:
        if _is_refused_by_tls(error):
            raise model.ConfigurationError(
                f"the server of --store fails the check of its certificate: {_tls_reason(error)}",
                "Check the host of --store and its sslrootcert, or PGSSLROOTCERT, and that the server has TLS.",
            ) from None
        raise model.StoreUnavailableError(
            f"PostgreSQL cannot be reached: {describe(error)}", "Check the host of --store, and that the server runs."
        ) from None


def _is_refused_by_tls(error: Exception) -> bool:
    """Return whether the server has no TLS or a certificate that does not fit, which a later try would not change."""
    return isinstance(error, ssl.SSLCertVerificationError) or _NO_TLS in str(error)


def _tls_reason(error: Exception) -> str:
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else "it has no TLS"


async def _keep(_: Connection) -> None:
    """Reset nothing when a connection returns to the pool: all settings and locks end with their transaction."""


def describe(error: BaseException) -> str:
    """Return class and SQLSTATE of an error, because the text of a database's error can quote data."""
    state = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({state})" if state else type(error).__name__


@contextlib.asynccontextmanager
async def snapshot(pool: "asyncpg.Pool[Any]") -> AsyncIterator[Connection]:
    """Give a connection in a read-only transaction over one snapshot.

    Raises:
        StoreUnavailableError: a query failed or took too long.
    """
    try:
        async with (
            pool.acquire(timeout=CONNECT_SECONDS) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection
    except UNAVAILABLE as error:
        raise model.StoreUnavailableError(f"the store cannot be read: {describe(error)}") from error
