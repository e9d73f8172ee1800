"""Runs the statements of a job on a connection to PostgreSQL."""

from usher_gateway.store.postgresql.connections import Connection
from usher_gateway.store.session import Row, Statement


class PostgresSession:
    """The statements of one transaction, or over one snapshot (``store.session.Session``)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return the rows of a statement."""
        rows: list[Row] = await self._connection.fetch(_text(statement), *values)
        return rows

    async def execute(self, statement: str | Statement, *values: object) -> int:
        """Run a statement; return how many rows it changed."""
        status = await self._connection.execute(_text(statement), *values)
        return int(status.rpartition(" ")[2])  # such as "UPDATE 3"


def _text(statement: str | Statement) -> str:
    return statement.postgresql if isinstance(statement, Statement) else statement
